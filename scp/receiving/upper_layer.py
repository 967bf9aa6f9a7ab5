"""The fast way of serving an association that a peer requested: its P-DATA goes straight to the `Intake`.

The upper layer's thread serves the requests and waits for the next without polling sleeps
(`scp.association.bounded_layer` says how P-DATA is read).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Final

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.transport import T_CONNECT

from scp.association.bounded_layer import AWAITING_CLOSE
from scp.receiving.intake import Intake
from scp.receiving.requested import RequestedAssociation, RequestedProvider, RequestedSocket

_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TICK_SECONDS: Final = 0.25

_Primitive = A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT | P_DATA | T_CONNECT


class _WakingSocket(RequestedSocket):
    """A connection whose `ready` waits for data, for something to send, or for a tick."""

    def __init__(self, assoc: Association, client_socket: socket.socket) -> None:
        super().__init__(assoc, client_socket)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.POLLIN)

    def wake(self) -> None:
        """End a wait in `ready`, because there is something to do."""
        os.eventfd_write(self._wake, 1)

    def is_next_here(self) -> bool:
        """Tell whether a PDU has begun to come while nothing else is to be done, without waiting for it."""
        dul = self.assoc.dul
        if self._secured is not None or not (dul.event_queue.empty() and dul.to_provider_queue.empty()):
            return False
        try:
            return bool(self._connection.recv(1, _LOOK))
        except OSError:  # nothing yet, or the connection is over: whoever waits for more is told
            return False

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
        return self._is_there(events)

    def dispose(self) -> None:
        """Close what the connection holds, once its thread is done with it."""
        super().dispose()
        os.close(self._wake)


class _IntakeProvider(RequestedProvider):
    """The upper layer of one association; its thread also serves the requests."""

    def __init__(self, association: IntakeAssociation, longest_pdu: int) -> None:
        super().__init__(association, longest_pdu)
        self._run_loop_delay = 0.0  # `ready` waits instead
        self._association = association

    def send_pdu(self, primitive: _Primitive) -> None:
        """Queue `primitive` to be sent, and see that it is sent now."""
        super().send_pdu(primitive)  # type: ignore[arg-type]  # pynetdicom's own union is private
        self._association.connection.wake()

    def goes_on(self) -> bool:
        """Tell whether more has come, and nothing else is to be done before; wait a moment for it."""
        connection = self._association.connection
        return connection.is_next_here() or (self.event_queue.empty() and connection.ready)

    def take(self, p_data: memoryview) -> bytes:
        """Have the intake process what came."""
        return self._association.intake.take(p_data)

    def answered(self) -> None:
        """End the association where the node stops: a busy peer leaves no pause in which the other thread sees that."""
        if self._association.stopping:
            self._association.abort(block=False)


class IntakeAssociation(RequestedAssociation):
    """An association whose requests the `Intake` serves.

    Parameters
    ----------
    open_intake
        Makes the `Intake` once the contexts are negotiated.
    """

    connection: _WakingSocket

    def __init__(
        self,
        ae: ApplicationEntity,
        connection: socket.socket,
        address: tuple[str, int],
        open_intake: Callable[[Association], Intake],
    ) -> None:
        super().__init__(ae, connection, address)
        self._open_intake = open_intake
        self._intake: Intake | None = None

    def make_provider(self, longest_pdu: int) -> RequestedProvider:
        """Return an upper layer that serves."""
        return _IntakeProvider(self, longest_pdu)

    def make_socket(self, connection: socket.socket) -> RequestedSocket:
        """Return a connection that is waited on."""
        return _WakingSocket(self, connection)

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

    def drop_half_received(self) -> None:
        """Drop what is half received."""
        if self._intake is not None:
            self._intake.close()

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
