"""Result objects of finished jobs, as rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select

from db import records
from db.engine import UnitOfWork
from db.tables import JobRow, ResultRow
from study.entities import Job, ResultObject


def add_results(uow: UnitOfWork, job_id: int, results: Sequence[ResultObject]) -> dict[str, int]:
    """Enter the results of a job, and return the key of each by its SOP Instance UID; part of the transaction."""
    rows = [
        {
            "job": job_id,
            "form": result.form,
            "variant": result.variant,
            "sop_class_uid": result.sop_class_uid,
            "sop_instance_uid": result.sop_instance_uid,
            "series_instance_uid": result.series_instance_uid,
            "path": result.path,
            "digest": result.digest,
            "size": result.size,
        }
        for result in results
    ]
    if not rows:
        return {}
    uow.execute(insert(ResultRow), rows)
    return {uid: key for uid, key in keys_of(uow, job_id).items() if uid in {row["sop_instance_uid"] for row in rows}}


def keys_of(uow: UnitOfWork, job_id: int) -> dict[str, int]:
    """Return the key of each result of a job by its SOP Instance UID."""
    query = select(ResultRow.sop_instance_uid, ResultRow.id).where(ResultRow.job == job_id)
    return {row.sop_instance_uid: row.id for row in uow.execute(query)}


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
