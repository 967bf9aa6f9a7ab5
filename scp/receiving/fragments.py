"""What is demanded of the fragments of messages before pynetdicom puts them together, and for how many there is room.

pynetdicom takes fragments of any context in any order and keeps all of them in memory. So each is looked at first: what
is out of order ends the association, and of what will be refused, or is too long, only empty fragments go on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from scp.association.bounded_layer import ProtocolError
from scp.commitments.commitment_information import LONGEST_INFORMATION
from scp.commitments.commitment_intake import IncomingMessage
from scp.receiving.command_set import LONGEST_COMMAND_SET, CommandField, Request, read_request
from scp.receiving.incoming_object import AcceptedContext, IncomingObject
from scp.receiving.rules import Rules
from study.errors import ReceiveError

MOST_HELD_BYTES: Final = 2**30
"""As much may be half received at a time, of all associations of a receiver together [bytes]."""

_IS_COMMAND, _IS_LAST = 0x01, 0x02
_OUT_OF_RESOURCES: Final = 0xA700


class Room:
    """How much more may be kept in memory, over all associations.

    Parameters
    ----------
    most_bytes
        As much in all [bytes].
    """

    def __init__(self, most_bytes: int = MOST_HELD_BYTES) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._left = most_bytes

    def take(self, count: int) -> bool:
        """Take `count` bytes; False where there are not as many, and none are taken then."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """Give `count` bytes back."""
        with self._lock:
            self._left += count


class Fragments:
    """The fragments of one association, in the order in which they come.

    Attributes
    ----------
    incoming
        What takes the data set of the message that is being received or served; None of a C-ECHO, and between messages.
    kept
        How much of that data set pynetdicom was given [bytes].
    """

    def __init__(self, contexts: Mapping[int, AcceptedContext], rules: Rules, room: Room) -> None:
        self._contexts = contexts
        self._rules = rules
        self._room = room
        self._context_id: int | None = None
        self._command = bytearray()
        self._expects_data = False
        self.kept = 0
        self.incoming: IncomingObject | IncomingMessage | None = None

    @property
    def between_messages(self) -> bool:
        """Tell whether nothing is half received, or received and not served."""
        return self._context_id is None

    def admit(self, context_id: int, pdv: bytes) -> tuple[bytes, bool]:
        """Return what pynetdicom is to get of a fragment, its message control header first; and whether it is the last.

        Raises
        ------
        ProtocolError
            If the association can not go on.
        """
        if context_id not in self._contexts:
            raise ProtocolError("a PDV names a presentation context that was not accepted")
        if self._context_id not in (None, context_id):
            raise ProtocolError("two messages are mixed")
        self._context_id = context_id
        is_last = bool(pdv[0] & _IS_LAST)
        if pdv[0] & _IS_COMMAND:
            return pdv, self._admit_command(pdv[1:], is_last)
        if not self._expects_data:
            raise ProtocolError("a data set came without a command")
        if not self._is_kept(len(pdv) - 1):
            return pdv[:1], is_last
        self.kept += len(pdv) - 1
        return pdv, is_last

    def next_message(self) -> None:
        """Forget the message that was served, or will never be complete."""
        if isinstance(self.incoming, IncomingObject):
            self._room.give_back(self.kept)
        self.kept = 0
        self._context_id, self._expects_data = None, False
        self._command.clear()
        self.incoming = None

    def _admit_command(self, fragment: bytes, is_last: bool) -> bool:
        """Return whether the message is complete with this fragment of its command set."""
        if self._expects_data:
            raise ProtocolError("a command came where a data set was due")
        if len(self._command) + len(fragment) > LONGEST_COMMAND_SET:
            raise ProtocolError("a command set is too long")
        self._command += fragment
        if not is_last:
            return False
        try:
            request = read_request(self._command)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        self._open(request)
        self._expects_data = request.has_data_set
        return not request.has_data_set

    def _open(self, request: Request) -> None:
        assert self._context_id is not None
        if request.command_field != CommandField.C_ECHO_RQ or request.has_data_set:
            self.incoming = self._rules.open(request, self._contexts[self._context_id])

    def _is_kept(self, count: int) -> bool:
        """Tell whether a fragment is to be kept; an object for which there is no room is refused."""
        if not isinstance(self.incoming, IncomingObject):
            return self.kept <= LONGEST_INFORMATION  # once it is too long, that is its answer
        if self.incoming.refusal is not None:
            return False
        if self._room.take(count):
            return True
        too_large = self.kept + count > self._room.most_bytes
        words = "Too large without node.fast_reception." if too_large else "Out of memory; send it again later."
        self.incoming.refuse(ReceiveError(_OUT_OF_RESOURCES, words))
        return False


def check_lengths(p_data: memoryview) -> None:
    """Make sure that the fragments of a P-DATA-TF fill its variable field; pynetdicom asserts it, if that.

    Raises
    ------
    ValueError
        If they do not.
    """
    end = 0
    while end < len(p_data):
        length = int.from_bytes(p_data[end : end + 4], "big")
        end += 4 + length
        if length < 2 or end > len(p_data):
            raise ValueError("a PDV does not fit its PDU")
