"""The benchmark's arithmetic: the steps of a study's way add up, and what did not come through gives no figure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.chain import QUIET_SECONDS, TOTALS, WORDS, chain_of, is_part, words_of
from study.entities import Event, Job, StudyRecord, StudySummary
from study.states import JobState, StudyState

START = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
SPENT = {"decode": 0.5, "preprocess": 0.1, "inference": 2.0, "postprocess": 0.1, "measure": 0.2, "encode": 1.1}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def delivered(form: str, sent: float, answered: float) -> Event:
    times = {"sent_at": at(sent).isoformat(), "answered_at": at(answered).isoformat()}
    return Event(at(answered + 0.1), "delivered", "", {"peer": "pacs", "form": form, "status": 0} | times, 1)


@pytest.fixture
def record() -> StudyRecord:
    job = Job(
        *(1, "1.1", 1, "lung_ct", "ab", "1.3", "cd", {}, "ef", 900.0, JobState.DONE, True, 1, 0, 0, at(1.05)),
        started_at=at(1.1),
        ended_at=at(5.4),
        details={"seconds": SPENT, "encode_seconds": {"seg": 0.5, "check": 0.2, "pdf": 0.4}},
    )
    summary = StudySummary("1.1", StudyState.DELIVERED, "P1", "", "", 1, 4, at(-3), at(0))
    events = (
        Event(at(-3), "first_instance", ""),
        Event(at(1.05), "complete", ""),
        Event(at(5.4), "job_done", ""),
        delivered("seg", 5.45, 5.6),
        delivered("sr", 5.62, 5.7),
    )
    return StudyRecord(summary, 1, (), (job,), (), (), events)


def test_the_steps_add_up_to_the_total(record: StudyRecord) -> None:
    chain = chain_of(record)
    parts = ["encode/seg", "encode/check", "encode/pdf"]
    assert list(chain) == ["complete", "start", *SPENT, *parts, "rest", "sent", "seg_stored", "sr_stored", *TOTALS]
    assert chain["total"] == pytest.approx(5.7)
    summed = sum(seconds for step, seconds in chain.items() if step not in TOTALS and not is_part(step))
    assert summed == pytest.approx(chain["total"])
    assert chain["sent"] == pytest.approx(0.05)
    assert chain["rest"] == pytest.approx(0.3)


def test_both_spans_are_given_with_and_without_the_model(record: StudyRecord) -> None:
    chain = chain_of(record)
    assert chain["beyond_quiet"] == pytest.approx(5.7 - QUIET_SECONDS)
    assert chain["model_aside"] == pytest.approx(5.7 - QUIET_SECONDS - SPENT["inference"])
    assert chain["from_complete"] == pytest.approx(5.7 - 1.05)
    assert chain["from_complete_model_aside"] == pytest.approx(5.7 - 1.05 - SPENT["inference"])


def test_a_step_that_nobody_knows_is_called_by_its_name() -> None:
    assert words_of("from_complete") == WORDS["from_complete"]
    assert words_of("warm_up") == "warm up"
    assert words_of("encode/pdf") == "- of it pdf"


def test_a_study_that_did_not_come_through_gives_no_figure(record: StudyRecord) -> None:
    failed = replace(record, summary=replace(record.summary, state=StudyState.FAILED))
    with pytest.raises(SystemExit, match="FAILED"):
        chain_of(failed)
    with pytest.raises(SystemExit, match="no figure"):
        chain_of(replace(record, events=record.events[:-1]))


def test_a_result_of_which_nobody_knows_when_it_was_sent_gives_no_figure(record: StudyRecord) -> None:
    untimed = replace(record.events[-1], numbers={"form": "sr"})
    with pytest.raises(SystemExit, match="when it sent"):
        chain_of(replace(record, events=(*record.events[:-1], untimed)))
