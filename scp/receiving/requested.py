"""An association that a peer requested, from its connection to the close of it: what both ways of serving it share.

pynetdicom negotiates, and keeps the state machine and its timers; how P-DATA comes and is answered is for
`scp.receiving.upper_layer` (the fast way) and `scp.receiving.plain_layer` (pynetdicom's own).
"""

from __future__ import annotations

import logging
import secrets
import select
import socket
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

from scp.association.bounded_layer import BoundedProvider
from scp.association.tls import TLSSocket

LOGGER = logging.getLogger(__name__)


class RequestedSocket(AssociationSocket):
    """A connection whose `ready` tells at once whether there is data to read; any descriptor, plain or TLS."""

    def __init__(self, assoc: Association, client_socket: socket.socket) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._poll = select.poll()
        self._poll.register(client_socket, select.POLLIN)
        self._connection = client_socket  # pynetdicom forgets it when the peer closed first, without closing it
        self._connection_descriptor = client_socket.fileno()
        self._secured = client_socket if isinstance(client_socket, TLSSocket) else None

    @property
    def ready(self) -> bool:
        """Tell whether there is data to read."""
        if self.socket is None or not self._is_connected:
            return False
        if self._secured is not None and self._secured.pending():
            return True  # decrypted already: poll() says nothing of it
        return self._is_there(dict(self._poll.poll(0)))

    def dispose(self) -> None:
        """Close what the connection holds, once its thread is done with it."""
        self._connection.close()

    def _is_there(self, events: dict[int, int]) -> bool:
        there = self._connection_descriptor in events
        return there and (self._secured is None or self._secured.readable())


class RequestedProvider(BoundedProvider):
    """The upper layer of an association that a peer requested."""

    def __init__(self, association: RequestedAssociation, longest_pdu: int) -> None:
        super().__init__(association, longest_pdu)
        self.requested = association

    def run_reactor(self) -> None:
        """Run until the association is over; nothing half received is left then."""
        try:
            super().run_reactor()
        finally:
            self.requested.drop_half_received()
            # Whoever waits for a primitive need not wait for its time-out: none will come.
            self.to_user_queue.put(cast("Any", None))  # what `receive_pdu` gives for "nothing came"


class RequestedAssociation(Association):
    """An association that a peer requested, from its connection on.

    Parameters
    ----------
    connection
        Blocking, as accepted.
    address
        The peer's address as `accept` gave it.

    Attributes
    ----------
    stopping
        Set where the node stops: the association ends with the request that is being received, at once where none is.
    """

    def __init__(self, ae: ApplicationEntity, connection: socket.socket, address: tuple[str, int]) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        # What fails where the connection is gone already comes before anything that has to be closed
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname()[:2])
        self.requestor.address_info = AddressInformation.from_tuple(address[:2])
        self.dul = self.make_provider(ae.maximum_pdu_size)
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout
        self.connection = self.make_socket(connection)
        self.set_socket(self.connection)
        self.stopping = False
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = []
        self.name = self.dul.name = f"association-{secrets.token_hex(4)}"  # whatever is logged in them can tell it

    @abstractmethod
    def make_provider(self, longest_pdu: int) -> RequestedProvider:
        """Return the upper layer; PDUs of P-DATA have at most `longest_pdu` bytes."""

    @abstractmethod
    def make_socket(self, connection: socket.socket) -> RequestedSocket:
        """Return what the upper layer reads from."""

    @property
    @abstractmethod
    def between_messages(self) -> bool:
        """Tell whether no request is half received."""

    @abstractmethod
    def drop_half_received(self) -> None:
        """Forget, and remove from the disk, what is half received; called in the upper layer's thread, at its end."""

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


def wait_for_end(associations: Sequence[RequestedAssociation], seconds: float) -> list[RequestedAssociation]:
    """Wait until the associations are over, and return those that are not after `seconds`."""
    deadline = time.monotonic() + seconds
    for association in associations:
        association.join(timeout=max(0.0, deadline - time.monotonic()))
    return [association for association in associations if association.is_alive()]
