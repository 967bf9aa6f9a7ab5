"""pynetdicom's upper layer with a short way for received P-DATA, and bounds on what a peer may announce.

pynetdicom negotiates, keeps the state machine of PS3.8 9.2 and its timers. In state 6 (data transfer) each P-DATA-TF is
read in one call into a buffer that is used again, and goes straight to whoever takes it: no queue between threads, no
copies. A PDU that announces more than was negotiated ends the association before a byte of it is kept.
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import Final

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from scp.association.tls import TLSSocket

LOGGER = logging.getLogger(__name__)

_PDU_HEADER: Final = struct.Struct(">BxL")
_P_DATA_TF: Final = 0x04
_LONGEST_CONTROL_PDU: Final = 2**20  # an A-ASSOCIATE-RQ of 128 contexts with every Transfer Syntax has a quarter of it
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_WAITALL)
_TOLERANCE: Final = 64  # some senders count the PDU's or the PDV's header out of the maximum length
DATA_TRANSFER, AWAITING_CLOSE = "Sta6", "Sta13"
CONNECTION_CLOSED, _INVALID_PDU = "Evt17", "Evt19"


class ProtocolError(Exception):
    """The peer sent what the protocol does not allow; the association has to be aborted."""


class BoundedProvider(DULServiceProvider):
    """The upper layer of one association.

    Parameters
    ----------
    longest_pdu
        As announced to the peer [bytes].
    """

    def __init__(self, association: Association, longest_pdu: int) -> None:
        super().__init__(association)
        self.daemon = True
        self._longest_pdu = longest_pdu + _TOLERANCE
        self._buffer = memoryview(bytearray(_PDU_HEADER.size + self._longest_pdu))

    def take(self, p_data: memoryview) -> bytes:
        """Process the variable field of one P-DATA-TF and return the PDUs to send back, if any.

        Raises
        ------
        ProtocolError
            If the association can not go on.
        """
        raise NotImplementedError

    def _read_pdu_data(self) -> None:
        connection = self.socket.socket if self.socket is not None else None
        if connection is None:
            return
        if self.state_machine.current_state == AWAITING_CLOSE:
            self._drain(connection)
            return
        header = _peek_header(connection)
        if header is None:  # not asked again: a peer that stalls here is waited for once
            self.event_queue.put(CONNECTION_CLOSED)
            return
        kind, length = header
        longest = self._longest_pdu if kind == _P_DATA_TF else _LONGEST_CONTROL_PDU
        if length > longest:
            LOGGER.warning("a PDU of %d bytes was announced, %d are allowed: association aborted", length, longest)
            self.event_queue.put(_INVALID_PDU)
        elif kind == _P_DATA_TF and self.state_machine.current_state == DATA_TRANSFER:
            self.receive_p_data(connection, length)
        else:
            super()._read_pdu_data()

    def receive_p_data(self, connection: socket.socket, length: int) -> None:
        """Read the P-DATA-TF that comes next, whose variable field has `length` bytes, and have it taken.

        Those that follow are taken as well, for as long as `goes_on` lets them be waited for: a turn of pynetdicom's
        loop for each would cost more than all that is done with it.
        """
        following: int | None = length
        while following is not None and self._take_next(connection, following):
            following = self._following(connection)

    def _take_next(self, connection: socket.socket, length: int) -> bool:
        """Read a P-DATA-TF and have it taken; False where the association can not go on."""
        whole = _PDU_HEADER.size + length
        try:
            received = _receive(connection, whole, self._buffer)
        except OSError:
            received = False
        if not received:
            self.event_queue.put(CONNECTION_CLOSED)
            return False
        try:
            responses = self.take(self._buffer[_PDU_HEADER.size : whole])
        except ProtocolError as error:
            LOGGER.warning("association aborted: %s", error)
            self.event_queue.put(_INVALID_PDU)
            return False
        if responses and self.socket is not None:
            self.socket.send(responses)
            self.answered()
        return True

    def _following(self, connection: socket.socket) -> int | None:
        """Return the length of the P-DATA-TF that comes next; None for whatever else comes, or happens, before."""
        if self._kill_thread or not self.goes_on():
            return None
        self._idle_timer.restart()
        header = _peek_header(connection)
        if header is None or header[0] != _P_DATA_TF or header[1] > self._longest_pdu:
            return None  # it is looked at again, and dealt with, in pynetdicom's loop
        return header[1]

    def goes_on(self) -> bool:
        """Tell whether more has come, and nothing else is to be done before; some time may be spent on waiting."""
        return False

    def answered(self) -> None:
        """Do what is to be done once the peer has been answered."""

    def _drain(self, connection: socket.socket) -> None:
        # The association is over and only the close is awaited: bytes that still come have no meaning.
        try:
            closed = not connection.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except OSError:
            closed = True
        if closed:
            self.event_queue.put(CONNECTION_CLOSED)


def _peek_header(connection: socket.socket) -> tuple[int, int] | None:
    """Return type and length of the next PDU without taking it; None where the connection gives no header."""
    try:
        header = connection.recv(_PDU_HEADER.size, _PEEK)
    except OSError:
        return None
    if len(header) < _PDU_HEADER.size:
        return None
    kind, length = _PDU_HEADER.unpack(header)
    return kind, length


def _receive(connection: socket.socket, length: int, buffer: memoryview) -> bool:
    """Fill `buffer` with `length` bytes; False where the connection ends before."""
    received = 0
    while received < length:
        count = connection.recv_into(buffer[received:], length - received, socket.MSG_WAITALL)
        if not count:
            return False
        received += count
    return True


def prepare_connection(connection: socket.socket, timeout_seconds: float) -> None:
    """Set a connection up: blocking with a time limit that the kernel keeps, small answers sent at once."""
    if isinstance(connection, TLSSocket):
        connection.settimeout(timeout_seconds)  # Python's: OpenSSL would begin again where the kernel's is over
    else:
        limit = struct.pack("@ll", int(timeout_seconds), int(timeout_seconds % 1 * 1e6))
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
