"""``hilum models report``: what a model did week by week, so that a site sees it before it trusts it, and after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from db.work.statistics import count_of_older_revisions, jobs_of_model, names_of_models
from hilum.config import Settings
from hilum.models.spread import Spread, digits, middle, spread_json
from hilum.models.weeks import OUTCOMES, WAITING, Named, Week, by_week, monday_of
from hilum.options import database_of
from hilum.terminal import say, show_table
from study.errors import ArchiveError


@dataclass(frozen=True)
class Report:
    """What a model did since a Monday.

    Parameters
    ----------
    weeks
        From the first with a job until now, those without one too.
    older_revisions
        How many jobs are left out since a newer revision of their study took their place.
    deliver
        Whether its results are sent; None where the model left the configuration.
    """

    model_name: str
    weeks: tuple[Week, ...]
    older_revisions: int
    deliver: bool | None

    @property
    def reasons(self) -> dict[tuple[str, str], dict[str, int]]:
        """Return how often each week's jobs ended for each reason, the most frequent first."""
        total: Counter[tuple[str, str]] = Counter()
        for week in self.weeks:
            total.update(week.reasons)
        return {
            key: {week.name: week.reasons[key] for week in self.weeks if week.reasons[key]}
            for key, _ in total.most_common()
        }

    @property
    def measurements(self) -> list[Named]:
        """Return what was measured in any week, in the order in which it came."""
        return list(dict.fromkeys(key for week in self.weeks for key in week.values))


def run_report(settings: Settings, model_name: str, weeks: int, *, as_json: bool) -> None:
    """Print what a model did in the last weeks.

    Raises
    ------
    ArchiveError
        If neither the configuration nor the database knows the model.
    """
    report = read_report(settings, model_name, weeks)
    if as_json:
        say(json.dumps(_report_json(report), indent=1))
    else:
        _show(report)


def read_report(settings: Settings, model_name: str, weeks: int) -> Report:
    """Return what a model did in so many weeks, this one included; the errors are those of `run_report`."""
    with closing(database_of(settings)) as database, database.reading() as uow:
        known = names_of_models(uow)
        if model_name not in {*known, *settings.models}:
            there = ", ".join(dict.fromkeys([*settings.models, *known])) or "none"
            raise ArchiveError(f"No model {model_name}; there are: {there}.")
        now = uow.now()
        since = monday_of(now) - timedelta(weeks=weeks - 1)
        found = by_week(jobs_of_model(uow, model_name, since), now)
        older = count_of_older_revisions(uow, model_name, since)
    entry = settings.models.get(model_name)
    return Report(model_name, found, older, entry.deliver if entry else None)


def _show(report: Report) -> None:
    for words in _about(report):
        say(words)
    if not report.weeks:
        return
    show_table("Jobs", ("Week", "Studies", "Done", "Refused", "Failed", "Waiting"), _rows_of_jobs(report))
    show_table(
        "Seconds: median (5th to 95th percentile)", ("Week", "Inference", "Whole job", "Waited"), _rows_of_times(report)
    )
    if report.reasons:
        show_table("Why not", ("Outcome", "Reason", "Jobs", "Last in"), _rows_of_reasons(report))
    if report.measurements:
        show_table(
            "Measurements: median (5th to 95th percentile); Studies: in how many of the analyses",
            ("Finding", "Measurement", "Unit", "Week", "Studies", "Median", "Lowest", "Highest"),
            _rows_of_measurements(report),
        )


def _about(report: Report) -> Iterator[str]:
    """Give what a reader of the tables must know."""
    if report.deliver is None:
        yield f"{report.model_name} is not in the configuration any more"
    elif not report.deliver:
        yield f"{report.model_name} runs in shadow: its results are kept here and sent to nobody (deliver = false)"
    else:
        yield f"{report.model_name}: its results are sent"
    if not report.weeks:
        yield "it had no job in this time"
    if report.older_revisions:
        yield f"left out: {report.older_revisions} job(s) of older revisions, whose studies have newer ones"
    silent = sum(week.outcomes["done"] - week.recorded for week in report.weeks)
    if silent:
        yield f"{silent} job(s) say nothing of what they measured: an earlier version made them"


def _rows_of_jobs(report: Report) -> Iterator[tuple[str, ...]]:
    for week in report.weeks:
        counts = (week.outcomes[outcome] for outcome in (*OUTCOMES.values(), WAITING))
        yield (week.name, str(len(week.studies)), *(str(count) for count in counts))


def _rows_of_times(report: Report) -> Iterator[tuple[str, ...]]:
    for week in report.weeks:
        yield (week.name, *(middle(Spread.of(values)) for values in (week.inference, week.whole, week.wait)))


def _rows_of_reasons(report: Report) -> Iterator[tuple[str, ...]]:
    for (outcome, code), weeks in report.reasons.items():
        yield outcome, code, str(sum(weeks.values())), max(weeks)


def _rows_of_measurements(report: Report) -> Iterator[tuple[str, ...]]:
    for key in report.measurements:
        for week in (week for week in report.weeks if week.recorded):
            spread = Spread.of(week.values.get(key, ()))
            ends = (digits(spread.lowest), digits(spread.highest)) if spread else ("", "")
            yield (*key, week.name, f"{week.measured_in[key]}/{week.recorded}", middle(spread), *ends)


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "model": report.model_name,
        "configured": report.deliver is not None,
        "deliver": report.deliver,
        "older_revisions": report.older_revisions,
        "weeks": [_week_json(week) for week in report.weeks],
        "reasons": [
            {"outcome": outcome, "code": code, "jobs": sum(weeks.values()), "weeks": weeks}
            for (outcome, code), weeks in report.reasons.items()
        ],
        "measurements": [_measurement_json(report, key) for key in report.measurements],
    }


def _week_json(week: Week) -> dict[str, Any]:
    counts = {outcome: week.outcomes[outcome] for outcome in (*OUTCOMES.values(), WAITING)}
    times = {"inference": week.inference, "whole": week.whole, "wait": week.wait}
    return {
        "week": week.name,
        "begins_on": week.monday.date().isoformat(),
        "studies": len(week.studies),
        **counts,
        "recorded": week.recorded,
        "seconds": {name: spread_json(Spread.of(values)) for name, values in times.items()},
    }


def _measurement_json(report: Report, key: Named) -> dict[str, Any]:
    finding, name, unit = key
    weeks = [
        {
            "week": week.name,
            "studies": week.measured_in[key],
            "values": spread_json(Spread.of(week.values.get(key, ()))),
        }
        for week in report.weeks
        if week.recorded
    ]
    return {"finding": finding, "name": name, "unit": unit, "weeks": weeks}
