"""Closing a complete study: the work that its instances call for enters the queue, once.

A job belongs to its model, the parameters and the set of instances that the model accepted. The same set again is the
same job, whatever else arrived in the study; another set is a new job in a new revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from db import records
from db.complete import priors
from db.delivery import outbox
from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.tables import InstanceRow, JobInstanceRow, JobPriorRow, JobRow, RevisionRow, StudyRow
from db.work import notices
from study.completion import WHOLE, Completeness
from study.entities import PlannedJob, Verdict
from study.errors import ArchiveError, Reason
from study.states import JobState, job_sources
from study.urgency import turn

_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class ClosedRevision:
    """What closing a study came to.

    Parameters
    ----------
    closed
        False: instances came in since the plan was made; nothing was changed, plan again.
    revision
        The number of the study's newest revision.
    created
        Whether that revision is new.
    job_ids
        The jobs of the plan, in its order.
    """

    closed: bool
    revision: int
    created: bool = False
    job_ids: tuple[int, ...] = ()


def close_study(
    uow: UnitOfWork,
    study_instance_uid: str,
    planned: Sequence[PlannedJob],
    words: str,
    generation: int,
    verdicts: Sequence[Verdict] = (),
    not_admitted: Reason | None = None,
    completeness: Completeness = WHOLE,
) -> ClosedRevision:
    """Queue the planned jobs that are not there yet, and let newer ones take the place of older ones.

    A job that exists already becomes the current one of its model and is not repeated, except where it was refused
    before it ever ran and the plan refuses it no more. Older jobs of the planned models are current no more; what
    waits in the queue and is not in the plan is superseded.

    Where only some models' series are complete, the same is done for these, and the study stays as it is: it awaits
    its evaluation, and what other models have in the queue is left alone.

    Parameters
    ----------
    words
        Why nothing is planned, where `planned` is empty; kept with the revision, which is made once.
    generation
        Of the study when its instances were read for the plan.
    verdicts
        What each model says of each series; they take the place of those of an earlier look.
    not_admitted
        Why the study is stored only, where that is why nothing is planned.
    completeness
        Which models the plan is of, who says that it is their turn, and what is not complete.

    Raises
    ------
    ArchiveError
        If the index knows no such study, or the plan names an instance that the study does not hold.
    """
    place = places.study(uow, study_instance_uid, for_update=True)
    newest = _newest_revision(uow, place.id)
    if place.generation != generation:
        return ClosedRevision(closed=False, revision=newest.number if newest else 0)
    at = uow.now()
    plan = {_planned_key(job): job for job in planned}
    models = completeness.models
    earlier = {_row_key(row): row for row in _jobs_of(uow, place.id) if models is None or row.model_name in models}
    events = _complete(uow, place, completeness)
    events += _retire(uow, place.id, plan, earlier, at)
    events += _reinstate(uow, place.id, plan, earlier, at)
    fresh = [job for key, job in plan.items() if key not in earlier]
    if models is not None and not fresh:
        _keep_verdicts(uow, place, verdicts, models)
        record(uow, at, events)
        return ClosedRevision(True, newest.number if newest else 0, False, tuple(earlier[key].id for key in plan))
    revision, created = _revision(uow, place.id, newest, fresh, words if not plan else None, at)
    if not plan:
        events += _selected_by_none(uow, place.id, revision.id, words, not_admitted, created=created)
    ids = {key: row.id for key, row in earlier.items()}
    for job in fresh:
        ids[_planned_key(job)] = _enter(uow, place.id, revision.id, job, at)
        events.append(_entered(place.id, ids[_planned_key(job)], job))
    _keep_verdicts(uow, place, verdicts, models)
    if models is None:
        uow.execute(update(StudyRow).where(StudyRow.id == place.id).values(receiving=False, evaluation_due=False))
    record(uow, at, events)
    return ClosedRevision(True, revision.number, created, tuple(ids[key] for key in plan))


def _selected_by_none(
    uow: UnitOfWork, study: int, revision: int, words: str, not_admitted: Reason | None, *, created: bool
) -> list[NewEvent]:
    """Keep with a revision without jobs why no model was asked, and tell why nothing of the study is analysed."""
    kept = None if not_admitted is None else records.reason_to_json(not_admitted)
    without_jobs = update(RevisionRow).where(RevisionRow.id == revision, RevisionRow.not_selected.is_not(None))
    uow.execute(without_jobs.values(not_admitted=kept))
    if not_admitted is not None:  # told also where an earlier state of the study was analysed
        return [NewEvent(study, EventKind.NOT_SELECTED, words, {"code": not_admitted.code})]
    return [NewEvent(study, EventKind.NOT_SELECTED, words)] if created else []


def _keep_verdicts(
    uow: UnitOfWork, place: places.StudyPlace, verdicts: Sequence[Verdict], models: frozenset[str] | None
) -> None:
    """Let verdicts take the place of those of an earlier look; of other models than these they stay."""
    seen = [records.verdict_to_json(verdict) for verdict in verdicts]
    if models is not None:
        before = uow.execute(select(StudyRow.verdicts).where(StudyRow.id == place.id)).scalar_one() or []
        seen = [verdict for verdict in before if verdict["model"] not in models] + seen
    uow.execute(update(StudyRow).where(StudyRow.id == place.id).values(verdicts=seen))


def _planned_key(job: PlannedJob) -> _Key:
    return (job.model_name, job.model_digest, job.parameters_digest, job.instances_digest)


def _row_key(row: AnyRow) -> _Key:
    return (row.model_name, row.model_digest, row.parameters_digest, row.instances_digest)


def _jobs_of(uow: UnitOfWork, study: int) -> list[AnyRow]:
    query = (
        select(
            JobRow.id,
            JobRow.model_name,
            JobRow.model_digest,
            JobRow.parameters_digest,
            JobRow.instances_digest,
            JobRow.state,
            JobRow.current,
            JobRow.attempt,
            JobRow.reason,
            JobRow.priority,
            JobRow.turn_at,
            JobRow.inputs_removed,
        )
        .where(JobRow.study == study)
        .order_by(JobRow.id)
        .with_for_update()  # no keeper may lease one while it is judged
    )
    return list(uow.execute(query))


_REFUSABLE = job_sources(JobState.REFUSED)


def _newest_revision(uow: UnitOfWork, study: int) -> AnyRow | None:
    query = (
        select(RevisionRow.id, RevisionRow.number, RevisionRow.not_selected)
        .where(RevisionRow.study == study)
        .order_by(RevisionRow.number.desc())
        .limit(1)
    )
    return uow.execute(query).first()


def _complete(uow: UnitOfWork, place: places.StudyPlace, completeness: Completeness) -> list[NewEvent]:
    if not place.receiving or completeness.models is not None:
        return []
    query = select(func.count(), func.count(InstanceRow.series.distinct())).where(
        InstanceRow.study == place.id, InstanceRow.current
    )
    instances, series = uow.execute(query).one()
    by = f", {completeness.by}" if completeness.by else ""
    words = f"Complete: {instances} instance(s) in {series} series{by}."
    events = [NewEvent(place.id, EventKind.COMPLETE, words, {"instances": instances, "series": series})]
    if completeness.unproven is not None:
        reason = completeness.unproven
        events.append(NewEvent(place.id, EventKind.COMPLETE_UNPROVEN, reason.words, reason.numbers))
    for uid, reason in completeness.incomplete.items():
        numbers = {"series_instance_uid": uid, **reason.numbers}
        events.append(NewEvent(place.id, EventKind.SERIES_INCOMPLETE, reason.words, numbers))
    return events


def _retire(
    uow: UnitOfWork, study: int, plan: dict[_Key, PlannedJob], earlier: dict[_Key, AnyRow], at: datetime
) -> list[NewEvent]:
    """Take the earlier jobs back whose place others take, or that nobody wants any more."""
    models = {job.model_name for job in plan.values()}
    others = [row for key, row in earlier.items() if key not in plan]
    queued = [row.id for row in others if row.state in job_sources(JobState.SUPERSEDED)]
    outdated = [row.id for row in others if row.model_name in models and row.current]
    uow.execute(update(JobRow).where(JobRow.id.in_({*queued, *outdated})).values(current=False))
    uow.execute(update(JobRow).where(JobRow.id.in_(queued)).values(state=JobState.SUPERSEDED.value, ended_at=at))
    outbox.owe_no_more(uow, outdated)
    notices.forget(uow, {*queued, *outdated})
    return [
        NewEvent(study, EventKind.JOB_SUPERSEDED, "The job's place was taken before it ran.", job=key) for key in queued
    ]


def _reinstate(
    uow: UnitOfWork, study: int, plan: dict[_Key, PlannedJob], earlier: dict[_Key, AnyRow], at: datetime
) -> list[NewEvent]:
    """Make the jobs current that are planned and were there already; queue those again that never ran."""
    events = []
    for key, job in plan.items():
        row = earlier.get(key)
        if row is None:
            continue
        values: dict[str, Any] = {"current": True}
        if row.inputs_removed:  # they are here again, the very same ones
            _enter_inputs(uow, study, row.id, job)
            values |= {"inputs_removed": False}
        if row.state not in (JobState.DONE, JobState.RUNNING):
            # To whom its results go, how long it may take and what it goes before are no part of its key
            values |= {"parameters": job.parameters, "deadline_seconds": job.deadline_seconds}
            values |= {"priority": job.priority, "turn_at": turn(row.turn_at, job.priority - row.priority)}
        never_ran = row.attempt == 0
        if job.refusal is not None and row.state in _REFUSABLE:
            # Also one that runs: it is no longer its worker's, who then can commit nothing.
            values |= {"state": JobState.REFUSED.value, "reason": records.reason_to_json(job.refusal), "ended_at": at}
            events.append(_entered(study, row.id, job))
            notices.owe(uow, study, row.id, job.parameters, job.refusal)
        elif row.state == JobState.REFUSED and never_ran and job.refusal is not None:
            values |= {"reason": records.reason_to_json(job.refusal)}
            if records.reason_from_json(row.reason) != job.refusal or not row.current:
                notices.owe(uow, study, row.id, job.parameters, job.refusal)
        elif row.state == JobState.DONE and not row.current:
            outbox.owe_again(uow, row.id)
        elif row.state in (JobState.REFUSED, JobState.FAILED) and not never_ran and not row.current:
            notices.owe(uow, study, row.id, job.parameters, records.reason_from_json(row.reason))
        elif row.state == JobState.SUPERSEDED or (row.state == JobState.REFUSED and never_ran):
            values |= {"state": JobState.QUEUED.value, "reason": None, "not_before": at, "ended_at": None}
            values |= {"turn_at": turn(at, job.priority)}
            events.append(_queued(study, row.id, job, "is queued again"))
            notices.forget(uow, [row.id])
            outbox.owe_no_more(uow, [row.id])
        elif row.state == JobState.QUEUED and row.priority != job.priority:
            events.append(_queued(study, row.id, job, f"waits with priority {job.priority} from now on"))
        uow.execute(update(JobRow).where(JobRow.id == row.id).values(values))
    return events


def _revision(
    uow: UnitOfWork, study: int, newest: AnyRow | None, fresh: Sequence[PlannedJob], words: str | None, at: datetime
) -> tuple[AnyRow, bool]:
    """Return the revision that `fresh` belongs to, and whether it had to be made.

    A study without work gets one revision that says why; more of what no model wants changes only its words.
    """
    needed = newest is None or bool(fresh)
    if words is not None and newest is not None:
        if newest.not_selected is not None:
            uow.execute(update(RevisionRow).where(RevisionRow.id == newest.id).values(not_selected=words))
        else:
            needed = not _has_current_job(uow, study)
    if newest is not None and not needed:
        return newest, False
    number = newest.number + 1 if newest else 1
    values = {"study": study, "number": number, "created_at": at, "not_selected": words}
    uow.execute(insert(RevisionRow), [values])
    made = _newest_revision(uow, study)
    if made is None:  # pragma: no cover - inserted above
        raise ArchiveError
    return made, True


def _has_current_job(uow: UnitOfWork, study: int) -> bool:
    return uow.execute(select(JobRow.id).where(JobRow.study == study, JobRow.current).limit(1)).first() is not None


def _enter(uow: UnitOfWork, study: int, revision: int, job: PlannedJob, at: datetime) -> int:
    refused = job.refusal is not None
    values = {
        "study": study,
        "revision": revision,
        "model_name": job.model_name,
        "model_digest": job.model_digest,
        "series_instance_uid": job.series_instance_uid,
        "instances_digest": job.instances_digest,
        "parameters": job.parameters,
        "parameters_digest": job.parameters_digest,
        "deadline_seconds": job.deadline_seconds,
        "state": JobState.REFUSED.value if refused else JobState.QUEUED.value,
        "current": True,
        "attempt": 0,
        "crashes": 0,
        "interruptions": 0,
        "created_at": at,
        "ended_at": at if refused else None,
        "not_before": at,
        "reason": records.reason_to_json(job.refusal) if job.refusal else None,
        "details": {},
        "priority": job.priority,
        "turn_at": turn(at, job.priority),
    }
    key: int = uow.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
    _enter_inputs(uow, study, key, job)
    if refused:
        notices.owe(uow, study, key, job.parameters, job.refusal)
    return key


def _enter_inputs(uow: UnitOfWork, study: int, key: int, job: PlannedJob) -> None:
    """Put on record what a job reads, in the place of what is left of an earlier such record."""
    for table in (JobInstanceRow, JobPriorRow):
        uow.execute(delete(table).where(table.job == key))
    instances = _versions(uow, study, job)
    rows = [{"job": key, "position": position, "instance": instance} for position, instance in enumerate(instances)]
    if rows:
        uow.execute(insert(JobInstanceRow), rows)
    try:
        priors.enter_priors(uow, key, (prior.instances for prior in job.priors))
    except KeyError:
        raise ArchiveError("The plan names an instance of an earlier study that is not here.") from None


def _versions(uow: UnitOfWork, study: int, job: PlannedJob) -> list[int]:
    """Return the keys of the current versions of the job's instances, in its order."""
    query = select(InstanceRow.sop_instance_uid, InstanceRow.id).where(InstanceRow.study == study, InstanceRow.current)
    current = {row.sop_instance_uid: row.id for row in uow.execute(query)}
    try:
        return [current[uid] for uid in job.sop_instance_uids]
    except KeyError:
        raise ArchiveError("The plan names an instance that the study does not hold.") from None


def _entered(study: int, key: int, job: PlannedJob) -> NewEvent:
    if job.refusal is None:
        instances = len(job.sop_instance_uids)
        return _queued(study, key, job, f"is queued for {instances} instance(s)", instances=instances)
    words = f"{job.model_name} can not analyse it: {job.refusal.words}"
    return NewEvent(study, EventKind.JOB_REFUSED, words, {"code": job.refusal.code, **job.refusal.numbers}, key)


def _queued(study: int, key: int, job: PlannedJob, how: str, **numbers: int) -> NewEvent:
    rule = job.parameters.get("urgent")
    words = f"{job.model_name} {how}, urgent: {rule}." if rule else f"{job.model_name} {how}."
    if job.priority:
        numbers["priority"] = job.priority
    return NewEvent(study, EventKind.JOB_QUEUED, words, numbers, key)
