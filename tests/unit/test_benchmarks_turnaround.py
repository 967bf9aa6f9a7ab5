"""The benchmark's arithmetic: the steps of a study's way add up, and what did not come through gives no figure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.chain import QUIET_SECONDS, TOTALS, WORDS, chain_of, words_of
from study.entities import Delivery, Event, Job, ResultObject, StudyRecord, StudySummary
from study.states import DeliveryState, JobState, StudyState

START = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
SPENT = {"decode": 0.5, "preprocess": 0.1, "inference": 2.0, "postprocess": 0.1, "measure": 0.2, "encode": 1.1}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def delivery(form: str, seconds: float) -> Delivery:
    result = ResultObject(form, "1.2", f"1.2.{len(form)}", "1.3", f"results/{form}.dcm", "ab", 10)
    return Delivery(
        1, 1, "1.1", "pacs", 0, result, DeliveryState.DELIVERED, 1, False, at(0), delivered_at=at(seconds), status=0
    )


@pytest.fixture
def record() -> StudyRecord:
    job = Job(
        *(1, "1.1", 1, "lung_ct", "ab", "1.3", "cd", {}, "ef", 900.0, JobState.DONE, True, 1, 0, 0, at(1.05)),
        started_at=at(1.1),
        ended_at=at(5.4),
        details={"seconds": SPENT},
    )
    summary = StudySummary("1.1", StudyState.DELIVERED, "P1", "", "", 1, 4, at(-3), at(0))
    events = (Event(at(-3), "first_instance", ""), Event(at(1.05), "complete", ""), Event(at(5.4), "job_done", ""))
    deliveries = (delivery("seg", 5.6), delivery("sr", 5.7))
    return StudyRecord(summary, 1, (), (job,), deliveries, (), events)


def test_the_steps_add_up_to_the_total(record: StudyRecord) -> None:
    chain = chain_of(record)
    assert list(chain) == ["complete", "start", *SPENT, "rest", "seg_stored", "sr_stored", *TOTALS]
    assert chain["total"] == pytest.approx(5.7)
    assert sum(seconds for step, seconds in chain.items() if step not in TOTALS) == pytest.approx(chain["total"])
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


def test_a_study_that_did_not_come_through_gives_no_figure(record: StudyRecord) -> None:
    failed = replace(record, summary=replace(record.summary, state=StudyState.FAILED))
    with pytest.raises(SystemExit, match="FAILED"):
        chain_of(failed)
    with pytest.raises(SystemExit, match="no figure"):
        chain_of(replace(record, deliveries=record.deliveries[:1]))
