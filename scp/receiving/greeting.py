"""The handshakes of callers over TLS: each in a thread of its own, so that one who stalls costs nobody anything."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from scp.association.tls import Identity, in_words, let_in, listening_context
from scp.receiving.incoming_object import EventListener
from study.errors import ConfigError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TLSDoor:
    """A port for callers over TLS.

    Parameters
    ----------
    listening_socket
        Made by `scp.receiving.listening.open_listening_socket`; stays the caller's.
    identity
        Who we are, and whose callers are let in.
    handshake_seconds
        How long a handshake may take [s].
    """

    listening_socket: socket.socket
    identity: Identity
    handshake_seconds: float = 10.0


class Greeter:
    """Shakes hands with callers and passes on those who are let in.

    Parameters
    ----------
    most
        How many handshakes go on at a time; further callers are turned away.
    pass_on
        Takes a connection once it is secured; called in the handshake's own thread.
    on_event
        Is told who was turned away, and why.

    Raises
    ------
    ConfigError
        If certificates or key can not be used.
    """

    def __init__(
        self,
        door: TLSDoor,
        most: int,
        pass_on: Callable[[socket.socket, tuple[str, int]], None],
        on_event: EventListener,
    ) -> None:
        self._door = door
        self._most = most
        self._pass_on = pass_on
        self._on_event = on_event
        self._context = listening_context(door.identity)
        self._lock = threading.Lock()
        self._going_on: dict[threading.Thread, socket.socket] = {}

    def greet(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Begin a handshake; returns at once."""
        thread = threading.Thread(
            target=self._shake_hands, args=(connection, address), name=f"handshake-{address[0]}", daemon=True
        )
        if not self._begin(thread, connection):
            self._on_event("connection_refused", {"address": address[0], "limit": self._most})
            connection.close()
            return
        thread.start()

    def stop(self) -> None:
        """End the handshakes that go on; nobody is passed on after this."""
        with self._lock:
            threads = list(self._going_on)
            for connection in self._going_on.values():
                _shut(connection)
        for thread in threads:
            thread.join()

    def _begin(self, thread: threading.Thread, connection: socket.socket) -> bool:
        with self._lock:
            if len(self._going_on) >= self._most:
                return False
            try:
                # Another descriptor of the connection, which can be shut down whatever OpenSSL made of the first
                self._going_on[thread] = connection.dup()
            except OSError as error:
                LOGGER.error("no handshake can begin: %s", error)
                return False
        return True

    def _shake_hands(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            secured = let_in(connection, self._current(), self._door.handshake_seconds)
        except OSError as error:
            self._on_event("tls_refused", {"address": address[0], "reason": in_words(error)})
        else:
            self._pass_on(secured, address)
        finally:
            with self._lock:
                self._going_on.pop(threading.current_thread()).close()

    def _current(self) -> ssl.SSLContext:
        """Return the context of the files as they are; of the last sound ones while they are being replaced."""
        try:
            self._context = listening_context(self._door.identity)
        except ConfigError as error:
            LOGGER.error("the TLS files can not be used, those of before are: %s", error.words)
        return self._context


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        LOGGER.debug("the connection was closed already")
