"""The way of one study by what the node wrote down: from the last image's Success to the last result in the PACS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from hilum.course import in_order
from study.entities import Event, Job, StudyRecord
from study.states import StudyState

QUIET_SECONDS: Final = 1.0

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
    "encode/seg": "- of it SEG: made, written, synced",
    "encode/sr": "- of it SR: made, written, synced",
    "encode/check": "- of it both read back and checked",
    "rest": "rest of the job: hand over, verify, commit",
    "sent": "job done -> first C-STORE out",
    "seg_stored": "first C-STORE out -> SEG's Success",
    "sr_stored": "SEG's Success -> SR's, the last C-STORE's Success",
    "total": "**from the last image's Success**",
    "beyond_quiet": "**the same without the quiet period**",
    "model_aside": "**the same, and without the model**",
    "from_complete": "**from complete**",
    "from_complete_model_aside": "**from complete, without the model**",
}
"""How a table calls each step and each total; a step of the job that is not here is called by its name."""

_PART: Final = "/"
_COMPLETE: Final = frozenset({"complete", "complete_unproven"})


def chain_of(record: StudyRecord) -> dict[str, float]:
    """Return the seconds of each step of a study's way in their order, and `TOTALS`.

    The steps up to "sr_stored" add up to "total", without those that are a part of one (`is_part`).

    Raises
    ------
    SystemExit
        If the study did not come through with one job, one SEG and one SR.
    """
    summary = record.summary
    exchanges = {event.numbers["form"]: event for event in record.events if event.kind == "delivered"}
    jobs = [job for job in record.jobs if job.started_at and job.ended_at]
    if summary.state is not StudyState.DELIVERED or len(jobs) != 1 or set(exchanges) != {"seg", "sr"}:
        reason = f": {summary.reason.code}: {summary.reason.words}" if summary.reason else ""
        raise SystemExit(f"the study ended as {summary.state.value}{reason}: no figure is given")
    (job,) = jobs
    complete = next(event.at for event in record.events if event.kind in _COMPLETE)
    seg_stored = _moment(exchanges["seg"], "answered_at")
    first_sent = _moment(exchanges["seg"], "sent_at")
    steps = {
        "complete": _seconds(summary.last_received_at, complete),
        "start": _seconds(complete, job.started_at),
        **dict(_of_the_analysis(job)),
        "rest": _seconds(job.started_at, job.ended_at) - sum(job.details["seconds"].values()),
        "sent": _seconds(job.ended_at, first_sent),
        "seg_stored": _seconds(first_sent, seg_stored),
        "sr_stored": _seconds(seg_stored, _moment(exchanges["sr"], "answered_at")),
    }
    return steps | _totals(steps)


def is_part(step: str) -> bool:
    """Tell whether a step's time is counted in another's."""
    return _PART in step


def words_of(step: str) -> str:
    """Return how a table calls a step or a total."""
    whole, _, part = step.partition(_PART)
    return WORDS.get(step, f"- of it {part}" if part else whole.replace("_", " "))


def _of_the_analysis(job: Job) -> Iterator[tuple[str, float]]:
    """Give the steps that the runner timed, and the parts of the encoding."""
    spent: Mapping[str, float] = job.details["seconds"]
    parts: Mapping[str, float] = job.details.get("encode_seconds") or {}
    for step in in_order(spent):
        yield step, spent[step]
        if step == "encode":
            yield from ((f"encode{_PART}{part}", seconds) for part, seconds in parts.items())


def _totals(steps: Mapping[str, float]) -> dict[str, float]:
    total, model = sum(seconds for step, seconds in steps.items() if not is_part(step)), steps["inference"]
    beyond = total - steps["complete"]
    return {
        "total": total,
        "beyond_quiet": total - QUIET_SECONDS,
        "model_aside": total - QUIET_SECONDS - model,
        "from_complete": beyond,
        "from_complete_model_aside": beyond - model,
    }


def _moment(event: Event, of: str) -> datetime:
    if of not in event.numbers:
        raise SystemExit("the node did not write down when it sent a result: no figure is given")
    return datetime.fromisoformat(event.numbers[of])


def _seconds(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None:
        raise SystemExit("the node did not write down a time: no figure is given")
    return (end - start).total_seconds()
