"""What became of a model's jobs over time, for whoever watches it: light rows, one a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from db.engine import UnitOfWork
from db.tables import JobRow
from study.states import JobState

_AT_A_TIME = 500


@dataclass(frozen=True)
class JobFacts:
    """What a job tells of its model.

    Parameters
    ----------
    study
        Which study it is of, as a number that only the database knows.
    attempt
        How many attempts there were; 0 where it was refused by the headers.
    started_at
        Of the last attempt.
    code
        Why it was refused or failed; "" where neither.
    details
        How it went (docs/json.md); jobs of earlier versions have few of its keys, or none.
    """

    study: int
    state: JobState
    attempt: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    code: str
    details: dict[str, Any]


def jobs_of_model(uow: UnitOfWork, model_name: str, since: datetime) -> Iterator[JobFacts]:
    """Give the current jobs of a model that were entered since then, the oldest first; not held all at once."""
    query = (
        select(
            JobRow.study,
            JobRow.state,
            JobRow.attempt,
            JobRow.created_at,
            JobRow.started_at,
            JobRow.ended_at,
            JobRow.reason,
            JobRow.details,
        )
        .where(JobRow.model_name == model_name, JobRow.current, JobRow.created_at >= since)
        .order_by(JobRow.created_at, JobRow.id)
    )
    for row in uow.execute(query.execution_options(yield_per=_AT_A_TIME)):
        yield JobFacts(
            study=row.study,
            state=JobState(row.state),
            attempt=row.attempt,
            created_at=row.created_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            code=row.reason["code"] if row.reason else "",
            details=row.details or {},
        )


def count_of_older_revisions(uow: UnitOfWork, model_name: str, since: datetime) -> int:
    """Return how many jobs of a model that were entered since then are not current any more."""
    query = select(func.count()).where(JobRow.model_name == model_name, ~JobRow.current, JobRow.created_at >= since)
    return int(uow.execute(query).scalar_one())


def names_of_models(uow: UnitOfWork) -> list[str]:
    """Return the names of all models that ever had a job."""
    return sorted(uow.execute(select(JobRow.model_name).distinct()).scalars())
