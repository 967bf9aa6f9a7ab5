"""What an archive sends over an association that we requested, for us to store: the other half of a C-GET."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pynetdicom.association import Association

from scp.association.requestor import RequestorProvider
from scp.receiving.expected import Expected
from scp.receiving.inbox import Inbox
from scp.receiving.incoming_object import AcceptedContext, Parties
from scp.receiving.intake import Intake
from scp.receiving.rules import Rules
from scp.sending.object_file import Offer

MOST_INSTANCES: Final = 100_000
"""As many are taken of a series; one with more is no series."""
_MOST_REFUSED = 1_000  # of what was not asked for; then the archive is not listened to any longer
_TIMES_SENT = 2  # an instance may come twice, where the request was repeated
_OUT_OF_RESOURCES = "A700"


def storage_contexts(association: Association, offers: Sequence[Offer]) -> dict[int, AcceptedContext]:
    """Return the contexts in which the peer may store with us, by ID: those in which it takes the role of the SCU."""
    offered = {(offer.sop_class_uid, offer.transfer_syntax_uid) for offer in offers}
    found = {}
    for context in association.accepted_contexts:
        # A peer may accept what nobody proposed
        syntax = str(context.transfer_syntax[0]) if context.transfer_syntax else ""
        abstract = str(context.abstract_syntax)
        if context.as_scp and context.context_id is not None and (abstract, syntax) in offered:
            found[context.context_id] = AcceptedContext(abstract, syntax)
    return found


class Arrivals:
    """The instances that came, and why the archive has to be stopped where it has.

    Parameters
    ----------
    expected
        What is taken.
    stopping
        Tells whether the caller wants no more.

    Attributes
    ----------
    stored
        SOP Instance UIDs that are durable, in the order of arrival.
    refused
        How many instances were not taken.
    refusal
        Why the last of these was not; "" where there is none.
    """

    def __init__(self, expected: Expected, stopping: Callable[[], bool]) -> None:
        self._expected = expected
        self._stopping = stopping
        self._came = 0
        self._out_of_disk = False
        self.stored: dict[str, None] = {}
        self.refused = 0
        self.refusal = ""

    def open(
        self, association: Association, contexts: Mapping[int, AcceptedContext], parties: Parties, inbox: Inbox
    ) -> None:
        """Have what comes in these contexts from now on written into `inbox`."""
        rules = Rules(
            parties=parties,
            inbox=inbox,
            accept_unknown_sop_classes=True,  # none comes but those that we proposed
            on_event=self._on_event,
            expected=self._expected,
        )
        intake = Intake(contexts, rules)
        assert isinstance(association.dul, RequestorProvider)
        association.dul.let_in(intake, frozenset(contexts))

    def has_to_stop(self) -> bool:
        """Tell whether the archive is to send no more."""
        return self._stopping() or bool(self.objection)

    @property
    def is_stopped(self) -> bool:
        """Tell whether it is the caller who wants no more."""
        return self._stopping()

    @property
    def objection(self) -> str:
        """Return what is wrong with what comes; "" where nothing is."""
        if self._out_of_disk:
            return f"it was stopped: {self.refusal}"
        if self.refused > _MOST_REFUSED:
            return f"it sends what was not asked for: {self.refusal}"
        most = len(self._expected.sop_instance_uids) or MOST_INSTANCES
        return "it sends more than was asked for" if self._came > _TIMES_SENT * most else ""

    def _on_event(self, name: str, fields: Mapping[str, object]) -> None:
        # Called in the association's thread
        if name == "instance_stored":
            self._came += 1
            self.stored[str(fields["sop_instance_uid"])] = None
        elif name == "instance_refused":
            self.refused += 1
            self.refusal = str(fields["words"])
            self._out_of_disk |= fields["status"] == _OUT_OF_RESOURCES
