"""The plain way of serving an association that a peer requested: pynetdicom's own machinery, within bounds.

pynetdicom reads and decodes the PDUs, puts messages together in memory, and has its services call the handlers here;
the rules are those of the fast way. Bounded are what a PDU may announce (`scp.association.bounded_layer`), the order
and amount of fragments (`scp.receiving.fragments`), and the messages that wait: none is read before the last is
answered.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import ServiceClass, StorageServiceClass, VerificationServiceClass
from pynetdicom.service_class_n import StorageCommitmentServiceClass

from scp.association.bounded_layer import DATA_TRANSFER, ProtocolError
from scp.receiving.command_set import LONGEST_COMMENT
from scp.receiving.fragments import Fragments, check_lengths
from scp.receiving.requested import RequestedAssociation, RequestedProvider, RequestedSocket

LOGGER = logging.getLogger(__name__)

_INVALID_PDU: Final = "Evt19"
_P_DATA_TF, _PDU_HEADER_BYTES = 0x04, 6
_PIECE: Final = 2**20  # of a data set, written at a time [bytes]
_SERVICES: Final[dict[type, type[ServiceClass]]] = {
    C_ECHO: VerificationServiceClass,
    C_STORE: StorageServiceClass,
    N_ACTION: StorageCommitmentServiceClass,
    N_EVENT_REPORT: StorageCommitmentServiceClass,
}
# pynetdicom's reader of command sets and its primitives raise these of bytes that mean nothing
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    struct.error,
)


class _Messages(DIMSEServiceProvider):
    """pynetdicom's DIMSE provider, given one fragment at a time, and none while a message waits to be served."""

    def __init__(self, association: PlainAssociation) -> None:
        super().__init__(association)
        self._association = association
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._serving = threading.Event()

    @property
    def is_serving(self) -> bool:
        """Tell whether a message is complete and not yet answered."""
        return self._serving.is_set()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one P-DATA-TF."""
        self._waiting.extend((context_id, bytes(pdv)) for context_id, pdv in primitive.presentation_data_value_list)
        self.go_on()

    def go_on(self) -> bool:
        """Give on fragments that wait, until a message is complete; tell whether there were any."""
        there_were = bool(self._waiting)
        try:
            while self._waiting and not self.is_serving:
                self._give_on(*self._waiting.popleft())
        except ProtocolError as error:
            LOGGER.warning("association aborted: %s", error)
            self._waiting.clear()
            self.dul.event_queue.put(_INVALID_PDU)
        return there_were

    def _give_on(self, context_id: int, pdv: bytes) -> None:
        admitted, is_last = self._association.fragments.admit(context_id, pdv)
        one = P_DATA()
        one.presentation_data_value_list.append((context_id, admitted))
        if is_last:
            self._serving.set()  # before another thread can have served it
        try:
            super().receive_primitive(one)
        except _UNREADABLE as error:
            raise ProtocolError("a message can not be understood") from error

    def served(self) -> None:
        """Let the next message come."""
        self._association.fragments.next_message()
        self._serving.clear()

    def get_msg(self, block: bool = False) -> Any:  # noqa: ANN401 - pynetdicom's own type is private
        """Return the next message; where the node stops and none is half received, end the association instead."""
        message = super().get_msg(block)
        if message[1] is None and self._association.stopping and self._association.between_messages:
            self._association.abort()
        return message


class _PlainProvider(RequestedProvider):
    """pynetdicom's upper layer, which reads no PDU of P-DATA while a message waits to be served."""

    def __init__(self, association: PlainAssociation, longest_pdu: int) -> None:
        super().__init__(association, longest_pdu)
        self._association = association

    def receive_p_data(self, connection: socket.socket, length: int) -> None:
        """Have pynetdicom read and decode what comes."""
        del connection, length
        DULServiceProvider._read_pdu_data(self)

    def _decode_pdu(self, bytestream: bytearray) -> Any:  # noqa: ANN401 - pynetdicom's own type is private
        if bytestream[0] == _P_DATA_TF:
            check_lengths(memoryview(bytestream)[_PDU_HEADER_BYTES:])
        return super()._decode_pdu(bytestream)

    def _is_transport_event(self) -> bool:
        messages = self._association.messages
        if self.state_machine.current_state == DATA_TRANSFER and (messages.is_serving or messages.go_on()):
            return True  # the time that an answer takes is not the peer's
        return super()._is_transport_event()


class PlainAssociation(RequestedAssociation):
    """An association that pynetdicom serves.

    Parameters
    ----------
    open_fragments
        Makes what looks at fragments, once the contexts are negotiated.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        connection: socket.socket,
        address: tuple[str, int],
        open_fragments: Callable[[Association], Fragments],
    ) -> None:
        super().__init__(ae, connection, address)
        self.dimse = self.messages = _Messages(self)
        self._open_fragments = open_fragments
        self._fragments: Fragments | None = None
        self.bind(evt.EVT_C_ECHO, _succeed)
        self.bind(evt.EVT_C_STORE, self._store)
        self.bind(evt.EVT_N_ACTION, self._settle)
        self.bind(evt.EVT_N_EVENT_REPORT, self._settle)

    @property
    def fragments(self) -> Fragments:
        """What looks at the fragments of this association, made with its first P-DATA."""
        if self._fragments is None:
            self._fragments = self._open_fragments(self)
        return self._fragments

    def make_provider(self, longest_pdu: int) -> RequestedProvider:
        """Return pynetdicom's own upper layer, with bounds."""
        return _PlainProvider(self, longest_pdu)

    def make_socket(self, connection: socket.socket) -> RequestedSocket:
        """Return a connection that is looked at, and not waited on."""
        return RequestedSocket(self, connection)

    @property
    def between_messages(self) -> bool:
        """Tell whether no request is half received, or received and not answered."""
        return self._fragments is None or self._fragments.between_messages

    def drop_half_received(self) -> None:
        """Leave it to the association's own thread, which may be serving just now; nothing is on the disk yet."""

    def run_reactor(self) -> None:
        """Run the association until it is over; nothing half received is kept then."""
        try:
            super().run_reactor()
        finally:
            if self._fragments is not None:
                self._fragments.next_message()

    def _serve_request(self, msg: Any, context_id: int) -> None:  # noqa: ANN401 - any DIMSE primitive
        # pynetdicom looks the service up by SOP Class, and knows neither private ones nor those newer than itself
        try:
            if not msg.is_valid_request:
                self.abort()
            else:
                _SERVICES[type(msg)](self).SCP(msg, self._accepted_cx[context_id])
        except Exception:  # the loop's edge: the association ends, the next one is served
            LOGGER.exception("a request could not be served: association aborted")
            self.abort()
        finally:
            self.messages.served()

    def _store(self, event: evt.Event) -> Dataset:
        request: Any = event.request
        return self._hand_over(request.DataSet)

    def _settle(self, event: evt.Event) -> tuple[Dataset, None]:
        request: Any = event.request
        reports = isinstance(request, N_EVENT_REPORT)
        return self._hand_over(request.EventInformation if reports else request.ActionInformation), None

    def _hand_over(self, encoded: BytesIO | None) -> Dataset:
        """Give the encoded data set, as it came, to what takes it; return its answer."""
        incoming = self.fragments.incoming
        assert incoming is not None
        with memoryview(b"") if encoded is None else encoded.getbuffer() as whole:
            if len(whole) != self.fragments.kept:
                raise ValueError("pynetdicom put something else together than what came")
            for start in range(0, max(1, len(whole)), _PIECE):
                incoming.take(whole[start : start + _PIECE], is_last=start + _PIECE >= len(whole))
        answer = Dataset()
        answer.Status, comment = incoming.outcome
        if comment:
            answer.ErrorComment = comment[:LONGEST_COMMENT]
        return answer


def _succeed(_event: evt.Event) -> int:
    return 0x0000
