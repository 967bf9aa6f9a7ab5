"""The outbox: what is owed to each peer, in order, until the peer has it.

A row is handed out under a lease; while it is held its next attempt lies at the end of the lease, so a held delivery
and one in back-off wait alike. Of one study and peer a later position is not handed out while an earlier one waits; it
may come in the same batch, after it. What was kept aside blocks nobody, and no peer's rows are looked at for another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Update, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from db import records
from db.delivery import deliveries, withdrawn
from db.delivery.deliveries import Exchange
from db.engine import AnyQuery, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import DeliveryRow, JobRow, ResultRow
from db.work.pauses import is_paused
from study.entities import Delivery, ResultObject
from study.errors import ArchiveError, Reason
from study.forms import Form
from study.states import DeliveryState, Halted

_PENDING = DeliveryState.PENDING.value
_STANDBY = DeliveryState.STANDBY.value
_NEXT = select(func.min(DeliveryRow.next_attempt_at)).where(
    DeliveryRow.peer == bindparam("of_peer"), DeliveryRow.state == _PENDING
)


@dataclass(frozen=True)
class Outgoing:
    """A result that is owed to a peer.

    Parameters
    ----------
    position
        Order within study and peer: a lower one goes first.
    stand_by
        Whether it is owed only once the peer refuses what is doubted.
    doubted
        Whether what is on stand-by would take its place.
    """

    peer: str
    position: int
    result: ResultObject
    stand_by: bool = False
    doubted: bool = False


def add_deliveries(uow: UnitOfWork, study: int, job: int, owed: Sequence[Outgoing], keys: Mapping[str, int]) -> None:
    """Put what is owed into the outbox, due at once; what is there already stays as it is.

    Parameters
    ----------
    keys
        Of the results, by SOP Instance UID.

    Raises
    ------
    ArchiveError
        If one names an object that is not among the results.
    """
    strange = [each for each in owed if each.result.sop_instance_uid not in keys]
    if strange:
        raise ArchiveError("A delivery names an object that is not among the job's results.")
    now = uow.now()
    query = select(DeliveryRow.peer, DeliveryRow.result).where(DeliveryRow.job == job)
    there = {(row.peer, row.result) for row in uow.execute(query)}
    taken_back = withdrawn.withdrawn_among(uow, keys.values())
    rows = [
        {
            "study": study,
            "job": job,
            "result": keys[each.result.sop_instance_uid],
            "peer": each.peer,
            "position": each.position,
            "state": _STANDBY if each.stand_by else _PENDING,
            "attempts": 0,
            "problem": False,
            "doubted": each.doubted,
            "next_attempt_at": now,
        }
        for each in owed
        if (each.peer, keys[each.result.sop_instance_uid]) not in there
        and keys[each.result.sop_instance_uid] not in taken_back
    ]
    if rows:
        uow.execute(insert(DeliveryRow), rows)


def is_delivery_waiting(uow: UnitOfWork, peer: str) -> bool:
    """Tell whether `lease_deliveries` would find something: a look without a lock, for a sender that looks often."""
    due = uow.execute(_FIRST_DUE, {"of_peer": peer, "as_of": uow.now()}).first() is not None
    return due and not is_paused(uow, Halted.DELIVERIES)


def seconds_until_due(uow: UnitOfWork, peer: str) -> float | None:
    """Return in how long the next is due to `peer` by its time [s], at most 0 where one is now; None where none is.

    A look that costs little: `is_delivery_waiting` tells besides whether it follows another, or deliveries are paused.
    """
    due: datetime | None = uow.execute(_NEXT, {"of_peer": peer}).scalar_one()
    return None if due is None else (due - uow.now()).total_seconds()


def lease_deliveries(uow: UnitOfWork, peer: str, owner: str, lease_seconds: float, limit: int) -> list[Delivery]:
    """Lease what is due to `peer`, at most `limit` deliveries, and return them in the order in which they must go.

    Those of one study stand together, lower positions first; studies in the order in which they fell due. While
    deliveries are paused there are none.

    Parameters
    ----------
    owner
        Who takes them; unique among all senders at work.
    lease_seconds
        How long they are theirs [s].
    """
    now = uow.now()
    if not is_delivery_waiting(uow, peer):
        return []
    uow.serialise(f"outbox {peer}")  # two senders of one peer would each see the other's first position as free
    withdrawn.expire(uow, peer)
    chosen = _in_order(uow, {"of_peer": peer, "as_of": now}, limit)
    if not chosen:
        return []
    lease = (
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(chosen), DeliveryRow.state == _PENDING, DeliveryRow.next_attempt_at <= now)
        .values(
            attempts=DeliveryRow.attempts + 1,
            # Who held it before and let it not go may have brought it there
            unsure=or_(DeliveryRow.unsure, DeliveryRow.lease_owner.is_not(None)),
            lease_owner=owner,
            next_attempt_at=now + timedelta(seconds=lease_seconds),
        )
        .returning(DeliveryRow.id)
    )
    taken = list(uow.execute(lease).scalars())
    rows = uow.execute(records.deliveries().where(DeliveryRow.id.in_(taken)))
    leased = {row.id: records.delivery_of(row) for row in rows}
    return [leased[key] for key in chosen if key in leased]


def delivered(
    uow: UnitOfWork, delivery_id: int, owner: str, status: int | None, exchange: Exchange | None = None
) -> None:
    """End the delivery: the peer has the object.

    Parameters
    ----------
    status
        The C-STORE response status; None where its presence was proven otherwise.
    exchange
        When it was sent and answered, for the journal.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held, now = deliveries.held(uow, delivery_id, owner), uow.now()
    deliveries.move(uow, held.id, DeliveryState.DELIVERED, delivered_at=now, status=status, problem=False, reason=None)
    form = deliveries.form_of(uow, held.result)
    numbers = {"peer": held.peer, "form": form, "status": status} | (exchange.moments(now) if exchange else {})
    words = f"{form} delivered to {held.peer}."
    record(uow, now, [NewEvent(held.study, EventKind.DELIVERED, words, numbers, held.job)])


def postpone(
    uow: UnitOfWork,
    delivery_id: int,
    owner: str,
    reason: Reason,
    problem: bool,
    seconds: float,
    status: int | None = None,
) -> None:
    """Let the delivery wait for `seconds`; what follows it in its study waits with it, unless it has a problem.

    A peer that takes no Segmentation until somebody changes its settings still gets the report.

    The journal tells it once for as long as the reason stays the same, so that a PACS that is away for a week does not
    fill it.

    Parameters
    ----------
    problem
        Whether it looks as if a person must act.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held, now = deliveries.held(uow, delivery_id, owner), uow.now()
    until = now + timedelta(seconds=seconds)
    values = {"next_attempt_at": until, "problem": problem, "status": status}
    values |= {"reason": records.reason_to_json(reason), "lease_owner": None}
    uow.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(values))
    followers = update(DeliveryRow).where(
        DeliveryRow.study == held.study,
        DeliveryRow.peer == held.peer,
        DeliveryRow.state == _PENDING,
        DeliveryRow.position > held.position,
    )
    if problem:  # they are handed out again at once, without this one
        uow.execute(_untried(followers, owner).values(next_attempt_at=now))
    else:
        uow.execute(_untried(followers, owner).values(next_attempt_at=until))
        uow.execute(followers.where(DeliveryRow.next_attempt_at < until).values(next_attempt_at=until))
    if held.problem != problem or (held.reason or {}).get("code") != reason.code:
        words = f"Not taken by {held.peer}, tried again: {reason.words}"
        numbers = {"peer": held.peer, "code": reason.code, "problem": problem, "status": status}
        record(uow, now, [NewEvent(held.study, EventKind.DELIVERY_POSTPONED, words, numbers, held.job)])
    keep_outdated(uow, DeliveryRow.study == held.study, DeliveryRow.peer == held.peer)


def fall_back(uow: UnitOfWork, delivery_id: int, owner: str, reason: Reason, status: int | None = None) -> int:
    """Send what is on stand-by in the place of what is doubted, since the peer refused it; return how many objects.

    Nothing changes, and 0 is returned, where nothing is on stand-by for it. The delivery is then still the sender's.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held, now = deliveries.held(uow, delivery_id, owner), uow.now()
    same = (DeliveryRow.job == held.job, DeliveryRow.peer == held.peer)
    if not held.doubted:
        return 0
    called = update(DeliveryRow).where(*same, DeliveryRow.state == _STANDBY, withdrawn.is_no_rejection())
    keys = list(uow.execute(called.values(state=_PENDING, next_attempt_at=now).returning(DeliveryRow.id)).scalars())
    if not keys:
        return 0
    replaced = update(DeliveryRow).where(*same, DeliveryRow.state == _PENDING, DeliveryRow.doubted)
    values = {"state": DeliveryState.REPLACED.value, "lease_owner": None, "problem": False}
    uow.execute(replaced.values(values | {"status": status, "reason": records.reason_to_json(reason)}))
    words = f"{held.peer} is sent another form instead: {reason.words}"
    numbers = {"peer": held.peer, "code": reason.code, "status": status}
    record(uow, now, [NewEvent(held.study, EventKind.DELIVERY_REPLACED, words, numbers, held.job)])
    keep_outdated(uow, *same)
    return len(keys)


def keep_aside(uow: UnitOfWork, delivery_id: int, owner: str, reason: Reason, status: int | None = None) -> None:
    """Stop trying: the peer will never take this object as it is, and a person should look.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held, now = deliveries.held(uow, delivery_id, owner), uow.now()
    deliveries.move(
        uow, held.id, DeliveryState.KEPT_ASIDE, status=status, problem=True, reason=records.reason_to_json(reason)
    )
    words = f"Kept aside, {held.peer} will not take it: {reason.words}"
    numbers = {"peer": held.peer, "code": reason.code, "status": status}
    record(uow, now, [NewEvent(held.study, EventKind.DELIVERY_KEPT_ASIDE, words, numbers, held.job)])


_OUTDATED = Reason("Outdated", "A newer revision of the study took the place of this result before it was delivered.")


_WITHHELD = Reason(
    "Withheld",
    "The model's entry had deliver = false before it was sent; once it delivers again, hilum retry sends it.",
)


def owe_no_more(uow: UnitOfWork, jobs: Collection[int]) -> None:
    """Keep aside what outdated jobs still owe: a result of fewer images, or of another name, must not come late.

    What a sender holds just now goes out all the same. It is no problem: nobody has to look.
    """
    _put_outdated_aside(uow, DeliveryRow.job.in_(list(jobs)))


def owe_again(uow: UnitOfWork, job: int, results: Collection[int] | None = None) -> None:
    """Undo `owe_no_more` for a job that has become the current one again, or has written its refusal again.

    Parameters
    ----------
    results
        Keys of the results that are owed; None for all but refusal reports, which a job with results does not owe.
    """
    of_the_job = select(ResultRow.id).where(ResultRow.job == job, ResultRow.form != Form.REFUSAL.value)
    outdated = update(DeliveryRow).where(
        DeliveryRow.job == job,
        DeliveryRow.state == DeliveryState.KEPT_ASIDE.value,
        ~DeliveryRow.problem,
        withdrawn.is_no_rejection(),  # one kept aside without a problem was discarded
        DeliveryRow.result.in_(of_the_job if results is None else list(results)),
    )
    uow.execute(outdated.values(state=_PENDING, reason=None, next_attempt_at=uow.now()))


def keep_outdated(uow: UnitOfWork, *which: ColumnElement[bool]) -> None:
    """Keep here what became pending just now, and was taken back, or belongs to a job that was overtaken, meanwhile."""
    withdrawn.let_go(uow, *which)
    overtaken = select(JobRow.id).where(JobRow.id == DeliveryRow.job, ~JobRow.current).exists()
    _put_outdated_aside(uow, *which, overtaken)


def _put_outdated_aside(uow: UnitOfWork, *which: ColumnElement[bool]) -> None:
    idle = (DeliveryRow.state == _PENDING, DeliveryRow.lease_owner.is_(None), withdrawn.is_no_rejection())
    pending = update(DeliveryRow).where(*which, *idle)
    reason = records.reason_to_json(_OUTDATED)
    uow.execute(pending.values(state=DeliveryState.KEPT_ASIDE.value, problem=False, reason=reason))


def withhold(uow: UnitOfWork, models: Collection[str]) -> int:
    """Keep here what is still owed of models whose results the site lets go no more; return how many deliveries.

    It stays here when the site changes its mind, or takes the model out: `db.overview.queries.retry_study` sends it.
    """
    of_these = select(JobRow.id).where(JobRow.id == DeliveryRow.job, JobRow.model_name.in_(list(models))).exists()
    idle = (DeliveryRow.state == _PENDING, DeliveryRow.lease_owner.is_(None), withdrawn.is_no_rejection())
    pending = update(DeliveryRow).where(of_these, *idle)
    values = {"state": DeliveryState.WITHHELD.value, "problem": False, "reason": records.reason_to_json(_WITHHELD)}
    taken = uow.execute(pending.values(values).returning(DeliveryRow.study, DeliveryRow.job, DeliveryRow.peer)).all()
    owed = dict.fromkeys((row.study, row.job, row.peer) for row in taken)
    told = [
        NewEvent(
            study,
            EventKind.DELIVERY_WITHHELD,
            f"Kept here, {peer} is not sent it: {_WITHHELD.words}",
            {"peer": peer},
            job,
        )
        for study, job, peer in owed
    ]
    record(uow, uow.now(), told)
    return len(taken)


def hold_back(uow: UnitOfWork, peer: str, seconds: float) -> None:
    """Let all that is owed to `peer` wait for `seconds` at least: it did not even take the association."""
    until = uow.now() + timedelta(seconds=seconds)
    idle = update(DeliveryRow).where(
        DeliveryRow.peer == peer,
        DeliveryRow.state == _PENDING,
        DeliveryRow.lease_owner.is_(None),
        DeliveryRow.next_attempt_at < until,
    )
    uow.execute(idle.values(next_attempt_at=until))


def renew(uow: UnitOfWork, delivery_id: int, owner: str, lease_seconds: float) -> None:
    """Prolong the lease by `lease_seconds` from now.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held = deliveries.held(uow, delivery_id, owner)
    until = uow.now() + timedelta(seconds=lease_seconds)
    uow.execute(update(DeliveryRow).where(DeliveryRow.id == held.id).values(next_attempt_at=until))


def give_back(uow: UnitOfWork, delivery_ids: Collection[int], owner: str) -> None:
    """Free what was leased to `owner` and not tried; due at once. What is not theirs any more is left alone."""
    theirs = update(DeliveryRow).where(DeliveryRow.state == _PENDING, DeliveryRow.id.in_(list(delivery_ids)))
    uow.execute(_untried(theirs, owner).values(next_attempt_at=uow.now()))
    keep_outdated(uow, DeliveryRow.id.in_(list(delivery_ids)))


def release_orphans(uow: UnitOfWork, owner_prefix: str) -> int:
    """Free what is leased to owners whose names begin with `owner_prefix`; return how many deliveries.

    For the start of a node, which holds its lock: none of those owners can be alive. End the prefix with a delimiter.
    """
    return _free(uow, DeliveryRow.lease_owner.startswith(owner_prefix, autoescape=True))


def _due() -> AnyQuery:
    """Return the query of what may be handed out to the peer `of_peer` at the time `as_of`, longest due first."""
    as_of = bindparam("as_of", type_=DeliveryRow.__table__.c.next_attempt_at.type)
    return (
        select(DeliveryRow.id, DeliveryRow.study, DeliveryRow.position)
        .where(
            DeliveryRow.peer == bindparam("of_peer"),
            DeliveryRow.state == _PENDING,
            DeliveryRow.next_attempt_at <= as_of,
            ~_follows_another(as_of),
        )
        .order_by(DeliveryRow.next_attempt_at, DeliveryRow.id)
    )


def _follows_another(later_than: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Tell whether an earlier position of the study and peer is pending, and not due before `later_than`.

    One that a person must see to first, and that is not under way just now, is nobody's predecessor.
    """
    earlier = aliased(DeliveryRow)
    query = select(earlier.id).where(
        earlier.study == DeliveryRow.study,
        earlier.peer == DeliveryRow.peer,
        earlier.state == _PENDING,
        earlier.position < DeliveryRow.position,
        or_(~earlier.problem, earlier.lease_owner.is_not(None)),
        earlier.next_attempt_at > later_than,
    )
    return query.exists()


# Made once: to make it again costs more than the answer, and a sender asks between a job's end and the first C-STORE
_DUE: Final = _due()
_FIRST_DUE: Final = _DUE.limit(1)
_DUE_OF_STUDIES: Final = _DUE.where(DeliveryRow.study.in_(bindparam("studies", expanding=True)))


def _in_order(uow: UnitOfWork, asked: Mapping[str, Any], limit: int) -> list[int]:
    studies = list(dict.fromkeys(row.study for row in uow.execute(_DUE.limit(limit), asked)))
    by_study: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in uow.execute(_DUE_OF_STUDIES, {**asked, "studies": studies}):
        by_study[row.study].append((row.position, row.id))
    return [key for study in studies for _, key in sorted(by_study[study])][:limit]


def _untried(which: Update, owner: str) -> Update:
    """Let go of those that `owner` leased and did not come to: that was no attempt."""
    held = which.where(DeliveryRow.lease_owner == owner)
    return held.values(lease_owner=None, attempts=DeliveryRow.attempts - 1)


def _free(uow: UnitOfWork, *conditions: ColumnElement[bool]) -> int:
    freed = update(DeliveryRow).where(DeliveryRow.state == _PENDING, *conditions)
    values = {"lease_owner": None, "next_attempt_at": uow.now(), "unsure": True}  # it may have just brought it there
    rows = uow.execute(freed.values(values).returning(DeliveryRow.id)).all()
    keep_outdated(uow)
    return len(rows)
