"""The rules by which what comes over one association is taken or refused, however its bytes come.

Free of sockets, PDUs and threads, so that every way in which a request can arrive has the same answers (PS3.4 B.2.3,
PS3.7 C). What becomes of an object on its way is in `scp.receiving.incoming_object`.
"""

from __future__ import annotations

from scp.association.bounded_layer import ProtocolError
from scp.association.contexts import STORAGE_COMMITMENT, is_storable
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.commitment_intake import COMMITMENT_FIELDS, IncomingMessage
from scp.receiving.command_set import CommandField, Request
from scp.receiving.expected import Expected
from scp.receiving.inbox import Inbox
from scp.receiving.incoming_object import AcceptedContext, EventListener, IncomingObject, Parties, Status
from scp.receiving.moves import Moves
from study.errors import ReceiveError
from study.uids import is_storable_uid


class Rules:
    """What the node takes over one association.

    Parameters
    ----------
    accept_unknown_sop_classes
        Whether objects of SOP Classes that the standard does not list are stored.
    commitment
        Where storage commitment messages go; None: the association has no context for them.
    expected
        What was asked for, on an association over which we fetch: nothing else is stored. None: anything is.
    moves
        What archives are just asked to send here; None: nothing that they do not say themselves.
    """

    def __init__(
        self,
        *,
        parties: Parties,
        inbox: Inbox,
        accept_unknown_sop_classes: bool,
        on_event: EventListener,
        commitment: CommitmentDesk | None = None,
        expected: Expected | None = None,
        moves: Moves | None = None,
    ) -> None:
        self._parties = parties
        self._inbox = inbox
        self._accept_unknown_sop_classes = accept_unknown_sop_classes
        self._on_event = on_event
        self._commitment = commitment
        self._expected = expected
        self._moves = moves

    def open(self, request: Request, context: AcceptedContext) -> IncomingObject | IncomingMessage:
        """Return what takes the data set of a request and answers it; a refusal is its answer as well.

        Raises
        ------
        ProtocolError
            If the node serves no such request in this context.
        """
        if request.command_field == CommandField.C_STORE_RQ:
            return self._new_object(request, context)
        return self._new_message(request, context)

    def _new_object(self, request: Request, context: AcceptedContext) -> IncomingObject:
        return IncomingObject(
            request,
            transfer_syntax_uid=context.transfer_syntax_uid,
            parties=self._parties,
            inbox=self._inbox,
            on_event=self._on_event,
            refusal=self._refusal_of(request, context),
            expected=self._expected,
            fetched=self._is_fetched(request),
        )

    def _is_fetched(self, request: Request) -> bool:
        """Tell whether an object comes because we asked for it: over our own association, or by a C-MOVE of ours."""
        if self._expected is not None or request.move_originator == self._parties.called_ae_title:
            return True
        return self._moves is not None and self._moves.expect(
            self._parties.calling_ae_title, request.affected_sop_instance_uid
        )

    def _new_message(self, request: Request, context: AcceptedContext) -> IncomingMessage:
        served = request.command_field in COMMITMENT_FIELDS and context.abstract_syntax == STORAGE_COMMITMENT
        if self._commitment is None or not served:
            raise ProtocolError("a request came that the node does not serve")
        return IncomingMessage(
            request,
            transfer_syntax_uid=context.transfer_syntax_uid,
            calling_ae_title=self._parties.calling_ae_title,
            desk=self._commitment,
        )

    def _refusal_of(self, request: Request, context: AcceptedContext) -> ReceiveError | None:
        if not (is_storable_uid(request.affected_sop_class_uid) and is_storable_uid(request.affected_sop_instance_uid)):
            return ReceiveError(Status.CANNOT_UNDERSTAND, "The command names no valid SOP Class or Instance UID.")
        storable = all(
            is_storable(uid, accept_unknown_sop_classes=self._accept_unknown_sop_classes)
            for uid in (context.abstract_syntax, request.affected_sop_class_uid)
        )
        if not storable:
            return ReceiveError(Status.SOP_CLASS_NOT_SUPPORTED, "Objects of this SOP Class are not stored here.")
        return None if self._expected is None else self._expected.refusal_of(request.affected_sop_instance_uid)
