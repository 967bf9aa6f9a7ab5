"""Two receivers, one that serves the fast way and one the plain way, to whom the same bytes are said."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scp.association.tls import Identity
from scp.commitments.commitment_desk import CommitmentDesk
from scp.receiving.greeting import TLSDoor
from scp.receiving.listening import open_listening_socket
from scp.receiving.requested import RequestedAssociation
from tests.support.conversation import RELEASE_RQ, Caller, associate_rq, p_data
from tests.support.network import RunningReceiver, encoded_data_set, running_receiver, wait_until

LONGEST_PDU: Final = 2**20
ENDED: Final = (0, b"")
"""What is heard where the connection ended."""

Pdv = tuple[int, int, bytes]
Ending = Callable[[Caller], None]


@dataclass(frozen=True)
class Heard:
    """What a peer was answered, PDU by PDU after that to its request, and what the receiver made of what it said."""

    answers: list[tuple[int, bytes]]
    files: list[bytes]
    data_sets: list[bytes]
    events: list[tuple[str, dict[str, object]]]

    @property
    def statuses(self) -> list[int]:
        """The statuses of the responses (0000,0900)."""
        tag = struct.pack("<HHL", 0, 0x0900, 2)
        commands = [content for kind, content in self.answers if kind == 0x04]
        return [struct.unpack_from("<H", content, content.index(tag) + len(tag))[0] for content in commands]

    @property
    def kinds(self) -> list[int]:
        """The types of the PDUs; 0 for the end of the connection."""
        return [kind for kind, _ in self.answers]


def half_close(caller: Caller) -> None:
    """Say nothing more."""
    caller.connection.shutdown(socket.SHUT_WR)


def release(caller: Caller) -> None:
    """Ask for the end of the association."""
    caller.send(RELEASE_RQ)


def reset(caller: Caller) -> None:
    """End the connection as a machine does that lost it."""
    caller.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.connection.close()


@dataclass(frozen=True)
class Ways:
    """Both receivers."""

    fast: RunningReceiver
    plain: RunningReceiver
    ports: tuple[int, int]
    tls: ssl.SSLContext | None = None

    def hear(self, said: bytes | Sequence[bytes], *, request: bytes | None = None, end: Ending = release) -> Heard:
        """Say the same to both, and return what both answered and did; that they differ is a failure.

        Parameters
        ----------
        said
            After the association was accepted; in one call of `send`, or in several.
        request
            The A-ASSOCIATE-RQ; b"" for none.
        """
        pieces = [said] if isinstance(said, bytes) else list(said)
        asked = associate_rq() if request is None else request
        fast, plain = (
            _heard(node, port, asked, pieces, end, self.tls)
            for node, port in zip((self.fast, self.plain), self.ports, strict=True)
        )
        assert fast == plain
        return fast


@contextmanager
def both_ways(
    folder: Path,
    *,
    identity: Identity | None = None,
    tls: ssl.SSLContext | None = None,
    desks: Callable[[Path], CommitmentDesk] | None = None,
) -> Iterator[Ways]:
    """Run both receivers.

    Parameters
    ----------
    identity, tls
        Where there are, they listen over TLS, for callers with the context.
    desks
        Makes the commitment desk of each, with a folder of its own.
    """
    with ExitStack() as held:
        nodes, ports = [], []
        for is_fast in (True, False):
            door = None
            if identity is not None:
                door = TLSDoor(held.enter_context(open_listening_socket("127.0.0.1", 0)), identity)
            node = held.enter_context(
                running_receiver(
                    folder / ("fast" if is_fast else "plain"),
                    max_pdu=LONGEST_PDU,
                    fast_reception=is_fast,
                    tls=door,
                    commitment=None if desks is None else desks(folder / f"desk-{is_fast}"),
                )
            )
            nodes.append(node)
            ports.append(node.port if door is None else door.listening_socket.getsockname()[1])
        yield Ways(nodes[0], nodes[1], (ports[0], ports[1]), tls)


def _heard(
    node: RunningReceiver, port: int, asked: bytes, pieces: list[bytes], end: Ending, tls: ssl.SSLContext | None
) -> Heard:
    answers = []
    with Caller(port, tls=tls) as caller:
        caller.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if asked:
            caller.send(asked)
            answers.append(caller.answer())
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                caller.send(piece)
            end(caller)
        if end is not reset:
            answers += _answers(caller)
    wait_until(lambda: not associations(), what="the end of the association")
    return _and_made(node, answers)


def _answers(caller: Caller) -> Iterator[tuple[int, bytes]]:
    """Yield what is answered until the connection ends, or the release is agreed to."""
    while True:
        answer = caller.answer()
        yield answer
        if answer[0] in (0x00, 0x06):
            return


def associations() -> list[RequestedAssociation]:
    """Return the associations that are not over yet, of all receivers in this process."""
    return [thread for thread in threading.enumerate() if isinstance(thread, RequestedAssociation)]


def _and_made(node: RunningReceiver, answers: list[tuple[int, bytes]]) -> Heard:
    """Take what was stored and told out of a receiver; nothing else may be left in its folder."""
    stored = node.stored
    assert sorted(node.folder.iterdir()) == stored
    events = [(name, {key: value for key, value in told.items() if key != "path"}) for name, told in node.events]
    events.sort(key=lambda event: not event[0].startswith("association"))  # told in another thread than the objects
    heard = Heard(answers, [path.read_bytes() for path in stored], [encoded_data_set(path) for path in stored], events)
    for path in stored:
        path.unlink()
    node.events.clear()
    return heard


def pieces_of(content: bytes, *lengths: int) -> list[bytes]:
    """Cut into pieces of these lengths, in turn, until there is no more."""
    pieces, place, turn = [], 0, 0
    while place < len(content):
        length = lengths[turn % len(lengths)]
        pieces.append(content[place : place + length])
        place, turn = place + length, turn + 1
    return pieces


def pdvs(context: int, pieces: Sequence[bytes], *, command: bool = False) -> list[Pdv]:
    """Return the fragments of a command set or a data set with their control headers, the last marked as such."""
    last = len(pieces) - 1
    return [(context, command | 2 * (place == last), piece) for place, piece in enumerate(pieces)]


def pdus(fragments: Sequence[Pdv], *, each: int = 1) -> bytes:
    """Return P-DATA-TF PDUs of so many fragments each."""
    return b"".join(p_data(*fragments[place : place + each]) for place in range(0, len(fragments), each))
