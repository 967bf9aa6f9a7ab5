"""What tests of the network need: a receiver that runs, data sets as bytes, and waiting without sleeping."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from scp.association.requesting import Peer
from scp.commitments.commitment_desk import CommitmentDesk
from scp.receiving.greeting import TLSDoor
from scp.receiving.inbox import Inbox
from scp.receiving.listening import open_listening_socket
from scp.receiving.moves import Moves
from scp.receiving.receiver import DEFAULT_MAX_PDU, Receiver
from tests.support.peers import DCMTK_ENVIRONMENT, program


def wait_until(condition: Callable[[], bool], seconds: float = 10.0, what: str = "the condition") -> None:
    """Return as soon as `condition` holds; fail after `seconds`.

    Looking takes a fifth of a core at most, however much one look costs: what is waited for needs the cores itself.
    """
    deadline = time.monotonic() + seconds
    turn = threading.Event()
    while True:
        began = time.thread_time()
        if condition():
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        turn.wait(min(max(0.005, 4 * (time.thread_time() - began)), 0.3))


_PORTS_EACH = 1500
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.cycle(
    20000 + _WORKER % 8 * _PORTS_EACH + (os.getpid() + offset) % _PORTS_EACH for offset in range(_PORTS_EACH)
)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has just now.

    It is below those that the system gives to whoever asks for any, and of this worker's own range, so that it stays
    free until somebody listens on it, however much goes on beside this test.
    """
    for port in itertools.islice(_ports, _PORTS_EACH):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def accepts_connections(port: int) -> bool:
    """Tell whether somebody listens on the port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


@dataclass
class RunningReceiver:
    """A receiver in this process, with what it told."""

    receiver: Receiver
    port: int
    folder: Path
    events: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    @property
    def stored(self) -> list[Path]:
        """The files in its inbox, in the order of arrival."""
        return sorted(self.folder.glob("*.dcm"))

    @property
    def peer(self) -> Peer:
        """The receiver as a peer to send to."""
        return Peer("node", "HILUM", "127.0.0.1", self.port)

    def told(self, name: str) -> list[Mapping[str, object]]:
        """Return the fields of the events of this name."""
        return [fields for told, fields in list(self.events) if told == name]


@contextmanager
def running_receiver(
    folder: Path,
    *,
    known: set[str] | None = None,
    reserve_bytes: int = 0,
    max_associations: int = 32,
    max_pdu: int = DEFAULT_MAX_PDU,
    accept_unknown_sop_classes: bool = True,
    network_timeout: float = 60.0,
    commitment: CommitmentDesk | None = None,
    port: int = 0,
    moves: Moves | None = None,
    tls: TLSDoor | None = None,
    fast_reception: bool = True,
    log_bytes: int = 0,
) -> Iterator[RunningReceiver]:
    """Run a receiver called HILUM on a port of 127.0.0.1; on a free one where it is 0."""
    events: list[tuple[str, Mapping[str, object]]] = []
    inbox = Inbox(folder, reserve_bytes, log_bytes)
    with open_listening_socket("127.0.0.1", port) as listening:
        receiver = Receiver(
            listening,
            "HILUM",
            inbox,
            known,
            max_associations=max_associations,
            max_pdu=max_pdu,
            accept_unknown_sop_classes=accept_unknown_sop_classes,
            on_event=lambda name, fields: events.append((name, fields)),
            network_timeout=network_timeout,
            commitment=commitment,
            moves=moves,
            tls=tls,
            fast_reception=fast_reception,
        )
        receiver.start()
        try:
            yield RunningReceiver(receiver, listening.getsockname()[1], folder, events)
        finally:
            receiver.stop(grace_seconds=2.0)
            inbox.close()


RECEIVER_PROCESS = """
import signal, sys, threading
from pathlib import Path
from scp.receiving.inbox import Inbox
from scp.receiving.listening import adopt_listening_socket
from scp.receiving.receiver import Receiver
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
is_fast = sys.argv[3] == "fast"
inbox = Inbox(Path(sys.argv[2]), 0)
receiver = Receiver(adopt_listening_socket(int(sys.argv[1])), "HILUM", inbox, fast_reception=is_fast)
receiver.start()
print("ready", flush=True)
stop.wait()
receiver.stop(2.0)
"""
"""A receiver alone in a process: arguments are the listening file descriptor, the inbox, and "fast" or "plain"."""


@contextmanager
def receiver_process(
    listening: socket.socket, folder: Path, prefix: tuple[str, ...] = (), way: str = "fast"
) -> Iterator[subprocess.Popen[str]]:
    """Run a receiver in a process of its own, started by the command `prefix` where there is one."""
    command = [*prefix, sys.executable, "-c", RECEIVER_PROCESS, str(listening.fileno()), str(folder), way]
    process = subprocess.Popen(command, pass_fds=[listening.fileno()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def storescu(port: int, *arguments: str | Path, calling: str = "SCU", called: str = "HILUM") -> list[str]:
    """Return the command that sends with DCMTK's storescu."""
    return [
        program("storescu", package="dcmtk"),
        *("-aet", calling, "-aec", called, "--max-send-pdu", "131072"),
        *("127.0.0.1", str(port)),
        *map(str, arguments),
    ]


def run_dcmtk(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of DCMTK to its end."""
    return subprocess.run(command, env=DCMTK_ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)


def encoded_data_set(path: Path) -> bytes:
    """Return the bytes of a DICOM file after its File Meta Information."""
    meta = read_file_meta_info(path)
    content = path.read_bytes()
    return content[132 + 12 + int(meta.FileMetaInformationGroupLength) :]


def transfer_syntax_of(path: Path) -> UID:
    """Return the Transfer Syntax UID of a DICOM file."""
    return UID(str(read_file_meta_info(path).TransferSyntaxUID))
