"""Answer a peer that asks us to commit ourselves: a thread for each such peer."""

from __future__ import annotations

import structlog

from db.complete import inquiries
from db.delivery import vouching
from db.delivery.vouching import Vouch
from db.engine import Database
from db.files.filestore import FileStore
from hilum.backing_off import back_off
from hilum.bells import Bells
from hilum.committing.judging import Judgement, is_on_disk, judge, listed, may_still_come
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.outages import keep_at
from hilum.processes import StopSignal
from scp.commitments.commitment import report_commitment
from study.commitment import CommitmentReport, FailureReason, Reference, tally
from study.entities import StoredInstance
from study.errors import CommitmentRefused, DeliveryError

log = structlog.get_logger()

_LEASE_SECONDS = 900.0
_AGAIN_SECONDS = 1.0
_SHORTEST_SECONDS = 2.0  # until an object is said to be absent: it may come just behind the request
_LONGEST_SECONDS = 120.0  # until it is no longer waited for that the inboxes are indexed
_GIVES_UP_SECONDS = 3 * 86_400.0


class Voucher:
    """Answers one peer: what we keep is exempt from retention before the peer hears that we do."""

    def __init__(
        self,
        peer: PeerSettings,
        settings: Settings,
        database: Database,
        store: FileStore,
        stop: StopSignal,
        bells: Bells | None = None,
    ) -> None:
        self._ear = (bells or Bells()).ear(stop)
        self.name = f"voucher-{peer.name}"
        self._peer = peer
        self._ae_title = settings.node.ae_title
        self._delivery = settings.delivery
        self._database = database
        self._store = store
        self._stop = stop

    def run(self) -> None:
        """Answer what the peer asks, again and again, until the node stops."""
        structlog.contextvars.bind_contextvars(peer=self._peer.name)
        keep_at(self._all_turns, self._stop, "vouching.crashed", self._delivery.retry_seconds, ear=self._ear)

    def _all_turns(self) -> None:
        while not self._stop.is_set() and self.turn():
            pass

    def turn(self) -> bool:
        """Take up the request that is due longest; tell whether there was one."""
        with self._database.reading() as uow:
            if not vouching.is_due(uow, self._peer.name):
                self._ear.look_within(vouching.seconds_until_due(uow, self._peer.name))
                return False
        with self._database.writing() as uow:
            vouch = vouching.take(uow, self._peer.name, _LEASE_SECONDS)
            uow.commit()
        if vouch is None:
            return False
        report = vouch.report or self._settled(vouch)
        if report is None:
            self._postpone(vouch, _AGAIN_SECONDS)
        else:
            self._tell(vouch, report)
        return True

    def _settled(self, vouch: Vouch) -> CommitmentReport | None:
        """Settle what is answered, and put it on record; None where it can not be said yet."""
        still_comes = may_still_come(self._store, vouch.received_at)  # before the look into the index: it moves there
        with self._database.reading() as uow:
            versions = vouching.versions(uow, [each.sop_instance_uid for each in vouch.request.references])
        judgement = judge(vouch.request.references, versions, self._is_whole)
        if self._stop.is_set():
            return None
        if judgement.absent and vouch.age_seconds < (_LONGEST_SECONDS if still_comes else _SHORTEST_SECONDS):
            return None
        self._note(vouch, judgement)
        with self._database.writing() as uow:
            kept = vouching.exempt(uow, [each.key for held in judgement.whole.values() for each in held])
            report = _report(vouch, judgement, kept, still_comes=still_comes)
            vouching.settle(uow, vouch.id, report)
            for study, series in listed(judgement).items():
                inquiries.listed_by_sender(uow, study, series)
            uow.commit()
        return report

    def _is_whole(self, instance: StoredInstance) -> bool:
        return not self._stop.is_set() and is_on_disk(self._store, instance)

    def _note(self, vouch: Vouch, judgement: Judgement) -> None:
        """Write beside the files of each study what we answer for; what is not written can not be rebuilt."""
        studies: dict[str, list[dict[str, str]]] = {}
        for held in judgement.whole.values():
            for each in held:
                entry = {"sop_instance_uid": each.instance.header.sop_instance_uid, "digest": each.instance.digest}
                studies.setdefault(each.instance.header.study_instance_uid, []).append(entry)
        record = {"record": "vouched", "peer": vouch.peer, "transaction_uid": vouch.request.transaction_uid}
        for study, instances in studies.items():
            self._store.append_manifest(study, record | {"instances": instances})

    def _tell(self, vouch: Vouch, report: CommitmentReport) -> None:
        facts = {"transaction": report.transaction_uid, "committed": len(report.committed)}
        try:
            with slot(self._store.root, self._peer, self._stop) as free:
                if not free:
                    return
                report_commitment(peer_of(self._peer), self._ae_title, report)
        except DeliveryError as error:
            self._not_told(vouch, error)
            return
        with self._database.writing() as uow:
            vouching.end(uow, vouch.id)
            uow.commit()
        log.info("vouching.told", failed=tally(report.failed), **facts)

    def _not_told(self, vouch: Vouch, error: DeliveryError) -> None:
        facts = {"transaction": vouch.request.transaction_uid, "code": error.code, "words": error.words}
        if vouch.age_seconds > _GIVES_UP_SECONDS:
            with self._database.writing() as uow:
                vouching.end(uow, vouch.id)
                uow.commit()
            log.error("vouching.given_up", after_days=round(vouch.age_seconds / 86_400, 1), **facts)
            return
        slow = error.permanent or isinstance(error, CommitmentRefused)
        seconds = back_off(self._delivery, vouch.attempts, problem=slow)
        self._postpone(vouch, seconds)
        log.warning("vouching.not_told", again_in=round(seconds), **facts)

    def _postpone(self, vouch: Vouch, seconds: float) -> None:
        with self._database.writing() as uow:
            vouching.postpone(uow, vouch.id, seconds)
            uow.commit()


def _report(vouch: Vouch, judgement: Judgement, kept: frozenset[int], *, still_comes: bool) -> CommitmentReport:
    """Return what is answered: of what the inboxes may still hold nobody can say that it is not here."""
    failed = dict(judgement.failed)
    failed |= {
        reference: FailureReason.PROCESSING_FAILURE
        for reference, held in judgement.whole.items()
        if not kept.issuperset(each.key for each in held)
    }
    if still_comes:
        failed |= {
            reference: FailureReason.PROCESSING_FAILURE
            for reference, reason in judgement.failed.items()
            if reason is FailureReason.NO_SUCH_OBJECT_INSTANCE
        }
    committed: list[Reference] = [each for each in judgement.whole if each not in failed]
    return CommitmentReport(
        vouch.request.transaction_uid, tuple(committed), tuple((each, int(reason)) for each, reason in failed.items())
    )
