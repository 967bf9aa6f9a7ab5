"""What a report counts: ISO weeks in UTC, and how values are spread."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.work.statistics import JobFacts
from hilum.models.spread import Spread, digits, middle
from hilum.models.weeks import by_week, monday_of
from study.states import JobState

NEW_YEAR = datetime(2027, 1, 1, 12, tzinfo=UTC)  # a Friday, in the 53rd week of the year before


def facts(
    at: datetime,
    state: JobState = JobState.DONE,
    *,
    study: int = 1,
    details: Mapping[str, Any] | None = None,
    attempt: int = 1,
) -> JobFacts:
    ran = attempt > 0 and state is not JobState.QUEUED
    return JobFacts(
        study=study,
        state=state,
        attempt=attempt,
        created_at=at,
        started_at=at + timedelta(seconds=30) if ran else None,
        ended_at=at + timedelta(seconds=50) if ran else None,
        code="" if state is JobState.DONE else "GantryTilt",
        details=dict(details or {}),
    )


def volume(finding: str, value: float) -> dict[str, Any]:
    return {"finding": finding, "name": "Volume", "value": value, "unit": "ml"}


def test_a_week_begins_on_monday_in_utc_and_is_named_as_iso_8601_does() -> None:
    assert monday_of(NEW_YEAR) == datetime(2026, 12, 28, tzinfo=UTC)
    east = timezone(timedelta(hours=9))
    assert monday_of(datetime(2027, 1, 4, 8, tzinfo=east)) == monday_of(NEW_YEAR)  # Sunday 23:00 UTC
    weeks = by_week([facts(NEW_YEAR), facts(NEW_YEAR + timedelta(days=3))], NEW_YEAR + timedelta(days=3))
    assert [week.name for week in weeks] == ["2026-W53", "2027-W01"]


def test_weeks_without_a_job_are_there_from_the_first_job_until_now() -> None:
    weeks = by_week([facts(NEW_YEAR), facts(NEW_YEAR + timedelta(weeks=2))], NEW_YEAR + timedelta(weeks=4))
    assert [week.outcomes.total() for week in weeks] == [1, 0, 1, 0, 0]
    assert by_week([], NEW_YEAR) == ()


def test_a_clock_that_was_set_back_loses_no_job() -> None:
    weeks = by_week([facts(NEW_YEAR), facts(NEW_YEAR + timedelta(weeks=1))], NEW_YEAR - timedelta(weeks=3))
    assert sum(week.outcomes.total() for week in weeks) == 2


def test_studies_outcomes_and_reasons_are_counted() -> None:
    (week,) = by_week(
        [
            facts(NEW_YEAR),
            facts(NEW_YEAR, JobState.REFUSED, study=2, attempt=0),
            facts(NEW_YEAR, JobState.FAILED, study=2),
            facts(NEW_YEAR, JobState.QUEUED, study=3, attempt=0),
            facts(NEW_YEAR, JobState.RUNNING, study=4),
        ],
        NEW_YEAR,
    )
    assert len(week.studies) == 4
    assert week.outcomes == {"done": 1, "refused": 1, "failed": 1, "waiting": 2}
    assert week.reasons == {("refused", "GantryTilt"): 1, ("failed", "GantryTilt"): 1}


def test_only_what_is_on_record_counts_and_a_second_attempt_tells_nothing_of_waiting() -> None:
    (week,) = by_week(
        [
            facts(NEW_YEAR, details={"seconds": {"inference": 8.5}}, attempt=2),
            facts(NEW_YEAR, details={"seconds": None, "measurements": []}),
            facts(NEW_YEAR, details={"measurements": [volume("left", 2.0), volume("left", 3.0), {"finding": "odd"}]}),
        ],
        NEW_YEAR,
    )
    assert (week.inference, week.whole, week.wait) == ([8.5], [20.0] * 3, [30.0] * 2)
    assert (week.recorded, dict(week.measured_in)) == (2, {("left", "Volume", "ml"): 1})
    assert week.values == {("left", "Volume", "ml"): [2.0, 3.0]}


def test_the_figures_of_a_hundred_and_one_values() -> None:
    spread = Spread.of(list(range(101)))
    assert spread == Spread(101, 50, 5, 95, 0, 100)
    assert middle(spread) == "50.0 (5.00 to 95.0)"
    assert spread.to_json()["percentile_95"] == 95
    assert Spread.of([]) is None
    assert middle(None) == ""
    assert Spread.of([4.0]) == Spread(1, 4.0, 4.0, 4.0, 4.0, 4.0)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_figures_are_in_their_order(values: list[int]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    assert min(values) == spread.lowest <= spread.low <= spread.median <= spread.high <= spread.highest == max(values)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (3.3, "3.30"), (99.94, "99.9"), (99.96, "100"), (-824.3, "-824"), (0.05, "0.0500"), (1e6, "1000000")],
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert digits(value) == text
