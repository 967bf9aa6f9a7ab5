"""Who does what storage commitment needs, in the sender's process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from db import commitments, vouching
from db.engine import Database
from db.filestore import FileStore
from hilum.committing.asking import Asker
from hilum.committing.desk import spool_folder
from hilum.committing.settling import Clerk
from hilum.committing.vouching import Voucher
from hilum.config import Settings
from hilum.processes import StopSignal
from scp.spool import CommitmentSpool

log = structlog.get_logger()


class Worker(Protocol):
    """Who works in a thread of its own until the node stops."""

    name: str

    def run(self) -> None:
        """Work until the node stops."""


def crew_of(settings: Settings, database: Database, store: FileStore, stop: StopSignal) -> Sequence[Worker]:
    """Return who has work to do, after what an earlier sender, or other settings, left over is seen to."""
    _let_go(settings, database)
    asked = [peer for peer in settings.destinations if peer.commitment]
    served = [peer for peer in settings.peers.values() if peer.vouch]
    folder = spool_folder(store.root)
    if not (asked or served or folder.exists()):
        return []
    spool = CommitmentSpool(folder)
    askers = [Asker(peer, settings, database, store, spool, stop) for peer in asked]
    clerk = Clerk(settings, database, store, spool, stop, [asker.answered for asker in askers])
    return [*askers, clerk, *(Voucher(peer, settings, database, store, stop) for peer in served)]


def _let_go(settings: Settings, database: Database) -> None:
    unasked = [peer.name for peer in settings.peers.values() if not peer.commitment]
    with database.writing() as uow:
        ended = commitments.stop_asking(uow, unasked)
        vouching.hurry(uow)
        uow.commit()
    if ended:
        log.warning("commitment.not_asked_for_any_more", deliveries=ended)
