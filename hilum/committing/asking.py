"""Ask a peer to commit itself to what it stored: a thread for each such peer, beside the one that brings it results."""

from __future__ import annotations

import threading
import time
import uuid

import structlog

from db.delivery import commitments
from db.delivery.commitments import Patience
from db.engine import Database
from db.files.filestore import FileStore
from hilum.backing_off import back_off
from hilum.bells import Bells
from hilum.committing.logs import writing_down
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.outages import keep_at
from hilum.processes import StopSignal
from scp.commitments.commitment import CommitmentLine, commitment_line
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.spool import CommitmentSpool
from study.errors import CommitmentRefused, DeliveryError, PeerUnreachable

log = structlog.get_logger()

_PAUSE_SECONDS = 0.05
_LONGEST_SECONDS = 30.0  # an association is not kept for ever, however much there is to ask for


class Asker:
    """Asks one peer, in transactions that are in the database and in the spool before the peer hears of them.

    Parameters
    ----------
    answer_seconds
        How long an association is kept for the reports that may come on it [s].
    """

    def __init__(
        self,
        peer: PeerSettings,
        settings: Settings,
        database: Database,
        store: FileStore,
        spool: CommitmentSpool,
        stop: StopSignal,
        answer_seconds: float = 3.0,
        *,
        bells: Bells | None = None,
    ) -> None:
        bells = bells or Bells()
        self._ear = bells.ear(stop)
        self.name = f"asker-{peer.name}"
        self._peer = peer
        self._ae_title = settings.node.ae_title
        self._delivery = settings.delivery
        self._database = database
        self._store = store
        self._spool = spool
        self._stop = stop
        self._desk = CommitmentDesk(spool, asked=[peer.ae_title], served=(), on_event=writing_down(bells))
        self._answer_seconds = answer_seconds
        self._failures = 0
        self._lock = threading.Lock()
        self._open: set[str] = set()

    def run(self) -> None:
        """Ask for what is due, again and again, until the node stops."""
        structlog.contextvars.bind_contextvars(peer=self._peer.name)
        keep_at(self.turn, self._stop, "commitment.asking_crashed", self._delivery.retry_seconds, ear=self._ear)

    def turn(self) -> bool:
        """Ask for what is due over one association; tell whether there was anything."""
        if not self._is_due():
            return False
        with slot(self._store.root, self._peer, self._stop) as free:
            if free:
                self._converse()
        return True

    def answered(self, transaction_uid: str) -> None:
        """Take note that a report on the transaction has come; called in other threads."""
        with self._lock:
            self._open.discard(transaction_uid)

    def _is_due(self) -> bool:
        with self._database.reading() as uow:
            if commitments.is_due(uow, self._peer.name):
                return True
            self._ear.look_within(commitments.seconds_until_due(uow, self._peer.name))
            return False

    def _converse(self) -> None:
        with self._lock:
            self._open.clear()
        try:
            with commitment_line(peer_of(self._peer), self._ae_title, self._desk) as line:
                self._ask_for_all(line)
        except DeliveryError as error:
            self._failures += 1
            self._put_off(error)

    def _ask_for_all(self, line: CommitmentLine) -> None:
        """Ask for what is due, and keep the association for a moment, for the reports that may come on it."""
        end = time.monotonic() + _LONGEST_SECONDS
        last = time.monotonic()
        while line.is_open and not self._stop.is_set() and time.monotonic() < end:
            if self._is_due():
                if not self._ask(line):
                    return
                last = time.monotonic()
            elif not self._waits() or time.monotonic() - last > self._answer_seconds:
                return
            else:
                self._stop.wait(_PAUSE_SECONDS)

    def _waits(self) -> bool:
        with self._lock:
            return bool(self._open)

    def _ask(self, line: CommitmentLine) -> bool:
        """Begin one transaction and have the peer hear of it; tell whether more can be asked over the association."""
        transaction_uid = f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2
        patience = Patience(
            self._delivery.commitment_seconds, self._delivery.commitment_attempts, self._delivery.problem_retry_seconds
        )
        with self._database.writing() as uow:
            begun = commitments.begin(uow, self._peer.name, transaction_uid, patience)
            uow.commit()
        if begun is None:
            return True
        self._spool.expect(transaction_uid, self._peer.ae_title)
        with self._lock:
            self._open.add(transaction_uid)
        objects = len(begun.request.references)
        if begun.unproven:
            log.warning("commitment.unproven", objects=begun.unproven)
        try:
            line.ask(begun.request)
        except PeerUnreachable as error:  # it may have the request: the report, or the next transaction, tells
            with self._database.writing() as uow:
                commitments.unanswered(uow, begun.id, error.reason)
                uow.commit()
            log.warning("commitment.no_answer", transaction=transaction_uid, objects=objects, words=error.words)
            return False
        except CommitmentRefused as error:
            self._refused(begun.id, error)
            return False
        self._failures = 0
        log.info("commitment.asked", transaction=transaction_uid, objects=objects)
        return True

    def _refused(self, commitment_id: int, error: CommitmentRefused) -> None:
        self._failures += 1
        seconds = back_off(self._delivery, self._failures, problem=error.permanent)
        with self._database.writing() as uow:
            commitments.refused(uow, commitment_id, error.reason, seconds, problem=error.permanent)
            uow.commit()
        log.warning("commitment.refused", words=error.words, again_in=round(seconds))

    def _put_off(self, error: DeliveryError) -> None:
        seconds = back_off(self._delivery, self._failures, problem=error.permanent)
        with self._database.writing() as uow:
            commitments.not_reached(uow, self._peer.name, error.reason, seconds, problem=error.permanent)
            uow.commit()
        log.warning("commitment.not_asked", code=error.code, words=error.words, again_in=round(seconds))
