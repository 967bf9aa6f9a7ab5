"""``hilum analyse``: a person wants a study analysed that the rules on age, senders and pauses only let be stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from db import admissions
from db.engine import Database
from db.queries import study_record
from hilum.admitting import why_not_admitted
from hilum.config import Settings
from hilum.looking import look_at
from hilum.planning import plan_study, read_cards
from study.completion import WHOLE
from study.entities import Job, PlannedJob, StudyRecord
from study.states import JobState

_ALREADY = {
    JobState.QUEUED: "waits already",
    JobState.RUNNING: "runs just now",
    JobState.DONE: "has run on these very images, which is not done twice",
}


def analyse(settings: Settings, database: Database, study_instance_uid: str) -> Iterator[str]:
    """Have a study analysed, whatever its age and senders; give what will happen, by what is here of it now.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    cards = read_cards(settings)
    with database.reading() as uow:
        found = look_at(uow, settings, cards, study_instance_uid, WHOLE, accepting=True)
        record = study_record(uow, study_instance_uid)
    headers = [each.header for series in found.seen.series.values() for each in series]
    stored_only = why_not_admitted(settings, found.circumstances, headers)
    wanted = dataclasses.replace(found.circumstances, on_request=True, passed_over=False)
    plan = plan_study(settings, cards, found.seen.series, wanted)
    with database.writing() as uow:
        admissions.ask_for_analysis(uow, study_instance_uid)
        uow.commit()
    if stored_only is not None:
        yield f"until now: {stored_only.words}"
    for job in plan.jobs:
        yield f"{job.model_name}: {_becomes(job, record)}"
    if not plan.jobs:
        yield plan.words
    if record is not None and record.withdrawals:
        yield "what was taken back of it is not sent again"


def _becomes(job: PlannedJob, record: StudyRecord | None) -> str:
    there = _same(job, record.jobs if record else ())
    if there is not None and there.state in _ALREADY:
        return f"{_ALREADY[there.state]} (job {there.id})"
    if job.refusal is not None:
        return f"can not analyse it: {job.refusal.words}"
    return f"runs on {len(job.sop_instance_uids)} image(s) of series {job.series_instance_uid}"


def _same(job: PlannedJob, jobs: Sequence[Job]) -> Job | None:
    """Return the same work, where it is on record."""

    def key(each: PlannedJob | Job) -> tuple[str, str, str, str]:
        return each.model_name, each.model_digest, each.parameters_digest, each.instances_digest

    return next((each for each in jobs if key(each) == key(job)), None)
