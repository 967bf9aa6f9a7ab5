"""Keeper: leases jobs, hands them to its runner, watches lease and limits, and commits. Loads no torch.

One keeper stands for each entry of ``[inference] devices``. Between jobs it has its runner load models ahead, one at a
time, so that one that can not be loaded, or never ends loading, costs its own jobs alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from db.complete import priors
from db.engine import Database, UnitOfWork
from db.files.durable import make_folders
from db.files.filestore import FileStore
from db.images import index
from db.lasting.ledger import job_record
from db.work import jobs
from db.work.jobs import RunningJob
from db.work.results import predecessors_of
from hilum.bells import Bells
from hilum.config import Settings
from hilum.dispatching import deviations, outgoing, settled
from hilum.notifying import Notifier, verified
from hilum.outages import OF_THE_DISK, Outage
from hilum.processes import Station, StopSignal
from hilum.working.attendant import Attendant, Interrupted
from hilum.working.capacity import Budgets, Running, device_of, seen_by
from hilum.working.leases import index_of_worker, owner, place_of, worker_of
from hilum.working.warming import Warming
from hilum.working.watch import Limits, Progress
from hilum.working.wire import Answer, Request, Warm
from study.entities import Job
from study.errors import (
    DatabaseUnavailable,
    DiskFull,
    HilumError,
    InferenceError,
    LeaseLost,
    ModelOutputInvalid,
    Reason,
    RunnerDied,
)
from study.forms import Parcel, all_variants
from study.priors import PRIOR_STEP
from study.states import JobState

log = structlog.get_logger()

_LONGEST_BEAT_SECONDS = 10.0  # between two renewals of a lease
_RUNNER_PAUSE_SECONDS = 2.0  # between two starts of a runner that dies while it has nothing to do
_WARM_UP_SECONDS = 120.0  # the longest that a job waits for another model to be loaded ahead

_STARTS_SECONDS = 0.05  # between looks whether a runner that starts has told of its device
_DEVICE_PAUSE_SECONDS = 60.0  # between two tries of a device that can not be used
_OF_THE_MODEL = frozenset({InferenceError.code, ModelOutputInvalid.code})

_STOPPED = "Not compared: the attempt before this one was stopped while it was at an earlier study."

_OF_THE_NODE = "the disk or the database could not be used"

_MORE_TIME = "deadline_seconds (on the processor: cpu_deadline_seconds) in the model's entry gives it more"


def run(station: Station) -> None:
    """Work through the queue until told to stop; a job that is under way then goes back to it.

    Raises
    ------
    StoreBusy
        If another keeper of this machine has the same place in the list of devices.
    """
    store = FileStore(station.settings.data_dir)
    database = Database.open(station.settings.database_url)
    database.check_schema()
    with place_of(database, store, station.settings.machine, worker_of(station.index)):
        _work(station, store, database)


def _work(station: Station, store: FileStore, database: Database) -> None:
    name = owner(store, station.settings.machine, worker_of(station.index))
    keeper = Keeper(station.settings, database, store, station.stop, station.index, station.bells)
    notifier = Notifier(station.settings, database, store, station.stop, name, station.bells)
    keeper.start_runner()
    station.announce({})
    try:
        while not keeper.ear.wait():
            with keeper.outage.borne():  # the models that the runner holds must not be loaded again over it
                keeper.look_after_runner()
                # Refusals in between: a backlog of analyses must not keep one from the radiologist for hours
                while not station.stop.is_set() and (keeper.turn() | notifier.turn()):
                    pass
                if keeper.warm_next():
                    keeper.ear.wake()
            if keeper.outage.lasts:
                keeper.ear.wake()  # it has waited already
    finally:
        keeper.stop_runner()
        database.close()


class Keeper:
    """Takes one job at a time through its runner and commits what comes of it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: FileStore,
        stop: StopSignal,
        index: int = 0,
        bells: Bells | None = None,
    ) -> None:
        self._bells = bells or Bells()
        self.ear = self._bells.ear(stop)
        self._settings = settings
        self._database = database
        self._store = store
        self._identity = store.node_identity()
        self._owner = owner(store, settings.machine, worker_of(index))
        self._lease_seconds = settings.inference.lease_seconds
        self._device = device_of(settings, index)
        self._budgets = Budgets(settings)
        self._runner = Attendant("runner", settings, stop, index, environment=seen_by(settings, index), adopting=True)
        self._loaded: set[str] = set()  # by the runner that is alive
        self._warming = Warming(settings.models)
        self.outage = Outage(stop)
        self._told_of_device = False

    def turn(self) -> bool:
        """Do the next job that is due and fits beside what runs; tell whether there was one.

        Where the device can not be used, jobs wait: another worker may have one, or a driver come back.
        """
        if not self._is_able():
            return False
        with self._database.reading() as uow:
            if not jobs.is_any_open(uow):
                return False
            if not jobs.is_work_waiting(uow, self._fits):
                self.ear.look_within(jobs.seconds_until_due(uow))
                return False
        with self._database.writing() as uow:
            job = jobs.lease_job(uow, self._owner, self._lease_seconds, self._fits)
            uow.commit()
        self.outage.end()  # told now, and not when the analysis is over
        if job is None:
            return False
        with structlog.contextvars.bound_contextvars(
            study=job.study_instance_uid, job=job.id, attempt=job.attempt, model=job.model_name
        ):
            self._keep(job)
        self._bells.ring("keeper")  # another job may fit now
        return True

    def start_runner(self) -> None:
        """Make sure that a runner is alive; a new one has no model loaded yet."""
        if not self._runner.is_alive:
            self._runner.start()
            self._loaded.clear()
            self._told_of_device = False
            self._warming.begin_anew()

    def look_after_runner(self) -> None:
        """Replace a runner that died between two jobs, so that the next one finds its models loaded."""
        if self._runner.status is None:
            return
        if time.monotonic() - self._runner.started_at > _RUNNER_PAUSE_SECONDS:
            log.warning("runner.ended", status=self._runner.status)
            self.start_runner()

    def stop_runner(self) -> None:
        """End the runner, whatever it does."""
        self._runner.end()

    def warm_next(self) -> bool:
        """Have the next model loaded ahead, and tell whether one was left; its own jobs tell what is wrong with it."""
        model = self._warming.next()
        if model is None or not self._runner.is_alive or not self._is_able():
            return False
        self._loaded.add(model)
        limits = Limits(min(_WARM_UP_SECONDS, self._settings.deadline(model)), memory_bytes=self._budgets.of(model))
        try:
            answer = self._runner.ask(Warm(model).to_bytes(), limits, Progress())
        except Interrupted:
            return False
        except HilumError as error:
            answer = Answer(0, 0, "failed", code=error.code, words=error.words)
            self.stop_runner()
        if (answer.outcome, answer.job_id) == ("done", 0):
            self._warming.is_loaded(model)
        else:
            self._warming.leave_cold(model)
            log.warning("model.not_warm", model=model, code=answer.code, words=answer.words)
        self.start_runner()
        return True

    def _is_able(self) -> bool:
        """Tell whether the runner's device can be used, as far as it is known; one that can not is tried again."""
        words = self._runner.facts.get("unusable")
        if words is None:
            if self._device == "cpu" or self._runner.facts:  # of the processor nothing has to be waited for
                return True
            self.ear.look_within(_STARTS_SECONDS)
            return False
        if not self._told_of_device:
            log.error("device.unusable", device=self._device, words=words)
            self._told_of_device = True
        if time.monotonic() - self._runner.started_at > _DEVICE_PAUSE_SECONDS:
            self.stop_runner()
            self.start_runner()
        return False

    def _fits(self, model: str, running: Sequence[RunningJob]) -> bool:
        machine = self._settings.machine
        workers = [(each, index_of_worker(self._store, machine, each.owner)) for each in running]
        beside = [
            Running(each.model_name, device_of(self._settings, worker))
            for each, worker in workers
            if worker is not None
        ]
        return self._budgets.fits(model, self._device, self._runner.facts.get("device_bytes"), beside)

    def _keep(self, job: Job) -> None:
        log.info("job.started")
        progress = Progress()
        self._warming.is_used(job.model_name)
        try:
            parcels = settled(self._database, self._settings, job)
            answer = self._ask(job, parcels, progress)
            self._commit(job, answer, parcels)
        except LeaseLost:
            log.warning("job.lease_lost")
            self.stop_runner()
        except Interrupted:
            self.stop_runner()
            self._put_back(job, "the node stopped")
        except (DatabaseUnavailable, DiskFull):  # not the job's fault: it does not count
            log.warning("job.not_possible", exc_info=True)
            self._put_back(job, _OF_THE_NODE)
        except HilumError as error:
            self.stop_runner()
            self._fail(job, error.reason, transient=error.transient, details=progress.details())
        except OSError as error:
            log.exception("job.disk_failed")
            if error.errno in OF_THE_DISK:  # not the job: it is tried again later, and does not count
                self._put_back(job, _OF_THE_NODE)
            else:
                self.stop_runner()
                words = f"The folder of the study's results can not be used: {error.strerror}."
                self._fail(job, Reason("StoreDamaged", words), transient=True, details=progress.details())
        if not self._runner.is_clean:  # what a model left there is no other job's
            self.stop_runner()
        self.start_runner()

    def _put_back(self, job: Job, why: str) -> None:
        """Put the job back into the queue; that counts against nothing. Where its lease was lost, it is back already.

        Raises
        ------
        DatabaseUnavailable
            If the node stops before that can be written: the job is free once the lease has run out.
        """

        def put_back() -> None:
            with self._database.writing() as uow:
                jobs.interrupt_job(uow, job.id, job.attempt, why)
                uow.commit()

        try:
            self.outage.persist(put_back)
        except LeaseLost:
            log.warning("job.lease_lost")
            return
        log.info("job.interrupted", why=why)

    def _ask(self, job: Job, parcels: Sequence[Parcel], progress: Progress) -> Answer:
        """Give the job to the runner and return its answer, renewing the lease meanwhile; `Attendant.ask` raises."""
        self.start_runner()
        self._loaded.add(job.model_name)
        entry = self._settings.models.get(job.model_name)
        limits = Limits(
            job.deadline_seconds,
            entry.cpu_deadline_seconds if entry is not None else None,
            self._budgets.of(job.model_name),
            _MORE_TIME,
            min(_LONGEST_BEAT_SECONDS, self._lease_seconds / 3),
        )
        return self._runner.ask(self._request(job, parcels).to_bytes(), limits, progress, lambda: self._renew(job))

    def _request(self, job: Job, parcels: Sequence[Parcel]) -> Request:
        with self._database.reading() as uow:
            stored = index.instances_of_job(uow, job.id)
            earlier = priors.priors_of_job(uow, job.id)
            before = predecessors_of(uow, job.id)
        instances, *beside = (
            [(str(self._store.locate(each)), each.header) for each in series] for series in (stored, *earlier)
        )
        folder = self._fresh_folder(job)
        request = Request.of_job(job, instances, folder, self._identity, all_variants(parcels), beside)
        # What ended the attempt before at an earlier study must not cost the results on this one
        without_priors = _STOPPED if job.details.get("stopped_in") == PRIOR_STEP else ""
        return replace(request, without_priors=without_priors, predecessors=before)

    def _fresh_folder(self, job: Job) -> Path:
        """Return an empty folder for this attempt; what uncommitted attempts left behind goes."""
        parent = self._store.results_folder(job.study_instance_uid)
        for attempt in range(1, job.attempt):
            shutil.rmtree(parent / f"{job.id}-{attempt}", ignore_errors=True)
        folder = parent / f"{job.id}-{job.attempt}"
        make_folders([folder])
        return folder

    def _renew(self, job: Job) -> None:
        try:
            self._prolong(job)
        except DatabaseUnavailable:  # it may be back before the lease ends; the analysis has nothing to do with it
            log.warning("job.lease_not_renewed", exc_info=True)

    def _prolong(self, job: Job) -> None:
        with self._database.writing() as uow:
            jobs.renew_lease(uow, job.id, job.attempt, self._owner, self._lease_seconds)
            uow.commit()

    def _commit(self, job: Job, answer: Answer, parcels: Sequence[Parcel]) -> None:
        if (answer.job_id, answer.attempt) != (job.id, job.attempt):
            raise RunnerDied("The runner answered for another job.")
        if answer.outcome == "done":
            self._persist(job, lambda: self._finish(job, answer, parcels))
        elif answer.outcome == "refused":
            self._persist(job, lambda: self._refuse(job, answer))
        elif answer.code == DiskFull.code:
            raise DiskFull(answer.words)
        else:
            # What the model left broken in its process, a context of the GPU for instance, is no other job's. Nor is
            # what others had broken there this one's: it is tried once more, in a new process.
            tainted = answer.code in _OF_THE_MODEL and job.crashes == 0 and len(self._loaded) > 1
            self.stop_runner()
            self._fail(job, answer.reason, transient=answer.transient or tainted, details=answer.details)

    def _finish(self, job: Job, answer: Answer, parcels: Sequence[Parcel]) -> None:
        folder = f"{job.id}-{job.attempt}"
        results = tuple(verified(self._store, result, folder) for result in answer.results)
        deliveries = [each for parcel in parcels if parcel.peer for each in outgoing(parcel, results)]
        details = answer.details | deviations(parcels, results, shadow=job.model_name in self._settings.shadow_models)
        with self._database.writing() as uow:
            jobs.finish_job(uow, job.id, job.attempt, results, deliveries, details)
            self._note(uow, "results", job)
            uow.commit()
        self._bells.ring("sender")
        log.info("job.done", results=len(results), deliveries=len(deliveries))

    def _refuse(self, job: Job, answer: Answer) -> None:
        with self._database.writing() as uow:
            jobs.refuse_job(uow, job.id, job.attempt, answer.reason, answer.details)
            self._note(uow, "refused", job)
            uow.commit()
        log.info("job.refused", code=answer.code)

    def _persist(self, job: Job, act: Callable[[], None]) -> None:
        """Have what came of an analysis written, however long the disk is full or the database away.

        It may have cost an hour. The lease is renewed meanwhile.
        """
        self.outage.persist(act, lambda: self._hold(job))

    def _hold(self, job: Job) -> None:
        """Renew the lease if that can be done; an outage is told already."""
        with suppress(DatabaseUnavailable):
            self._prolong(job)

    def _note(self, uow: UnitOfWork, kind: str, job: Job) -> None:
        """Write the job's end beside the files; before its commit, so that the ledger never lacks what was committed.

        It may tell of an end that was not: the job then has a later attempt, and a later record.
        """
        self._store.append_manifest(job.study_instance_uid, job_record(uow, kind, job.id))

    def _fail(self, job: Job, reason: Reason, *, transient: bool, details: Mapping[str, Any]) -> None:
        def fail() -> JobState:
            with self._database.writing() as uow:
                state = jobs.fail_attempt(
                    uow, job.id, job.attempt, reason, transient, self._settings.inference.attempts, details
                )
                if state is JobState.FAILED:
                    self._note(uow, "failed", job)
                uow.commit()
            return state

        try:
            state = self.outage.persist(fail, lambda: self._hold(job))
        except LeaseLost:
            log.warning("job.lease_lost")
            return
        log.warning("job.attempt_failed", code=reason.code, state=state, final=state is JobState.FAILED)
