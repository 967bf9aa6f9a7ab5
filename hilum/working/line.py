"""The keeper's end of the line to a process that works for it: whole messages, and never a wait for one that drips.

Frames are those of `multiprocessing.connection`, which is what the other end uses.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import Final

_LENGTH: Final = struct.Struct("!i")
_LONG_LENGTH: Final = struct.Struct("!Q")
_IS_LONG: Final = -1
_CHUNK_BYTES: Final = 1 << 16
_LONGEST_MESSAGE: Final = 256_000_000


class Line:
    """A socket on which whole messages come in, whoever writes to its other end.

    Parameters
    ----------
    end
        Is this line's own from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._unread = bytearray()

    def receive(self, seconds: float) -> bytes | None:
        """Return the next message; None where none is whole within so many seconds.

        Raises
        ------
        EOFError, ConnectionError
            If the other end is closed.
        ValueError
            If it announces a message that is none.
        """
        until = time.monotonic() + seconds
        while (message := self._next()) is None:
            left = until - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                return None
            self._take()
        return message

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing is unread that the other end said, nor its end."""
        return not self._unread and not self._poll.poll(0)

    def send_aside(self, message: bytes) -> None:
        """Send without waiting: a process that never reads must not keep its keeper from the deadline."""
        head = (
            _LENGTH.pack(len(message))
            if len(message) < 1 << 31
            else _LENGTH.pack(_IS_LONG) + _LONG_LENGTH.pack(len(message))
        )

        def send() -> None:
            try:
                self._socket.sendall(head + message)
            except OSError:
                return  # it is gone; whoever waits for its answer sees that

        threading.Thread(target=send, name="to-worker", daemon=True).start()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _take(self) -> None:
        chunk = self._socket.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
        if not chunk:
            raise EOFError
        self._unread += chunk

    def _next(self) -> bytes | None:
        """Return the first message of what came in, and drop it there; None where it is not whole yet."""
        if len(self._unread) < _LENGTH.size:
            return None
        (length,), start = _LENGTH.unpack_from(self._unread), _LENGTH.size
        if length == _IS_LONG:
            if len(self._unread) < start + _LONG_LENGTH.size:
                return None
            (length,), start = _LONG_LENGTH.unpack_from(self._unread, start), start + _LONG_LENGTH.size
        if not 0 <= length <= _LONGEST_MESSAGE:
            raise ValueError(f"a message of {length} bytes")
        if len(self._unread) < start + length:
            return None
        message = bytes(self._unread[start : start + length])
        del self._unread[: start + length]
        return message
