"""Fetching from one archive: orders of two urgencies, carried out one after the other in a thread of its own.

What a study still lacks goes before earlier studies of a patient. Nothing of an order lasts: after a restart whoever
ordered finds missing again what is not there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import structlog

from db.files.filestore import FileStore
from hilum.bells import Bells
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.outages import Outage
from hilum.processes import StopSignal
from scp.association.requesting import Timeouts
from scp.receiving.inbox import Inbox
from scp.receiving.moves import Moves
from scp.retrieving.fetching import Method, Retrieved, Wanted, retrieve
from study.errors import DeliveryError, HilumError, ReceiveError

log = structlog.get_logger()

_LOOK_SECONDS = 0.2  # between looks at the stop signal; an order wakes the thread at once
TIMEOUTS = Timeouts(connection=5.0, negotiation=15.0, answer=60.0)
"""Time limits of a retrieval [s]; an archive may have to fetch from a tape what it sends."""
_LEAST_FREE_BYTES = 1_000_000
MOST_ORDERS = 200
"""How many may wait; whoever finds the queue full comes back later."""


class Urgency(IntEnum):
    """Which orders go first."""

    LACKING = 0  # a study waits for what it lacks
    PRIOR = 1  # earlier studies of a patient


@dataclass(frozen=True)
class Order:
    """What is to be fetched, and who is told.

    Parameters
    ----------
    wanted
        A series, or some of its instances.
    urgency
        What it goes before.
    done
        Called once, in the fetcher's thread, with what the archive gave or the error that it ended with. What was
        fetched by C-GET is in the inbox then, and the indexer soon takes it from there; after a C-MOVE it comes to
        our listener.
    """

    wanted: Wanted
    urgency: Urgency
    done: Callable[[Retrieved | HilumError], None]


@dataclass(order=True)
class _Waiting:
    urgency: Urgency
    number: int
    order: Order = field(compare=False)


class Fetcher:
    """Fetches from one archive into an inbox of its own.

    Parameters
    ----------
    archive
        Its `retrieve` says how; with "none" nothing is fetched.
    """

    def __init__(self, archive: PeerSettings, settings: Settings, stop: StopSignal, bells: Bells | None = None) -> None:
        self._bells = bells or Bells()
        self._archive = archive
        self._settings = settings
        self._stop = stop
        self._waiting: queue.PriorityQueue[_Waiting] = queue.PriorityQueue()
        self._lock = threading.Lock()
        self._taken: set[tuple[str, str]] = set()
        self._number = 0

    @property
    def can_fetch(self) -> bool:
        """Tell whether anything may be fetched from the archive."""
        return self._archive.retrieve != "none"

    def fetch(self, order: Order) -> bool:
        """Queue an order; False where it is not to be carried out now, which is no try.

        The series is being fetched already, too many wait, nothing may be fetched, or the disk is at its reserve.
        """
        series = (order.wanted.study_instance_uid, order.wanted.series_instance_uid)
        with self._lock:
            most = MOST_ORDERS * (2 if order.urgency is Urgency.LACKING else 1)  # priors leave room for what lacks
            if not self.can_fetch or series in self._taken or len(self._taken) >= most or not self._has_room():
                return False
            self._taken.add(series)
            self._number += 1
            self._waiting.put(_Waiting(order.urgency, self._number, order))
        return True

    def _has_room(self) -> bool:
        reserve_bytes = self._settings.node.disk_reserve_mb * 1_000_000
        return FileStore(self._settings.data_dir).free_bytes() >= max(reserve_bytes, _LEAST_FREE_BYTES)

    def is_fetching(self, study_instance_uid: str, series_instance_uid: str) -> bool:
        """Tell whether an order for the series waits or is being carried out."""
        return (study_instance_uid, series_instance_uid) in self._taken

    def run(self) -> None:
        """Carry out orders until the node stops."""
        structlog.contextvars.bind_contextvars(peer=self._archive.name)
        inbox = Outage(self._stop).persist(self._inbox)
        try:
            while not self._stop.is_set():
                try:
                    order = self._waiting.get(timeout=_LOOK_SECONDS).order
                except queue.Empty:
                    continue
                self._carry_out(order, inbox)
                self._bells.ring("indexer", "archivist")
        finally:
            inbox.close()

    def _inbox(self) -> Inbox:
        return Inbox(
            self._settings.data_dir / "inbox" / f"archivist-{self._archive.name}",
            reserve_bytes=self._settings.node.disk_reserve_mb * 1_000_000,
        )

    def _carry_out(self, order: Order, inbox: Inbox) -> None:
        wanted = order.wanted
        try:
            with slot(self._settings.data_dir, self._archive, self._stop) as held:
                if held:
                    order.done(self._outcome(wanted, inbox))
        except Exception:  # the loop's edge: one order must not end the fetching of all others
            log.exception("fetch.crashed", study=wanted.study_instance_uid, series=wanted.series_instance_uid)
        finally:
            self._taken.discard((wanted.study_instance_uid, wanted.series_instance_uid))

    def _outcome(self, wanted: Wanted, inbox: Inbox) -> Retrieved | HilumError:
        # "none" was ruled out when the order was taken
        method: Method = "auto" if self._archive.retrieve == "none" else self._archive.retrieve
        told = {"study": wanted.study_instance_uid, "series": wanted.series_instance_uid}
        try:
            retrieved = retrieve(
                peer_of(self._archive),
                self._settings.node.ae_title,
                wanted,
                inbox,
                method,
                timeouts=TIMEOUTS,
                stopping=self._stop.is_set,
                moves=Moves.below(self._settings.data_dir),
            )
        except (DeliveryError, ReceiveError) as error:
            log.warning("fetch.failed", **told, code=error.code, words=error.words)
            return error
        log.info("fetch.done", **told, method=retrieved.method, completed=retrieved.completed, failed=retrieved.failed)
        return retrieved
