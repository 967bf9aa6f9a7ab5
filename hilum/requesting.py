"""``hilum analyse``: a person wants a study analysed that the rules on age, senders and pauses only let be stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from db.engine import Database
from db.files.filestore import FileStore
from db.images import image_rejections
from db.lasting.ledger import note_words
from db.overview.queries import study_record
from db.work import admissions
from hilum.admitting import why_not_admitted
from hilum.config import Settings
from hilum.looking import look_at
from hilum.planning import plan_study, read_cards
from hilum.versions import choose, find_out
from study.completion import WHOLE
from study.entities import Job, PlannedJob, StudyRecord
from study.errors import ArchiveError
from study.states import JobState, Which

_ALREADY = {
    JobState.QUEUED: "waits already",
    JobState.RUNNING: "runs just now",
    JobState.DONE: "has run on these very images, which is not done twice",
}


def analyse(
    settings: Settings,
    database: Database,
    study_instance_uid: str,
    *,
    with_rejected: bool = False,
    which: Which | None = None,
) -> Iterator[str]:
    """Have a study analysed, whatever its age and senders; give what will happen, by what is here of it now.

    Parameters
    ----------
    with_rejected
        Whether images that were rejected are analysed all the same.
    which
        Which versions are right of images that came with different pixels; None: those that count are for now.

    Raises
    ------
    ArchiveError
        If the index knows no such study, or retention removed it and nothing came since.
    """
    cards = read_cards(settings)
    store = FileStore(settings.data_dir)
    if which is not None:
        find_out(settings, database, store, study_instance_uid)
    with database.writing() as uow:
        chosen = None if which is None else choose(uow, store, study_instance_uid, which)
        lifted = image_rejections.lift(uow, study_instance_uid) if with_rejected else 0
        found = look_at(uow, settings, cards, study_instance_uid, WHOLE, accepting=True)
        record = study_record(uow, study_instance_uid)
        if record is not None and record.summary.removal is not None and not record.summary.instances:
            raise ArchiveError(f"Nothing of {study_instance_uid} is here: retention removed it. Send it again.")
        headers = [each.header for series in found.seen.series.values() for each in series]
        stored_only = why_not_admitted(settings, found.circumstances, headers)
        wanted = dataclasses.replace(found.circumstances, on_request=True, passed_over=False)
        plan = plan_study(settings, cards, found.seen.series, wanted)
        admissions.ask_for_analysis(uow, study_instance_uid)
        note_words(uow, store, study_instance_uid)
        uow.commit()
    if stored_only is not None:
        yield f"until now: {stored_only.words}"
    if which is not None:
        yield f"of {chosen} image(s) the {which.value} pixels count; the others are kept, and count no more"
    rejected = sum(len(images) for images in found.seen.rejected.values())
    if lifted:
        yield f"{lifted} image(s) that were rejected are analysed all the same"
    elif rejected:
        yield f"{rejected} image(s) were rejected, and are left out; --with-rejected analyses them all the same"
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
