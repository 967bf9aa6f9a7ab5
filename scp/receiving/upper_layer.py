"""An association that a peer requested: pynetdicom's, whose P-DATA goes straight to the `Intake`.

The upper layer's thread serves the requests and waits for the next without polling sleeps
(`scp.association.bounded_layer` says how P-DATA is read).
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final, cast

from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from scp.association.bounded_layer import AWAITING_CLOSE, BoundedProvider
from scp.association.tls import TLSSocket
from scp.receiving.intake import Intake

LOGGER = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25

_Primitive = A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT | P_DATA | T_CONNECT


class _WakingSocket(AssociationSocket):
    """A connection whose `ready` waits for data, for something to send, or for a tick."""

    def __init__(self, assoc: IntakeAssociation, client_socket: socket.socket) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(client_socket, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._connection = client_socket  # pynetdicom forgets it when the peer closed first, without closing it
        self._connection_descriptor = client_socket.fileno()
        self._secured = client_socket if isinstance(client_socket, TLSSocket) else None

    def wake(self) -> None:
        """End a wait in `ready`, because there is something to do."""
        os.eventfd_write(self._wake, 1)

    @property
    def ready(self) -> bool:
        """Tell whether there is data to read; where there is nothing else to do, wait for it."""
        if self.socket is None or not self._is_connected:
            return False
        dul = self.assoc.dul
        busy = not (dul.event_queue.empty() and dul.to_provider_queue.empty())
        waits = 0 if busy or dul.state_machine.current_state == AWAITING_CLOSE else _TICK_SECONDS
        if self._secured is not None and self._secured.pending():
            return True  # decrypted already: poll() says nothing of it
        events = dict(self._poll.poll(waits * 1000))
        if self._wake in events:
            os.eventfd_read(self._wake)
        there = self._connection_descriptor in events
        return there and (self._secured is None or self._secured.readable())

    def dispose(self) -> None:
        """Close what the connection holds, once its thread is done with it."""
        self._connection.close()
        os.close(self._wake)


class _IntakeProvider(BoundedProvider):
    """The upper layer of one association; its thread also serves the requests."""

    def __init__(self, association: IntakeAssociation, longest_pdu: int) -> None:
        super().__init__(association, longest_pdu)
        self._run_loop_delay = 0.0  # `ready` waits instead
        self._association = association

    def send_pdu(self, primitive: _Primitive) -> None:
        """Queue `primitive` to be sent, and see that it is sent now."""
        super().send_pdu(primitive)  # type: ignore[arg-type]  # pynetdicom's own union is private
        self._association.connection.wake()

    def run_reactor(self) -> None:
        """Run until the association is over; nothing half received is left then."""
        try:
            super().run_reactor()
        finally:
            self._association.end_intake()
            # Whoever waits for a primitive need not wait for its time-out: none will come.
            self.to_user_queue.put(cast("Any", None))  # what `receive_pdu` gives for "nothing came"

    def take(self, p_data: memoryview) -> bytes:
        """Have the intake process what came."""
        return self._association.intake.take(p_data)

    def answered(self) -> None:
        """End the association where the node stops: a busy peer leaves no pause in which the other thread sees that."""
        if self._association.stopping:
            self._association.abort(block=False)


class IntakeAssociation(Association):
    """An association that a peer requested, from its connection on.

    Parameters
    ----------
    connection
        Blocking, as accepted.
    address
        The peer's address as `accept` gave it.
    open_intake
        Makes the `Intake` once the contexts are negotiated.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        connection: socket.socket,
        address: tuple[str, int],
        open_intake: Callable[[IntakeAssociation], Intake],
    ) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.dul = _IntakeProvider(self, ae.maximum_pdu_size)
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout
        self.connection = _WakingSocket(self, connection)
        self.set_socket(self.connection)
        self.stopping = False
        self._open_intake = open_intake
        self._intake: Intake | None = None
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname()[:2])
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = []
        self.requestor.address_info = AddressInformation.from_tuple(address[:2])
        self.name = self.dul.name = f"association-{secrets.token_hex(4)}"  # whatever is logged in them can tell it

    @property
    def intake(self) -> Intake:
        """The intake of this association, made with its first P-DATA; only the upper layer's thread uses it."""
        if self._intake is None:
            self._intake = self._open_intake(self)
        return self._intake

    @property
    def between_messages(self) -> bool:
        """Tell whether no request is half received."""
        return self._intake is None or self._intake.between_messages

    def end_intake(self) -> None:
        """Drop what is half received."""
        if self._intake is not None:
            self._intake.close()

    def cut(self) -> None:
        """End the connection without a word."""
        connection = self.connection.socket
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                LOGGER.debug("the connection was closed already")

    def run_reactor(self) -> None:
        """Run the association until it is over, then close its connection."""
        try:
            super().run_reactor()
        finally:
            self.dul.join(timeout=self.acse_timeout)
            self.cut()
            self.dul.join(timeout=self.acse_timeout)
            self.connection.dispose()

    def _run_reactor(self) -> None:
        # Requests are served in the upper layer's thread; here only the end of the association is awaited.
        while not self._kill:
            primitive: object = self.dul.receive_pdu(wait=True, timeout=_TICK_SECONDS)
            if isinstance(primitive, A_RELEASE):
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.kill()
            elif isinstance(primitive, (A_ABORT, A_P_ABORT)):
                self.is_aborted = True
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired() or (self.stopping and self.between_messages):
                self.abort()


def wait_for_end(associations: list[IntakeAssociation], seconds: float) -> list[IntakeAssociation]:
    """Wait until the associations are over, and return those that are not after `seconds`."""
    deadline = time.monotonic() + seconds
    for association in associations:
        association.join(timeout=max(0.0, deadline - time.monotonic()))
    return [association for association in associations if association.is_alive()]
