"""Result objects of finished jobs, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import insert, or_, select

from db import records
from db.engine import UnitOfWork
from db.tables import DeliveryRow, JobRow, ResultRow, WithdrawnRow
from study.entities import Job, Predecessor, ResultObject
from study.forms import REPORTS
from study.states import DeliveryState, JobState


def add_results(uow: UnitOfWork, job_id: int, results: Sequence[ResultObject]) -> dict[str, int]:
    """Enter the results of a job, and return the key of each by its SOP Instance UID; part of the transaction."""
    rows = [{"job": job_id} | asdict(result) for result in results]
    if not rows:
        return {}
    uow.execute(insert(ResultRow), rows)
    return {uid: key for uid, key in keys_of(uow, job_id).items() if uid in {row["sop_instance_uid"] for row in rows}}


def keys_of(uow: UnitOfWork, job_id: int) -> dict[str, int]:
    """Return the key of each result of a job by its SOP Instance UID."""
    query = select(ResultRow.sop_instance_uid, ResultRow.id).where(ResultRow.job == job_id)
    return {row.sop_instance_uid: row.id for row in uow.execute(query)}


def predecessors_of(uow: UnitOfWork, job_id: int) -> tuple[Predecessor, ...]:
    """Return the reports that those of the job take the place of, where a peer has them, or may have them.

    Of each variant those of the analysis by the same model in the same study that ended last; what a person took back
    is left out.
    """
    job = select(JobRow.study, JobRow.model_name).where(JobRow.id == job_id).subquery()
    out = (DeliveryState.DELIVERED.value, DeliveryState.STORED.value)
    held = DeliveryRow.lease_owner.is_not(None)  # by a sender: it may get there after all
    may_be_out = (
        select(DeliveryRow.id)
        .where(DeliveryRow.result == ResultRow.id, or_(DeliveryRow.state.in_(out), DeliveryRow.unsure, held))
        .exists()
    )
    query = (
        select(
            ResultRow.job,
            ResultRow.variant,
            ResultRow.sop_class_uid,
            ResultRow.sop_instance_uid,
            ResultRow.series_instance_uid,
        )
        .join(JobRow, JobRow.id == ResultRow.job)
        .join(job, (job.c.study == JobRow.study) & (job.c.model_name == JobRow.model_name))
        .where(JobRow.id != job_id, ~JobRow.current, JobRow.state == JobState.DONE.value, may_be_out)
        .where(ResultRow.form.in_([form.value for form in REPORTS]))
        .where(ResultRow.id.not_in(select(WithdrawnRow.result)))
        .order_by(JobRow.ended_at.desc(), JobRow.id.desc(), ResultRow.id)
    )
    latest: dict[str, int] = {}
    return tuple(
        Predecessor(row.variant, row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid)
        for row in uow.execute(query)
        if latest.setdefault(row.variant, row.job) == row.job
    )


def path_of_result(uow: UnitOfWork, sop_instance_uid: str) -> str | None:
    """Return where a result object's file is, relative to the store; None where no job of this node made it."""
    query = select(ResultRow.path).where(ResultRow.sop_instance_uid == sop_instance_uid).limit(1)
    path: str | None = uow.execute(query).scalar_one_or_none()
    return path


def job_of_result(uow: UnitOfWork, sop_instance_uid: str) -> Job | None:
    """Return the job that made a result object; None where no job of this node did."""
    query = records.jobs().join(ResultRow, ResultRow.job == JobRow.id)
    row = uow.execute(query.where(ResultRow.sop_instance_uid == sop_instance_uid)).first()
    return None if row is None else records.job_of(row)
