"""What waits for longer than it should: nobody is there who would move it on, or something keeps it from going on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Final

from sqlalchemy import and_, exists, func, or_, select

from db.engine import UnitOfWork
from db.events import EventKind
from db.overview.problem import Kind, Problem
from db.tables import DeliveryRow, EventRow, JobRow, NoticeRow, RevisionRow, StudyRow
from db.work import pauses
from study.errors import Reason
from study.states import DeliveryState, Halted, JobState

ENDLESS: Final = "Endless"
INTERRUPTED: Final = "Interrupted"
NO_SENDER: Final = "NoSender"
NO_WRITER: Final = "NoWriter"

_LONG: Final = timedelta(hours=1)
_LONGEST_OPEN: Final = timedelta(days=1)
_LEASE_GRACE: Final = timedelta(minutes=10)
"""For how long a lease may have run out: a keeper that is there takes such a job up within seconds."""
_OFTEN: Final = 10
"""Interruptions of one job that nobody calls chance; with their pauses they take five minutes."""


def problems(uow: UnitOfWork, destinations: Collection[str], refusal_delay_seconds: float) -> Iterator[Problem]:
    """Give what waits for too long; see `db.overview.problems.problems`."""
    yield from _open(uow)
    yield from _stuck(uow)
    yield from _interrupted(uow)
    yield from _analyses(uow)
    yield from _reports(uow, refusal_delay_seconds)
    yield from _deliveries(uow, destinations)


def _open(uow: UnitOfWork) -> Iterator[Problem]:
    """Give studies that are still being received after a day, or got nothing for one and are not closed."""
    a_day_ago = uow.now() - _LONGEST_OPEN
    closed = exists().where(RevisionRow.study == StudyRow.id)
    query = select(StudyRow.study_instance_uid, StudyRow.first_received_at, StudyRow.last_received_at).where(
        StudyRow.receiving,
        or_(StudyRow.last_received_at < a_day_ago, and_(StudyRow.first_received_at < a_day_ago, ~closed)),
    )
    for row in uow.execute(query):
        silent = row.last_received_at < a_day_ago
        since = row.last_received_at if silent else row.first_received_at
        words = "Nothing of it came for a day" if silent else "It has been received for more than a day"
        yield Problem(Kind.OPEN, row.study_instance_uid, since, Reason("NotClosed", f"{words}, and it is not closed."))


def _stuck(uow: UnitOfWork) -> Iterator[Problem]:
    now = uow.now()
    gone, endless = JobRow.lease_until < now - _LEASE_GRACE, JobRow.started_at < now - _LONGEST_OPEN
    query = (
        select(JobRow.id, JobRow.model_name, JobRow.lease_until, JobRow.started_at, StudyRow.study_instance_uid)
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(JobRow.state == JobState.RUNNING.value, or_(gone, endless))
    )
    for row in uow.execute(query):
        if row.lease_until < now - _LEASE_GRACE:
            since, code, words = row.lease_until, "WorkerGone", "its worker is gone, and no other takes the analysis up"
        else:
            since, code, words = row.started_at, ENDLESS, "it has been running for more than a day"
        yield Problem(
            Kind.STUCK, row.study_instance_uid, since, Reason(code, f"{row.model_name}: {words}."), job=row.id
        )


def _interrupted(uow: UnitOfWork) -> Iterator[Problem]:
    """Give jobs that never end: interruptions count against nothing, so that somebody has to see them."""
    query = (
        select(JobRow.id, JobRow.model_name, JobRow.interruptions, StudyRow.study_instance_uid)
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(
            JobRow.current,
            JobRow.state.in_((JobState.QUEUED.value, JobState.RUNNING.value)),
            JobRow.interruptions >= _OFTEN,
        )
    )
    for row in list(uow.execute(query)):
        events = select(EventRow.at, EventRow.words).where(
            EventRow.job == row.id, EventRow.kind == EventKind.JOB_INTERRUPTED.value
        )
        told = uow.execute(events.order_by(EventRow.id)).all()
        if told:
            words = f"{row.model_name}: interrupted {row.interruptions} times. {told[-1].words}"
            reason = Reason(INTERRUPTED, words, {"interruptions": row.interruptions})
            yield Problem(Kind.STUCK, row.study_instance_uid, told[0].at, reason, job=row.id)


def _analyses(uow: UnitOfWork) -> Iterator[Problem]:
    now = uow.now()
    running = select(JobRow.id).where(JobRow.state == JobState.RUNNING.value, JobRow.lease_until >= now)
    if pauses.is_paused(uow, Halted.ANALYSES) or uow.execute(running.limit(1)).first() is not None:
        return
    due = select(func.count().label("jobs"), func.min(JobRow.not_before).label("since")).where(
        JobRow.state == JobState.QUEUED.value, JobRow.not_before < now - _LONG
    )
    row = uow.execute(due).one()
    if row.jobs:
        words = f"{row.jobs} analysis job(s) wait, and no worker takes one."
        yield Problem(Kind.QUEUE, Halted.ANALYSES.value, row.since, Reason("NoWorker", words, {"jobs": row.jobs}))


def _reports(uow: UnitOfWork, delay_seconds: float) -> Iterator[Problem]:
    long_ago = uow.now() - _LONG - timedelta(seconds=delay_seconds)
    due = select(func.count().label("reports"), func.min(NoticeRow.not_before).label("since")).where(
        ~NoticeRow.given_up, NoticeRow.not_before < long_ago
    )
    row = uow.execute(due).one()
    if row.reports:
        words = f"{row.reports} refusal report(s) wait, and no worker writes one."
        yield Problem(Kind.QUEUE, "reports", row.since, Reason(NO_WRITER, words, {"reports": row.reports}))


def _deliveries(uow: UnitOfWork, destinations: Collection[str]) -> Iterator[Problem]:
    """Give one problem for what has been due for an hour to peers that no sender holds anything of."""
    if pauses.is_paused(uow, Halted.DELIVERIES):
        return
    now = uow.now()
    pending = DeliveryRow.state == DeliveryState.PENDING.value
    served = select(DeliveryRow.peer).where(
        pending, DeliveryRow.lease_owner.is_not(None), DeliveryRow.next_attempt_at > now
    )
    due = select(func.count().label("objects"), func.min(DeliveryRow.next_attempt_at).label("since")).where(
        pending,
        DeliveryRow.next_attempt_at < now - _LONG,
        DeliveryRow.peer.in_(list(destinations)),
        DeliveryRow.peer.not_in(served),
    )
    row = uow.execute(due).one()
    if row.objects:
        words = f"{row.objects} object(s) are due, and no sender takes them."
        yield Problem(
            Kind.QUEUE, Halted.DELIVERIES.value, row.since, Reason(NO_SENDER, words, {"objects": row.objects})
        )
