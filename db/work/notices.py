"""Refusal reports that are owed: jobs that ended without results, of which a destination wants to be told.

A notice is entered in the transaction that ends the job, and is there until its report is written; from then on the
outbox has it. A job that is tried again, or overtaken, owes none any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from db import records
from db.delivery import outbox
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import JobRow, NoticeRow, ResultRow
from db.work.results import add_results, keys_of
from study.entities import Job, ResultObject
from study.errors import LeaseLost, MissingIdentity, Reason, TargetNotInFieldOfView
from study.forms import Wish, owes_notice
from study.identity import CONFLICTING

_LONGEST_BACK_OFF_SECONDS = 600.0
_MOST_ATTEMPTS = 3
_ANY = select(NoticeRow.id).where(~NoticeRow.given_up).limit(1)


@dataclass(frozen=True)
class Notice:
    """A refusal report to write: about which job, and the how manieth try it is."""

    job: Job
    attempt: int


def is_owed(parameters: Mapping[str, Any], reason: Reason | None) -> bool:
    """Tell whether a job with these parameters that ended for this reason owes anybody a report.

    Of a study that may mix two patients none is written: it would stand in the name of one of them. Nor of images that
    do not say whose they are, nor of images that do not show what the model looks for: there nobody would expect a
    result.
    """
    if reason is None or reason.code in (CONFLICTING, MissingIdentity.code, TargetNotInFieldOfView.code):
        return False
    return owes_notice(Wish.from_json(wish) for wish in parameters.get("wishes", ()))


def owe(uow: UnitOfWork, study: int, job: int, parameters: Mapping[str, Any], reason: Reason | None) -> None:
    """Enter a notice for a job that ended without results, where a destination wants it; part of the transaction."""
    forget(uow, [job])
    outbox.owe_no_more(uow, [job])  # a report that told another reason
    if not is_owed(parameters, reason):
        return
    values = {"study": study, "job": job, "attempts": 0, "not_before": uow.now(), "given_up": False}
    uow.execute(insert(NoticeRow).values(values))


def forget(uow: UnitOfWork, jobs: Collection[int]) -> None:
    """Owe no report on these jobs any more: they run again, or others took their place."""
    if jobs:
        uow.execute(delete(NoticeRow).where(NoticeRow.job.in_(list(jobs))))


def is_notice_waiting(uow: UnitOfWork, delay_seconds: float = 0.0) -> bool:
    """Tell whether `lease_notice` would find something: a look without a lock, that costs little where none is owed."""
    if uow.execute(_ANY).first() is None:
        return False
    return uow.execute(_due(uow.now(), delay_seconds).limit(1)).first() is not None


def _due(now: datetime, delay_seconds: float) -> AnyQuery:
    first = (NoticeRow.attempts == 0) & (NoticeRow.not_before <= now - timedelta(seconds=delay_seconds))
    again = (NoticeRow.attempts > 0) & (NoticeRow.not_before <= now)
    return select(NoticeRow.id).where(~NoticeRow.given_up, first | again)


def lease_notice(uow: UnitOfWork, owner: str, lease_seconds: float, delay_seconds: float = 0.0) -> Notice | None:
    """Lease the notice that has been due longest; None where none is due.

    Parameters
    ----------
    owner
        Who takes it; unique among all workers at work.
    lease_seconds
        How long it is theirs [s].
    delay_seconds
        How long a notice must have been there [s]: images that come late may lift the refusal.
    """
    now = uow.now()
    due = (
        _due(now, delay_seconds)
        .order_by(NoticeRow.not_before, NoticeRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    lease = (
        update(NoticeRow)
        .where(NoticeRow.id == due)
        .values(attempts=NoticeRow.attempts + 1, lease_owner=owner, not_before=now + timedelta(seconds=lease_seconds))
        .returning(NoticeRow.job, NoticeRow.attempts)
    )
    taken = uow.execute(lease).first()
    if taken is None:
        return None
    row = uow.execute(records.jobs().where(JobRow.id == taken.job)).one()
    return Notice(records.job_of(row), taken.attempts)


def written(
    uow: UnitOfWork, job_id: int, owner: str, results: Sequence[ResultObject], deliveries: Sequence[outbox.Outgoing]
) -> None:
    """End the notice: its reports are on disk, and owed to the peers. Reports that were there already are not repeated.

    Raises
    ------
    LeaseLost
        If the notice is not this worker's any more.
    """
    held, now = _held(uow, job_id, owner), uow.now()
    there = keys_of(uow, job_id)
    keys = there | add_results(uow, job_id, [each for each in results if each.sop_instance_uid not in there])
    here = update(ResultRow).where(ResultRow.id.in_([keys[each.sop_instance_uid] for each in results]))
    uow.execute(here.values(removed_at=None))  # written again, where retention had removed it
    outbox.add_deliveries(uow, held.study, job_id, deliveries, keys)
    outbox.owe_again(uow, job_id, [keys[each.sop_instance_uid] for each in results])
    uow.execute(delete(NoticeRow).where(NoticeRow.id == held.id))
    words = f"Refusal written: {len(results)} report(s), {len(deliveries)} to deliver."
    record(uow, now, [NewEvent(held.study, EventKind.NOTICE_WRITTEN, words, {"results": len(results)}, job_id)])


def not_written(
    uow: UnitOfWork, job_id: int, owner: str, reason: Reason, transient: bool, *, counts: bool = True
) -> None:
    """Let the notice wait for its next attempt; give it up where trying again can not help, on record.

    Parameters
    ----------
    counts
        Whether the attempt counts; not where a disk or a database is away.

    Raises
    ------
    LeaseLost
        If the notice is not this worker's any more.
    """
    held, now = _held(uow, job_id, owner), uow.now()
    given_up = counts and (not transient or held.attempts >= _MOST_ATTEMPTS)
    seconds = min(5.0 * 2.0**held.attempts, _LONGEST_BACK_OFF_SECONDS)
    values = {"given_up": given_up, "lease_owner": None, "not_before": now + timedelta(seconds=seconds)}
    values |= {"reason": records.reason_to_json(reason)}
    if not counts:
        values |= {"attempts": max(held.attempts - 1, 1)}  # one that was begun waits no more for images that come late
    uow.execute(update(NoticeRow).where(NoticeRow.id == held.id).values(values))
    if given_up:
        words = f"The refusal could not be written for the PACS: {reason.words}"
        record(uow, now, [NewEvent(held.study, EventKind.NOTICE_FAILED, words, {"code": reason.code}, job_id)])


def release_orphans(uow: UnitOfWork, owner_prefix: str) -> None:
    """Free what is leased to owners whose names begin with `owner_prefix`: at the start of a node all are dead."""
    orphans = update(NoticeRow).where(NoticeRow.lease_owner.startswith(owner_prefix, autoescape=True))
    uow.execute(orphans.values(lease_owner=None, not_before=uow.now(), attempts=NoticeRow.attempts - 1))


def try_again(uow: UnitOfWork, study: int) -> None:
    """Have every notice of the study that waits or was given up tried at once, as if it had never failed."""
    waiting = update(NoticeRow).where(NoticeRow.study == study, NoticeRow.lease_owner.is_(None))
    again = uow.now() - timedelta(days=1)  # a person asked: the delay of new ones is over
    uow.execute(waiting.values(given_up=False, attempts=0, not_before=again))


def _held(uow: UnitOfWork, job_id: int, owner: str) -> AnyRow:
    query = select(NoticeRow.id, NoticeRow.study, NoticeRow.attempts).where(
        NoticeRow.job == job_id, NoticeRow.lease_owner == owner
    )
    row = uow.execute(query.with_for_update()).first()
    if row is None:
        raise LeaseLost("The refusal is not this worker's any more.")
    return row
