"""What is watched of a process that works for its keeper: its time, its memory, and that of what it started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hilum.working.family import family
from hilum.working.watch import Limits, Progress, Watch
from study.errors import DeadlineExceeded, MemoryExceeded

MB = 1_000_000


def watch(limits: Limits, progress: Progress) -> Watch:
    return Watch("The analysis", limits, progress, os.getpid(), lambda: family(os.getpid()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands; `now` sets it [s]."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("hilum.working.watch.time", clock)
    return clock


@pytest.fixture
def child() -> Iterator[None]:
    """Have this process be one that started another, which holds much memory."""
    program = "import sys; held = bytes(100_000_000).replace(b'\\0', b'1'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield
        process.communicate()


def test_the_deadline_counts_from_the_first_step(clock: SimpleNamespace) -> None:
    watched = watch(Limits(10, remedy="deadline_seconds gives it more"), Progress())
    clock.now += 100
    watched.look()
    watched.hear("load", on_cpu=False)
    clock.now += 9
    watched.hear("inference", on_cpu=False)
    watched.look()
    clock.now += 2
    with pytest.raises(DeadlineExceeded) as raised:
        watched.look()
    assert raised.value.words == "The analysis took longer than 10 s and was stopped (inference)."
    assert raised.value.reason.numbers == {"deadline_seconds": 10, "remedy": "deadline_seconds gives it more"}


def test_one_that_tells_no_step_is_waited_for_so_long(clock: SimpleNamespace) -> None:
    watched = watch(Limits(1000, remedy="deadline_seconds gives it more"), Progress())
    clock.now += 121
    with pytest.raises(DeadlineExceeded, match=r"did not begin within 120 s"):
        watched.look()


def test_the_processor_s_deadline_begins_once(clock: SimpleNamespace) -> None:
    progress = Progress()
    watched = watch(Limits(10, cpu_deadline_seconds=100), progress)
    watched.hear("inference", on_cpu=False)
    clock.now += 9
    watched.hear("inference", on_cpu=True)
    clock.now += 99
    watched.hear("inference", on_cpu=False)  # whoever goes back and forth gains nothing
    watched.hear("postprocess", on_cpu=True)
    watched.look()
    assert (progress.step, progress.on_cpu) == ("postprocess", True)
    clock.now += 2
    with pytest.raises(DeadlineExceeded, match=r"longer than 100 s on the processor and was stopped \(postprocess\)"):
        watched.look()


def test_the_heart_beats_every_ten_seconds(clock: SimpleNamespace) -> None:
    beats: list[float] = []
    watched = Watch("The analysis", Limits(1000), Progress(), os.getpid(), heartbeat=lambda: beats.append(clock.now))
    watched.hear("load", on_cpu=False)
    for _ in range(25):
        clock.now += 1
        watched.look()
    assert beats == [1011, 1022]


def test_memory_counts_above_what_was_held_at_the_first_step() -> None:
    progress = Progress()
    watched = watch(Limits(10, memory_bytes=50 * MB), progress)
    watched.look()
    watched.hear("load", on_cpu=False)
    watched.look()
    taken = bytes(100 * MB).replace(b"\0", b"1")
    with pytest.raises(MemoryExceeded, match=r"more than the 50 MB that it may, and was stopped \(load\)\.$"):
        watched.look()
    assert progress.peak_bytes > len(taken)


@pytest.mark.usefixtures("child")
def test_what_the_processes_held_that_it_had_started_before_is_no_order_s() -> None:
    watched = watch(Limits(10, memory_bytes=50 * MB), Progress())
    watched.hear("load", on_cpu=False)
    watched.look()


def test_what_the_processes_hold_that_it_starts_is_the_order_s(
    clock: SimpleNamespace, request: pytest.FixtureRequest
) -> None:
    watched = watch(Limits(10, memory_bytes=50 * MB), Progress())
    watched.hear("load", on_cpu=False)
    request.getfixturevalue("child")
    clock.now += 2
    with pytest.raises(MemoryExceeded):
        watched.look()
