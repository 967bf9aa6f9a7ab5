"""Turn the messages of one association into stored files and answers, fragment by fragment.

A C-STORE's data set is written while it arrives, so memory does not grow with the object. The rules live here, free of
sockets and threads: P-DATA in, response PDUs out (PS3.7 6.3, PS3.8 9.3.5 and Annex E).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from scp.association.bounded_layer import ProtocolError
from scp.association.contexts import STORAGE_COMMITMENT, is_storable
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.commitment_intake import COMMITMENT_FIELDS, IncomingMessage
from scp.receiving.command_set import LONGEST_COMMAND_SET, CommandField, Request, read_request, write_response
from scp.receiving.expected import Expected
from scp.receiving.file_meta import encode_file_meta
from scp.receiving.head import HEAD_BYTES, PLACE_BYTES, check_head
from scp.receiving.inbox import Inbox, IncomingFile
from scp.receiving.moves import Moves
from study.errors import ReceiveError
from study.uids import is_storable_uid

LOGGER = logging.getLogger(__name__)

EventListener = Callable[[str, Mapping[str, object]], None]
"""Is told what happened: a name such as ``instance_stored``, and its fields. It must be safe to call in threads."""

_PDV_HEADER: Final = struct.Struct(">LBB")  # length, presentation context ID, message control header (PS3.8 E.2)
_PDU_HEADER: Final = struct.Struct(">BBL")
_P_DATA_TF: Final = 0x04
_IS_COMMAND, _IS_LAST = 0x01, 0x02


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


class Intake:
    """Serves the C-STORE, C-ECHO and storage commitment requests of one association.

    Parameters
    ----------
    contexts
        The accepted presentation contexts by ID.
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
        contexts: Mapping[int, AcceptedContext],
        parties: Parties,
        inbox: Inbox,
        accept_unknown_sop_classes: bool,
        on_event: EventListener,
        commitment: CommitmentDesk | None = None,
        expected: Expected | None = None,
        moves: Moves | None = None,
    ) -> None:
        self._contexts = contexts
        self._parties = parties
        self._inbox = inbox
        self._accept_unknown_sop_classes = accept_unknown_sop_classes
        self._on_event = on_event
        self._commitment = commitment
        self._expected = expected
        self._moves = moves
        self._command = bytearray()
        self._context_id: int | None = None
        self._object: _IncomingObject | IncomingMessage | None = None

    @property
    def between_messages(self) -> bool:
        """Tell whether nothing is half received."""
        return self._object is None and not self._command

    def take(self, p_data: memoryview) -> bytes:
        """Process the PDVs of one P-DATA-TF PDU and return the PDUs to send back, if any.

        Parameters
        ----------
        p_data
            The PDU's variable field; used during the call only.

        Raises
        ------
        ProtocolError
            If the association can not go on.
        """
        responses = b""
        offset = 0
        while offset < len(p_data):
            if len(p_data) - offset < _PDV_HEADER.size:
                raise ProtocolError("a PDU ends within the header of a PDV")
            length, context_id, control = _PDV_HEADER.unpack_from(p_data, offset)
            end = offset + 4 + length
            if length < 2 or end > len(p_data):
                raise ProtocolError("a PDV does not fit its PDU")
            responses += self._take_fragment(context_id, control, p_data[offset + _PDV_HEADER.size : end])
            offset = end
        return responses

    def close(self) -> None:
        """Drop what is half received."""
        if self._object is not None:
            self._object.drop()
            self._object = None

    def _take_fragment(self, context_id: int, control: int, fragment: memoryview) -> bytes:
        if context_id not in self._contexts:
            raise ProtocolError("a PDV names a presentation context that was not accepted")
        if self._context_id not in (None, context_id):
            raise ProtocolError("two messages are mixed")
        self._context_id = context_id
        is_last = bool(control & _IS_LAST)
        answered = (
            self._take_command(fragment, is_last) if control & _IS_COMMAND else self._take_data(fragment, is_last)
        )
        if not answered:
            return b""
        self._context_id = None
        pdv = _PDV_HEADER.pack(len(answered) + 2, context_id, _IS_COMMAND | _IS_LAST) + answered
        return _PDU_HEADER.pack(_P_DATA_TF, 0, len(pdv)) + pdv

    def _take_command(self, fragment: memoryview, is_last: bool) -> bytes:
        if self._object is not None:
            raise ProtocolError("a command came where a data set was due")
        if len(self._command) + len(fragment) > LONGEST_COMMAND_SET:
            raise ProtocolError("a command set is too long")
        self._command += fragment
        if not is_last:
            return b""
        try:
            request = read_request(self._command)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        self._command.clear()
        return self._serve(request)

    def _serve(self, request: Request) -> bytes:
        if request.command_field == CommandField.C_ECHO_RQ and not request.has_data_set:
            return write_response(request, Status.SUCCESS)
        if request.command_field == CommandField.C_STORE_RQ:
            self._object = self._new_object(request)
        else:
            self._object = self._new_message(request)
        return b"" if request.has_data_set else self._take_data(memoryview(b""), is_last=True)

    def _new_object(self, request: Request) -> _IncomingObject:
        assert self._context_id is not None
        return _IncomingObject(
            request,
            transfer_syntax_uid=self._contexts[self._context_id].transfer_syntax_uid,
            parties=self._parties,
            inbox=self._inbox,
            on_event=self._on_event,
            refusal=self._refusal_of(request, self._contexts[self._context_id]),
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

    def _new_message(self, request: Request) -> IncomingMessage:
        assert self._context_id is not None
        context = self._contexts[self._context_id]
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

    def _take_data(self, fragment: memoryview, is_last: bool) -> bytes:
        incoming = self._object
        if incoming is None:
            raise ProtocolError("a data set came without a command")
        incoming.take(fragment, is_last=is_last)
        if not is_last:
            return b""
        self._object = None
        return incoming.answer()


class _IncomingObject:
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
        self._file: IncomingFile | None = None
        if refusal is not None:
            self._refuse(refusal)

    def take(self, fragment: memoryview, *, is_last: bool) -> None:
        """Write `fragment`; with the last one, the object is durable or `refusal` says why not."""
        if self.refusal is not None:
            return
        try:
            self._write(fragment, is_last)
            if is_last:
                self._commit()
        except ReceiveError as error:
            self._refuse(error)
        except Exception:  # the loop's edge: whatever went wrong, the sender must be told, and the next object served
            LOGGER.exception("an object could not be received")
            self._refuse(ReceiveError(Status.UNEXPECTED_FAILURE, "Internal error; see the node's log."))

    def answer(self) -> bytes:
        """Return the encoded command set that answers the request, once its data set is complete."""
        if self.refusal is None:
            return write_response(self.request, Status.SUCCESS)
        return write_response(self.request, self.refusal.status, self.refusal.words)

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

    def _refuse(self, refusal: ReceiveError) -> None:
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
