"""How an analysis went, in words: of a record that is whole, in parts, or old."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from hilum.course import course
from hilum.working.watch import Progress
from inference.account import Account
from study.entities import Job
from study.states import JobState

DIGEST = "b" * 64


def job(details: dict[str, Any], state: JobState = JobState.DONE) -> Job:
    return Job(
        id=7,
        study_instance_uid="1.2",
        revision=1,
        model_name="lung_ct",
        model_digest=DIGEST,
        series_instance_uid="1.3",
        instances_digest="",
        parameters={},
        parameters_digest="",
        deadline_seconds=1,
        state=state,
        current=True,
        attempt=1,
        crashes=0,
        interruptions=0,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        details=details,
    )


def test_a_whole_record_is_told_in_the_order_of_the_steps() -> None:
    details = {
        "device": "cuda:0",
        "device_name": "NVIDIA H100",
        "seconds": {"encode": 2.2, "inference": 8.5, "load": 0.125},
        "memory_mb": {"host_peak": 3120, "device_peak": 6200},
        "model_was_warm": False,
        "memory_steps": [{"step": "let_go", "words": "s left."}, {"step": "batch", "words": "Fewer at a time."}],
        "running": {"precision": "float16", "compiled": True, "seed": 0, "deterministic": True, "memory_format": "x",
                    "tf32": False, "stitched_on_host": True},
        "versions": {"torch": "2.13.0", "cuda": "13.0"},
        "measurements": [{"finding": "left_lung", "name": "Volume", "value": 1.0, "unit": "ml"}],
    }  # fmt: skip
    assert list(course(job(details))) == [
        "Job 7, lung_ct:",
        "  10.8 s: load 0.12, inference 8.50, encode 2.20",
        "  on cuda:0 (NVIDIA H100), the model was loaded for it, peak memory 3120 MB host, 6200 MB device",
        "  float16, compiled, seed 0, deterministic, memory format x, stitched on host on",
        "  memory was short: s left.",
        "  memory was short: Fewer at a time.",
        f"  bundle SHA-256 {DIGEST}",
        "  with torch 2.13.0, cuda 13.0",
    ]


def test_what_an_account_gives_is_told() -> None:
    account = Account()
    account.was_warm = True
    with account.step("decode"):
        pass
    lines = list(course(job(account.details())))
    assert lines[1].endswith(" s: decode 0.00")
    assert lines[2].startswith("  on cpu, the model was loaded already, peak memory ")
    assert "torch" in lines[-1]


def test_old_records_and_none_are_told_as_far_as_they_go() -> None:
    assert list(course(job({}))) == []
    assert list(course(job({"replaced": [], "nothing_to_show": [], "running": {}, "memory_mb": None}))) == []
    old = list(course(job({"seconds": {"inference": 2.0, "polish": 1.0}, "versions": {"hilum": "0.2"}})))
    assert old[1] == "  3.00 s: inference 2.00, polish 1.00"
    assert old[-1] == "  with hilum 0.2"


def test_an_attempt_that_gave_no_answer_is_told_by_what_was_seen_of_it() -> None:
    progress = Progress("inference", peak_bytes=2_500_000_000, started=time.monotonic() - 75)
    lines = list(course(job(progress.details())))
    assert lines[1:] == ["  stopped in inference after 75.0 s", "  peak memory 2500 MB host"]
    at_once = list(course(job({"stopped_in": "", "stopped_after_seconds": 0.5})))
    assert at_once[1:] == ["  stopped before its first step after 0.50 s"]


def test_the_record_of_an_attempt_that_is_over_is_not_taken_for_the_one_that_runs() -> None:
    details = {"device": "cpu"}
    assert next(course(job(details, JobState.RUNNING))) == "Job 7, lung_ct, the attempt before this one:"
    assert next(course(job(details, JobState.QUEUED))) == "Job 7, lung_ct, its last attempt:"
    assert next(course(job(details, JobState.FAILED))) == "Job 7, lung_ct:"
