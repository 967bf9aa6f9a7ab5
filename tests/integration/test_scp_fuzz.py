"""Hostile bytes against a receiver that lives through all of them: mutated conversations, and mutated objects.

FUZZ_EXAMPLES sets how many examples are tried of each; `FUZZ_EXAMPLES=20000` is a night's run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from db.files.filestore import FileStore
from scp.receiving.listening import open_listening_socket
from study.errors import ArchiveError
from tests.support.conversation import (
    ABORT,
    RELEASE_RQ,
    Caller,
    associate_rq,
    data,
    echo_rq,
    honest_echo,
    store_rq,
)
from tests.support.network import encoded_data_set, receiver_process, wait_until
from tests.support.series import ct_series

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 1000
)
UID = "1.2.826.0.1.3680043.10.999.8.1"


@dataclass(frozen=True)
class Target:
    """The receiver that everything is thrown at."""

    port: int
    root: Path
    process: psutil.Process
    threads: int

    @property
    def inbox(self) -> Path:
        return self.root / "var" / "inbox" / "receiver-0"

    def demand_well(self) -> None:
        """Return if it lives, answers an honest caller, has no thread left over and no half of an object."""
        honest_echo(self.port)
        wait_until(lambda: self.process.num_threads() <= self.threads, seconds=15, what="the end of its threads")
        assert not [path for path in self.inbox.iterdir() if path.suffix != ".dcm"]
        assert [path.name for path in self.root.iterdir()] == ["var"]
        assert [path.name for path in self.inbox.parent.iterdir()] == ["receiver-0"]


@pytest.fixture(scope="module", params=["fast", "plain"])
def target(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Target]:
    root = tmp_path_factory.mktemp("fuzz")
    inbox = root / "var" / "inbox" / "receiver-0"
    way: str = request.param
    with open_listening_socket("127.0.0.1", 0) as listening, receiver_process(listening, inbox, way=way) as process:
        watched = psutil.Process(process.pid)
        yield Target(listening.getsockname()[1], root, watched, watched.num_threads())
        assert process.poll() is None


def conversation() -> list[bytes]:
    """Return the PDUs of a whole association: C-ECHO, C-STORE in two parts, release."""
    image = ct_series(np.zeros((1, 8, 8), dtype=np.int16))[0]
    buffer = BytesIO()
    image.save_as(buffer, implicit_vr=False, little_endian=True)
    content = buffer.getvalue()
    half = len(content) // 2
    object_pdus = [data(content[:half], last=False), data(content[half:])]
    return [associate_rq(), echo_rq(), store_rq(image.SOPInstanceUID), *object_pdus, RELEASE_RQ]


VALID = conversation()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw what a conversation becomes by a few changes to its PDUs and their bytes."""
    pdus = list(VALID)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(pdus) - 1))
        pdu = pdus[place]
        match draw(st.sampled_from(["flip", "cut", "twice", "swap", "length", "noise", "abort", "drop", "zeros"])):
            case "flip":
                for _ in range(draw(st.integers(1, 4))):
                    bit = draw(st.integers(0, max(0, len(pdu) * 8 - 1)))
                    changed = bytearray(pdu or b"\0")
                    changed[bit // 8] ^= 1 << bit % 8
                    pdu = bytes(changed)
                pdus[place] = pdu
            case "cut":
                pdus[place] = pdu[: draw(st.integers(0, len(pdu)))]
            case "twice":
                pdus.insert(place, pdu)
            case "swap":
                other = draw(st.integers(0, len(pdus) - 1))
                pdus[place], pdus[other] = pdus[other], pdus[place]
            case "length":
                size = draw(st.sampled_from([0, 1, 5, 2**16, 2**18 + 64, 2**20, 2**31, 2**32 - 1]))
                pdus[place] = pdu[:2] + size.to_bytes(4, "big") + pdu[6:]
            case "noise":
                pdus.insert(place, draw(st.binary(max_size=300)))
            case "abort":
                pdus.insert(place, ABORT)
            case "drop":
                pdus[place] = b""
            case "zeros":
                start = draw(st.integers(0, len(pdu)))
                pdus[place] = pdu[:start] + bytes(min(8, len(pdu) - start)) + pdu[start + 8 :]
    return b"".join(pdus)


@FUZZ
@given(said=mutated())
def test_a_mutated_conversation_harms_nobody(target: Target, said: bytes) -> None:
    with Caller(target.port) as caller:
        _say(caller, said)
    target.demand_well()


def _say(caller: Caller, said: bytes) -> None:
    """Send everything, then no more; hear what is answered until the receiver ends the connection."""
    try:
        caller.send(said)
        caller.connection.shutdown(socket.SHUT_WR)
        while caller.answer()[0]:
            continue
    except (BrokenPipeError, ConnectionResetError, OSError) as error:
        assert not isinstance(error, TimeoutError), "the receiver hangs"  # noqa: PT017 - a reset is as good as an end


INSTALLED = Path(pydicom.__file__).parent / "data" / "test_files"
REAL = [path for path in sorted(INSTALLED.glob("*.dcm")) if path.stat().st_size < 60_000]


def _data_sets() -> list[bytes]:
    found = []
    for path in REAL:
        try:
            if read_file_meta_info(path).get("TransferSyntaxUID") == "1.2.840.10008.1.2.1":
                found.append(encoded_data_set(path))
        except (InvalidDicomError, AttributeError, EOFError, OSError):
            continue
    return found


DATA_SETS = _data_sets()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw what one of pydicom's own test files becomes by a few changes."""
    content = bytearray(draw(st.sampled_from(DATA_SETS)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(content) - 1, 1500)))  # where the header is
        piece = draw(st.binary(max_size=12))
        match draw(st.sampled_from(["over", "insert", "remove", "cut"])):
            case "over":
                content[place : place + len(piece)] = piece
            case "insert":
                content[place:place] = piece
            case "remove":
                del content[place : place + len(piece)]
            case "cut" if len(content) > 600:
                del content[draw(st.integers(500, len(content))) :]
    return bytes(content or b"\0")


@FUZZ
@given(content=damaged(), number=st.integers(0, 10**9))
def test_a_damaged_object_gets_a_status_and_is_indexed_or_set_aside(
    target: Target, content: bytes, number: int
) -> None:
    with Caller(target.port) as caller:
        caller.associate()
        caller.send(store_rq(f"{UID}.{number}"), data(content))
        kind, _ = caller.answer()
        assert kind in (0x04, 0x07)  # a status, or an abort
        if kind == 0x04:
            caller.release()
    _index_all(target)
    target.demand_well()


def _index_all(target: Target) -> None:
    """Read what was stored as the indexer does: a header, or a reason."""
    store = FileStore(target.root / "var")
    for path in store.scan_inbox():
        with suppress(ArchiveError):  # what the indexer sets aside, with the reason
            store.read_incoming(path)
        path.unlink()


def test_there_is_enough_to_damage() -> None:
    assert len(DATA_SETS) > 10
