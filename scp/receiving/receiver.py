"""Receive objects and storage commitment messages, on a listening socket that several processes may share."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

from scp.association.bounded_layer import prepare_connection
from scp.association.contexts import Roles, supported_contexts
from scp.association.quiet import quieten_pynetdicom
from scp.commitments.commitment_desk import CommitmentDesk
from scp.receiving.fragments import Fragments, Room
from scp.receiving.greeting import Greeter, TLSDoor
from scp.receiving.inbox import Inbox
from scp.receiving.incoming_object import AcceptedContext, EventListener, Parties
from scp.receiving.intake import Intake
from scp.receiving.moves import Moves
from scp.receiving.paths import why_not_fast
from scp.receiving.plain_layer import PlainAssociation
from scp.receiving.requested import RequestedAssociation, wait_for_end
from scp.receiving.rules import Rules
from scp.receiving.upper_layer import IntakeAssociation
from study.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

LOGGER = logging.getLogger(__name__)

DEFAULT_MAX_PDU: Final = 2**18
_REJECTED_PERMANENT, _BY_SERVICE_USER = 0x01, 0x01
_NO_REASON_GIVEN, _CALLING_AE_TITLE_NOT_RECOGNIZED, _CALLED_AE_TITLE_NOT_RECOGNIZED = 0x01, 0x03, 0x07
_SHORTEST_PDU: Final = 7  # the header of a PDV, and a byte
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Receiver:
    """A Storage and Verification SCP, which takes storage commitment messages in both roles.

    Parameters
    ----------
    listening_socket
        Made by `scp.receiving.listening.open_listening_socket`; stays the caller's: stopping does not close the port.
    ae_title
        Associations that call another are rejected (PS3.8 9.3.4: result 1, source 1, reason 7).
    inbox
        Where objects become durable.
    known_calling_ae_titles
        Associations from others are rejected (result 1, source 1, reason 3); None takes all.
    max_associations
        Beyond as many at a time, associations are rejected as a transient local limit (result 2, source 3, reason 2).
    max_pdu
        The longest P-DATA-TF that peers may send [bytes].
    accept_unknown_sop_classes
        Whether objects of private and unheard-of SOP Classes are stored.
    on_event
        Is told of associations and instances; called in several threads.
    network_timeout
        A connection on which nothing comes for so long is aborted [s].
    commitment
        Where storage commitment messages of peers go; None: nobody may send any.
    moves
        What archives are just asked to send here; None: nothing that they do not say themselves.
    tls
        The port for callers over TLS, beside the other; None: there is none.
    fast_reception
        Whether associations are served the fast way, where the pynetdicom that is installed allows it
        (`scp.receiving.paths`); the plain way has the same rules and answers.

    Attributes
    ----------
    is_fast
        Whether they are.
    """

    def __init__(
        self,
        listening_socket: socket.socket,
        ae_title: str,
        inbox: Inbox,
        known_calling_ae_titles: Collection[str] | None = None,
        *,
        max_associations: int = 32,
        max_pdu: int = DEFAULT_MAX_PDU,
        accept_unknown_sop_classes: bool = True,
        on_event: EventListener | None = None,
        network_timeout: float = 60.0,
        commitment: CommitmentDesk | None = None,
        moves: Moves | None = None,
        tls: TLSDoor | None = None,
        fast_reception: bool = True,
    ) -> None:
        quieten_pynetdicom()
        self._inbox = inbox
        self._known = None if known_calling_ae_titles is None else frozenset(known_calling_ae_titles)
        self._accept_unknown_sop_classes = accept_unknown_sop_classes
        self._on_event = on_event or _ignore
        self._network_timeout = network_timeout
        self._commitment = commitment
        self._moves = moves
        self.is_fast = fast_reception and not why_not_fast()
        self._room = Room()
        self._most_connections = 2 * max_associations + 8  # those that were rejected or did not ask yet count as well
        self._doors: dict[int, Callable[[socket.socket, tuple[str, int]], None]] = {
            listening_socket.fileno(): self._take
        }
        self._sockets = {listening_socket.fileno(): listening_socket}
        self._greeter = None
        if tls is not None:
            self._greeter = Greeter(tls, self._most_connections, self._take, self._on_event)
            self._doors[tls.listening_socket.fileno()] = self._greeter.greet
            self._sockets[tls.listening_socket.fileno()] = tls.listening_socket
        self._ae = ApplicationEntity(ae_title)
        self._ae.maximum_associations = max_associations
        self._ae.maximum_pdu_size = max_pdu
        self._ae.network_timeout = network_timeout
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._thread = threading.Thread(target=self._accept_connections, name="receiver", daemon=True)

    def start(self) -> None:
        """Begin to accept associations, in threads of its own."""
        self._thread.start()

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Accept no more; let objects that are being received be finished, then end the associations.

        What was answered with Success is durable. A peer whose object is not complete after `grace_seconds` has had no
        answer and sends it again. A receiver that was stopped stays so.
        """
        if self._stopped:
            return
        self._stopped = True
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        if self._greeter is not None:
            self._greeter.stop()
        associations = self._associations()
        for association in associations:
            association.stopping = True
        late = wait_for_end(associations, grace_seconds)
        for association in late:
            association.cut()
        wait_for_end(late, self._network_timeout)
        os.close(self._stop)

    def _associations(self) -> list[RequestedAssociation]:
        return [entry for entry in self._ae.active_associations if isinstance(entry, RequestedAssociation)]

    def _accept_connections(self) -> None:
        poll = select.poll()
        for descriptor in self._doors:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop in ready:
                return
            for descriptor in ready:
                self._accept(descriptor)

    def _accept(self, descriptor: int) -> None:
        try:
            connection, address = self._sockets[descriptor].accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            self._bear(error)
            return
        self._doors[descriptor](connection, address)

    def _bear(self, error: OSError) -> None:
        # A connection that died in the queue is no news; without file descriptors, associations must end first.
        if error.errno in _OUT_OF_DESCRIPTORS:
            LOGGER.error("no connection can be accepted: %s", error)
            select.select([self._stop], [], [], 0.5)

    def _take(self, connection: socket.socket, address: tuple[str, int]) -> None:
        if len(self._associations()) >= self._most_connections:
            self._on_event("connection_refused", {"address": address[0], "limit": self._most_connections})
            connection.close()
            return
        try:
            prepare_connection(connection, self._network_timeout)
            association = self._association(connection, address)
        except OSError:
            LOGGER.info("a connection from %s was gone before it was taken", address[0])
            connection.close()
            return
        association.bind(evt.EVT_REQUESTED, self._on_requested)
        association.bind(evt.EVT_ACCEPTED, self._on_accepted)
        association.bind(evt.EVT_REJECTED, self._on_rejected)
        association.start()

    def _association(self, connection: socket.socket, address: tuple[str, int]) -> RequestedAssociation:
        if self.is_fast:
            return IntakeAssociation(self._ae, connection, address, self._open_intake)
        return PlainAssociation(self._ae, connection, address, self._open_fragments)

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        request = _request(association)
        association.requestor.ae_title = request.calling_ae_title
        if request.called_ae_title != self._ae.ae_title:
            self._reject(association, _CALLED_AE_TITLE_NOT_RECOGNIZED, "called AE title not recognized")
        elif self._known is not None and request.calling_ae_title not in self._known:
            self._reject(association, _CALLING_AE_TITLE_NOT_RECOGNIZED, "calling AE title not recognized")
        elif 0 < (request.maximum_length_received or 0) < _SHORTEST_PDU:
            self._reject(association, _NO_REASON_GIVEN, "its maximum PDU length leaves no room for an answer")
        else:
            association.acceptor.supported_contexts = supported_contexts(
                request.presentation_context_definition_list,
                accept_unknown_sop_classes=self._accept_unknown_sop_classes,
                commitment=self._roles(request.calling_ae_title),
            )

    def _roles(self, calling_ae_title: str) -> Roles:
        if self._commitment is None:
            return Roles()
        return Roles(self._commitment.may_ask(calling_ae_title), self._commitment.may_report(calling_ae_title))

    def _reject(self, association: Association, reason: int, words: str) -> None:
        association.acse.send_reject(_REJECTED_PERMANENT, _BY_SERVICE_USER, reason)
        association.is_rejected = True
        self._tell(association, "association_rejected", reason=words)

    def _on_accepted(self, event: evt.Event) -> None:
        self._tell(event.assoc, "association_accepted", contexts=len(event.assoc.accepted_contexts))

    def _on_rejected(self, event: evt.Event) -> None:
        self._tell(event.assoc, "association_rejected", reason="too many associations")

    def _tell(self, association: Association, name: str, **fields: object) -> None:
        parties = _parties(association)
        self._on_event(
            name,
            {
                "calling_ae_title": parties.calling_ae_title,
                "called_ae_title": parties.called_ae_title,
                "address": parties.address,
                **fields,
            },
        )

    def _open_intake(self, association: Association) -> Intake:
        return Intake(_contexts(association), self._rules(association), association.requestor.maximum_length or 0)

    def _open_fragments(self, association: Association) -> Fragments:
        return Fragments(_contexts(association), self._rules(association), self._room)

    def _rules(self, association: Association) -> Rules:
        return Rules(
            parties=_parties(association),
            inbox=self._inbox,
            accept_unknown_sop_classes=self._accept_unknown_sop_classes,
            on_event=self._on_event,
            commitment=self._commitment,
            moves=self._moves,
        )


def _contexts(association: Association) -> dict[int, AcceptedContext]:
    return {
        context.context_id: AcceptedContext(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
        if context.context_id is not None
    }


def _request(association: Association) -> A_ASSOCIATE:
    request = association.requestor.primitive
    assert request is not None  # the association was requested
    return request


def _parties(association: Association) -> Parties:
    request = _request(association)
    return Parties(
        calling_ae_title=request.calling_ae_title,
        called_ae_title=request.called_ae_title,
        address=association.requestor.address,
    )


def _ignore(_name: str, _fields: Mapping[str, object]) -> None:
    """Take an event that nobody listens to."""
