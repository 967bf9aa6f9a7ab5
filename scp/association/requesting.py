"""Request associations as an SCU: connect, negotiate, and say in our own errors why it failed."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import DEFAULT_MAX_LENGTH
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from scp.association.contexts import VERIFICATION
from scp.association.quiet import quieten_pynetdicom
from scp.association.requestor import SHORTEST_PIECE, Requestor
from scp.association.tls import Identity, calling_context
from scp.sending.object_file import UNCOMPRESSED, Offer
from study.errors import AssociationRejected, ConfigError, DeliveryError, NoAcceptedContext, PeerUnreachable

_REJECTED_PERMANENT = 0x01
_SUCCESS = 0x0000


@dataclass(frozen=True)
class Peer:
    """A DICOM node to talk to; over TLS where `tls` says who we are then."""

    name: str
    ae_title: str
    host: str
    port: int
    tls: Identity | None = None


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a connection, for the negotiation, for an answer and for the network [s]."""

    connection: float = 10.0
    negotiation: float = 30.0
    answer: float = 120.0
    network: float = 60.0


@contextmanager
def association_with(
    peer: Peer,
    calling_ae_title: str,
    offers: Iterable[Offer],
    timeouts: Timeouts | None = None,
    *,
    serving: Iterable[str] = (),
    longest_pdu: int = DEFAULT_MAX_LENGTH,
) -> Iterator[Association]:
    """Hold an association with `peer` that proposes `offers`, and release it at the end.

    Parameters
    ----------
    serving
        SOP Classes of which we propose to be the SCP although we request the association (PS3.7 D.3.3.4).
    longest_pdu
        What the peer may send at a time [bytes].

    Raises
    ------
    PeerUnreachable
        If there is no connection, or it broke during the negotiation.
    AssociationRejected
        If the peer rejected or aborted it; permanent where the peer says so (PS3.8 9.3.4).
    NoAcceptedContext
        If the peer accepted the association but none of the contexts.
    """
    quieten_pynetdicom()
    tls = _how(peer)
    entity = Requestor(calling_ae_title, **asdict(timeouts or Timeouts()), longest_pdu=longest_pdu, tls=tls)
    connected: list[evt.Event] = []
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=[build_context(offer.sop_class_uid, offer.transfer_syntax_uid) for offer in offers],
            ae_title=peer.ae_title,
            max_pdu=longest_pdu,
            ext_neg=[build_role(uid, scp_role=True) for uid in serving],
            evt_handlers=[(evt.EVT_CONN_OPEN, connected.append)],
        )
    except OSError as error:
        entity.close()
        raise PeerUnreachable(f"{peer.name}: the host {peer.host} cannot be resolved ({error}).") from error
    try:
        if not association.is_established and entity.tls_failure:
            raise PeerUnreachable(
                f"{peer.name} ({peer.host}:{peer.port}): no TLS connection: {entity.tls_failure}; "
                "is it a TLS port, and does each side have the other's authority?"
            )
        if not association.is_established:
            raise _failure(association, peer, connected=bool(connected))
        _see_that_it_can_be_sent_to(association, peer)
        leave_responses_alone(association)
        yield association
    finally:
        association.release()
        entity.close()


def _how(peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    """Return how the peer is called over TLS; None where it is called plainly."""
    if peer.tls is None:
        return None
    try:
        return calling_context(peer.tls), peer.host
    except ConfigError as error:
        raise PeerUnreachable(f"{peer.name}: can not be called over TLS: {error.words}") from error


def _see_that_it_can_be_sent_to(association: Association, peer: Peer) -> None:
    announced = association.acceptor.maximum_length
    if announced and announced < SHORTEST_PIECE:
        raise AssociationRejected(
            f"{peer.name} ({peer.host}:{peer.port}) says that it takes {announced} bytes at a time, too few for any "
            "message; correct its maximum PDU length."
        )


def leave_responses_alone(association: Association) -> None:
    """Keep the association's own thread from dropping the response that somebody waits for.

    While a request waits for its response pynetdicom pauses that thread; after one request the pause of the next can
    be seen too early, and the thread then takes the response and drops it as unexpected. Here it puts it back.
    """
    serve = association._serve_request

    def serve_requests_only(msg: Any, context_id: int) -> None:  # noqa: ANN401 - any DIMSE primitive
        if msg.is_valid_request:
            serve(msg, context_id)
        else:
            association.dimse.msg_queue.put((context_id, msg))

    association._serve_request = serve_requests_only  # type: ignore[method-assign]  # this one's


def echo(peer: Peer, calling_ae_title: str, timeouts: Timeouts | None = None) -> float:
    """Return how long the peer took to answer a C-ECHO [s], association included.

    Raises
    ------
    DeliveryError
        If the peer cannot be reached, rejects the association or does not answer with Success.
    """
    started = time.monotonic()
    offers = [Offer(VERIFICATION, syntax) for syntax in UNCOMPRESSED]
    with association_with(peer, calling_ae_title, offers, timeouts) as association:
        status = association.send_c_echo().get("Status")
    if status is None:
        raise PeerUnreachable(f"{peer.name} took the association and did not answer the C-ECHO.")
    if status != _SUCCESS:
        raise DeliveryError(f"{peer.name} answered the C-ECHO with status {status:04X}.", status=int(status))
    return time.monotonic() - started


def accepted_classes(
    peer: Peer, calling_ae_title: str, sop_class_uids: Iterable[str], timeouts: Timeouts | None = None
) -> frozenset[str]:
    """Return which SOP Classes the peer accepts a presentation context for; nothing is sent.

    Raises
    ------
    PeerUnreachable, AssociationRejected
        If it can not be asked.
    """
    offers = [Offer(uid, syntax) for uid in dict.fromkeys(sop_class_uids) for syntax in UNCOMPRESSED]
    # One that every peer takes, so that an association with nothing else accepted is no failure
    offers += [Offer(VERIFICATION, syntax) for syntax in UNCOMPRESSED]
    try:
        with association_with(peer, calling_ae_title, offers, timeouts) as association:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    except NoAcceptedContext:
        accepted = set()
    return frozenset(accepted - {VERIFICATION})


def _failure(association: Association, peer: Peer, *, connected: bool) -> DeliveryError:
    place = f"{peer.name} ({peer.host}:{peer.port})"
    answer = association.acceptor.primitive
    if not connected:
        return PeerUnreachable(f"{place} cannot be reached; is it running, and are host and port right?")
    if association.is_rejected and answer is not None:
        permanent = answer.result == _REJECTED_PERMANENT
        numbers = {"result": answer.result or 0, "source": answer.result_source or 0, "reason": answer.diagnostic or 0}
        return AssociationRejected(
            f"{place} rejected the association as {peer.ae_title}: {answer.reason_str}.", numbers, permanent=permanent
        )
    if answer is not None:
        return NoAcceptedContext(f"{place} takes none of the kinds of object to be sent.", permanent=True)
    return AssociationRejected(f"{place} aborted the association or did not answer; is it a DICOM port?")
