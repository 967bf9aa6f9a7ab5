"""The timeline of a study: every step that is on record, in its order, and none that is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hilum.timeline import timeline, timeline_json, timeline_rows
from study.entities import Event, Job, StudyRecord, StudySummary
from study.states import JobState, StudyState

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def job(**changes: Any) -> Job:  # noqa: ANN401 - fields of all kinds
    made = Job(
        id=7,
        study_instance_uid="1.2",
        revision=1,
        model_name="lung_ct",
        model_digest="",
        series_instance_uid="1.3",
        instances_digest="",
        parameters={},
        parameters_digest="",
        deadline_seconds=1,
        state=JobState.DONE,
        current=True,
        attempt=1,
        crashes=0,
        interruptions=0,
        created_at=at(1),
        started_at=at(1.02),
        ended_at=at(3),
        details={"seconds": {"encode": 0.5, "decode": 1.0}, "encode_seconds": {"seg": 0.3, "check": 0.2}},
    )
    return replace(made, **changes)


def sent(kind: str, form: str, sent_at: float, answered_at: float) -> Event:
    numbers = {
        "peer": "pacs",
        "form": form,
        "sent_at": at(sent_at).isoformat(),
        "answered_at": at(answered_at).isoformat(),
    }
    return Event(at(answered_at + 0.01), kind, "", numbers, 7)


EVENTS = (
    Event(at(1), "complete", "", {}, None),
    sent("delivery_stored", "seg", 3.1, 3.4),
    sent("delivered", "sr", 3.4, 3.5),
    sent("delivered", "sr", 3.5, 3.6),
    Event(
        at(4), "delivered", "", {"peer": "pacs", "form": "seg", "status": 0}, 7
    ),  # committed, or of an earlier version
)


def record(jobs: tuple[Job, ...], events: tuple[Event, ...] = EVENTS, last: float = 0.0) -> StudyRecord:
    summary = StudySummary("1.2", StudyState.DELIVERED, "", "", "", 1, 500, at(-9), at(last))
    return StudyRecord(summary, 1, (), jobs, (), (), events)


def test_every_step_is_told_in_its_order_with_its_time_or_its_length() -> None:
    told = [
        (step.words, None if step.at is None else (step.at - START).total_seconds(), step.seconds)
        for step in timeline(record((job(),)))
    ]
    assert told == [
        ("last image's Success", 0, None),
        ("study complete", 1, None),
        ("job started", 1.02, None),
        ("decode", None, 1.0),
        ("encode", None, 0.5),
        ("encode: seg", None, 0.3),
        ("encode: check", None, 0.2),
        ("job ended: DONE", 3, 1.98),
        ("seg sent to pacs", 3.1, None),
        ("seg stored by pacs", 3.4, 0.3),
        ("sr sent to pacs", 3.4, None),
        ("sr stored by pacs", 3.6, 0.2),
    ]


def test_a_row_says_how_long_after_the_one_before_that_has_a_time() -> None:
    rows = [(job_id, step, after, took) for job_id, step, _, after, took in timeline_rows(record((job(),)))]
    assert rows[0] == ("", "last image's Success", "", "")
    assert rows[2] == ("7", "job started", "+0.020", "")
    assert rows[7] == ("7", "job ended: DONE", "+1.980", "1.98")


def test_what_is_not_on_record_is_left_out() -> None:
    waiting = job(state=JobState.QUEUED, started_at=None, ended_at=None)
    assert timeline(record((waiting,))) == []
    running = job(state=JobState.RUNNING, ended_at=None, details={})
    assert [step.words for step in timeline(record((running,), events=()))] == ["last image's Success", "job started"]
    again = job(state=JobState.RUNNING, ended_at=at(0.5), details={})  # the end is of the attempt before
    assert "job ended: RUNNING" not in [step.words for step in timeline(record((again,)))]


def test_images_that_came_later_and_jobs_that_were_overtaken_are_no_part_of_it() -> None:
    assert timeline(record((job(),), last=5))[0].words == "study complete"
    assert timeline(record((job(current=False),))) == []


def test_what_two_jobs_have_in_common_is_told_once() -> None:
    steps = [step.words for step in timeline(record((job(), job(id=8))))]
    assert steps.count("study complete") == 1
    assert steps.count("job started") == 2


def test_programs_read_times_in_utc() -> None:
    steps = timeline_json(record((job(),)))
    assert steps[2] == {"step": "job started", "job": 7, "at": "2026-01-02T03:04:06.020+00:00", "seconds": None}
