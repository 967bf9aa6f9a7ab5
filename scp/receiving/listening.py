"""Open the port that the receivers share: made once by the supervisor, handed on by file descriptor."""

from __future__ import annotations

import socket


def open_listening_socket(bind: str, port: int, backlog: int = 128) -> socket.socket:
    """Return a socket that listens on (`bind`, `port`), for children to inherit and accept on.

    It does not block: of several processes that wake for one connection, those that come late go on waiting.

    Parameters
    ----------
    bind
        An IPv4 or IPv6 address or a host name; ``""`` and ``"0.0.0.0"`` are all IPv4 addresses, ``"::"`` all addresses.
    port
        0 takes a free one; `getsockname()` of the socket says which.

    Raises
    ------
    OSError
        If the address is not ours or the port is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        bind or "0.0.0.0",  # noqa: S104 - all addresses is what an empty setting means
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and bind == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(backlog)
        listening.setblocking(False)
        listening.set_inheritable(True)
    except OSError:
        listening.close()
        raise
    return listening


def adopt_listening_socket(descriptor: int) -> socket.socket:
    """Return the listening socket that the supervisor handed over as file descriptor `descriptor`."""
    return socket.socket(fileno=descriptor)
