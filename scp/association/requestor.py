"""An association that we request: pynetdicom's, with bounds on what the peer may send over it.

Answers to our requests are messages of a few hundred bytes, which wait in a queue for whoever asked; one that is beyond
all measure ends the association, and a long queue makes the peer wait. Objects that come because we asked for them
(C-GET) go straight to an `Intake`, fragment by fragment.
"""

from __future__ import annotations

import select
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from typing import Final

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from scp.association.bounded_layer import (
    CONNECTION_CLOSED,
    DATA_TRANSFER,
    BoundedProvider,
    ProtocolError,
    prepare_connection,
)
from scp.association.tls import TLSSocket
from scp.receiving.intake import Intake
from study.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

LONGEST_ANSWER: Final = 2**20
"""Command set and identifier of one message; an archive's answer has about 500 bytes [bytes]."""

SHORTEST_PIECE: Final = 64
"""A peer that takes less at a time can be sent no command set in fragments that make sense [bytes]."""

_MOST_WAITING: Final = 1000  # messages; beyond, the connection is not read, and the peer has to wait
_LONGEST_PIECE: Final = 2**18  # what is sent at a time to a peer that sets no limit [bytes]
_PDV_HEADER: Final = struct.Struct(">LB")
_TICK_MILLISECONDS: Final = 1
_CUT_AFTER_SECONDS: Final = 1.0

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OverflowError, struct.error)
"""What pynetdicom and pydicom raise over a command set that is none."""


class Requestor(ApplicationEntity):
    """An application entity that requests one association, and closes its connection whatever became of it.

    Parameters
    ----------
    connection, negotiation, answer, network
        How long to wait for each [s].
    longest_pdu
        What the peer may send at a time [bytes].
    tls
        How the peer is called over TLS, and the host that its certificate must be for; None: plainly.
    """

    def __init__(
        self,
        ae_title: str,
        *,
        connection: float,
        negotiation: float,
        answer: float,
        network: float,
        longest_pdu: int,
        tls: tuple[ssl.SSLContext, str] | None = None,
    ) -> None:
        super().__init__(ae_title)
        self.connection_timeout = connection
        self.acse_timeout = negotiation
        self.dimse_timeout = answer
        self.network_timeout = self._network_seconds = network
        self.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._longest_pdu = longest_pdu
        self._tls = tls
        self._connections: list[_Connection] = []

    @property
    def tls_failure(self) -> str:
        """Return in words why there is no TLS connection, or why it ended; "" where that is no matter of TLS."""
        return next((each.failure for each in self._connections if each.failure), "")

    def close(self) -> None:
        """Close the connection: pynetdicom leaves it open where it was refused, or where the peer closed first."""
        for connection in self._connections:
            connection.dispose()

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        # The first that pynetdicom asks for once it has made the association: here its parts are replaced by ours.
        assoc.dul = RequestorProvider(assoc, self._longest_pdu)
        assoc.dimse = _Messages(assoc)
        assoc.network_timeout = self._network_seconds  # sets the provider's timer
        del tls_args  # ours are held until the end, whatever becomes of the handshake
        connection = _Connection(assoc, address, self._network_seconds, self._tls)
        self._connections.append(connection)
        return connection


class _Connection(AssociationSocket):
    """A connection on which no wait is endless, and whose `ready` waits a moment for data."""

    def __init__(
        self,
        association: Association,
        address: AddressInformation,
        timeout_seconds: float,
        tls: tuple[ssl.SSLContext, str] | None,
    ) -> None:
        super().__init__(association, address=address)
        self._timeout_seconds = timeout_seconds
        if tls is not None and self.socket is not None:
            context, host = tls
            self.socket = context.wrap_socket(self.socket, server_hostname=host)  # shakes hands as it connects
        self._held = self.socket

    @property
    def failure(self) -> str:
        """Return in words what TLS failed at; "" where it did not."""
        return self._held.failure if isinstance(self._held, TLSSocket) else ""

    def dispose(self) -> None:
        """Close what the connection holds, whatever pynetdicom did with it."""
        if self._held is not None:
            self._held.close()

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect to the peer, and set the connection up."""
        super().connect(primitive)
        if self.socket is not None:
            prepare_connection(self.socket, self._timeout_seconds)

    @property
    def ready(self) -> bool:
        """Tell whether there is data to read; where there is nothing else to do, wait a moment for it."""
        if self.socket is None or not self._is_connected:
            time.sleep(_TICK_MILLISECONDS / 1000)
            return False
        dul = self.assoc.dul
        busy = not (dul.event_queue.empty() and dul.to_provider_queue.empty())
        try:
            secured = self.socket if isinstance(self.socket, TLSSocket) else None
            if secured is not None and secured.pending():
                return True  # decrypted already: poll() says nothing of it
            poll = select.poll()  # select() does not take descriptors over 1023
            poll.register(self.socket, select.POLLIN)
            there = bool(poll.poll(0 if busy else _TICK_MILLISECONDS))
            return there and (secured is None or secured.readable())
        except (OSError, ValueError):  # closed by another thread just now
            self.event_queue.put(CONNECTION_CLOSED)
            return False


class RequestorProvider(BoundedProvider):
    """The upper layer of an association that we request.

    Attributes
    ----------
    offence
        What the peer did against the protocol, once it did; "" otherwise.
    received_bytes
        How much came so far.
    """

    def __init__(self, association: Association, longest_pdu: int) -> None:
        super().__init__(association, longest_pdu)
        self._run_loop_delay = 0.0  # `ready` waits instead
        self._intake: Intake | None = None
        self._contexts: frozenset[int] = frozenset()
        self._message_bytes = 0
        self.offence = ""
        self.received_bytes = 0

    def let_in(self, intake: Intake, context_ids: frozenset[int]) -> None:
        """Give to `intake` what comes in these presentation contexts from now on."""
        self._intake, self._contexts = intake, context_ids

    def run_reactor(self) -> None:
        """Run until the association is over; nothing half received is left then."""
        try:
            super().run_reactor()
        finally:
            if self._intake is not None:
                self._intake.close()

    def take(self, p_data: memoryview) -> bytes:
        """Give each fragment to whom it belongs."""
        self.received_bytes += len(p_data)
        responses = b""
        try:
            for context_id, pdv in _pdvs(p_data):
                if self._intake is not None and context_id in self._contexts:
                    responses += self._intake.take(pdv)
                else:
                    self._take_message(context_id, bytes(pdv[_PDV_HEADER.size :]))
        except ProtocolError as error:
            self.offence = str(error)
            raise
        return responses

    def _take_message(self, context_id: int, fragment: bytes) -> None:
        self._message_bytes += len(fragment)
        if self._message_bytes > LONGEST_ANSWER:
            raise ProtocolError("an answer is too long")
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, fragment))
        dimse = self.assoc.dimse
        try:
            dimse.receive_primitive(primitive)
        except _UNREADABLE as error:
            raise ProtocolError("a message can not be understood") from error
        if dimse.message is None:
            self._message_bytes = 0

    def _is_transport_event(self) -> bool:
        waiting = self.assoc.dimse.msg_queue.qsize()
        if waiting >= _MOST_WAITING and self.state_machine.current_state == DATA_TRANSFER:
            time.sleep(_TICK_MILLISECONDS / 1000)
            return False
        return super()._is_transport_event()


class _Messages(DIMSEServiceProvider):
    """What sends and receives messages, in pieces that the peer takes."""

    @property
    def maximum_pdu_size(self) -> int:
        """Return how much is sent at a time: what the peer says that it takes, and never without a limit [bytes]."""
        announced = self.assoc.acceptor.maximum_length or _LONGEST_PIECE  # 0: no limit (PS3.8 D.1)
        return min(announced, _LONGEST_PIECE)


def cut(association: Association) -> None:
    """End the association at once: by A-ABORT, or by closing the connection of a peer that hinders even that."""
    connection = association.dul.socket

    def shut() -> None:
        if connection is not None:
            connection._shutdown_socket()

    timer = threading.Timer(_CUT_AFTER_SECONDS, shut)
    timer.daemon = True
    timer.start()
    try:
        association.abort()
    finally:
        timer.cancel()


def _pdvs(p_data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield each Presentation Data Value with its context ID, header included (PS3.8 9.3.5.1)."""
    offset = 0
    while offset < len(p_data):
        if len(p_data) - offset <= _PDV_HEADER.size:
            raise ProtocolError("a PDU ends within the header of a PDV")
        length, context_id = _PDV_HEADER.unpack_from(p_data, offset)
        end = offset + 4 + length
        if length < 2 or end > len(p_data):
            raise ProtocolError("a PDV does not fit its PDU")
        yield context_id, p_data[offset:end]
        offset = end
