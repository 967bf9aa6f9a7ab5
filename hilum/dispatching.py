"""Which objects of a job go to which peer: settled before anything is encoded, and entered into the outbox after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from db.delivery import acceptance
from db.delivery.outbox import Outgoing
from db.engine import Database
from hilum.config import Settings
from hilum.planning import KEPT_HERE
from study.entities import Job, ResultObject
from study.forms import Parcel, Variant, Wish, notice, settle


def wishes_of(job: Job, settings: Settings) -> tuple[Wish, ...]:
    """Return what each peer was to be sent of the job's results when it was planned.

    Jobs that an earlier version planned, and that wait still, say nothing of it: then it is what peers are sent by now
    that ask for no senders. Peers that are in the configuration no more are sent nothing, nor is anybody of a model
    with ``deliver = false``, also where the job was planned before the site wrote that.
    """
    model = settings.models.get(job.model_name)
    if model is not None and not model.deliver:
        return (KEPT_HERE,)
    if "wishes" not in job.parameters:
        return settings.wishes(job.model_name, ()) or (KEPT_HERE,)
    wishes = tuple(Wish.from_json(wish) for wish in job.parameters["wishes"])
    there = tuple(wish for wish in wishes if not wish.peer or wish.peer in settings.peers)
    return there or (KEPT_HERE,)


def settled(database: Database, settings: Settings, job: Job) -> list[Parcel]:
    """Return what each peer is sent of the job's results, by what is known of it just now."""
    parcels = []
    with database.reading() as uow:
        for wish in wishes_of(job, settings):
            peer = settings.peers.get(wish.peer)
            parcels.append(settle(wish, acceptance.known(uow, wish.peer, peer.address) if peer else {}))
    return parcels


def outgoing(parcel: Parcel, results: Sequence[ResultObject]) -> Iterator[Outgoing]:
    """Yield what is owed to a peer, in the order of sending, then what stands by."""
    by_variant: dict[str, list[ResultObject]] = {}
    for result in results:
        by_variant.setdefault(result.variant, []).append(result)
    position = 0
    for variant in dict.fromkeys((*parcel.variants, *parcel.stand_by)):
        for result in by_variant.get(variant.key, ()):
            yield Outgoing(
                parcel.peer,
                position,
                result,
                stand_by=variant not in parcel.variants,
                doubted=bool(parcel.stand_by) and variant not in parcel.stand_by,
            )
            position += 1


def notices_of(job: Job, settings: Settings) -> dict[str, Variant]:
    """Return the refusal report that each peer is sent that wants one, by its name."""
    found = {wish.peer: notice(wish) for wish in wishes_of(job, settings)}
    return {peer: variant for peer, variant in found.items() if peer and variant is not None}


def deviations(parcels: Iterable[Parcel], results: Sequence[ResultObject], *, shadow: bool = False) -> dict[str, Any]:
    """Return for a job's details where a peer is not sent what it wished for; nothing where there is none.

    That is a form in whose place another was made, since the peer refuses it, and one in which this result has nothing
    to show, as an RT Structure Set of a classification.

    Parameters
    ----------
    shadow
        Whether the site lets none of the model's results go.
    """
    made = {result.variant for result in results}
    replaced = [
        {"peer": parcel.peer, "form": form.value, "by": other.value}
        for parcel in parcels
        for form, other in parcel.replaced
    ]
    empty = [
        {"peer": parcel.peer, "form": variant.form.value}
        for parcel in parcels
        for variant in parcel.variants
        if variant.key not in made
    ]
    told = {"replaced": replaced, "nothing_to_show": empty, "shadow": shadow}
    return {name: found for name, found in told.items() if found}
