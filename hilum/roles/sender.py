"""Sender: takes what the outbox owes to each peer and brings it there, in order, until it is taken."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence

import structlog

from db import outbox
from db.engine import Database
from db.filestore import FileStore
from hilum.config import DeliverySettings, PeerSettings, Settings
from hilum.processes import Station, StopSignal
from hilum.recovery import owner_prefix
from scp.sender import Peer, Sender
from study.entities import Delivery
from study.errors import DeliveryError, StoreFailed

log = structlog.get_logger()

_PAUSE_SECONDS = 0.05
_LEASE_SECONDS = 120.0
_AT_ONCE = 32  # deliveries per association


def run(station: Station) -> None:
    """Deliver until told to stop; each peer has a thread of its own, so that a dead one delays nobody else."""
    database = Database.open(station.settings.database_url)
    database.check_schema()
    store = FileStore(station.settings.data_dir)
    couriers = [
        Courier(peer, station.settings, database, store, station.stop) for peer in station.settings.destinations
    ]
    threads = [threading.Thread(target=courier.run, name=f"courier-{courier.name}") for courier in couriers]
    for thread in threads:
        thread.start()
    station.announce({"peers": [courier.name for courier in couriers]})
    station.stop.wait()
    for thread in threads:
        thread.join()
    database.close()


def peer_of(settings: PeerSettings) -> Peer:
    """Return how a configured peer is called."""
    return Peer(settings.name, settings.ae_title, settings.host, settings.port)


class Courier:
    """Brings results to one peer."""

    def __init__(
        self, peer: PeerSettings, settings: Settings, database: Database, store: FileStore, stop: StopSignal
    ) -> None:
        self.name = peer.name
        self._peer = peer_of(peer)
        self._ae_title = settings.node.ae_title
        self._delivery = settings.delivery
        self._database = database
        self._store = store
        self._stop = stop
        self._owner = f"{owner_prefix(store)}sender/{os.getpid()}/{peer.name}"

    def run(self) -> None:
        """Deliver what is due, again and again, until the node stops."""
        structlog.contextvars.bind_contextvars(peer=self.name)
        while not self._stop.wait(_PAUSE_SECONDS):
            try:
                while not self._stop.is_set() and self.turn():
                    pass
            except Exception:  # the loop's edge: one object must not end the delivery of all others
                log.exception("delivery.crashed")
                self._stop.wait(self._delivery.retry_seconds)

    def turn(self) -> bool:
        """Take what is due to the peer over one association; tell whether there was anything."""
        with self._database.writing() as uow:
            due = outbox.lease_deliveries(uow, self.name, self._owner, _LEASE_SECONDS, _AT_ONCE)
            uow.commit()
        if due:
            self._deliver(due)
        return bool(due)

    def _deliver(self, due: Sequence[Delivery]) -> None:
        left = list(due)
        classes = sorted({delivery.result.sop_class_uid for delivery in due})
        try:
            with Sender(self._peer, self._ae_title, classes) as sender:
                while left:
                    self._store_one(sender, left[0])
                    left.pop(0)
                    if self._stop.is_set():
                        break
        except DeliveryError as error:
            if left:
                self._not_taken(left.pop(0), error)
        self._give_back(left)

    def _store_one(self, sender: Sender, delivery: Delivery) -> None:
        path = self._store.root / delivery.result.path
        outcome = sender.store(path)
        self._store.append_manifest(
            delivery.study_instance_uid,
            {"record": "delivered", "peer": self.name, "sop_instance_uid": delivery.result.sop_instance_uid},
        )
        with self._database.writing() as uow:
            outbox.delivered(uow, delivery.id, self._owner, outcome.status)
            uow.commit()
        log.info("delivery.delivered", delivery=delivery.id, form=delivery.result.form, status=f"{outcome.status:04X}")

    def _not_taken(self, delivery: Delivery, error: DeliveryError) -> None:
        never = isinstance(error, StoreFailed) and error.permanent
        with self._database.writing() as uow:
            if never:
                outbox.keep_aside(uow, delivery.id, self._owner, error.reason, error.status)
            else:
                seconds = back_off(self._delivery, delivery.attempts, problem=error.permanent)
                outbox.postpone(uow, delivery.id, self._owner, error.reason, error.permanent, seconds, error.status)
            uow.commit()
        log.warning("delivery.not_taken", delivery=delivery.id, code=error.code, kept_aside=never)

    def _give_back(self, left: Sequence[Delivery]) -> None:
        """Free the leases of what was not tried; it follows when the first of its study has been taken."""
        if left:
            with self._database.writing() as uow:
                outbox.give_back(uow, [delivery.id for delivery in left], self._owner)
                uow.commit()


def back_off(settings: DeliverySettings, attempts: int, *, problem: bool) -> float:
    """Return how long to wait before the next try [s]: doubling, bounded, with a tenth of jitter.

    A refusal that looks permanent is tried at the slow pace at once: only a person can change it, and the retry shows
    when they did.
    """
    if problem:
        return settings.problem_retry_seconds
    seconds = min(settings.retry_seconds * 2 ** min(max(attempts - 1, 0), 16), settings.retry_max_seconds)
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
