"""A storage commitment message while it arrives on our listener, fragment by fragment, and the answer to it."""

from __future__ import annotations

import logging
from typing import Final

from scp.commitments.commitment_desk import CommitmentDesk, Message, Refusal
from scp.commitments.commitment_information import LONGEST_INFORMATION
from scp.receiving.command_set import CommandField, Request, write_response

LOGGER = logging.getLogger(__name__)

COMMITMENT_FIELDS: Final = frozenset({CommandField.N_EVENT_REPORT_RQ, CommandField.N_ACTION_RQ})

_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110


class IncomingMessage:
    """One N-EVENT-REPORT or N-ACTION request while its data set arrives.

    Of a data set beyond all measure the rest is read and dropped: the answer comes when the message is complete.
    """

    def __init__(
        self, request: Request, *, transfer_syntax_uid: str, calling_ae_title: str, desk: CommitmentDesk
    ) -> None:
        self._request = request
        self._transfer_syntax_uid = transfer_syntax_uid
        self._calling_ae_title = calling_ae_title
        self._desk = desk
        self._information: bytearray | None = bytearray() if request.has_data_set else None
        self._status = _SUCCESS
        self._comment = ""

    def take(self, fragment: memoryview, *, is_last: bool) -> None:
        """Keep `fragment`; with the last one, the message is durable, or the answer says why not."""
        if self._information is not None:
            if len(self._information) + len(fragment) > LONGEST_INFORMATION:
                self._information = None
            else:
                self._information += fragment
        if is_last:
            self._hand_over()

    def drop(self) -> None:
        """Forget what came of a message that will never be complete."""
        self._information = None

    def answer(self) -> bytes:
        """Return the encoded command set that answers the message, once it is complete."""
        return write_response(self._request, *self.outcome)

    @property
    def outcome(self) -> tuple[int, str]:
        """Return the status that answers the message, and its Error Comment, once it is complete."""
        return self._status, self._comment

    def _hand_over(self) -> None:
        is_report = self._request.command_field == CommandField.N_EVENT_REPORT_RQ
        try:
            (self._desk.take_report if is_report else self._desk.take_request)(self._message())
        except Refusal as refusal:
            self._status, self._comment = refusal.status, refusal.words
        except Exception:  # the loop's edge: whatever went wrong, the peer must be told, and the next message served
            LOGGER.exception("a storage commitment message could not be taken")
            self._status, self._comment = _PROCESSING_FAILURE, "Internal error; see the node's log."

    def _message(self) -> Message:
        return Message(
            sop_class_uid=self._request.affected_sop_class_uid,
            sop_instance_uid=self._request.affected_sop_instance_uid,
            type_id=self._request.type_id,
            information=self._information,
            transfer_syntax_uid=self._transfer_syntax_uid,
            calling_ae_title=self._calling_ae_title,
        )
