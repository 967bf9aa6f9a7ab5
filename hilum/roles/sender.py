"""Sender: takes what the outbox owes to each peer and brings it there, in order, until it is taken."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from db.delivery import acceptance, commitments, deliveries, outbox, withdrawn
from db.delivery.deliveries import Exchange
from db.engine import Database
from db.files.filestore import FileStore
from db.lasting.ledger import presence_record
from hilum.backing_off import back_off
from hilum.bells import Bells
from hilum.committing.crew import crew_of
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.outages import Outage, at_work, disk_failure, keep_at
from hilum.processes import Station, StopSignal
from hilum.working.leases import owner, place_of
from scp.association.requesting import Timeouts, accepted_classes
from scp.retrieving.query import prove_stored
from scp.sending.object_file import describe, offers_for
from scp.sending.sender import Sender
from study.entities import Delivery
from study.errors import (
    AnswerLost,
    ArchiveError,
    AssociationRejected,
    DatabaseUnavailable,
    DeliveryError,
    LeaseLost,
    NoAcceptedContext,
    PeerUnreachable,
    Reason,
    StoreFailed,
)
from study.forms import INSTEAD, SOP_CLASSES, Acceptance, Form

log = structlog.get_logger()

_DUPLICATE = 0x0111
_CLASS_NOT_SUPPORTED = 0x0122
_OF_A_REJECTION = range(0xA770, 0xA780)  # dcm4chee: it has no such object, or has it rejected already
_AT_ONCE = 32  # deliveries per association
_ASK_AGAIN_SECONDS = 3600.0


def run(station: Station) -> None:
    """Deliver until told to stop; each peer has a thread of its own, so that a dead one delays nobody else.

    Raises
    ------
    StoreBusy
        If another sender works on this machine.
    """
    database = Database.open(station.settings.database_url)
    database.check_schema()
    store = FileStore(station.settings.data_dir)
    with place_of(database, store, station.settings.machine, "sender"):
        _work(station, store, database)


def _work(station: Station, store: FileStore, database: Database) -> None:
    with database.writing() as uow:
        withheld = outbox.withhold(uow, station.settings.shadow_models)
        uow.commit()
    if withheld:
        log.warning("deliveries.withheld", count=withheld)
    couriers = [
        Courier(peer, station.settings, database, store, station.stop, bells=station.bells)
        for peer in station.settings.destinations
    ]
    crew = crew_of(station.settings, database, store, station.stop, station.bells)
    threads = at_work([*(courier.run for courier in couriers), *(worker.run for worker in crew)], station.stop)
    station.announce({"peers": [courier.name for courier in couriers]})
    station.stop.wait()
    for thread in threads:
        thread.join()
    database.close()


class Courier:
    """Brings results to one peer.

    Parameters
    ----------
    timeouts
        Of its associations; those of `scp.association.requesting` by default.
    bells
        By which it hears that something was put into the outbox.
    """

    def __init__(
        self,
        peer: PeerSettings,
        settings: Settings,
        database: Database,
        store: FileStore,
        stop: StopSignal,
        *,
        timeouts: Timeouts | None = None,
        bells: Bells | None = None,
    ) -> None:
        self.name = peer.name
        self._bells = bells or Bells()
        self._ear = self._bells.ear(stop)
        self._timeouts = timeouts
        self._settings = peer
        self._peer = peer_of(peer)
        self._ae_title = settings.node.ae_title
        self._delivery = settings.delivery
        self._database = database
        self._store = store
        self._stop = stop
        self._failures = 0
        self._stored: set[str] = set()
        self._asks_at = 0.0
        self._owner = f"{owner(store, settings.machine, 'sender')}/{peer.name}"
        self._outage = Outage(stop)

    def run(self) -> None:
        """Deliver what is due, again and again, until the node stops."""
        structlog.contextvars.bind_contextvars(peer=self.name)
        keep_at(self._work, self._stop, "delivery.crashed", self._delivery.retry_seconds, ear=self._ear)

    def _work(self) -> None:
        self._ask()
        while not self._stop.is_set() and self.turn():
            pass

    def _ask(self) -> None:
        """Find out which SOP Classes of those that are due to it the peer accepts: at the start, and every hour."""
        if time.monotonic() < self._asks_at:
            return
        forms = {*self._settings.results, *(INSTEAD[form] for form in self._settings.results if form in INSTEAD)}
        forms.add(Form.REJECTION)  # what is taken back is rejected there
        classes = {SOP_CLASSES[form] for form in forms}
        try:
            with slot(self._store.root, self._settings, self._stop) as free:
                if not free:
                    return
                accepted = accepted_classes(self._peer, self._ae_title, sorted(classes), self._timeouts)
        except DeliveryError as error:
            self._asks_at = time.monotonic() + self._delivery.retry_max_seconds
            log.info("peer.not_asked", code=error.code)
            return
        self._asks_at = time.monotonic() + _ASK_AGAIN_SECONDS
        self._stored &= accepted
        self._learn({uid: Acceptance.ACCEPTED if uid in accepted else Acceptance.REFUSED for uid in classes})

    def _learn(self, found: Mapping[str, Acceptance]) -> None:
        with self._database.writing() as uow:
            news = acceptance.learn(uow, self.name, self._settings.address, found)
            uow.commit()
        for uid, state in news.items():
            log.info("peer.acceptance", sop_class=uid, state=state.value)

    def turn(self) -> bool:
        """Take what is due to the peer over one association; tell whether there was anything."""
        with self._database.reading() as uow:
            due_in = outbox.seconds_until_due(uow, self.name)
            if due_in is None or due_in > 0:
                self._ear.look_within(due_in)
                return False
            if not outbox.is_delivery_waiting(uow, self.name):
                return False
        with slot(self._store.root, self._settings, self._stop) as free:
            due = self._lease() if free else []
            if due:
                self._deliver(due)
        return bool(due)

    def _lease(self) -> Sequence[Delivery]:
        with self._database.writing() as uow:
            due = outbox.lease_deliveries(uow, self.name, self._owner, self._delivery.lease_seconds, _AT_ONCE)
            uow.commit()
        return due

    def _deliver(self, due: Sequence[Delivery]) -> None:
        left = [delivery for delivery in due if self._is_readable(delivery)]
        if not left:
            return
        files = [describe(self._path(delivery)) for delivery in left]
        offers = offers_for(files, self._settings.transfer_syntax_uids)
        try:
            with Sender(self._peer, self._ae_title, offers, timeouts=self._timeouts) as sender:
                while left:
                    self._store_one(sender, left[0])
                    left.pop(0)
                    if self._stop.is_set() or not sender.is_open:
                        break
            self._failures = 0
        except DeliveryError as error:
            if left:
                self._persist_not_taken(left.pop(0), error)
            self._failures += isinstance(error, (PeerUnreachable, AssociationRejected))
        except LeaseLost:  # another sender's meanwhile, or taken back; its end is no business of ours any more
            log.warning("delivery.lease_lost", study=left[0].study_instance_uid, delivery=left[0].id)
            left.pop(0)
        self._outage.persist(lambda: self._give_back(left))
        if self._failures:
            self._outage.persist(self._hold_back)

    def _persist_not_taken(self, delivery: Delivery, error: DeliveryError) -> None:
        self._outage.persist(lambda: self._not_taken(delivery, error))

    def _hold_back(self) -> None:
        with self._database.writing() as uow:
            outbox.hold_back(uow, self.name, back_off(self._delivery, self._failures, problem=False))
            uow.commit()

    def _is_readable(self, delivery: Delivery) -> bool:
        """Tell whether the result can be read; one that can not is kept aside, and stops no other."""
        try:
            describe(self._path(delivery))
        except (ArchiveError, OSError) as error:
            reason = Reason("ResultUnreadable", f"The result's file can not be read: {type(error).__name__}.")
            with self._database.writing() as uow:
                if disk_failure(error) is None:
                    outbox.keep_aside(uow, delivery.id, self._owner, reason)
                else:  # the disk is away, not the file
                    seconds = back_off(self._delivery, delivery.attempts, problem=False)
                    outbox.postpone(uow, delivery.id, self._owner, reason, problem=False, seconds=seconds)
                uow.commit()
            log.exception("delivery.unreadable", study=delivery.study_instance_uid, delivery=delivery.id)
            return False
        return True

    def _store_one(self, sender: Sender, delivery: Delivery) -> None:
        began = time.monotonic()
        status = self._store_at_peer(sender, delivery)
        exchange = Exchange(began, time.monotonic())
        # What a peer makes of a rejection shows at once; it need not keep the note
        commits = self._settings.commitment and delivery.result.form != Form.REJECTION
        end, record = (commitments.stored, "stored") if commits else (outbox.delivered, "delivered")
        there = presence_record(record, self.name, delivery.result.sop_instance_uid, status)

        def note() -> None:
            with self._database.writing() as uow:
                end(uow, delivery.id, self._owner, status, exchange)
                uow.commit()

        def meanwhile() -> None:
            sender.end()  # the peer is not to wait for us
            with suppress(DatabaseUnavailable), self._database.writing() as uow:
                outbox.renew(uow, delivery.id, self._owner, self._delivery.lease_seconds)
                uow.commit()

        # The peer has it, and is not to get it twice because our disk is full
        self._outage.persist(lambda: self._store.append_manifest(delivery.study_instance_uid, there), meanwhile)
        self._outage.persist(note, meanwhile)
        if commits:
            self._bells.ring("sender")  # who asks for commitment is in this process
        if delivery.result.sop_class_uid not in self._stored:
            self._stored.add(delivery.result.sop_class_uid)
            self._learn({delivery.result.sop_class_uid: Acceptance.STORED})
        log.info(
            f"delivery.{record}",
            study=delivery.study_instance_uid,
            delivery=delivery.id,
            form=delivery.result.form,
            status=f"{status:04X}",
        )

    def _store_at_peer(self, sender: Sender, delivery: Delivery) -> int:
        """Send one object; return the status that says that the peer holds it.

        A duplicate (0111H) is what a peer answers when its Success was lost on the way: it counts once a query proves
        that the object is there.
        """
        try:
            return sender.store(self._path(delivery)).status
        except StoreFailed as error:
            result = delivery.result
            if error.status != _DUPLICATE:
                raise
            self._doubt(delivery)
            sender.end()  # it may take but one association at a time
            proven = prove_stored(
                self._peer,
                self._ae_title,
                study_instance_uid=delivery.study_instance_uid,
                series_instance_uid=result.series_instance_uid,
                sop_instance_uid=result.sop_instance_uid,
                timeouts=self._timeouts,
            )
            if proven:
                return _DUPLICATE
            raise
        except AnswerLost:
            self._doubt(delivery)
            raise

    def _doubt(self, delivery: Delivery) -> None:
        """Note that the peer may hold the object, for whoever takes it back."""
        with self._database.writing() as uow:
            deliveries.doubt(uow, delivery.id, self._owner)
            uow.commit()

    def _path(self, delivery: Delivery) -> Path:
        return self._store.root / delivery.result.path

    def _not_taken(self, delivery: Delivery, error: DeliveryError) -> None:
        not_taken = isinstance(error, NoAcceptedContext) and error.status in (None, _CLASS_NOT_SUPPORTED)
        spoilt = isinstance(error, StoreFailed) and error.permanent
        if not_taken:
            self._refused(delivery)
        # A rejected association says nothing of the form
        if (not_taken or spoilt) and self._falls_back(delivery, error):
            self._refused(delivery)
            return
        with self._database.writing() as uow:
            if delivery.result.form == Form.REJECTION and (not_taken or spoilt or _is_unheeded(error)):
                reason = withdrawn.by_hand(uow, delivery.id, error.reason)
                outbox.keep_aside(uow, delivery.id, self._owner, reason, error.status)
            elif spoilt:
                outbox.keep_aside(uow, delivery.id, self._owner, error.reason, error.status)
            else:
                problem = error.permanent or error.status == _DUPLICATE  # it says that it has it, and does not show it
                seconds = back_off(self._delivery, delivery.attempts, problem=problem)
                outbox.postpone(uow, delivery.id, self._owner, error.reason, problem, seconds, error.status)
                if problem and isinstance(error, AssociationRejected):
                    # Nothing is wrong with the object: what follows it would overtake it once the peer knows us
                    outbox.hold_back(uow, self.name, seconds)
            uow.commit()
        log.warning(
            "delivery.not_taken",
            study=delivery.study_instance_uid,
            delivery=delivery.id,
            form=delivery.result.form,
            code=error.code,
            words=error.words,
            kept_aside=spoilt,
        )

    def _refused(self, delivery: Delivery) -> None:
        """Remember that the peer does not take objects of the delivery's class."""
        self._stored.discard(delivery.result.sop_class_uid)
        self._learn({delivery.result.sop_class_uid: Acceptance.REFUSED})

    def _falls_back(self, delivery: Delivery, error: DeliveryError) -> bool:
        """Send the forms on stand-by instead, where there are any; tell whether there were."""
        with self._database.writing() as uow:
            called = outbox.fall_back(uow, delivery.id, self._owner, error.reason, error.status)
            uow.commit()
        if called:
            log.info("delivery.replaced", study=delivery.study_instance_uid, form=delivery.result.form, by=called)
        return called > 0

    def _give_back(self, left: Sequence[Delivery]) -> None:
        """Free the leases of what was not tried; it follows when the first of its study has been taken."""
        if left:
            with self._database.writing() as uow:
                outbox.give_back(uow, [delivery.id for delivery in left], self._owner)
                uow.commit()


def _is_unheeded(error: DeliveryError) -> bool:
    """Tell whether a peer says of a rejection that it can not act on it: trying again changes nothing."""
    return isinstance(error, StoreFailed) and error.status in _OF_A_REJECTION
