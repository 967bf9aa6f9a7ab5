"""The indexer alone, moved by the test: files appear in an inbox as a receiver leaves them, and no model runs."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import studies_due
from db.lasting.ledger import job_record
from db.overview.queries import study_record
from db.work import jobs
from hilum.config import Settings, load
from hilum.rebuilding import rebuild
from hilum.roles.indexer import Indexer
from study.entities import Job, ResultObject, StudyRecord
from tests.support.databases import empty_url, results
from tests.support.outbox import deliver, lease

CONFIG = """
[node]
disk_reserve_mb = 0
accept = "any"
[study]
quiet_seconds = 1
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 11112
results = ["seg", "sr", "refusal"]
"""


class Intake:
    """A node of which only the indexer is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database.open(settings.database_url)
        self.database.migrate()
        self.store = FileStore(settings.data_dir)
        self.indexer = Indexer(settings, self.database, self.store)
        self.indexer._listens_since -= 60
        self._age = itertools.count(1)

    def take(self, images: Sequence[Dataset]) -> None:
        """Take images in, and close the studies that are complete; each call is later than the one before."""
        folder = self.store.inbox("receiver-0")
        folder.mkdir(parents=True, exist_ok=True)
        at = time.time() - 1000 + next(self._age)
        for number, image in enumerate(images):
            path = folder / f"{at:.0f}-{number:05d}.dcm"
            image.save_as(path, enforce_file_format=True)
            os.utime(path, (at, at))
        self.settle()

    def settle(self) -> None:
        """Let the indexer work until no study awaits it."""
        for _ in range(1200):
            self.indexer.turn()
            with self.database.reading() as uow:
                if not studies_due(uow, 0, uow.now()):
                    return
            time.sleep(0.05)
        raise AssertionError("a study still awaits the indexer")

    def rebuild(self) -> None:
        """Lose the database, and make it anew from the files."""
        self.database.close()
        for path in self.settings.data_dir.glob("hilum.db*"):
            path.unlink()
        self.database = Database.open(self.settings.database_url)
        self.database.migrate()
        rebuild(self.database, self.store, lambda _words: None)
        self.indexer = Indexer(self.settings, self.database, self.store)
        self.indexer._listens_since -= 60
        self.settle()

    def record(self, study: str) -> StudyRecord:
        """Return what is known of a study."""
        with self.database.reading() as uow:
            found = study_record(uow, study)
        assert found is not None
        return found

    def current(self, study: str) -> Job:
        """Return the one job that counts."""
        (job,) = (each for each in self.record(study).jobs if each.current)
        return job

    def analyse(self, study: str, *, delivered: bool = True) -> Job:
        """Let the job that waits end with results, and have the peer store them."""
        with self.database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            made = [self._written(study, job.id, each) for each in results(f"{study}.{job.id}")]
            owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            self.store.append_manifest(study, job_record(uow, "results", job.id))
            uow.commit()
        for each in lease(self.database) if delivered else ():
            deliver(self.database, each)
        return job

    def _written(self, study: str, job: int, result: ResultObject) -> ResultObject:
        relative = f"results/{study}/{job}-{result.form}.dcm"
        path = self.settings.data_dir / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.form.encode())
        return replace(result, path=relative, digest=hashlib.sha256(result.form.encode()).hexdigest())


@contextmanager
def indexing(folder: Path, dialect: str = "sqlite", config: str = CONFIG) -> Iterator[Intake]:
    """Give an indexer with an empty database and store."""
    path = folder / "config.toml"
    path.write_text(config)
    url = "sqlite" if dialect == "sqlite" else empty_url(dialect, folder)
    settings = load(path, [f"database.url={url}"], environment={})
    settings.data_dir.mkdir(exist_ok=True)
    intake = Intake(settings)
    try:
        yield intake
    finally:
        intake.database.close()
