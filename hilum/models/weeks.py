"""What a model did, week by week: ISO 8601's weeks, in UTC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from db.work.statistics import JobFacts
from study.states import JobState

OUTCOMES: Final = {JobState.DONE: "done", JobState.REFUSED: "refused", JobState.FAILED: "failed"}
WAITING: Final = "waiting"
"""Of every other state."""

Named = tuple[str, str, str]
"""Finding, measurement and unit."""


@dataclass
class Week:
    """What a model did in one week.

    Parameters
    ----------
    monday
        The week's first moment, UTC.
    outcomes
        How many jobs are done, refused, failed, and waiting.
    reasons
        How often a job was refused or failed for a reason, by (outcome, code).
    inference, whole, wait
        Of each job [s]: the step of the network; from the start of its last attempt to its end; from when it was
        entered to its start, of those that needed one attempt.
    recorded
        How many jobs that are done say what they measured; those of earlier versions do not.
    values, measured_in
        Of each measurement: every value, and in how many of those jobs there is one.
    """

    monday: datetime
    studies: set[int] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    inference: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    recorded: int = 0
    values: dict[Named, list[float]] = field(default_factory=dict)
    measured_in: Counter[Named] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Return the week as ISO 8601 names it."""
        return self.monday.strftime("%G-W%V")

    def add(self, job: JobFacts) -> None:
        """Count a job."""
        outcome = OUTCOMES.get(job.state, WAITING)
        self.studies.add(job.study)
        self.outcomes[outcome] += 1
        if outcome in {"refused", "failed"}:
            self.reasons[outcome, job.code] += 1
        if job.started_at and job.attempt == 1:
            self.wait.append((job.started_at - job.created_at).total_seconds())
        if job.state is JobState.DONE:
            self._add_times(job)
            self._add_measurements(job.details.get("measurements"))

    def _add_times(self, job: JobFacts) -> None:
        seconds = (job.details.get("seconds") or {}).get("inference")
        if seconds is not None:
            self.inference.append(seconds)
        if job.started_at and job.ended_at:
            self.whole.append((job.ended_at - job.started_at).total_seconds())

    def _add_measurements(self, measurements: Iterable[dict[str, Any]] | None) -> None:
        if measurements is None:
            return
        self.recorded += 1
        named = [(_named(each), float(each["value"])) for each in measurements if each.get("value") is not None]
        for key, value in named:
            self.values.setdefault(key, []).append(value)
        self.measured_in.update({key for key, _ in named})


def by_week(jobs: Iterable[JobFacts], now: datetime) -> tuple[Week, ...]:
    """Return the weeks from that of the first job until now, or until the last job, each with its jobs.

    Parameters
    ----------
    jobs
        The oldest first.
    """
    weeks: dict[datetime, Week] = {}
    for job in jobs:
        monday = monday_of(job.created_at)
        weeks.setdefault(monday, Week(monday)).add(job)
    if not weeks:
        return ()
    first = min(weeks)
    count = (max(monday_of(now), *weeks) - first).days // 7 + 1
    mondays = [first + timedelta(weeks=number) for number in range(count)]
    return tuple(weeks.get(monday) or Week(monday) for monday in mondays)


def monday_of(time: datetime) -> datetime:
    """Return when the ISO week of a time began, UTC."""
    day = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def _named(measurement: Mapping[str, Any]) -> Named:
    return tuple(str(measurement.get(key, "")) for key in ("finding", "name", "unit"))  # type: ignore[return-value]
