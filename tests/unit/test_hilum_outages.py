"""What a role does while the database or the disk is away."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from hilum.outages import FULL, OF_ALL_FILES, Outage, at_work, disk_failure, full, is_outage, keep_at
from hilum.processes import StopSignal
from study.errors import DatabaseUnavailable, InferenceError, LeaseLost

NO_ROOM = OSError(errno.ENOSPC, "No space left on device")
GONE = OSError(errno.ENOENT, "No such file or directory")


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def caused(error: Exception, cause: Exception, *, openly: bool) -> Exception:
    """Return `error` as it is raised over `cause`, by `from` or while that is handled."""
    try:
        try:
            raise cause
        except OSError as found:
            if openly:
                raise error from found
            raise error  # noqa: B904 - what it came from is in its context
    except InferenceError as told:
        return told


@pytest.mark.parametrize("openly", [True, False])
def test_a_full_disk_is_seen_behind_the_error_that_a_model_or_a_library_made_of_it(*, openly: bool) -> None:
    error = caused(InferenceError("The model failed."), OSError(errno.ENOSPC, "full"), openly=openly)
    assert is_outage(error)
    answer = full(error)
    assert answer is not None
    assert (answer.code, answer.transient) == ("DiskFull", True)


def test_what_one_file_or_model_is_to_blame_for_is_no_outage() -> None:
    assert disk_failure(GONE) is None
    assert not is_outage(LeaseLost())
    assert full(InferenceError()) is None
    assert disk_failure(OSError(errno.EIO, "damaged"), FULL) is None
    assert not is_outage(OSError(errno.EIO, "damaged"), OF_ALL_FILES)
    assert is_outage(OSError(errno.EIO, "damaged"))
    hidden = OSError(errno.ENOSPC, "full")
    error = InferenceError()
    error.__context__, error.__suppress_context__ = hidden, True
    assert not is_outage(error)


def test_an_outage_is_told_once_and_so_is_its_end(logs: list[MutableMapping[str, Any]]) -> None:
    outage = Outage(StopSignal(), longest_seconds=0.001)
    for _ in range(3):
        with outage.borne():
            throw(NO_ROOM)
    with outage.borne():
        pass
    with outage.borne():
        throw(DatabaseUnavailable())
    with outage.borne():
        pass
    with outage.borne():
        throw(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    assert [each["of"] for each in logs if each["event"] == "outage.began"] == ["disk", "database", "machine"]
    assert [each["event"] for each in logs] == ["outage.began", "outage.over"] * 2 + ["outage.began"]
    assert "free some space" in logs[0]["words"]


def test_whatever_has_another_cause_passes() -> None:
    outage = Outage(StopSignal())
    for error in (GONE, LeaseLost(), ValueError()):
        with pytest.raises(type(error)), outage.borne():
            raise error
        with pytest.raises(type(error)):
            outage.persist(lambda: throw(error))  # noqa: B023 - called here


def throw(error: Exception) -> None:
    raise error


def test_what_is_persisted_in_is_done_once_it_can_be_and_something_else_meanwhile() -> None:
    tries: list[str] = []

    def act() -> int:
        tries.append("try")
        if len(tries) < 5:
            raise DatabaseUnavailable
        return 7

    outage = Outage(StopSignal(), longest_seconds=0.001)
    assert outage.persist(act, lambda: tries.append("beat")) == 7
    assert tries == ["try", "beat", "try", "beat", "try"]


def test_nothing_is_persisted_in_once_the_node_stops() -> None:
    stop = StopSignal()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(DatabaseUnavailable):
        Outage(stop, longest_seconds=60).persist(lambda: throw(DatabaseUnavailable()))


def test_a_turn_that_crashes_ends_no_other(logs: list[MutableMapping[str, Any]]) -> None:
    stop = StopSignal()
    left: list[Exception | None] = [ValueError(), NO_ROOM, None]

    def turn() -> None:
        error = left.pop(0)
        if error is not None:
            raise error
        stop.set()

    keep_at(turn, stop, "turn.crashed", 0.001)
    assert [each["event"] for each in logs] == ["turn.crashed", "outage.began", "outage.over"]


def test_a_thread_that_ends_by_an_error_ends_its_role_and_is_not_missed_in_silence(
    logs: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.outages._LONGEST_SECONDS", 0.001)
    stop = StopSignal()
    threads = at_work([lambda: throw(ValueError()), lambda: throw_nothing(stop)], stop)
    for thread in threads:
        thread.join(10)
    assert stop.is_set()
    assert [each["event"] for each in logs] == ["thread.failed"]


def throw_nothing(stop: StopSignal) -> None:
    stop.wait(10)
