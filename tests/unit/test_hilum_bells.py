"""Bells: a ring is heard at once, by every thread that listens, as one with others, and never waits for anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from hilum.bells import ALONE_SECONDS, Belfry, Bells, Ear
from hilum.outages import keep_at
from hilum.processes import StopSignal
from study.errors import DatabaseUnavailable
from tests.support.peers import REPOSITORY

POSTS = [("receiver", 0), ("indexer", 0), ("keeper", 0), ("keeper", 1), ("sender", 0)]
NEVER = 60.0  # as long as no test lasts: what ends a wait before is a ring


@pytest.fixture
def belfry() -> Iterator[Belfry]:
    with Belfry(POSTS) as made:
        yield made


@pytest.fixture(autouse=True)
def nobody_looks_unrung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.bells.UNRUNG_SECONDS", NEVER)


def bells_of(belfry: Belfry, role: str, index: int = 0) -> Bells:
    return Bells.inherited(belfry.descriptors(role, index), everybody_rings=True)


def listener(bells: Bells, stop: StopSignal | None = None, pace_seconds: float = 0.0) -> Ear:
    """Return an ear after its first wait, which is none."""
    ear = bells.ear(stop or StopSignal(), pace_seconds)
    assert not ear.wait()
    return ear


def seconds_of(ear: Ear) -> float:
    started = time.monotonic()
    ear.wait()
    return time.monotonic() - started


def test_only_those_who_are_rung_for_hear_and_all_can_ring(belfry: Belfry) -> None:
    assert "bell" not in belfry.descriptors("receiver", 0)
    rung = {name for name in belfry.descriptors("receiver", 0) if name.startswith("ring-")}
    assert rung == {"ring-indexer-0", "ring-keeper-0", "ring-keeper-1", "ring-sender-0"}
    assert len({belfry.descriptors(role, index).get("bell") for role, index in POSTS[1:]}) == 4


def test_a_ring_is_heard_by_every_process_of_the_role_and_every_thread_in_it_and_by_no_other_role(
    belfry: Belfry,
) -> None:
    first, second = bells_of(belfry, "keeper"), bells_of(belfry, "keeper", 1)
    ears = [listener(first), listener(first), listener(second)]
    deaf = listener(bells_of(belfry, "sender"))
    bells_of(belfry, "receiver").ring("keeper")
    assert all(seconds_of(ear) < 5 for ear in ears)
    deaf.look_within(0.05)
    assert seconds_of(deaf) >= 0.05


def test_what_is_rung_between_two_waits_ends_the_next_one_and_is_one_ring(belfry: Belfry) -> None:
    ear = listener(bells_of(belfry, "indexer"))
    receiver = bells_of(belfry, "receiver")
    for _ in range(50):
        receiver.ring("indexer")
    assert seconds_of(ear) < 5
    heard = 1
    while True:
        ear.look_within(0.05)
        if seconds_of(ear) >= 0.05:
            break
        heard += 1
    assert heard <= 3


def test_nobody_waits_for_a_role_that_does_not_hear_and_the_next_process_of_it_does(belfry: Belfry) -> None:
    receiver = bells_of(belfry, "receiver")
    for _ in range(100_000):  # more than a pipe holds
        receiver.ring("indexer")
    ear = listener(bells_of(belfry, "indexer"))
    receiver.ring("indexer")
    assert seconds_of(ear) < 5


def test_a_ring_that_nobody_can_hear_any_more_is_no_error() -> None:
    hearing, ringing = os.pipe()
    os.close(hearing)
    Bells(None, {"keeper": [ringing]}).ring("keeper", "sender")
    os.close(ringing)


def test_a_process_that_is_killed_takes_no_bell_with_it(belfry: Belfry) -> None:
    ear = listener(bells_of(belfry, "keeper"))
    code = (
        "import sys; from hilum.bells import Bells; from hilum.processes import StopSignal\n"
        "descriptors = dict((n, int(v)) for n, _, v in (a.partition('=') for a in sys.argv[1:]))\n"
        "bells = Bells.inherited(descriptors, everybody_rings=True)\n"
        "bells.ear(StopSignal()); bells.ring('keeper'); print('rung', flush=True); sys.stdin.read()"
    )
    given = belfry.descriptors("sender", 0)
    command = [sys.executable, "-c", code, *(f"{name}={value}" for name, value in given.items())]
    with subprocess.Popen(
        command, pass_fds=tuple(given.values()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"rung\n"
        child.kill()
    assert seconds_of(ear) < 5
    next_one = listener(bells_of(belfry, "sender"))
    bells_of(belfry, "keeper").ring("sender", "keeper")
    assert seconds_of(ear) < 5
    assert seconds_of(next_one) < 5


def test_the_end_of_the_node_ends_every_wait(belfry: Belfry) -> None:
    stop = StopSignal()
    ear = listener(bells_of(belfry, "sender"), stop)
    threading.Timer(0.02, stop.set).start()
    assert ear.wait()
    assert ear.wait()
    assert bells_of(belfry, "sender").ear(stop).wait()


def test_what_falls_due_ends_one_wait(belfry: Belfry) -> None:
    ear = listener(bells_of(belfry, "sender"))
    for due in (7.0, 0.03, None, 9.0):
        ear.look_within(due)
    assert 0.03 <= seconds_of(ear) < 5
    bells_of(belfry, "receiver").ring("sender")
    assert seconds_of(ear) < 5


def test_rings_in_quick_succession_are_worked_upon_together(belfry: Belfry) -> None:
    ear = listener(bells_of(belfry, "indexer"), pace_seconds=0.1)
    bells_of(belfry, "receiver").ring("indexer")
    started = time.monotonic()
    ear.wait()
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize(
    "bells",
    [
        pytest.param(Bells(), id="started alone"),
        pytest.param(Bells(os.pipe()[0], everybody_rings=False), id="with other machines at the database"),
    ],
)
def test_who_is_not_rung_for_by_all_looks_often(bells: Bells) -> None:
    ear = listener(bells)
    assert ALONE_SECONDS <= seconds_of(ear) < 5


def test_a_turn_that_fails_is_tried_again_without_a_ring(belfry: Belfry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.outages._SHORTEST_SECONDS", 0.001)
    stop = StopSignal()
    left: list[Exception | None] = [ValueError(), DatabaseUnavailable(), None]

    def turn() -> None:
        error = left.pop(0)
        if error is not None:
            raise error
        stop.set()

    keep_at(turn, stop, "turn.crashed", 0.001, ear=bells_of(belfry, "sender").ear(stop))
    assert not left
