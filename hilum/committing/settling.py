"""Take out of the spool what receivers put there: reports of peers, and requests of peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from db.delivery import settlements, vouching
from db.engine import Database
from db.files.filestore import FileStore
from hilum.backing_off import back_off
from hilum.bells import Bells
from hilum.config import Settings
from hilum.outages import OF_ALL_FILES, is_outage, keep_at
from hilum.processes import StopSignal
from scp.commitments.spool import CommitmentSpool
from study.commitment import tally

log = structlog.get_logger()

_MARKER_SECONDS = 7 * 86_400.0  # a report that comes so long after it was due is of an unknown transaction
_TIDY_SECONDS = 3600.0


class Clerk:
    """Acts upon what lies in the spool; a message leaves it once what follows from it is in the database."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: FileStore,
        spool: CommitmentSpool,
        stop: StopSignal,
        tell: Iterable[Callable[[str], None]] = (),
        bells: Bells | None = None,
    ) -> None:
        self._bells = bells or Bells()
        self._ear = self._bells.ear(stop)
        self.name = "clerk"
        self._settings = settings
        self._database = database
        self._store = store
        self._spool = spool
        self._stop = stop
        self._tell = tuple(tell)
        self._tidies_at = 0.0

    def run(self) -> None:
        """Act upon what comes until the node stops."""
        retry_seconds = self._settings.delivery.retry_seconds

        def turn() -> None:
            if not self.turn():
                self._stop.wait(retry_seconds)

        keep_at(turn, self._stop, "commitment.settling_crashed", retry_seconds, ear=self._ear)

    def turn(self) -> bool:
        """Act upon every message that waits; tell whether all went well. One that does not stops no other."""
        went_well = [self._guarded(self._settle, path) for path in self._spool.reports()]
        went_well += [self._guarded(self._enter, path) for path in self._spool.requests()]
        if time.monotonic() >= self._tidies_at:
            self._tidies_at = time.monotonic() + _TIDY_SECONDS
            self._spool.tidy(_MARKER_SECONDS + 2 * self._settings.delivery.commitment_seconds)
        return all(went_well)

    def _guarded(self, act: Callable[[Path], None], path: Path) -> bool:
        try:
            act(path)
        except FileNotFoundError:
            return not path.exists()  # another sender has acted upon it
        except ValueError:
            log.exception("commitment.damaged", file=self._spool.put_aside(path).name)
        except Exception as error:  # the loop's edge: what fails here stays in the spool, and is tried again
            if is_outage(error, OF_ALL_FILES):  # of all messages
                raise
            log.exception("commitment.not_settled", file=path.name)
            return False
        return True

    def _settle(self, path: Path) -> None:
        report = self._spool.read_report(path).report
        with self._database.reading() as uow:
            proven = settlements.proven(uow, report)
        for each in proven:
            record = {"record": "committed", "peer": each.peer, "sop_instance_uid": each.sop_instance_uid}
            self._store.append_manifest(each.study_instance_uid, record | {"transaction_uid": report.transaction_uid})
        with self._database.writing() as uow:
            settled = settlements.settle(uow, report, self._pause, self._settings.shadow_models)
            uow.commit()
        self._spool.remove(path)
        for tell in self._tell:
            tell(report.transaction_uid)
        if not settled.known:
            log.warning("commitment.unknown", transaction=report.transaction_uid)
            return
        (log.warning if report.failed or settled.strange else log.info)(
            "commitment.settled",
            peer=settled.peer,
            transaction=report.transaction_uid,
            committed=settled.committed,
            sent_again=settled.failed,
            failures=tally(report.failed),
            not_asked_for=settled.strange,
        )

    def _pause(self, failures: int) -> tuple[bool, float]:
        delivery = self._settings.delivery
        problem = failures >= delivery.commitment_attempts
        return problem, back_off(delivery, failures, problem=problem)

    def _enter(self, path: Path) -> None:
        waiting = self._spool.read_request(path)
        peer = self._settings.sender(waiting.calling_ae_title)
        if peer is None or not peer.vouch:
            log.warning("commitment.nobody_s", calling_ae_title=waiting.calling_ae_title)
        else:
            with self._database.writing() as uow:
                if vouching.is_full(uow, peer.name):
                    return  # it stays in the spool, and what is too much for that is refused
                vouching.enter(uow, path.name, peer.name, waiting.request, waiting.received_at)
                uow.commit()
            self._bells.ring("sender")  # those who answer are in this process
        self._spool.remove(path)
