"""The queue of jobs: leases with a fencing token, and every way in which an attempt can end.

A lease is one transaction that takes a job and raises its attempt. Each later write of that worker is conditional on
(job, attempt): one that lost its lease, by whatever cause, gets LeaseLost and can commit nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select, update

from db import records
from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import JobRow
from db.work import notices
from db.work.pauses import is_paused
from db.work.results import add_results
from study.entities import Job, ResultObject
from study.errors import ArchiveError, LeaseLost, Reason
from study.states import Halted, JobState, job_sources

_LONGEST_BACK_OFF_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 60.0  # while what does not fit may be overtaken; small jobs must not starve a large one


@dataclass(frozen=True)
class RunningJob:
    """A job that runs just now: whose it is, and of which model."""

    owner: str
    model_name: str


_OPEN: Final = select(JobRow.id).where(JobRow.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))).limit(1)

Fits = Callable[[str, Sequence[RunningJob]], bool]
"""Tells whether a job of a model, by its name, can run beside those that run."""


def is_any_open(uow: UnitOfWork) -> bool:
    """Tell whether any job waits or runs, whosever it is: a look that costs little, for a worker that looks often."""
    return uow.execute(_OPEN).first() is not None


def is_work_waiting(uow: UnitOfWork, fits: Fits | None = None) -> bool:
    """Tell whether `lease_job` would find something: a look that takes no lock, for a worker that looks often."""
    now = uow.now()
    forsaken = select(JobRow.id).where(JobRow.state == JobState.RUNNING.value, JobRow.lease_until <= now).limit(1)
    if uow.execute(forsaken).first() is not None:
        return True
    return not is_paused(uow, Halted.ANALYSES) and _whose_turn_it_is(uow, now, fits) is not None


def seconds_until_due(uow: UnitOfWork) -> float | None:
    """Return in how long the next job that waits for its time, or for a lost worker's lease, falls due [s].

    None where there is none.
    """
    now = uow.now()
    queued = select(func.min(JobRow.not_before)).where(JobRow.state == JobState.QUEUED.value, JobRow.not_before > now)
    leased = select(func.min(JobRow.lease_until)).where(
        JobRow.state == JobState.RUNNING.value, JobRow.lease_until > now
    )
    found: list[datetime | None] = [uow.execute(each).scalar_one() for each in (queued, leased)]
    times = [each for each in found if each is not None]
    return (min(times) - now).total_seconds() if times else None


def lease_job(uow: UnitOfWork, owner: str, lease_seconds: float, fits: Fits | None = None) -> Job | None:
    """Lease the job whose turn it is to `owner`; None where none is due, or none fits.

    The first in the queue that fits is taken. Once the very first has been due for a minute and does not fit, nothing
    overtakes it any more: what runs ends, and then it fits. A running job whose lease ran out counts as interrupted,
    and is back in the queue before. While analyses are paused none is taken.

    Parameters
    ----------
    owner
        Who takes it; unique among all workers at work.
    lease_seconds
        How long it is theirs unless renewed [s].
    fits
        Is asked once for each model; not where nothing runs, since a job that does not fit alone would wait for ever.
    """
    uow.serialise("queue")  # two keepers would each judge what fits without the other's job
    now = uow.now()
    _reclaim(uow, now)
    turn = None if is_paused(uow, Halted.ANALYSES) else _whose_turn_it_is(uow, now, fits)
    if turn is None:
        return None
    lease = (
        update(JobRow)
        .where(JobRow.id == turn, JobRow.state == JobState.QUEUED.value, JobRow.not_before <= now)
        .values(
            state=JobState.RUNNING.value,
            attempt=JobRow.attempt + 1,
            lease_owner=owner,
            lease_until=now + timedelta(seconds=lease_seconds),
            started_at=now,
            ended_at=None,
        )
        .returning(JobRow.id, JobRow.study, JobRow.attempt)
    )
    taken = uow.execute(lease).first()
    if taken is None:  # a newer revision took its place just now
        return None
    words = f"Attempt {taken.attempt} started."
    record(uow, now, [NewEvent(taken.study, EventKind.JOB_STARTED, words, {"attempt": taken.attempt}, taken.id)])
    return job_by_id(uow, taken.id)


def _whose_turn_it_is(uow: UnitOfWork, now: datetime, fits: Fits | None) -> int | None:
    passed: list[str] = []
    running = [] if fits is None else _running_jobs(uow, now)
    while (first := uow.execute(_due(now, passed)).first()) is not None:
        if fits is None or not running or fits(first.model_name, running):
            key: int = first.id
            return key
        if not passed and (now - first.not_before).total_seconds() > _PATIENCE_SECONDS:
            return None
        passed.append(first.model_name)
    return None


def _due(now: datetime, passed: Sequence[str]) -> AnyQuery:
    """Return the query of the job that is first among those that may be leased now, but for those of some models."""
    query = select(JobRow.id, JobRow.model_name, JobRow.not_before).where(
        JobRow.state == JobState.QUEUED.value, JobRow.not_before <= now
    )
    if passed:
        query = query.where(JobRow.model_name.not_in(passed))
    return query.order_by(JobRow.turn_at, JobRow.id).limit(1)


def _running_jobs(uow: UnitOfWork, now: datetime) -> list[RunningJob]:
    query = (
        select(JobRow.lease_owner, JobRow.model_name)
        .where(JobRow.state == JobState.RUNNING.value, JobRow.lease_until >= now)
        .order_by(JobRow.lease_until)  # as the index has them, which is then read in place of the whole table
    )
    return [RunningJob(row.lease_owner, row.model_name) for row in uow.execute(query)]


def job_by_id(uow: UnitOfWork, job_id: int) -> Job:
    """Return the job as it stands; ArchiveError where there is none."""
    row = uow.execute(records.jobs().where(JobRow.id == job_id)).first()
    if row is None:
        raise ArchiveError(f"There is no job {job_id}.")
    return records.job_of(row)


def renew_lease(uow: UnitOfWork, job_id: int, attempt: int, owner: str, lease_seconds: float) -> None:
    """Prolong the lease by `lease_seconds` from now.

    Raises
    ------
    LeaseLost
        If the job is not this worker's any more.
    """
    renewal = (
        update(JobRow)
        .where(
            JobRow.id == job_id,
            JobRow.attempt == attempt,
            JobRow.lease_owner == owner,
            JobRow.state == JobState.RUNNING.value,
        )
        .values(lease_until=uow.now() + timedelta(seconds=lease_seconds))
        .returning(JobRow.id)
    )
    if uow.execute(renewal).first() is None:
        raise LeaseLost


def finish_job(
    uow: UnitOfWork,
    job_id: int,
    attempt: int,
    results: Sequence[ResultObject],
    deliveries: Sequence[Outgoing],
    details: Mapping[str, Any],
) -> None:
    """End the job as done, with its results, and put what is owed to each peer into the outbox.

    Raises
    ------
    LeaseLost
        If the job is not this worker's any more.
    ArchiveError
        If a delivery names an object that is not among the results.
    """
    held, now = _held(uow, job_id, attempt), uow.now()
    _move(uow, held, JobState.DONE, ended_at=now, reason=None, details=dict(details))
    outbox.add_deliveries(uow, held.study, job_id, deliveries, add_results(uow, job_id, results))
    if not held.current:  # overtaken while it ran: its results are kept, and owed only if it becomes the current one
        outbox.owe_no_more(uow, [job_id])
    owed = sum(not each.stand_by for each in deliveries) if held.current else 0
    words = f"Done: {len(results)} result object(s), {owed} to deliver."
    numbers = {"results": len(results), "deliveries": owed}
    record(uow, now, [NewEvent(held.study, EventKind.JOB_DONE, words, numbers, job_id)])


def refuse_job(
    uow: UnitOfWork, job_id: int, attempt: int, reason: Reason, details: Mapping[str, Any] | None = None
) -> None:
    """End the job as refused: the model looked at the images and can not analyse them.

    Raises
    ------
    LeaseLost
        If the job is not this worker's any more.
    """
    held, now = _held(uow, job_id, attempt), uow.now()
    values = {"ended_at": now, "reason": records.reason_to_json(reason), "details": dict(details or {})}
    _move(uow, held, JobState.REFUSED, **values)
    _tell(uow, held, reason)
    numbers = {"code": reason.code, **reason.numbers}
    record(uow, now, [NewEvent(held.study, EventKind.JOB_REFUSED, reason.words, numbers, job_id)])


def fail_attempt(
    uow: UnitOfWork,
    job_id: int,
    attempt: int,
    reason: Reason,
    transient: bool,
    crash_limit: int = 3,
    details: Mapping[str, Any] | None = None,
) -> JobState:
    """Count a failed attempt, and return what the job is now: queued for another one, or failed.

    It is failed where trying again can not help, or where `crash_limit` attempts failed; superseded where a newer
    revision took its place while it ran. The next attempt waits 2 s, then 4 s, at most a minute.

    Parameters
    ----------
    details
        How the attempt went; they take the place of those of an earlier one, which say nothing of this one.

    Raises
    ------
    LeaseLost
        If the job is not this worker's any more.
    """
    held, now = _held(uow, job_id, attempt), uow.now()
    crashes = held.crashes + 1
    numbers = {"code": reason.code, "attempt": attempt, "crashes": crashes, **reason.numbers}
    values = {"crashes": crashes, "reason": records.reason_to_json(reason), "ended_at": now}
    values |= {"details": dict(details or {})}
    if not transient or crashes >= crash_limit:
        _move(uow, held, JobState.FAILED, **values)
        _tell(uow, held, reason)
        record(uow, now, [NewEvent(held.study, EventKind.JOB_FAILED, reason.words, numbers, job_id)])
        return JobState.FAILED
    record(uow, now, [NewEvent(held.study, EventKind.JOB_ATTEMPT_FAILED, reason.words, numbers, job_id)])
    return _requeue(uow, held, now, min(2.0**crashes, _LONGEST_BACK_OFF_SECONDS), values)


def _tell(uow: UnitOfWork, held: AnyRow, reason: Reason) -> None:
    """Owe a refusal report on a job that ended without results; one that was overtaken owes none."""
    if held.current:
        notices.owe(uow, held.study, held.id, held.parameters, reason)


def interrupt_job(uow: UnitOfWork, job_id: int, attempt: int, why: str = "the node stopped") -> JobState:
    """Put the job back into the queue, since the node stops, or what it needs is away; counts against nothing.

    Raises
    ------
    LeaseLost
        If the job is not this worker's any more.
    """
    return _interrupt(uow, _held(uow, job_id, attempt), uow.now(), f"The attempt was interrupted: {why}.")


def release_orphans(uow: UnitOfWork, owner_prefix: str) -> int:
    """Put the running jobs of owners whose names begin with `owner_prefix` back into the queue; return how many.

    For the start of a node, which holds its lock: none of those owners can be alive. End the prefix with a delimiter.
    """
    orphans = _running().where(JobRow.lease_owner.startswith(owner_prefix, autoescape=True))
    rows = list(uow.execute(orphans.order_by(JobRow.id)))
    for row in rows:
        _interrupt(uow, row, uow.now(), "The attempt was interrupted: the node had died.")
    return len(rows)


def _running() -> AnyQuery:
    return (
        select(
            JobRow.id,
            JobRow.study,
            JobRow.state,
            JobRow.current,
            JobRow.crashes,
            JobRow.interruptions,
            JobRow.parameters,
        )
        .where(JobRow.state == JobState.RUNNING.value)
        .with_for_update()
    )


def _held(uow: UnitOfWork, job_id: int, attempt: int) -> AnyRow:
    row = uow.execute(_running().where(JobRow.id == job_id, JobRow.attempt == attempt)).first()
    if row is None:
        raise LeaseLost
    return row


def _reclaim(uow: UnitOfWork, now: datetime) -> None:
    expired = _running().where(JobRow.lease_until < now).order_by(JobRow.lease_until)
    for row in list(uow.execute(expired)):
        _interrupt(uow, row, now, "The attempt was interrupted: its worker gave no sign of life.")


def _interrupt(uow: UnitOfWork, row: AnyRow, now: datetime, words: str) -> JobState:
    """Queue the job again: at once, then after 1, 3, 7 ... s and at most a minute.

    Interruptions never make a job fail. Yet one that takes the whole machine down with it must leave it time.
    """
    interruptions = row.interruptions + 1
    seconds = min(2.0 ** min(row.interruptions, 10) - 1, _LONGEST_BACK_OFF_SECONDS)
    numbers = {"interruptions": interruptions}
    record(uow, now, [NewEvent(row.study, EventKind.JOB_INTERRUPTED, words, numbers, row.id)])
    return _requeue(uow, row, now, seconds, {"interruptions": interruptions})


def _requeue(uow: UnitOfWork, row: AnyRow, now: datetime, seconds: float, values: dict[str, Any]) -> JobState:
    _move(uow, row, JobState.QUEUED, not_before=now + timedelta(seconds=seconds), **values)
    if row.current:
        return JobState.QUEUED
    queued = uow.execute(select(JobRow.id, JobRow.study, JobRow.state).where(JobRow.id == row.id)).one()
    _move(uow, queued, JobState.SUPERSEDED, ended_at=now)
    words = "A newer revision took the job's place."
    record(uow, now, [NewEvent(row.study, EventKind.JOB_SUPERSEDED, words, job=row.id)])
    return JobState.SUPERSEDED


def _move(uow: UnitOfWork, row: AnyRow, target: JobState, **values: Any) -> None:  # noqa: ANN401 - column values
    if JobState(row.state) not in job_sources(target):
        raise ArchiveError(f"A job can not become {target} while it is {row.state}.")
    values |= {"state": target.value, "lease_owner": None, "lease_until": None}
    uow.execute(update(JobRow).where(JobRow.id == row.id).values(values))
