"""Keeper: leases jobs, hands them to its runner, watches lease and deadline, and commits. Loads no torch."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from db import index, jobs
from db.durable import make_folders
from db.engine import Database
from db.filestore import FileStore
from hilum.config import Settings
from hilum.dispatching import deviations, outgoing, settled
from hilum.notifying import Notifier, verified
from hilum.processes import Child, Station, StopSignal, spawn
from hilum.recovery import owner, release_what_died
from hilum.wire import Answer, Request, endpoint, send_aside
from study.entities import Job
from study.errors import DeadlineExceeded, HilumError, LeaseLost, RunnerDied
from study.forms import Parcel, all_variants
from study.states import JobState

log = structlog.get_logger()

_PAUSE_SECONDS = 0.05
_LEASE_SECONDS = 30.0
_HEARTBEAT_SECONDS = 10.0
_CRASH_LIMIT = 3
_RUNNER_PAUSE_SECONDS = 2.0  # between two starts of a runner that dies while it has nothing to do


def run(station: Station) -> None:
    """Work through the queue until told to stop; a job that is under way then goes back to it."""
    database = Database.open(station.settings.database_url)
    database.check_schema()
    store = FileStore(station.settings.data_dir)
    release_what_died(database, store, "keeper")
    keeper = Keeper(station.settings, database, store, station.stop)
    notifier = Notifier(station.settings, database, store, station.stop, owner(store, "keeper"))
    keeper.start_runner()
    station.announce({})
    try:
        while not station.stop.wait(_PAUSE_SECONDS):
            keeper.look_after_runner()
            # Refusals in between: a backlog of analyses must not keep one from the radiologist for hours
            while not station.stop.is_set() and (keeper.turn() | notifier.turn()):
                pass
    finally:
        keeper.stop_runner()
        database.close()


class Interrupted(Exception):
    """The node stops while a job is under way."""


class Keeper:
    """Takes one job at a time through its runner and commits what comes of it."""

    def __init__(self, settings: Settings, database: Database, store: FileStore, stop: StopSignal) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._stop = stop
        self._identity = store.node_identity()
        self._owner = owner(store, "keeper")
        self._runner: Child | None = None
        self._line: Connection | None = None
        self._runner_started = 0.0

    def turn(self) -> bool:
        """Do the next job that is due; tell whether there was one."""
        with self._database.reading() as uow:
            if not jobs.is_work_waiting(uow):
                return False
        with self._database.writing() as uow:
            job = jobs.lease_job(uow, self._owner, _LEASE_SECONDS)
            uow.commit()
        if job is None:
            return False
        with structlog.contextvars.bound_contextvars(
            study=job.study_instance_uid, job=job.id, attempt=job.attempt, model=job.model_name
        ):
            self._keep(job)
        return True

    def start_runner(self) -> None:
        """Make sure that a runner is alive; it loads its models at once."""
        if self._runner is not None and self._runner.process.poll() is None:
            return
        self.stop_runner()
        ours, theirs = socket.socketpair()
        self._runner = spawn("runner", self._settings, descriptors={"line": theirs.fileno()})
        self._runner.expect_nothing()
        theirs.close()
        self._runner_started = time.monotonic()
        self._line = endpoint(ours.detach())

    def look_after_runner(self) -> None:
        """Replace a runner that died between two jobs, so that the next one finds its models loaded."""
        if self._runner is None or self._runner.process.poll() is None:
            return
        if time.monotonic() - self._runner_started > _RUNNER_PAUSE_SECONDS:
            log.warning("runner.ended", status=self._runner.process.returncode)
            self.start_runner()

    def stop_runner(self) -> None:
        """End the runner, whatever it does."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._runner is not None:
            self._runner.kill()
            self._runner.reap()
            self._runner = None

    def _keep(self, job: Job) -> None:
        log.info("job.started")
        try:
            parcels = settled(self._database, self._settings, job)
            answer = self._ask(job, parcels)
            self._commit(job, answer, parcels)
        except LeaseLost:
            log.warning("job.lease_lost")
            self.stop_runner()
        except Interrupted:
            self._interrupt(job)
            log.info("job.interrupted")
        except HilumError as error:
            self.stop_runner()
            self._fail(job, error)
        except OSError:  # the disk, not the job: it is tried again later, and does not count
            log.exception("job.disk_failed")
            self._interrupt(job)
        self.start_runner()

    def _interrupt(self, job: Job) -> None:
        """Put the job back into the queue; that counts against nothing."""
        self.stop_runner()
        with self._database.writing() as uow:
            jobs.interrupt_job(uow, job.id, job.attempt)
            uow.commit()

    def _ask(self, job: Job, parcels: Sequence[Parcel]) -> Answer:
        """Give the job to the runner and wait for its answer, renewing the lease meanwhile.

        Raises
        ------
        DeadlineExceeded, RunnerDied
            If the runner took too long or ended; count as an attempt.
        LeaseLost
            If another worker took the job over.
        Interrupted
            If the node stops.
        """
        self.start_runner()
        line = self._line
        if line is None:  # pragma: no cover - start_runner set it
            raise RunnerDied
        deadline = time.monotonic() + job.deadline_seconds
        heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
        try:
            send_aside(line, self._request(job, parcels).to_bytes())
            while not line.poll(_PAUSE_SECONDS):
                if self._stop.is_set():
                    raise Interrupted
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"The analysis took longer than {job.deadline_seconds:g} s and was stopped.",
                        {"deadline_seconds": job.deadline_seconds},
                    )
                if time.monotonic() > heartbeat:
                    self._renew(job)
                    heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
            return Answer.from_bytes(line.recv_bytes())
        except (EOFError, ConnectionError):
            raise RunnerDied(self._epitaph()) from None

    def _epitaph(self) -> str:
        status = self._runner.reap() if self._runner is not None else None
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        return f"The process that ran the model ended {how}."

    def _request(self, job: Job, parcels: Sequence[Parcel]) -> Request:
        with self._database.reading() as uow:
            stored = index.instances_of_job(uow, job.id)
        instances = [(str(self._store.locate(each)), each.header) for each in stored]
        return Request.of_job(job, instances, self._fresh_folder(job), self._identity, all_variants(parcels))

    def _fresh_folder(self, job: Job) -> Path:
        """Return an empty folder for this attempt; what uncommitted attempts left behind goes."""
        parent = self._store.results_folder(job.study_instance_uid)
        for attempt in range(1, job.attempt):
            shutil.rmtree(parent / f"{job.id}-{attempt}", ignore_errors=True)
        folder = parent / f"{job.id}-{job.attempt}"
        make_folders([folder])
        return folder

    def _renew(self, job: Job) -> None:
        with self._database.writing() as uow:
            jobs.renew_lease(uow, job.id, job.attempt, self._owner, _LEASE_SECONDS)
            uow.commit()

    def _commit(self, job: Job, answer: Answer, parcels: Sequence[Parcel]) -> None:
        if (answer.job_id, answer.attempt) != (job.id, job.attempt):
            raise RunnerDied("The runner answered for another job.")
        if answer.outcome == "done":
            self._finish(job, answer, parcels)
        elif answer.outcome == "refused":
            with self._database.writing() as uow:
                jobs.refuse_job(uow, job.id, job.attempt, answer.reason, answer.details)
                uow.commit()
            log.info("job.refused", code=answer.code)
        else:
            with self._database.writing() as uow:
                state = jobs.fail_attempt(uow, job.id, job.attempt, answer.reason, answer.transient, _CRASH_LIMIT)
                uow.commit()
            log.warning("job.attempt_failed", code=answer.code, state=state)

    def _finish(self, job: Job, answer: Answer, parcels: Sequence[Parcel]) -> None:
        folder = f"{job.id}-{job.attempt}"
        results = tuple(verified(self._store, result, folder) for result in answer.results)
        deliveries = [each for parcel in parcels if parcel.peer for each in outgoing(parcel, results)]
        # The ledger beside the files is written first: a rebuild may find a result that was never committed, and
        # drops it by job and attempt; the other way round it would lose one.
        self._store.append_manifest(
            job.study_instance_uid,
            {
                "record": "results",
                "job": job.id,
                "attempt": job.attempt,
                "model": job.model_name,
                "model_digest": job.model_digest,
                "parameters_digest": job.parameters_digest,
                "instances_digest": job.instances_digest,
                "objects": [
                    {"sop_instance_uid": r.sop_instance_uid, "path": r.path, "digest": r.digest} for r in results
                ],
                "owed_to": [(each.peer, each.result.sop_instance_uid) for each in deliveries if not each.stand_by],
            },
        )
        with self._database.writing() as uow:
            jobs.finish_job(
                uow, job.id, job.attempt, results, deliveries, answer.details | deviations(parcels, results)
            )
            uow.commit()
        log.info("job.done", results=len(results), deliveries=len(deliveries))

    def _fail(self, job: Job, error: HilumError) -> None:
        try:
            with self._database.writing() as uow:
                state = jobs.fail_attempt(uow, job.id, job.attempt, error.reason, error.transient, _CRASH_LIMIT)
                uow.commit()
        except LeaseLost:
            log.warning("job.lease_lost")
            return
        log.warning("job.attempt_failed", code=error.code, state=state, final=state is JobState.FAILED)
