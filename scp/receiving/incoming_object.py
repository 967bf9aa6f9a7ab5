"""One C-STORE request while its data set arrives: checked, written into the inbox, made durable, answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from scp.receiving.command_set import Request, write_response
from scp.receiving.expected import Expected
from scp.receiving.file_meta import encode_file_meta
from scp.receiving.head import HEAD_BYTES, PLACE_BYTES, check_head
from scp.receiving.inbox import Inbox
from scp.receiving.reception_log import Incoming
from study.errors import ReceiveError

LOGGER = logging.getLogger(__name__)

EventListener = Callable[[str, Mapping[str, object]], None]
"""Is told what happened: a name such as ``instance_stored``, and its fields. It must be safe to call in threads."""


class Status(IntEnum):
    """What the node answers beside the statuses of `ReceiveError` (PS3.7 C, PS3.4 B.2.3)."""

    SUCCESS = 0x0000
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    CANNOT_UNDERSTAND = 0xC000
    UNEXPECTED_FAILURE = 0xC001


@dataclass(frozen=True)
class AcceptedContext:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Parties:
    """Who talks to whom over an association."""

    calling_ae_title: str
    called_ae_title: str
    address: str


class IncomingObject:
    """One C-STORE request while its data set arrives.

    Once it is refused, the rest of its data set is read and dropped: the answer comes when the message is complete.
    """

    def __init__(
        self,
        request: Request,
        *,
        transfer_syntax_uid: str,
        parties: Parties,
        inbox: Inbox,
        on_event: EventListener,
        refusal: ReceiveError | None,
        expected: Expected | None,
        fetched: bool,
    ) -> None:
        self.request = request
        self.refusal: ReceiveError | None = None
        self._transfer_syntax_uid = transfer_syntax_uid
        self._parties = parties
        self._inbox = inbox
        self._on_event = on_event
        self._expected = expected
        self._fetched = fetched
        self._head = bytearray()
        self._head_is_checked = False
        self._file: Incoming | None = None
        if refusal is not None:
            self.refuse(refusal)

    def take(self, fragment: memoryview, *, is_last: bool) -> None:
        """Write `fragment`; with the last one, the object is durable or `refusal` says why not."""
        if self.refusal is not None:
            return
        try:
            self._write(fragment, is_last)
            if is_last:
                self._commit()
        except ReceiveError as error:
            self.refuse(error)
        except Exception:  # the loop's edge: whatever went wrong, the sender must be told, and the next object served
            LOGGER.exception("an object could not be received")
            self.refuse(ReceiveError(Status.UNEXPECTED_FAILURE, "Internal error; see the node's log."))

    @property
    def outcome(self) -> tuple[int, str]:
        """Return the status that answers the request, and its Error Comment, once its data set is complete."""
        return (Status.SUCCESS, "") if self.refusal is None else (self.refusal.status, self.refusal.words)

    def answer(self) -> bytes:
        """Return the encoded command set that answers the request, once its data set is complete."""
        return write_response(self.request, *self.outcome)

    def drop(self) -> None:
        """Remove what was written of an object that will never be complete."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _write(self, fragment: memoryview, is_last: bool) -> None:
        if self._file is None:
            self._file = self._inbox.begin(self._encoded_file_meta())
        if not self._head_is_checked:
            self._head += fragment[: HEAD_BYTES - len(self._head)]
            if is_last or len(self._head) == HEAD_BYTES:
                self._check_head()
        self._file.write([fragment])

    def _check_head(self) -> None:
        check_head(
            self._head,
            transfer_syntax_uid=self._transfer_syntax_uid,
            sop_class_uid=self.request.affected_sop_class_uid,
            sop_instance_uid=self.request.affected_sop_instance_uid,
        )
        self._head_is_checked = True
        self._head.clear()

    def _commit(self) -> None:
        assert self._file is not None
        if self._expected is not None:
            meta_bytes = len(self._encoded_file_meta())
            start = self._file.start(meta_bytes + PLACE_BYTES)
            self._expected.check_place(start[meta_bytes:], self._transfer_syntax_uid)
        incoming, self._file = self._file, None
        path = incoming.commit()
        self._tell("instance_stored", path=path, size=incoming.size)

    def refuse(self, refusal: ReceiveError) -> None:
        """Take no more of the object, and answer so."""
        self.refusal = refusal
        self.drop()
        self._tell("instance_refused", status=f"{refusal.status:04X}", words=refusal.words, **refusal.numbers)

    def _tell(self, name: str, **fields: object) -> None:
        self._on_event(
            name,
            {
                "sop_class_uid": self.request.affected_sop_class_uid,
                "sop_instance_uid": self.request.affected_sop_instance_uid,
                "calling_ae_title": self._parties.calling_ae_title,
                "address": self._parties.address,
                **fields,
            },
        )

    def _encoded_file_meta(self) -> bytes:
        return encode_file_meta(
            sop_class_uid=self.request.affected_sop_class_uid,
            sop_instance_uid=self.request.affected_sop_instance_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            sending_ae_title=self._parties.calling_ae_title,
            receiving_ae_title=self._parties.called_ae_title,
            fetched=self._fetched,
        )
