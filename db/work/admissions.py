"""What a person says of whether studies are analysed: one is wanted, those that came during a pause are let go of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, update

from db.complete import inquiries
from db.delivery import outbox
from db.engine import UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.tables import JobRow, StudyRow
from db.work import notices
from study.states import JobState

_BATCH = 1000
_NEVER_RAN = (JobState.QUEUED.value, JobState.REFUSED.value)


@dataclass(frozen=True)
class Waiting:
    """What came since a pause began and was not analysed: how many studies, and how many of their jobs wait."""

    studies: int
    jobs: int


def ask_for_analysis(uow: UnitOfWork, study_instance_uid: str) -> None:
    """Have a study analysed, now and whatever comes of it later, though it is old or nobody sent it for analysis.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid, for_update=True)
    _look_again(uow, [study.id], on_request=True, passed_over=False)
    uow.execute(update(StudyRow).where(StudyRow.id == study.id).values(accepted_generation=StudyRow.generation))
    inquiries.ask_again(uow, study.id)
    words = "A person asked for its analysis."
    record(uow, uow.now(), [NewEvent(study.id, EventKind.ANALYSIS_REQUESTED, words)])


def waiting_since(uow: UnitOfWork, since: datetime) -> Waiting:
    """Return how much was received for the first time since then and is not analysed yet."""
    studies = select(StudyRow.id).where(*_left(since))
    jobs = select(func.count()).where(JobRow.study.in_(studies), JobRow.current, JobRow.state == JobState.QUEUED.value)
    counted = uow.execute(select(func.count()).select_from(studies.subquery())).scalar_one()
    return Waiting(counted, uow.execute(jobs).scalar_one())


def pass_over(uow: UnitOfWork, since: datetime) -> list[str]:
    """Let go of what was received for the first time since then and is not analysed yet; return the studies' UIDs.

    They stay here, their jobs are taken back, and nobody is told of refusals among them. What began to run, and what a
    person asked for, is left alone.
    """
    uow.serialise("queue")  # no keeper may lease one of their jobs meanwhile
    studies = list(uow.execute(select(StudyRow.id).where(*_left(since)).with_for_update()).scalars())
    for start in range(0, len(studies), _BATCH):
        _let_go(uow, studies[start : start + _BATCH])
    uids: list[str] = []
    for start in range(0, len(studies), _BATCH):
        named = select(StudyRow.study_instance_uid).where(StudyRow.id.in_(studies[start : start + _BATCH]))
        uids += uow.execute(named).scalars()
    return uids


def _left(since: datetime) -> Sequence[ColumnElement[bool]]:
    """Return which studies came since then, may still be analysed, and were not."""
    jobs = select(JobRow.id).where(JobRow.study == StudyRow.id)
    never_ran = jobs.where(JobRow.current, JobRow.attempt == 0, JobRow.state.in_(_NEVER_RAN))
    return (
        StudyRow.first_received_at >= since,
        ~StudyRow.on_request,
        ~StudyRow.passed_over,
        ~jobs.where(JobRow.attempt > 0).exists(),
        or_(StudyRow.evaluation_due, never_ran.exists()),
    )


def _let_go(uow: UnitOfWork, studies: Collection[int]) -> None:
    now = uow.now()
    theirs = update(JobRow).where(JobRow.study.in_(studies), JobRow.current, JobRow.state.in_(_NEVER_RAN))
    jobs = list(uow.execute(theirs.values(current=False).returning(JobRow.id)).scalars())
    queued = update(JobRow).where(JobRow.id.in_(jobs), JobRow.state == JobState.QUEUED.value)
    uow.execute(queued.values(state=JobState.SUPERSEDED.value, ended_at=now))
    notices.forget(uow, jobs)
    outbox.owe_no_more(uow, jobs)  # a report that it was refused
    _look_again(uow, studies, passed_over=True)
    words = "Passed over: it came while analyses were paused."
    record(uow, now, [NewEvent(study, EventKind.PASSED_OVER, words) for study in studies])


def _look_again(uow: UnitOfWork, studies: Collection[int], **said: bool) -> None:
    """Keep what was said of studies, and have models matched anew: a plan that is made just now does not hold."""
    change = update(StudyRow).where(StudyRow.id.in_(list(studies)))
    uow.execute(change.values(evaluation_due=True, generation=StudyRow.generation + 1, **said))
