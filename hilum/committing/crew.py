"""Who does what storage commitment needs, in the sender's process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from db.delivery import commitments, vouching
from db.engine import Database
from db.files.filestore import FileStore
from db.leading import Lead
from hilum.bells import Bells
from hilum.committing.asking import Asker
from hilum.committing.desk import spool_folder
from hilum.committing.settling import Clerk
from hilum.committing.vouching import Voucher
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.outages import at_work, keep_at
from hilum.processes import StopSignal
from hilum.working.leading import lead_of
from scp.commitments.spool import CommitmentSpool

log = structlog.get_logger()

_PAUSE_SECONDS = 0.25  # between looks whether the lead is lost


class Worker(Protocol):
    """Who works in a thread of its own until the node stops."""

    name: str

    def run(self) -> None:
        """Work until the node stops."""


def crew_of(
    settings: Settings, database: Database, store: FileStore, stop: StopSignal, bells: Bells | None = None
) -> Sequence[Worker]:
    """Return who has work to do, after what an earlier sender, or other settings, left over is seen to."""
    _let_go(settings, database)
    asked = [peer for peer in settings.destinations if peer.commitment]
    served = [peer for peer in settings.peers.values() if peer.vouch]
    bells = bells or Bells()
    folder = spool_folder(store.root)
    if not (asked or served or folder.exists()):
        return []
    spool = CommitmentSpool(folder)
    askers = [Asker(peer, settings, database, store, spool, stop, bells=bells) for peer in asked]
    clerk = Clerk(settings, database, store, spool, stop, [asker.answered for asker in askers], bells)
    return [*askers, clerk, *([_Vouchers(served, settings, database, store, stop, bells)] if served else [])]


class _Vouchers:
    """Those who answer peers that ask us; of one sender of the store at a time, since two might answer otherwise."""

    name = "vouchers"

    def __init__(
        self,
        peers: Sequence[PeerSettings],
        settings: Settings,
        database: Database,
        store: FileStore,
        stop: StopSignal,
        bells: Bells,
    ) -> None:
        self._bells = bells
        self._peers = peers
        self._settings = settings
        self._database = database
        self._store = store
        self._stop = stop

    def run(self) -> None:
        """Answer, while this sender leads, until the node stops."""
        with lead_of(self._settings, self._database, "vouching") as lead:

            def turn() -> None:
                if lead.is_held:
                    self._answer(lead)

            keep_at(turn, self._stop, "vouching.crashed", self._settings.delivery.retry_seconds)

    def _answer(self, lead: Lead) -> None:
        """Answer until the lead is lost, or the node stops, what the leader before this one left over first."""
        with self._database.writing() as uow:
            vouching.hurry(uow)
            uow.commit()
        over = StopSignal()
        vouchers = [
            Voucher(peer, self._settings, self._database, self._store, over, self._bells) for peer in self._peers
        ]
        threads = at_work([voucher.run for voucher in vouchers], over)
        while lead.is_held and not (over.is_set() or self._stop.wait(_PAUSE_SECONDS)):
            pass
        over.set()
        for thread in threads:
            thread.join()


def _let_go(settings: Settings, database: Database) -> None:
    unasked = [peer.name for peer in settings.peers.values() if not peer.commitment]
    with database.writing() as uow:
        ended = commitments.stop_asking(uow, unasked)
        uow.commit()
    if ended:
        log.warning("commitment.not_asked_for_any_more", deliveries=ended)
