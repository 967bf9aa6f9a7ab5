"""A PACS that breaks by a script: each association meets the next fault of it, and once there is none all goes well."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.transport import ThreadedAssociationServer

from study.forms import SOP_CLASSES, Form
from tests.support.network import free_port
from tests.support.odd_archives import cut_off

_FORMS = (Form.SEG, Form.SR)
_INTO_THE_OBJECT = 4  # P-DATA-TF PDUs: one has the command, the others a part of the object
_SLOW_SECONDS = 0.25
_LONGEST_HOLD = 60.0  # should a test not end


class Fault(Enum):
    """What an association of a PACS meets."""

    SILENT = "takes the connection and says nothing"
    BUSY = "rejects the association for now"
    STRANGER = "rejects the association for good"
    FULL = "answers A700"
    DROPS = "drops the association in the middle of an object"
    STALLS = "stops to read in the middle of an object"
    FORGETS = "aborts when it has stored the object and not answered"
    CLOSES = "closes the connection when it has answered for one object"
    SLOW = "takes long to answer"
    COERCES = "answers B000"
    DISLIKES = "answers B007"


_STATUSES = {Fault.FULL: 0xA700, Fault.COERCES: 0xB000, Fault.DISLIKES: 0xB007}
_REJECTIONS = {Fault.BUSY: (0x02, 0x03, 0x02), Fault.STRANGER: (0x01, 0x01, 0x07)}


@dataclass
class FaultyPacs:
    """The PACS: its script, what it met of it, and what it holds.

    Parameters
    ----------
    script
        Faults to come, one for each association.
    arrivals
        SOP Instance UID and data set of each object that it stored, as they came.
    comment
        What it says, as Error Comment (0000,0902), with each status that is not Success.
    """

    port: int = field(default_factory=free_port)
    script: deque[Fault] = field(default_factory=deque)
    met: list[Fault] = field(default_factory=list)
    arrivals: list[tuple[str, bytes]] = field(default_factory=list)
    comment: str = ""
    _faults: dict[Association, Fault] = field(default_factory=dict)
    _pieces: dict[Association, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have it listen; before and after it is down, and what it held still ends."""
        entity = ApplicationEntity("PACS")
        entity.supported_contexts = []
        for form in _FORMS:
            entity.add_supported_context(SOP_CLASSES[form])
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_DATA_RECV, self._on_data),
            (evt.EVT_PDU_SENT, self._on_sent),
            (evt.EVT_C_STORE, self._on_store),
        ]
        self._over = threading.Event()
        server = entity.make_server(
            ("127.0.0.1", self.port), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        # A short buffer, so that who sends to it notices that it does not read
        assert server.socket is not None
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        entity._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            server.shutdown()

    def first_arrivals(self) -> dict[str, bytes]:
        """Return what it holds, in the order in which it first stored each; fail where the same UID has other bytes."""
        held: dict[str, bytes] = {}
        for uid, content in self.arrivals:
            assert held.setdefault(uid, content) == content, f"{uid} came with other bytes"
        return held

    def _on_connection(self, event: evt.Event) -> None:
        association = event.assoc
        if not self.script:
            return
        fault = self._faults[association] = self.script.popleft()
        if fault in _REJECTIONS:
            acse: Any = association.acse
            acse._negotiate_as_acceptor = lambda: self._reject(association, fault)

    def _reject(self, association: Association, fault: Fault) -> None:
        self.met.append(fault)
        association.acse.send_reject(*_REJECTIONS[fault])
        association.kill()

    def _on_data(self, event: evt.Event) -> None:
        fault = self._faults.get(event.assoc)
        is_object = event.data[:1] == b"\x04"
        pieces = self._pieces[event.assoc] = self._pieces.get(event.assoc, 0) + is_object
        into_it = pieces == _INTO_THE_OBJECT
        if (fault is Fault.SILENT and not is_object) or (fault is Fault.STALLS and into_it):
            self._hold(fault)
        elif fault is Fault.DROPS and into_it:
            self.met.append(fault)
            cut_off(event)

    def _hold(self, fault: Fault) -> None:
        """Read nothing more: this is the thread that would."""
        self.met.append(fault)
        self._over.wait(_LONGEST_HOLD)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        assert isinstance(event.request, C_STORE)
        assert event.request.DataSet is not None
        fault = self._faults.get(event.assoc)
        status = _STATUSES.get(fault, 0x0000) if fault else 0x0000
        if fault is Fault.SLOW:
            self._over.wait(_SLOW_SECONDS)
        if status != _STATUSES[Fault.FULL]:
            self.arrivals.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        if fault is Fault.FORGETS:
            event.assoc.abort()
        if fault is not None and fault is not Fault.CLOSES:
            self.met.append(fault)
        if not (status and self.comment):
            return status
        answer = Dataset()
        answer.Status, answer.ErrorComment = status, self.comment
        return answer

    def _on_sent(self, event: evt.Event) -> None:
        if self._faults.get(event.assoc) is Fault.CLOSES and isinstance(event.pdu, P_DATA_TF):
            self.met.append(Fault.CLOSES)
            cut_off(event)
