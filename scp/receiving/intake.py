"""Turn the messages of one association into stored files and answers, fragment by fragment.

A C-STORE's data set is written while it arrives, so memory does not grow with the object. Free of sockets and threads:
P-DATA in, response PDUs out (PS3.7 6.3, PS3.8 9.3.5 and Annex E). What is taken is said by `scp.receiving.rules`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from scp.association.bounded_layer import ProtocolError
from scp.commitments.commitment_intake import IncomingMessage
from scp.receiving.command_set import LONGEST_COMMAND_SET, CommandField, Request, read_request, write_response
from scp.receiving.incoming_object import AcceptedContext, IncomingObject, Status
from scp.receiving.rules import Rules

_PDV_HEADER: Final = struct.Struct(">LBB")  # length, presentation context ID, message control header (PS3.8 E.2)
_PDU_HEADER: Final = struct.Struct(">BBL")
_P_DATA_TF: Final = 0x04
_IS_COMMAND, _IS_LAST = 0x01, 0x02


class Intake:
    """Serves the C-STORE, C-ECHO and storage commitment requests of one association.

    Parameters
    ----------
    contexts
        The accepted presentation contexts by ID.
    rules
        What is taken.
    longest_pdu
        The longest P-DATA-TF that the peer takes; 0: any (PS3.8 D.1) [bytes].
    """

    def __init__(self, contexts: Mapping[int, AcceptedContext], rules: Rules, longest_pdu: int = 0) -> None:
        self._contexts = contexts
        self._rules = rules
        self._longest_pdu = longest_pdu
        self._command = bytearray()
        self._context_id: int | None = None
        self._object: IncomingObject | IncomingMessage | None = None

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
        return b"".join(_pdus(context_id, answered, self._longest_pdu))

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
        assert self._context_id is not None
        self._object = self._rules.open(request, self._contexts[self._context_id])
        return b"" if request.has_data_set else self._take_data(memoryview(b""), is_last=True)

    def _take_data(self, fragment: memoryview, is_last: bool) -> bytes:
        incoming = self._object
        if incoming is None:
            raise ProtocolError("a data set came without a command")
        incoming.take(fragment, is_last=is_last)
        if not is_last:
            return b""
        self._object = None
        return incoming.answer()


def _pdus(context_id: int, command: bytes, longest: int) -> Iterator[bytes]:
    """Yield the P-DATA-TF PDUs that carry a command set, none of them longer than the peer takes."""
    most = longest - _PDV_HEADER.size if longest else len(command)
    if most < 1:
        raise ProtocolError("the peer takes too few bytes at a time for any answer")
    for start in range(0, len(command), most):
        fragment = command[start : start + most]
        is_last = start + most >= len(command)
        pdv = _PDV_HEADER.pack(len(fragment) + 2, context_id, _IS_COMMAND | (_IS_LAST if is_last else 0)) + fragment
        yield _PDU_HEADER.pack(_P_DATA_TF, 0, len(pdv)) + pdv
