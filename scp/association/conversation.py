"""Put a request to an archive and hear its responses, one by one, without waiting longer than is sensible.

C-FIND, C-GET and C-MOVE have one form: a request with an identifier, any number of pending responses, and a last one
(PS3.7 9.1.2 to 9.1.4). Which of them is asked, and what the answers mean, is the caller's.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import PresentationContext

from scp.association.requesting import Peer, Timeouts
from scp.association.requestor import RequestorProvider, cut
from scp.sending.object_file import UNCOMPRESSED
from study.errors import DeliveryError, PeerUnreachable
from study.words import quoted

PENDING: Final = frozenset({0xFF00, 0xFF01})
_TICK_SECONDS: Final = 0.1
_CANCEL_SECONDS: Final = 5.0  # for the last response, once it was asked to stop
_TIMES_WITHOUT_PROGRESS: Final = 5
_LAST_MESSAGE_ID: Final = 65535

Request = C_FIND | C_GET | C_MOVE


@dataclass(frozen=True)
class Answer:
    """One response.

    Parameters
    ----------
    comment
        Error Comment (0000,0902), in printable ASCII.
    identifier
        The encoded data set that came with it; empty where there was none.
    remaining, completed, failed, warnings
        Numbers of sub-operations; None where the archive does not tell.
    """

    status: int
    comment: str
    identifier: bytes
    transfer_syntax_uid: str
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warnings: int | None = None

    @property
    def is_last(self) -> bool:
        """Tell whether nothing follows."""
        return self.status not in PENDING

    @property
    def words(self) -> str:
        """Return the status as a person reads it."""
        return f"{self.status:04X}"


class Conversation:
    """Requests over one association, one at a time.

    Parameters
    ----------
    association
        From `scp.association.requesting.association_with`.
    nonsense
        What is raised where the peer answers what was not asked.
    """

    def __init__(
        self, association: Association, peer: Peer, timeouts: Timeouts | None, nonsense: type[DeliveryError]
    ) -> None:
        self._association = association
        self._peer = peer
        self._timeouts = timeouts or Timeouts()
        self._nonsense = nonsense
        self._cancel_seconds = min(_CANCEL_SECONDS, self._timeouts.answer)
        self._message_id = 0

    @property
    def received_bytes(self) -> int:
        """Return how much came over the association so far [bytes]."""
        return self._provider.received_bytes

    def context_for(self, sop_class_uid: str) -> PresentationContext | None:
        """Return an accepted context in which requests of this SOP Class can be put; None where there is none."""
        return next(
            (
                context
                for context in self._association.accepted_contexts
                if context.abstract_syntax == sop_class_uid
                and context.as_scu
                and context.transfer_syntax
                and str(context.transfer_syntax[0]) in UNCOMPRESSED
            ),
            None,
        )

    def ask(
        self,
        request: Request,
        identifier: Dataset,
        context: PresentationContext,
        *,
        stopping: Callable[[], bool] | None = None,
        progress: Callable[[], object] | None = None,
    ) -> Generator[Answer]:
        """Put `request` and yield its responses up to the last.

        Whoever leaves before the last one closes the iterator (`contextlib.closing`): the peer is told to stop then.

        Parameters
        ----------
        request
            What it carries besides identifier, priority and message ID is the caller's.
        stopping
            Asked now and then; once it is true the peer is told to stop, and its last response follows.
        progress
            Returns what changes while the peer gets on. Without a change the peer may speak for five times as long as
            it may be silent.

        Raises
        ------
        PeerUnreachable
            If the association is over or breaks, or nothing comes for too long.
        DeliveryError
            Of the kind `nonsense`, if something comes that is no response to this request.
        """
        self._put(request, identifier, context)
        patience = _Patience(self._timeouts.answer, _TIMES_WITHOUT_PROGRESS * self._timeouts.answer)
        asked_to_stop = is_over = False
        try:
            while not is_over:
                message = self._next_message()
                if message is not None:
                    answer = self._understood(message, type(request), context)
                    is_over = answer.is_last
                    yield answer
                moved = None if asked_to_stop or progress is None else progress()
                if not is_over and patience.is_over(self.received_bytes, moved):
                    cut(self._association)
                    raise PeerUnreachable(f"{self._peer.name} did not answer in time.")
                if not is_over and not asked_to_stop and stopping is not None and stopping():
                    asked_to_stop = True
                    self._send_cancel(context)
                    patience = _Patience(self._cancel_seconds, self._cancel_seconds)
        finally:
            if not is_over:
                self._stop(context)
            self._association._reactor_checkpoint.set()

    def _put(self, request: Request, identifier: Dataset, context: PresentationContext) -> None:
        syntax = context.transfer_syntax[0]
        encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
        if encoded is None:
            raise self._nonsense("The identifier of the request can not be encoded.", permanent=True)
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        request.MessageID = self._message_id
        request.Priority = 0  # medium
        request.Identifier = BytesIO(encoded)
        self._hold_reactor()
        assert context.context_id is not None
        self._association.dimse.send_msg(request, context.context_id)

    def _hold_reactor(self) -> None:
        """Keep the association's own thread from the messages that come now."""
        if not self._association.is_established:
            raise PeerUnreachable(f"{self._peer.name} ended the association.")
        self._association._reactor_checkpoint.clear()
        while not self._association._is_paused:
            time.sleep(0.0001)

    def _next_message(self) -> Any:  # noqa: ANN401 - any DIMSE primitive
        """Return the next message; None where there is none yet.

        Raises
        ------
        DeliveryError
            If there will be none.
        """
        try:
            _, message = self._association.dimse.msg_queue.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            self._see_that_it_lives()
            return None
        if message is None:
            raise self._broken()
        return message

    @property
    def _provider(self) -> RequestorProvider:
        assert isinstance(self._association.dul, RequestorProvider)
        return self._association.dul

    def _see_that_it_lives(self) -> None:
        provider = self._provider
        wants_to_go = isinstance(provider.peek_next_pdu(), A_RELEASE)
        if (wants_to_go or not provider.is_alive()) and self._association.dimse.msg_queue.empty():
            raise self._broken()

    def _broken(self) -> DeliveryError:
        cut(self._association)
        offence = self._provider.offence
        if offence:
            return self._nonsense(f"{self._peer.name} broke the protocol: {offence}.")
        return PeerUnreachable(f"{self._peer.name} ended the association before it had answered.")

    def _understood(self, message: Any, kind: type[Request], context: PresentationContext) -> Answer:  # noqa: ANN401
        is_ours = (
            isinstance(message, kind)
            and message.is_valid_response
            and message.MessageIDBeingRespondedTo == self._message_id
        )
        if not is_ours:
            cut(self._association)
            raise self._nonsense(f"{self._peer.name} sent what was no answer to the request.")
        identifier = message.Identifier
        return Answer(
            status=int(message.Status),
            comment=quoted(str(message.ErrorComment or "").strip()),
            identifier=identifier.getvalue() if identifier is not None else b"",
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            remaining=getattr(message, "NumberOfRemainingSuboperations", None),
            completed=getattr(message, "NumberOfCompletedSuboperations", None),
            failed=getattr(message, "NumberOfFailedSuboperations", None),
            warnings=getattr(message, "NumberOfWarningSuboperations", None),
        )

    def _send_cancel(self, context: PresentationContext) -> None:
        request = C_CANCEL()
        request.MessageIDBeingRespondedTo = self._message_id
        assert context.context_id is not None
        self._association.dimse.send_msg(request, context.context_id)

    def _stop(self, context: PresentationContext) -> None:
        """Have the peer end what it was asked for, and hear it out; one that goes on is cut off."""
        if not self._association.is_established:
            return
        self._send_cancel(context)
        if not self._hear_out(time.monotonic() + self._cancel_seconds):
            cut(self._association)

    def _hear_out(self, deadline: float) -> bool:
        """Take responses up to the last; False where it does not come in time."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                _, message = self._association.dimse.msg_queue.get(timeout=left)
            except queue.Empty:
                return False
            if message is None:
                return False
            if getattr(message, "Status", None) not in PENDING:
                return True
        return False


class _Patience:
    """Tells when waiting any longer makes no sense."""

    def __init__(self, silence: float, standstill: float) -> None:
        self._silence, self._standstill = silence, standstill
        self._heard_at = self._moved_at = time.monotonic()
        self._heard = -1
        self._moved: object = None

    def is_over(self, heard: int, moved: object) -> bool:
        """Tell it, given what was heard so far and how far the peer got."""
        now = time.monotonic()
        if heard != self._heard:
            self._heard, self._heard_at = heard, now
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._heard_at > self._silence or now - self._moved_at > self._standstill
