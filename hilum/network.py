"""``hilum send`` and ``hilum echo``: the configured peers, called from the command line."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from pydicom.misc import is_dicom
from rich.progress import Progress

from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.processes import StopSignal
from hilum.terminal import complain, console, is_terminal, say
from scp.association.requesting import Peer, echo
from scp.sending.sender import send_files
from study.errors import ConfigError

_SLOT_SECONDS = 0.05  # between looks for a free slot


def peer_of(settings: PeerSettings) -> Peer:
    """Return how a configured peer is called."""
    return Peer(settings.name, settings.ae_title, settings.host, settings.port, settings.identity)


@contextmanager
def slot(store_root: Path, peer: PeerSettings, stopping: StopSignal) -> Iterator[bool]:
    """Hold one of the associations that a peer is to have with the node at a time (its `max_associations`).

    All processes and threads of the node that call a configured peer on their own do so within this: each slot is a
    file under ``work/peers`` of the data directory, locked by its holder and free again however that ends. What is
    logged within names the association.

    Yields
    ------
    bool
        True once a slot is held; False where the node is told to stop before one is free: call nobody then.
    """
    folder = store_root / "work" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    held = _free_slot(folder, peer)
    while held is None and not stopping.wait(_SLOT_SECONDS):
        held = _free_slot(folder, peer)
    try:
        with structlog.contextvars.bound_contextvars(association=secrets.token_hex(4)):
            yield held is not None
    finally:
        if held is not None:
            os.close(held)


def _free_slot(folder: Path, peer: PeerSettings) -> int | None:
    """Return the descriptor of a slot that is ours now; None where all are taken."""
    for number in range(peer.max_associations):
        descriptor = os.open(folder / f"{peer.name}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return descriptor
    return None


def called_peer(settings: Settings, name: str) -> Peer:
    """Return the peer of that name.

    Raises
    ------
    ConfigError
        If there is none, or it can not be called.
    """
    known = {peer.name.lower(): peer for peer in settings.peers.values()}
    peer = known.get(name.lower())
    if peer is None:
        raise ConfigError(f"peer {name}: unknown; the configuration has {', '.join(settings.peers) or 'none'}")
    if not peer.host:
        raise ConfigError(f"peers.{peer.name}: has no host and port, so it can not be called; add them")
    return peer_of(peer)


def echo_peer(settings: Settings, name: str) -> str:
    """Return how quickly a peer answers C-ECHO."""
    peer = called_peer(settings, name)
    seconds = echo(peer, settings.node.ae_title)
    return f"{peer.name}: {peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO in {seconds * 1000:.0f} ms"


def send_paths(settings: Settings, name: str, paths: Sequence[Path]) -> int:
    """Send files, and the DICOM files of folders, to a peer; return the exit status."""
    peer = called_peer(settings, name)
    files = dicom_files(paths)
    if not files:
        complain("hilum: no DICOM file there")
        return 1
    failed = 0
    with Progress(console=console(), transient=True, disable=not is_terminal()) as progress:
        bar = progress.add_task(f"sending to {peer.name}", total=len(files))
        for sent in send_files(peer, settings.node.ae_title, files):
            progress.advance(bar)
            if sent.error is not None:
                failed += 1
                complain(f"hilum: {sent.path}: {sent.error.code}: {sent.error.reason.words}")
    say(f"{len(files) - failed} of {len(files)} stored by {peer.name}")
    return 1 if failed else 0


def dicom_files(paths: Sequence[Path]) -> list[Path]:
    """Return files as they are and, of folders, the DICOM files in them, in order of name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [file for file in sorted(path.rglob("*")) if file.is_file() and is_dicom(file)]
        else:
            found.append(path)
    return found
