"""A node of which single roles are there, for tests in which the disk or the database goes away under them."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from sqlalchemy import func, select

from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.tables import DeliveryRow
from db.work import jobs
from db.work.revisions import close_study
from hilum.clock import Clock
from hilum.config import Settings
from hilum.outages import keep_at
from hilum.processes import StopSignal
from hilum.roles.indexer import Indexer
from hilum.roles.keeper import Keeper
from hilum.roles.sender import Courier
from scp.receiving.file_meta import encode_file_meta
from scp.receiving.inbox import Inbox
from study.entities import Job, ResultObject, StudyRecord
from study.forms import SOP_CLASSES, Form
from study.states import DeliveryState, StudyState
from tests.support.databases import planned, results, stored
from tests.support.faulty_pacs import FaultyPacs
from tests.support.network import encoded_data_set, free_port
from tests.support.series import ct_series, save_series

STUDY = "1.2.826.0.1.5"


@dataclass
class Site:
    """A node's settings, database and store, and whoever works there."""

    settings: Settings
    database: Database
    store: FileStore
    logs: Sequence[MutableMapping[str, Any]]
    stop: StopSignal = field(default_factory=StopSignal)

    def images(self, count: int) -> list[Dataset]:
        """Return the images of one study."""
        voxels = np.zeros((count, 8, 8))
        return ct_series(voxels, study_instance_uid=STUDY)

    def receive(self, *images: Dataset) -> None:
        """Have images in the inbox, as a receiver leaves them there."""
        inbox = Inbox(self.store.inbox("receiver-0"), 0)
        for image, path in zip(images, save_series(images, self.settings.base_dir / "images"), strict=True):
            meta = encode_file_meta(
                sop_class_uid=str(image.SOPClassUID),
                sop_instance_uid=str(image.SOPInstanceUID),
                transfer_syntax_uid=str(image.file_meta.TransferSyntaxUID),
                sending_ae_title="MODALITY",
                receiving_ae_title="HILUM",
            )
            incoming = inbox.begin(meta)
            incoming.write([encoded_data_set(path)])
            incoming.commit()
        inbox.close()

    def indexer(self, clock: Clock | None = None) -> Indexer:
        """Return an indexer that has listened for a day."""
        indexer = Indexer(self.settings, self.database, self.store, clock)
        indexer._listens_since -= 86_400
        return indexer

    def keeper(self) -> Keeper:
        """Return a keeper without a runner."""
        return Keeper(self.settings, self.database, self.store, self.stop)

    def courier(self) -> Courier:
        """Return who brings results to the peer."""
        return Courier(self.settings.peers["pacs"], self.settings, self.database, self.store, self.stop)

    @contextmanager
    def at_work(self, work: Callable[[], object], *, once: bool = False) -> Iterator[threading.Thread]:
        """Have work done in a thread, again and again, as a role does."""
        turns: Callable[[], object] = work if once else lambda: keep_at(work, self.stop, "crashed", 0.01)
        thread = threading.Thread(target=turns)
        thread.start()
        try:
            yield thread
        finally:
            self.stop.set()
            thread.join(40)
            assert not thread.is_alive()

    def record(self, study: str = STUDY) -> StudyRecord | None:
        """Return what the database has of the study."""
        with self.database.reading() as uow:
            return study_record(uow, study)

    def state(self) -> StudyState | None:
        """Return the study's state; None before it is known."""
        record = self.record()
        return None if record is None else record.summary.state

    def job(self) -> Job:
        """Return the job."""
        with self.database.reading() as uow:
            return jobs.job_by_id(uow, 1)

    def told(self, event: str) -> list[MutableMapping[str, Any]]:
        """Return the log entries of an event."""
        return [entry for entry in list(self.logs) if entry["event"] == event]

    def is_away(self) -> bool:
        """Tell whether somebody has noticed that the disk or the database is away."""
        return bool(self.told("outage.began"))

    def lease(self) -> tuple[Job, list[ResultObject]]:
        """Return a job that the keeper holds, with what its runner wrote."""
        images = [stored(1, study=STUDY)]
        with self.database.writing() as uow:
            add_instances(uow, images)
            close_study(uow, STUDY, [planned(images)], "", generation(uow, STUDY))
            job = jobs.lease_job(uow, self.keeper()._owner, 30)
            uow.commit()
        assert job is not None
        return job, self._results(job)

    def _results(self, job: Job) -> list[ResultObject]:
        datasets = [ct_series(np.full((1, 200, 200), 7), study_instance_uid=STUDY)[0] for _ in range(2)]
        for dataset, form in zip(datasets, (Form.SEG, Form.SR), strict=True):
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(SOP_CLASSES[form])
        folder = self.store.results_folder(STUDY) / f"{job.id}-{job.attempt}"
        return [
            replace(
                result,
                sop_class_uid=str(dataset.SOPClassUID),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                path=self.store.relative(path),
                digest=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for result, dataset, path in zip(results(STUDY), datasets, save_series(datasets, folder), strict=True)
        ]

    def owe(self) -> None:
        """Owe the results of a job to the peer."""
        job, made = self.lease()
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        with self.database.writing() as uow:
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            uow.commit()

    def is_all_delivered(self) -> bool:
        """Tell whether the peer is known to hold all."""
        with self.database.reading() as uow:
            states = uow.execute(select(DeliveryRow.state)).scalars().all()
        return set(states) == {DeliveryState.DELIVERED.value}

    def lease_ends(self) -> datetime:
        """Return until when the last delivery that is held is held."""
        held = select(func.max(DeliveryRow.next_attempt_at)).where(DeliveryRow.lease_owner.is_not(None))
        with self.database.reading() as uow:
            until: datetime = uow.execute(held).scalar_one()
        return until


class Pacs(FaultyPacs):
    """A PACS that has something happen while it stores the first object."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__(free_port() if port is None else port)
        self.at_first_object: Callable[[], object] | None = None

    def _on_store(self, event: evt.Event) -> int | Dataset:
        then, self.at_first_object = self.at_first_object, None
        if then is not None:
            then()
        return super()._on_store(event)


@contextmanager
def site(
    folder: Path, data_dir: Path, url: str = "sqlite", port: int = 104, quiet_seconds: float = 0.3
) -> Iterator[Site]:
    """Give a node that sends to a peer on a port of this machine."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]}
    settings = Settings.model_validate(
        {
            "base_dir": folder,
            "node": {"data_dir": data_dir, "disk_reserve_mb": 0},
            "database": {"url": url},
            "study": {"quiet_seconds": quiet_seconds},
            "delivery": {"retry_seconds": 0.02, "retry_max_seconds": 0.1, "problem_retry_seconds": 0.2},
            "peers": {"pacs": pacs},
        }
    )
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database.open(settings.database_url)
    database.migrate()
    with structlog.testing.capture_logs() as logs:
        here = Site(settings, database, FileStore(settings.data_dir), logs)
        try:
            yield here
        finally:
            here.stop.set()
            database.close()


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Have another connection to an SQLite database hold its one write lock."""
    path = database.url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()
