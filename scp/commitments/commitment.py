"""Ask a peer to commit itself to objects, and tell a peer what we commit ourselves to (PS3.4 J)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from scp.association.contexts import STORAGE_COMMITMENT
from scp.association.requesting import Peer, Timeouts, association_with
from scp.commitments.commitment_desk import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    REQUEST_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    CommitmentDesk,
    Message,
    Refusal,
)
from scp.commitments.commitment_information import LONGEST_INFORMATION, TRANSFER_SYNTAXES, write_report, write_request
from scp.sending.object_file import Offer
from study.commitment import CommitmentReport, CommitmentRequest
from study.errors import CommitmentRefused, NoAcceptedContext, PeerUnreachable

_SUCCESS = 0x0000
_TICK_SECONDS = 0.02
_ANSWER_SECONDS = 2.0
_OFFERS: Final = tuple(Offer(STORAGE_COMMITMENT, syntax) for syntax in TRANSFER_SYNTAXES)

# What the peer will answer alike until somebody changes something there (PS3.7 10.1.4.1.10)
_PERMANENT: Final = {
    0x0112: "it does not know the well-known SOP Instance of storage commitment",
    0x0118: "it does not know the SOP Class of storage commitment",
    0x0122: "it does not support storage commitment",
    0x0123: "it does not know the action of storage commitment",
    0x0124: "it does not allow us to ask",
    0x0211: "it does not know the operation",
}


@contextmanager
def commitment_line(
    peer: Peer, calling_ae_title: str, desk: CommitmentDesk, *, timeouts: Timeouts | None = None
) -> Iterator[CommitmentLine]:
    """Hold an association on which the peer can be asked to commit itself.

    Raises
    ------
    NoAcceptedContext
        If the peer takes no storage commitment from us.
    PeerUnreachable, AssociationRejected
        As `association_with`.
    """
    try:
        with association_with(peer, calling_ae_title, _OFFERS, timeouts) as association:
            line = CommitmentLine(association, peer, desk)
            yield line
            line.finish()
    except NoAcceptedContext as error:
        raise NoAcceptedContext(
            f"{peer.name} takes no storage commitment from us; allow it there, or leave out its commitment = true.",
            permanent=True,
        ) from error


class CommitmentLine:
    """An association with a peer that is asked to commit itself; what it reports on it goes to `desk`."""

    def __init__(self, association: Association, peer: Peer, desk: CommitmentDesk) -> None:
        self._association = association
        self._peer = peer
        self._desk = desk
        self._message_id = 0
        self._taken = 0
        self._answered = 0
        association.bind(evt.EVT_N_EVENT_REPORT, self._take)  # in threads of pynetdicom's
        association.bind(evt.EVT_DIMSE_SENT, self._note)

    @property
    def is_open(self) -> bool:
        """Tell whether the association is still there."""
        return self._association.is_established

    def ask(self, request: CommitmentRequest) -> None:
        """Have the peer take a request for commitment (N-ACTION).

        Raises
        ------
        CommitmentRefused
            If it answered with a failure; permanent where it will do so until somebody changes something there.
        PeerUnreachable
            If the association is over, or no answer came: it may have the request all the same.
        """
        self._message_id += 1
        try:
            answer, _ = self._association.send_n_action(
                write_request(request),
                REQUEST_COMMITMENT,
                UID(STORAGE_COMMITMENT),
                UID(WELL_KNOWN_INSTANCE),
                msg_id=self._message_id,
            )
        except RuntimeError as error:  # what pynetdicom raises where the association is over
            raise PeerUnreachable(f"{self._peer.name} ended the association before it was asked.") from error
        if "Status" not in answer:
            self._association.abort()  # there is nobody to release it with
            raise PeerUnreachable(
                f"{self._peer.name} gave no answer when it was asked to commit itself; does it know our AE title, host "
                "and port as those of a node that may ask, and to which it reports?"
            )
        status = int(answer.Status)
        if status != _SUCCESS:
            words = _PERMANENT.get(status, "it can not take the request just now")
            raise CommitmentRefused(
                f"{self._peer.name} answered the request for commitment with {status:04X}: {words}.",
                permanent=status in _PERMANENT,
                status=status,
            )

    def finish(self) -> None:
        """Wait until each report that came is answered: a release before would leave the peer without the answer."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self._answered < self._taken and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        if self._taken:
            time.sleep(_TICK_SECONDS)  # noted just before it goes out

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self._taken += 1
        request = event.request
        assert isinstance(request, N_EVENT_REPORT)
        information = request.EventInformation.getvalue() if request.EventInformation is not None else b""
        message = Message(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            type_id=int(request.EventTypeID or 0),
            information=information if 0 < len(information) <= LONGEST_INFORMATION else None,
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=self._peer.ae_title,
        )
        try:
            self._desk.take_report(message)
        except Refusal as refusal:
            return refusal.status, None
        return _SUCCESS, None

    def _note(self, event: evt.Event) -> None:
        self._answered += isinstance(event.message, N_EVENT_REPORT_RSP)


def report_commitment(
    peer: Peer, calling_ae_title: str, report: CommitmentReport, *, timeouts: Timeouts | None = None
) -> None:
    """Tell the peer what we commit ourselves to, on an association on which we play the SCP (PS3.4 J.3.3).

    A peer that says nothing of the roles is told all the same.

    Raises
    ------
    PeerUnreachable, AssociationRejected, NoAcceptedContext
        If it can not be told.
    CommitmentRefused
        If it answered with a failure.
    """
    with association_with(peer, calling_ae_title, _OFFERS, timeouts, serving=[STORAGE_COMMITMENT]) as association:
        context = association.accepted_contexts[0]
        request = _report_primitive(report, context.transfer_syntax[0])
        # Not by `send_n_event_report`, which demands a role that the peer may not have spoken of
        association.dimse.send_msg(request, context.context_id or 0)
        _, response = association.dimse.get_msg(block=True)
        status = getattr(response, "Status", None)
        if status is None:
            association.abort()  # there is nobody to release it with
            raise PeerUnreachable(f"{peer.name} did not answer the N-EVENT-REPORT.")
        if status != _SUCCESS:
            raise CommitmentRefused(f"{peer.name} answered the N-EVENT-REPORT with {status:04X}.", status=int(status))


def _report_primitive(report: CommitmentReport, transfer_syntax: UID) -> N_EVENT_REPORT:
    encoded = encode(write_report(report), transfer_syntax.is_implicit_VR, is_little_endian=True)
    if encoded is None:
        raise ValueError("the report can not be encoded")
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID = UID(STORAGE_COMMITMENT)
    request.AffectedSOPInstanceUID = UID(WELL_KNOWN_INSTANCE)
    request.EventTypeID = FAILURES_EXIST if report.failed else ALL_COMMITTED
    request.EventInformation = BytesIO(encoded)
    return request
