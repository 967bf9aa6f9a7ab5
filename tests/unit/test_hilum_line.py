"""Whole messages from a process that may write whatever it wants, however slowly."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from hilum.working.line import Line
from hilum.working.wire import Answer, endpoint


@pytest.fixture
def ends() -> Iterator[tuple[Line, socket.socket]]:
    ours, theirs = socket.socketpair()
    line = Line(ours)
    yield line, theirs
    line.close()
    theirs.close()


def test_messages_come_as_the_other_end_sends_them(ends: tuple[Line, socket.socket]) -> None:
    line, theirs = ends
    connection = endpoint(theirs.detach())
    is_quiet = line.is_quiet
    assert is_quiet
    for message in (b"first", b"", bytes(100_000)):
        connection.send_bytes(message)
    is_quiet = line.is_quiet
    assert not is_quiet
    assert [line.receive(5) for _ in range(3)] == [b"first", b"", bytes(100_000)]
    assert line.is_quiet
    line.send_aside(b"an order")
    assert connection.recv_bytes() == b"an order"
    connection.close()
    with pytest.raises(EOFError):
        line.receive(5)


def test_a_message_that_drips_keeps_nobody_waiting(ends: tuple[Line, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(struct.pack("!i", 6) + b"no")
    started = time.monotonic()
    assert line.receive(0.05) is None
    assert time.monotonic() - started < 1
    assert not line.is_quiet
    theirs.sendall(b"thing!")
    assert line.receive(5) == b"nothin"
    assert line.receive(0) is None


@pytest.mark.parametrize("head", [struct.pack("!i", -2), struct.pack("!iQ", -1, 1 << 40)])
def test_a_length_that_is_none_is_an_error(ends: tuple[Line, socket.socket], head: bytes) -> None:
    line, theirs = ends
    theirs.sendall(head)
    with pytest.raises(ValueError, match="a message of"):
        line.receive(5)


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b'{"job_id": 1, "attempt": 1, "outcome": "done", "details": 5}',
        b'{"job_id": 1, "attempt": 1, "outcome": "won"}',
        b'{"job_id": "1", "attempt": 1, "outcome": "done"}',
        b'{"job_id": 1, "attempt": 1, "outcome": "failed", "numbers": 7}',
        b'{"job_id": 1, "attempt": 1, "outcome": "failed", "words": "\\ud800"}',
        b'{"job_id": 1, "attempt": 1, "outcome": "done", "results": [{"form": "seg"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_an_error_of_one_kind(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's words are not ours to test
        Answer.from_bytes(message)
