"""Receiver: takes associations on the node's socket and makes what arrives durable. Touches no database."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack

import structlog

from hilum.committing.desk import desk_of
from hilum.processes import Station
from scp.receiving.greeting import TLSDoor
from scp.receiving.inbox import Inbox
from scp.receiving.listening import adopt_listening_socket, open_listening_socket
from scp.receiving.moves import Moves
from scp.receiving.receiver import Receiver

log = structlog.get_logger()

_GRACE_SECONDS = 10.0  # for a C-STORE that is under way when the node stops


def run(station: Station) -> None:
    """Receive until told to stop."""
    node = station.settings.node
    inbox = Inbox(
        station.settings.data_dir / "inbox" / station.named("receiver"), reserve_bytes=node.disk_reserve_mb * 1_000_000
    )
    with ExitStack() as held:
        listening = held.enter_context(_listening_socket(station))
        door = _tls_door(station)
        if door is not None:
            held.enter_context(door.listening_socket)
        receiver = Receiver(
            listening,
            node.ae_title,
            inbox,
            known_calling_ae_titles=station.settings.known_calling_ae_titles,
            max_associations=node.max_associations,
            accept_unknown_sop_classes=node.unknown_sop_classes,
            on_event=_write_down,
            commitment=desk_of(station.settings),
            moves=Moves.below(station.settings.data_dir),
            tls=door,
        )
        receiver.start()
        host, port = listening.getsockname()[:2]
        station.announce({"host": host, "port": port})
        tls_port = station.settings.tls.port or None
        log.info("receiver.listening", host=host, port=port, tls_port=tls_port, ae_title=node.ae_title)
        station.stop.wait()
        receiver.stop(_GRACE_SECONDS)


def _write_down(name: str, facts: Mapping[str, object]) -> None:
    """Log what the receiver tells; each stored instance only where the log is to be that detailed."""
    if name == "association_rejected":
        log.warning(
            f"receiver.{name}", **facts, remedy="is the caller a peer in the configuration, and calls our title?"
        )
    elif name == "tls_refused":
        log.warning(f"receiver.{name}", **facts, remedy="is its certificate of one of tls.authorities, and valid?")
    else:
        (log.debug if name == "instance_stored" else log.info)(f"receiver.{name}", **facts)


def _listening_socket(station: Station) -> socket.socket:
    inherited = station.descriptors.get("listen")
    if inherited is not None:
        return adopt_listening_socket(inherited)
    return open_listening_socket(station.settings.node.bind, station.settings.node.port)


def _tls_door(station: Station) -> TLSDoor | None:
    """Return the port for callers over TLS; None where the configuration has none."""
    settings = station.settings
    if not settings.tls.port or settings.identity is None:
        return None
    inherited = station.descriptors.get("listen_tls")
    listening = (
        open_listening_socket(settings.node.bind, settings.tls.port)
        if inherited is None
        else adopt_listening_socket(inherited)
    )
    return TLSDoor(listening, settings.identity, settings.tls.handshake_seconds)
