"""Answer storage commitment messages that peers send to our listener (PS3.4 J), without the database.

A peer that we asked reports here; a peer for which we answer asks here. Either is durable in the spool before it is
told Success, and nothing else is done with it here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from scp.association.contexts import STORAGE_COMMITMENT
from scp.commitments.commitment_information import LONGEST_INFORMATION, read_report, read_request
from scp.commitments.spool import CommitmentSpool
from study.commitment import tally

WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT: Final = 1
"""Action Type ID (PS3.4 J.3.2.1.1)."""
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2
"""Event Type IDs (PS3.4 J.3.3.1.1)."""

_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_NO_SUCH_EVENT_TYPE = 0x0113
_INVALID_ARGUMENT_VALUE = 0x0115
_NO_SUCH_SOP_CLASS = 0x0118
_NO_SUCH_ACTION_TYPE = 0x0123
_NOT_AUTHORIZED = 0x0124
_RESOURCE_LIMITATION = 0x0213

EventListener = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True)
class Message:
    """A commitment message as it came: what its command says, and its data set.

    Parameters
    ----------
    type_id
        Event Type ID or Action Type ID.
    information
        The encoded data set; None where there is none, or more of it than `LONGEST_INFORMATION`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    type_id: int
    information: bytes | bytearray | None
    transfer_syntax_uid: str
    calling_ae_title: str


class Refusal(Exception):
    """A message that is not taken.

    Parameters
    ----------
    status
        Of the response (PS3.7 10.1.1.1.8, 10.1.4.1.10).
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class CommitmentDesk:
    """Takes reports and requests of known peers into the spool.

    Parameters
    ----------
    asked
        AE titles of the peers that we ask to commit themselves.
    served
        AE titles of the peers that may ask us.
    """

    def __init__(
        self, spool: CommitmentSpool, *, asked: Collection[str], served: Collection[str], on_event: EventListener
    ) -> None:
        self._spool = spool
        self._asked = frozenset(asked)
        self._served = frozenset(served)
        self._on_event = on_event

    def may_report(self, ae_title: str) -> bool:
        """Tell whether we ask the peer of that AE title to commit itself."""
        return ae_title in self._asked

    def may_ask(self, ae_title: str) -> bool:
        """Tell whether the peer of that AE title may ask us to commit ourselves."""
        return ae_title in self._served

    def take_report(self, message: Message) -> None:
        """Make a peer's report durable (N-EVENT-REPORT).

        Raises
        ------
        Refusal
            If it is not taken: 0110 of a transaction that we did not begin with this peer.
        """
        self._guard(message, self._take_report)

    def take_request(self, message: Message) -> None:
        """Make a peer's request durable (N-ACTION).

        Raises
        ------
        Refusal
            If it is not taken.
        """
        self._guard(message, self._take_request)

    def _guard(self, message: Message, take: Callable[[Message], None]) -> None:
        try:
            _check_addressee(message)
            take(message)
        except Refusal as refusal:
            told = {"status": f"{refusal.status:04X}", "words": refusal.words}
            self._on_event("commitment_refused", {"calling_ae_title": message.calling_ae_title, **told})
            raise

    def _take_report(self, message: Message) -> None:
        if message.type_id not in (ALL_COMMITTED, FAILURES_EXIST):
            raise Refusal(_NO_SUCH_EVENT_TYPE, "Event Type ID is neither 1 nor 2.")
        try:
            report = read_report(_information(message), message.transfer_syntax_uid)
        except ValueError as error:
            raise Refusal(_INVALID_ARGUMENT_VALUE, f"Not understood: {error}.") from error
        if not self._spool.is_expected(report.transaction_uid, message.calling_ae_title):
            raise Refusal(_PROCESSING_FAILURE, "Unknown Transaction UID.")
        self._keep(lambda: self._spool.put_report(message.calling_ae_title, report))
        self._on_event(
            "commitment_reported",
            {
                "calling_ae_title": message.calling_ae_title,
                "transaction_uid": report.transaction_uid,
                "committed": len(report.committed),
                "failed": tally(report.failed),
            },
        )

    def _take_request(self, message: Message) -> None:
        if not self.may_ask(message.calling_ae_title):
            raise Refusal(_NOT_AUTHORIZED, "Storage commitment is not offered to this AE title.")
        if message.type_id != REQUEST_COMMITMENT:
            raise Refusal(_NO_SUCH_ACTION_TYPE, "Action Type ID is not 1.")
        try:
            request = read_request(_information(message), message.transfer_syntax_uid)
        except ValueError as error:
            raise Refusal(_INVALID_ARGUMENT_VALUE, f"Not understood: {error}.") from error
        self._keep(lambda: self._spool.put_request(message.calling_ae_title, request))
        told = {"transaction_uid": request.transaction_uid, "objects": len(request.references)}
        self._on_event("commitment_requested", {"calling_ae_title": message.calling_ae_title, **told})

    def _keep(self, put: Callable[[], bool]) -> None:
        try:
            kept = put()
        except OSError as error:
            raise Refusal(_RESOURCE_LIMITATION, f"The disk does not take it ({type(error).__name__}).") from error
        if not kept:
            raise Refusal(_RESOURCE_LIMITATION, "Too many wait already; send it again later.")


def _check_addressee(message: Message) -> None:
    if message.sop_class_uid != STORAGE_COMMITMENT:
        raise Refusal(_NO_SUCH_SOP_CLASS, "The SOP Class is not Storage Commitment Push Model.")
    if message.sop_instance_uid != WELL_KNOWN_INSTANCE:
        raise Refusal(_NO_SUCH_INSTANCE, "The SOP Instance is not the well-known one.")


def _information(message: Message) -> bytes | bytearray:
    if message.information is None:
        raise ValueError(f"no data set, or one of more than {LONGEST_INFORMATION} bytes")
    return message.information
