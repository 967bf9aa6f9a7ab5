"""An association byte by byte: PDUs as they stand on the wire, sent over a connection of the test's own."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

VERIFICATION: Final = "1.2.840.10008.1.1"
COMMITMENT: Final = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE: Final = f"{COMMITMENT}.1"
RELEASE_RQ: Final = struct.pack(">BxL", 0x05, 4) + bytes(4)
ABORT: Final = struct.pack(">BxL", 0x07, 4) + bytes(4)
ECHO_CONTEXT, CT_CONTEXT = 1, 3
CONTEXTS: Final[Mapping[int, tuple[str, str]]] = {
    ECHO_CONTEXT: (VERIFICATION, ExplicitVRLittleEndian),
    CT_CONTEXT: (CTImageStorage, ExplicitVRLittleEndian),
}
"""SOP Class and Transfer Syntax by the number of the presentation context."""


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _context(number: int, sop_class: str, transfer_syntax: str) -> bytes:
    syntaxes = _item(0x30, sop_class.encode()) + _item(0x40, transfer_syntax.encode())
    return _item(0x20, bytes([number, 0, 0, 0]) + syntaxes)


def associate_rq(
    called: str = "HILUM",
    calling: str = "SCU",
    *,
    contexts: Mapping[int, tuple[str, str]] = CONTEXTS,
    longest_pdu: int = 2**18,
) -> bytes:
    """Return an A-ASSOCIATE-RQ, for C-ECHO and CT images unless it is for something else (PS3.8 9.3.2)."""
    user = _item(0x51, struct.pack(">L", longest_pdu)) + _item(0x52, b"1.2.826.0.1.3680043.10.999.2")
    body = struct.pack(">H2x", 1) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    body += b"".join(_context(number, *proposed) for number, proposed in contexts.items()) + _item(0x50, user)
    return struct.pack(">BxL", 0x01, len(body)) + body


def p_data(*pdvs: tuple[int, int, bytes]) -> bytes:
    """Return a P-DATA-TF of fragments, each with its presentation context ID and message control header."""
    body = b"".join(
        struct.pack(">LBB", len(fragment) + 2, context, control) + fragment for context, control, fragment in pdvs
    )
    return struct.pack(">BxL", 0x04, len(body)) + body


def _command(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def _number(value: int) -> bytes:
    return struct.pack("<H", value)


def echo_command(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO request."""
    numbers = ((0x0100, _number(0x30)), (0x0110, _number(message_id)), (0x0800, _number(0x0101)))
    return _command((0x0002, _uid(VERIFICATION)), *numbers)


def echo_rq() -> bytes:
    """Return a C-ECHO request."""
    return p_data((ECHO_CONTEXT, 3, echo_command()))


def store_command(uid: str, sop_class: str = CTImageStorage, *, has_data_set: bool = True) -> bytes:
    """Return the command set of a C-STORE request; an empty UID is left out."""
    numbers = (
        *((0x0100, _number(1)), (0x0110, _number(1)), (0x0700, _number(0))),
        (0x0800, _number(1 if has_data_set else 0x0101)),
    )
    uids = [(element, _uid(value)) for element, value in ((0x0002, sop_class), (0x1000, uid)) if value]
    return _command(*sorted([*uids, *numbers]))


def commitment_command(field: int, type_id: int, instance: str = COMMITMENT_INSTANCE) -> bytes:
    """Return the command set of an N-ACTION (0130H) or N-EVENT-REPORT (0100H) request of storage commitment."""
    sop_class, uid, type_of = (0x0003, 0x1001, 0x1008) if field == 0x0130 else (0x0002, 0x1000, 0x1002)
    return _command(
        *((sop_class, _uid(COMMITMENT)), (0x0100, _number(field)), (0x0110, _number(1)), (0x0800, _number(1))),
        *((uid, _uid(instance)), (type_of, _number(type_id))),
    )


def store_rq(uid: str) -> bytes:
    """Return a C-STORE request of a CT image, without the image."""
    return p_data((CT_CONTEXT, 3, store_command(uid)))


def data(fragment: bytes, *, last: bool = True) -> bytes:
    """Return a part of a CT image."""
    return p_data((CT_CONTEXT, 2 if last else 0, fragment))


class Caller:
    """A connection to 127.0.0.1 over which PDUs go."""

    def __init__(self, port: int, seconds: float = 20.0, tls: ssl.SSLContext | None = None) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        if tls is not None:
            self.connection = tls.wrap_socket(self.connection, server_hostname="127.0.0.1")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def send(self, *pdus: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(b"".join(pdus))

    def answer(self) -> tuple[int, bytes]:
        """Return type and content of the next PDU; (0, b"") where the connection ended."""
        header = self._take(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._take(length)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            try:
                more = self.connection.recv(length - len(taken))
            except ConnectionResetError:
                more = b""
            if not more:
                break
            taken += more
        return taken

    def associate(self) -> None:
        """Associate; the receiver must accept."""
        self.send(associate_rq())
        kind, _ = self.answer()
        assert kind == 0x02, f"A-ASSOCIATE-RQ was answered with a PDU of type {kind:02X}"

    def echo(self) -> None:
        """Have a C-ECHO answered with Success."""
        self.send(echo_rq())
        kind, content = self.answer()
        assert kind == 0x04
        assert content.endswith(struct.pack("<HHLH", 0, 0x0900, 2, 0))

    def release(self) -> None:
        """Release the association; the receiver must agree."""
        self.send(RELEASE_RQ)
        assert self.answer()[0] == 0x06


def honest_echo(port: int) -> None:
    """Return once a whole association with a C-ECHO went as it should."""
    with Caller(port) as caller:
        caller.associate()
        caller.echo()
        caller.release()
