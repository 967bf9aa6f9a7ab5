"""Has refusal reports written: a process of its own reads the images' headers and writes, this one commits.

Images of a study that was refused are the strangest ones; a process that ends over them takes nothing with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.durable import make_folders
from db.files.filestore import FileStore
from db.images import index
from db.lasting.ledger import job_record
from db.work import notices
from db.work.notices import Notice
from db.work.results import predecessors_of
from hilum.bells import Bells
from hilum.config import Settings
from hilum.dispatching import notices_of
from hilum.outages import OF_THE_DISK, Outage
from hilum.processes import StopSignal
from hilum.working.attendant import Attendant, Interrupted
from hilum.working.watch import Limits, Progress
from hilum.working.wire import Answer, Request
from study.entities import Job, ResultObject
from study.errors import DatabaseUnavailable, DiskFull, HilumError, LeaseLost, NonconformantObject, Reason

log = structlog.get_logger()

_DEADLINE_SECONDS: Final = 120.0
_LEASE_SECONDS: Final = 180.0


class Notifier:
    """Takes one notice at a time through a process that writes it, and puts the report into the outbox."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: FileStore,
        stop: StopSignal,
        owner: str,
        bells: Bells | None = None,
    ) -> None:
        self._bells = bells or Bells()
        self._settings = settings
        self._database = database
        self._store = store
        self._stop = stop
        self._owner = owner
        self._identity = store.node_identity()
        self._delay_seconds = settings.results.refusal_delay_seconds
        self._outage = Outage(stop)

    def turn(self) -> bool:
        """Write the notice that has been due longest; tell whether there was one."""
        with self._database.reading() as uow:
            if not notices.is_notice_waiting(uow, self._delay_seconds):
                return False
        with self._database.writing() as uow:
            notice = notices.lease_notice(uow, self._owner, _LEASE_SECONDS, self._delay_seconds)
            uow.commit()
        if notice is None:
            return False
        with structlog.contextvars.bound_contextvars(study=notice.job.study_instance_uid, job=notice.job.id):
            try:
                self._write(notice)
            except LeaseLost:
                log.warning("notice.overtaken")
        return True

    def _write(self, notice: Notice) -> None:
        if not notices_of(notice.job, self._settings):  # who wanted it is gone, or the site sends nothing of the model
            with self._database.writing() as uow:
                notices.forget(uow, [notice.job.id])
                uow.commit()
            return
        try:
            request = self._request(notice.job)
            answer = self._ask(request)
            if answer is None:  # the node stops
                return
            if answer.outcome != "done":
                counts = answer.code != DiskFull.code
                self._give_back(notice, answer.reason, transient=answer.transient, counts=counts)
                return
            folder = Path(request.folder).name
            results = tuple(verified(self._store, result, folder) for result in answer.results)
        except DatabaseUnavailable as error:
            self._give_back(notice, error.reason, transient=True, counts=False)
            return
        except HilumError as error:  # an image that is gone, a file that is another one
            self._give_back(notice, error.reason, transient=error.transient)
            return
        except OSError as error:  # the disk: it is tried again
            counts = error.errno not in OF_THE_DISK
            self._give_back(notice, Reason("DiskFailed", f"{error.strerror}."), transient=True, counts=counts)
            return
        by_variant = {result.variant: result for result in results}
        deliveries = [
            Outgoing(peer, 0, by_variant[variant.key])
            for peer, variant in notices_of(notice.job, self._settings).items()
        ]

        def end() -> None:
            with self._database.writing() as uow:
                notices.written(uow, notice.job.id, self._owner, results, deliveries)
                told = job_record(uow, "refusal_report", notice.job.id)
                self._store.append_manifest(notice.job.study_instance_uid, told)
                uow.commit()

        self._outage.persist(end)
        self._bells.ring("sender")
        log.info("notice.written", deliveries=len(deliveries))

    def _give_back(self, notice: Notice, reason: Reason, *, transient: bool, counts: bool = True) -> None:
        def give_back() -> None:
            with self._database.writing() as uow:
                notices.not_written(uow, notice.job.id, self._owner, reason, transient, counts=counts)
                uow.commit()

        self._outage.persist(give_back)
        log.warning("notice.not_written", code=reason.code, words=reason.words)

    def _ask(self, request: Request) -> Answer | None:
        """Return what a process of its own made of the notice; None where the node stops meanwhile."""
        attendant = Attendant(
            "reporter",
            self._settings,
            self._stop,
            work="Writing the report",
            process="The process that wrote the report",
        )
        try:
            return attendant.ask(request.to_bytes(), Limits(_DEADLINE_SECONDS), Progress())
        except Interrupted:
            return None
        finally:
            attendant.end()

    def _request(self, job: Job) -> Request:
        with self._database.reading() as uow:
            stored = index.instances_of_job(uow, job.id)
            before = predecessors_of(uow, job.id)
        instances = [(str(self._store.locate(each)), each.header) for each in stored]
        variants = dict.fromkeys(notices_of(job, self._settings).values())
        folder = self._folder(job, outdates=bool(before))
        return replace(Request.of_job(job, instances, folder, self._identity, variants), predecessors=before)

    def _folder(self, job: Job, *, outdates: bool) -> Path:
        """Return the folder of the job's report; one for other words lies elsewhere, and was perhaps sent."""
        told = repr((job.reason, job.state, *([True] if outdates else [])))
        name = f"{job.id}-refusal-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        folder = self._store.results_folder(job.study_instance_uid) / name
        make_folders([folder])
        return folder


def verified(store: FileStore, result: ResultObject, folder: str) -> ResultObject:
    """Return `result` once the file in its folder of that name is proven to be the one that was described.

    Raises
    ------
    NonconformantObject
        If it is another one, or lies elsewhere.
    """
    path = (store.root / result.path).resolve()
    if path.parent.name != folder or not path.is_relative_to(store.root.resolve()):
        raise NonconformantObject(f"The {result.form.upper()} is not in the folder of its job.")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise NonconformantObject(f"The {result.form.upper()} is not where it was written.") from error
    if found != result.digest:
        raise NonconformantObject(f"The {result.form.upper()} on disk is not the one that was written.")
    return result
