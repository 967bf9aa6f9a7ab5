"""Receiver: takes associations on the node's socket and makes what arrives durable. Touches no database."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import structlog

from hilum.committing.desk import desk_of
from hilum.processes import Station
from scp.inbox import Inbox
from scp.listening import adopt_listening_socket, open_listening_socket
from scp.moves import Moves
from scp.receiver import Receiver

log = structlog.get_logger()

_GRACE_SECONDS = 10.0  # for a C-STORE that is under way when the node stops


def run(station: Station) -> None:
    """Receive until told to stop."""
    node = station.settings.node
    inbox = Inbox(
        station.settings.data_dir / "inbox" / station.named("receiver"), reserve_bytes=node.disk_reserve_mb * 1_000_000
    )
    with _listening_socket(station) as listening:
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
        )
        receiver.start()
        host, port = listening.getsockname()[:2]
        station.announce({"host": host, "port": port})
        log.info("receiver.listening", host=host, port=port, ae_title=node.ae_title)
        station.stop.wait()
        receiver.stop(_GRACE_SECONDS)


def _write_down(name: str, facts: Mapping[str, object]) -> None:
    """Log what the receiver tells; each stored instance only where the log is to be that detailed."""
    if name == "association_rejected":
        log.warning(
            f"receiver.{name}", **facts, remedy="is the caller a peer in the configuration, and calls our title?"
        )
    else:
        (log.debug if name == "instance_stored" else log.info)(f"receiver.{name}", **facts)


def _listening_socket(station: Station) -> socket.socket:
    inherited = station.descriptors.get("listen")
    if inherited is not None:
        return adopt_listening_socket(inherited)
    return open_listening_socket(station.settings.node.bind, station.settings.node.port)
