"""A person takes the results of a job back: what becomes of each of its deliveries, in one transaction.

What did not go out stays here; what a peer has is rejected, by a Key Object that was written before. Of what a sender
holds just now nobody knows where it ends: its Key Object stands by (`db.delivery.withdrawn`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import insert, select, update

from db import records
from db.delivery.withdrawn import REJECTION_POSITION, unheeded
from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import DeliveryRow, JobRow, RejectionRow, ResultRow, StudyRow, WithdrawalRow, WithdrawnRow
from db.work.results import add_results
from study.commitment import FAILED
from study.entities import ResultObject, Withdrawal
from study.errors import ArchiveError, Reason
from study.forms import Form
from study.states import DeliveryState

WITHDRAWN: Final = "Withdrawn"


class Whereabouts(StrEnum):
    """Where a result object is, as seen from one peer that it was for."""

    HERE = "HERE"  # it did not go out
    HELD = "HELD"  # a sender holds it just now
    UNSURE = "UNSURE"  # an attempt ended without an answer: the peer may have it
    THERE = "THERE"  # the peer has it


_GONE = frozenset({DeliveryState.STORED.value, DeliveryState.DELIVERED.value})
_OVER = frozenset({DeliveryState.REPLACED.value, DeliveryState.WITHDRAWN.value})


@dataclass(frozen=True)
class Placed:
    """A result object, and where it is as seen from a peer; `delivery` and `result` are keys of the database."""

    delivery: int
    peer: str
    result: int
    object: ResultObject
    whereabouts: Whereabouts


@dataclass(frozen=True)
class KeyObject:
    """What rejects some results at a peer: a file that is written.

    Parameters
    ----------
    refused
        Why the peer is not sent it; "" where it is.
    """

    peer: str
    rejected: frozenset[str]
    object: ResultObject
    refused: str = ""


class Changed(ArchiveError):
    """Something was sent meanwhile for which no rejection is written yet; look again."""

    code = "Changed"
    default_words = "The results are under way just now; try again."
    transient = True


def jobs_of(uow: UnitOfWork, text: str, *, exactly: bool) -> list[int]:
    """Return the jobs, by their keys, that have a result with the SOP Instance UID `text`, or one that begins so."""
    uid = ResultRow.sop_instance_uid
    named = uid == text if exactly else uid.startswith(text, autoescape=True)
    results = select(ResultRow.job).where(ResultRow.form != Form.REJECTION.value, named)
    return list(uow.execute(results.distinct().order_by(ResultRow.job)).scalars())


def jobs_of_study(uow: UnitOfWork, study_instance_uid: str) -> list[int]:
    """Return the jobs of a study, by their keys, that count and have results."""
    query = (
        select(JobRow.id)
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(StudyRow.study_instance_uid == study_instance_uid, JobRow.current)
        .where(select(ResultRow.id).where(ResultRow.job == JobRow.id).exists())
    )
    return list(uow.execute(query.order_by(JobRow.id)).scalars())


def freeze(uow: UnitOfWork, job: int, owner: str, seconds: float) -> None:
    """Keep senders from taking what is still owed of a job, for `seconds` at most [s]: it is about to be taken back."""
    idle = update(DeliveryRow).where(
        DeliveryRow.job == job,
        DeliveryRow.state == DeliveryState.PENDING.value,
        DeliveryRow.lease_owner.is_(None),
        DeliveryRow.position < REJECTION_POSITION,
    )
    uow.execute(idle.values(lease_owner=owner, next_attempt_at=uow.now() + timedelta(seconds=seconds)))


def thaw(uow: UnitOfWork, job: int, owner: str) -> None:
    """Let senders have what was frozen under this name and not taken back."""
    theirs = update(DeliveryRow).where(DeliveryRow.job == job, DeliveryRow.lease_owner == owner)
    uow.execute(theirs.values(lease_owner=None, next_attempt_at=uow.now()))


def placed(uow: UnitOfWork, job: int, owner: str = "") -> list[Placed]:
    """Return where each result object of a job is, as seen from each peer that it was for; what is over is left out.

    Parameters
    ----------
    owner
        Under whose name the job is frozen.
    """
    return [_placed(row, owner) for row in _deliveries(uow, job)]


def kept(uow: UnitOfWork, job: int) -> list[ResultObject]:
    """Return the result objects of a job that were not taken back, also those that are owed to nobody."""
    query = records.results().where(ResultRow.id.in_(_keys(uow, job))).order_by(ResultRow.id)
    return [records.result_of(row) for row in uow.execute(query)]


def take_back(
    uow: UnitOfWork, job: int, owner: str, account: str, words: str, safety: bool, key_objects: Sequence[KeyObject]
) -> Withdrawal:
    """Take the results of a job back, and put what rejects them at the peers that have them into the outbox.

    Parameters
    ----------
    owner
        Under whose name the job is frozen.
    account
        Of the person, on this machine.
    words
        Why.
    safety
        Whether a patient may come to harm by them.
    key_objects
        Those that may be needed; what is not stays unused.

    Raises
    ------
    Changed
        If something went out meanwhile that none of them rejects.
    ArchiveError
        If nothing of the job is left that could be taken back.
    """
    study = _study_of(uow, job)
    results, now = _keys(uow, job), uow.now()
    if not results:
        raise ArchiveError("Nothing of these results is left that could be taken back.")
    there = [_placed(row, owner) for row in _deliveries(uow, job, for_update=True)]
    rejecting = _rejecting(there, key_objects)
    values = {"study": study, "job": job, "at": now, "account": account, "words": words, "safety": safety}
    key = uow.execute(insert(WithdrawalRow).values(values).returning(WithdrawalRow.id)).scalar_one()
    uow.execute(insert(WithdrawnRow), [{"result": result, "withdrawal": key} for result in results])
    _stop(uow, there, Reason(WITHDRAWN, words))
    _owe(uow, study, job, there, rejecting)
    told = f"{account} took {len(results)} result object(s) back: {words}"
    numbers = {"results": len(results), "rejections": len(set(rejecting.values())), "safety": safety}
    record(uow, now, [NewEvent(study, EventKind.WITHDRAWN, told, numbers, job)])
    return Withdrawal(job, now, account, words, safety, len(results))


def of_study(uow: UnitOfWork, study_instance_uid: str) -> tuple[Withdrawal, ...]:
    """Return what was taken back of a study's results, in order of time."""
    query = (
        select(WithdrawalRow)
        .with_only_columns(*WithdrawalRow.__table__.c)
        .join(StudyRow, StudyRow.id == WithdrawalRow.study)
        .where(StudyRow.study_instance_uid == study_instance_uid)
        .order_by(WithdrawalRow.id)
    )
    rows = uow.execute(query).all()
    counts = {
        row.id: len(uow.execute(select(WithdrawnRow.result).where(WithdrawnRow.withdrawal == row.id)).all())
        for row in rows
    }
    return tuple(Withdrawal(row.job, row.at, row.account, row.words, row.safety, counts[row.id]) for row in rows)


def reject_now(uow: UnitOfWork, study: int) -> int:
    """Have the rejections of a study, by its key, that peers do not have yet sent (again) at once; return how many."""
    waiting = update(DeliveryRow).where(
        DeliveryRow.study == study,
        DeliveryRow.position >= REJECTION_POSITION,
        DeliveryRow.lease_owner.is_(None),
        DeliveryRow.state.in_((DeliveryState.PENDING.value, DeliveryState.KEPT_ASIDE.value)),
    )
    values = {"state": DeliveryState.PENDING.value, "problem": False, "next_attempt_at": uow.now()}
    return len(uow.execute(waiting.values(values).returning(DeliveryRow.id)).all())


def _study_of(uow: UnitOfWork, job: int) -> int:
    study: int = uow.execute(select(JobRow.study).where(JobRow.id == job)).scalar_one()
    return study


def _keys(uow: UnitOfWork, job: int) -> list[int]:
    """Return the keys of those results of a job that were not taken back."""
    taken_back = select(WithdrawnRow.result).where(WithdrawnRow.result == ResultRow.id).exists()
    query = select(ResultRow.id).where(ResultRow.job == job, ResultRow.form != Form.REJECTION.value, ~taken_back)
    return list(uow.execute(query.order_by(ResultRow.id)).scalars())


def _deliveries(uow: UnitOfWork, job: int, *, for_update: bool = False) -> Sequence[AnyRow]:
    query = (
        records.deliveries()
        .add_columns(DeliveryRow.result, DeliveryRow.lease_owner, DeliveryRow.unsure)
        .where(DeliveryRow.result.in_(_keys(uow, job)), DeliveryRow.state.not_in(_OVER))
        .order_by(DeliveryRow.id)
    )
    return uow.execute(query.with_for_update(of=DeliveryRow) if for_update else query).all()


def _placed(row: AnyRow, owner: str) -> Placed:
    if row.state in _GONE:
        where = Whereabouts.THERE
    elif row.lease_owner is not None and row.lease_owner != owner:
        where = Whereabouts.HELD
    elif row.unsure or (row.reason or {}).get("code") == FAILED:
        where = Whereabouts.UNSURE
    else:
        where = Whereabouts.HERE
    return Placed(row.id, row.peer, row.result, records.result_of(row), where)


def _rejecting(there: Iterable[Placed], key_objects: Sequence[KeyObject]) -> dict[int, KeyObject]:
    """Return what rejects each delivery that is with its peer, or may come to be, by its key.

    What is there for certain is rejected together, everything else alone: an archive refuses a Key Object altogether
    that names one object which it does not have.
    """
    together = {(each.peer, uid): each for each in key_objects if len(each.rejected) > 1 for uid in each.rejected}
    alone = {(each.peer, uid): each for each in key_objects if len(each.rejected) == 1 for uid in each.rejected}
    found: dict[int, KeyObject] = {}
    for each in there:
        key = (each.peer, each.object.sop_instance_uid)
        if each.whereabouts is Whereabouts.HERE and key not in together:
            continue
        chosen = alone.get(key) if each.whereabouts is Whereabouts.HELD else together.get(key) or alone.get(key)
        if chosen is None:
            raise Changed
        found[each.delivery] = chosen
    return found


def _stop(uow: UnitOfWork, there: Iterable[Placed], reason: Reason) -> None:
    """End what no sender holds; what one holds ends when it is let go of."""
    others = [each.delivery for each in there if each.whereabouts is not Whereabouts.HELD]
    values = {"state": DeliveryState.WITHDRAWN.value, "problem": False, "lease_owner": None}
    ended = update(DeliveryRow).where(DeliveryRow.id.in_(others))
    uow.execute(ended.values(values | {"reason": records.reason_to_json(reason)}))


def _owe(uow: UnitOfWork, study: int, job: int, there: Iterable[Placed], rejecting: Mapping[int, KeyObject]) -> None:
    """Put what rejects the results into the outbox, once for each peer, and note what rejects what."""
    if not rejecting:
        return
    objects = {each.object.sop_instance_uid: each.object for each in rejecting.values()}
    keys = add_results(uow, job, list(objects.values()))
    held = {rejecting[each.delivery] for each in there if each.whereabouts is Whereabouts.HELD}
    deliveries = {
        each: _delivery(uow, study, job, keys[each.object.sop_instance_uid], each, stand_by=each in held)
        for each in dict.fromkeys(rejecting.values())
    }
    rows = [{"delivery": delivery, "key_object": deliveries[each]} for delivery, each in rejecting.items()]
    uow.execute(insert(RejectionRow), rows)


def _delivery(uow: UnitOfWork, study: int, job: int, result: int, each: KeyObject, *, stand_by: bool) -> int:
    refused = unheeded(each.peer, sorted(each.rejected), each.refused) if each.refused else None
    state = DeliveryState.PENDING
    if stand_by:
        state = DeliveryState.STANDBY
    elif refused:
        state = DeliveryState.KEPT_ASIDE
    values = {
        "study": study,
        "job": job,
        "result": result,
        "peer": each.peer,
        "position": REJECTION_POSITION,
        "state": state.value,
        "attempts": 0,
        "problem": state is DeliveryState.KEPT_ASIDE,
        "next_attempt_at": uow.now(),
        "reason": records.reason_to_json(refused) if refused else None,
    }
    key: int = uow.execute(insert(DeliveryRow).values(values).returning(DeliveryRow.id)).scalar_one()
    return key
