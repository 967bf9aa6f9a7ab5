"""When each step of a study was: from the last image's Success to the last C-STORE's, as far as it is on record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hilum.course import brief, in_order
from hilum.moments import local, moment
from study.entities import Event, Job, StudyRecord

_COMPLETE: Final = frozenset({"complete", "complete_unproven"})
_STORED: Final = frozenset({"delivered", "delivery_stored"})


@dataclass(frozen=True)
class Step:
    """A step of a study's way.

    Parameters
    ----------
    job
        Whose it is; None for those before it.
    at
        When it was, or ended; None where only its length is known.
    seconds
        How long it took [s]; None of a moment.
    """

    words: str
    job: int | None = None
    at: datetime | None = None
    seconds: float | None = None


def timeline(record: StudyRecord) -> list[Step]:
    """Return the steps of the way of a study's jobs that are current, in their order."""
    found = [step for job in record.jobs if job.current for step in _steps_of(record, job)]
    return list(dict.fromkeys(found))  # what precedes several jobs is told once


def timeline_json(record: StudyRecord) -> list[dict[str, Any]]:
    """Return the steps for a program."""
    return [
        {"step": step.words, "job": step.job, "at": moment(step.at), "seconds": step.seconds}
        for step in timeline(record)
    ]


def timeline_rows(record: StudyRecord) -> Iterator[tuple[str, str, str, str, str]]:
    """Give a row for each step: its job, its name, when, how long after the row before that has a time, its length."""
    before: datetime | None = None
    for step in timeline(record):
        after = "" if step.at is None or before is None else f"{(step.at - before).total_seconds():+.3f}"
        took = "" if step.seconds is None else brief(step.seconds)
        yield ("" if step.job is None else str(step.job), step.words, local(step.at), after, took)
        before = step.at or before


def _steps_of(record: StudyRecord, job: Job) -> Iterator[Step]:
    if job.started_at is None:
        return
    yield from _before(record, job.started_at)
    yield Step("job started", job.id, job.started_at)
    yield from _of_the_analysis(job)
    if job.ended_at is not None and job.ended_at >= job.started_at:  # else it is the end of the attempt before
        took = round((job.ended_at - job.started_at).total_seconds(), 3)
        yield Step(f"job ended: {job.state.value}", job.id, job.ended_at, took)
    yield from _of_the_delivery(record, job)


def _before(record: StudyRecord, started_at: datetime) -> Iterator[Step]:
    complete = [each.at for each in record.events if each.kind in _COMPLETE and each.at <= started_at][-1:]
    last = record.summary.last_received_at
    if last <= min([started_at, *complete]):  # else it is of images that came later, which make jobs of their own
        yield Step("last image's Success", at=last)
    yield from (Step("study complete", at=at) for at in complete)


def _of_the_analysis(job: Job) -> Iterator[Step]:
    seconds: Mapping[str, float] = job.details.get("seconds") or {}
    parts: Mapping[str, float] = job.details.get("encode_seconds") or {}
    for step in in_order(seconds):
        yield Step(step, job.id, seconds=seconds[step])
        if step == "encode":
            yield from (Step(f"encode: {part}", job.id, seconds=took) for part, took in parts.items())


def _of_the_delivery(record: StudyRecord, job: Job) -> Iterator[Step]:
    """Give when each peer was sent the objects of each form, and when it had answered that it stored the last one."""
    sendings: dict[tuple[str, str], list[Event]] = {}
    for event in record.events:
        if event.job_id == job.id and event.kind in _STORED and "sent_at" in event.numbers:
            sendings.setdefault((event.numbers["peer"], event.numbers["form"]), []).append(event)
    for (peer, form), events in sendings.items():
        sent = min(_time(event, "sent_at") for event in events)
        stored = max(_time(event, "answered_at") for event in events)
        yield Step(f"{form} sent to {peer}", job.id, sent)
        yield Step(f"{form} stored by {peer}", job.id, stored, round((stored - sent).total_seconds(), 3))


def _time(event: Event, key: str) -> datetime:
    return datetime.fromisoformat(event.numbers[key])
