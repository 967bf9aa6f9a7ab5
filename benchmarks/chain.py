"""The way of one study by what the node wrote down: from the last image's Success to the last result in the PACS."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from hilum.course import in_order
from study.entities import StudyRecord
from study.states import StudyState

QUIET_SECONDS: Final = 1.0

BEFORE: Final = ("complete", "start")
TOTALS: Final = ("total", "beyond_quiet", "model_aside", "from_complete", "from_complete_model_aside")

WORDS: Final[Mapping[str, str]] = {
    "complete": f"last image's Success -> study complete (quiet period {QUIET_SECONDS:g} s)",
    "start": "complete -> job started",
    "load": "load the model",
    "decode": "read and decode into a volume",
    "preprocess": "preprocessing",
    "inference": "the model (inference)",
    "postprocess": "postprocessing, label map",
    "measure": "measure",
    "encode": "encode, write and check SEG and SR",
    "rest": "rest of the job: hand over, verify, commit",
    "seg_stored": "job done -> SEG stored in the PACS (C-STORE Success)",
    "sr_stored": "SEG stored -> SR stored in the PACS (last C-STORE Success)",
    "total": "**from the last image's Success**",
    "beyond_quiet": "**the same without the quiet period**",
    "model_aside": "**the same, and without the model**",
    "from_complete": "**from complete**",
    "from_complete_model_aside": "**from complete, without the model**",
}
"""How a table calls each step and each total; a step of the job that is not here is called by its name."""


def chain_of(record: StudyRecord) -> dict[str, float]:
    """Return the seconds of each step of a study's way in their order, and `TOTALS`.

    The steps up to "sr_stored" add up to "total".

    Raises
    ------
    SystemExit
        If the study did not come through with one job, one SEG and one SR.
    """
    summary = record.summary
    stored = {delivery.result.form: delivery.delivered_at for delivery in record.deliveries}
    jobs = [job for job in record.jobs if job.started_at and job.ended_at]
    if summary.state is not StudyState.DELIVERED or len(jobs) != 1 or set(stored) != {"seg", "sr"}:
        reason = f": {summary.reason.code}: {summary.reason.words}" if summary.reason else ""
        raise SystemExit(f"the study ended as {summary.state.value}{reason}: no figure is given")
    (job,) = jobs
    complete = next(event.at for event in record.events if event.kind == "complete")
    spent: dict[str, float] = job.details["seconds"]
    steps = {
        "complete": _seconds(summary.last_received_at, complete),
        "start": _seconds(complete, job.started_at),
        **{step: spent[step] for step in in_order(spent)},
        "rest": _seconds(job.started_at, job.ended_at) - sum(spent.values()),
        "seg_stored": _seconds(job.ended_at, stored["seg"]),
        "sr_stored": _seconds(stored["seg"], stored["sr"]),
    }
    return steps | _totals(steps)


def words_of(step: str) -> str:
    """Return how a table calls a step or a total."""
    return WORDS.get(step, step.replace("_", " "))


def _totals(steps: Mapping[str, float]) -> dict[str, float]:
    total, model = sum(steps.values()), steps["inference"]
    beyond = total - steps["complete"]
    return {
        "total": total,
        "beyond_quiet": total - QUIET_SECONDS,
        "model_aside": total - QUIET_SECONDS - model,
        "from_complete": beyond,
        "from_complete_model_aside": beyond - model,
    }


def _seconds(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None:
        raise SystemExit("the node did not write down a time: no figure is given")
    return (end - start).total_seconds()
