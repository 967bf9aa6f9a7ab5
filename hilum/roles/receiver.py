"""Receiver: takes associations on the node's socket and makes what arrives durable. Touches no database."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import structlog

from hilum.bells import Bells
from hilum.committing.desk import desk_of
from hilum.processes import Station
from scp.receiving.greeting import TLSDoor
from scp.receiving.inbox import Inbox
from scp.receiving.listening import adopt_listening_socket, open_listening_socket
from scp.receiving.moves import Moves
from scp.receiving.paths import why_not_fast
from scp.receiving.receiver import Receiver

log = structlog.get_logger()

_REMEDIES = {
    "called AE title not recognized": "have the caller call node.ae_title",
    "calling AE title not recognized": "is the caller a peer in the configuration?",
}
_GRACE_SECONDS = 10.0  # for a C-STORE that is under way when the node stops


def run(station: Station) -> None:
    """Receive until told to stop."""
    node = station.settings.node
    inbox = Inbox(
        station.settings.data_dir / "inbox" / station.named("receiver"),
        reserve_bytes=node.disk_reserve_mb * 1_000_000,
        # Without a node around it nobody splits its logs on this machine
        log_bytes=node.reception_log_mb * 1_000_000 if "listen" in station.descriptors else 0,
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
            on_event=_telling(station.bells),
            commitment=desk_of(station.settings, station.bells),
            moves=Moves.below(station.settings.data_dir),
            tls=door,
            fast_reception=node.fast_reception,
        )
        _tell_way(receiver, wanted=node.fast_reception)
        receiver.start()
        host, port = listening.getsockname()[:2]
        station.announce({"host": host, "port": port})
        tls_port = station.settings.tls.port or None
        log.info("receiver.listening", host=host, port=port, tls_port=tls_port, ae_title=node.ae_title)
        station.stop.wait()
        receiver.stop(_GRACE_SECONDS)


def _tell_way(receiver: Receiver, *, wanted: bool) -> None:
    if receiver.is_fast:
        return
    if wanted:
        log.warning("receiver.plain", reason=why_not_fast())
    else:
        log.info("receiver.plain", reason="node.fast_reception = false")


def _telling(bells: Bells) -> Callable[[str, Mapping[str, object]], None]:
    """Return what logs an event, and has the indexer look."""

    def tell(name: str, facts: Mapping[str, object]) -> None:
        _write_down(name, facts)
        bells.ring("indexer")

    return tell


def _write_down(name: str, facts: Mapping[str, object]) -> None:
    """Log what the receiver tells; each stored instance only where the log is to be that detailed."""
    if name == "association_rejected":
        log.warning(f"receiver.{name}", **facts, remedy=_REMEDIES.get(str(facts["reason"]), "none: it may call again"))
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
