"""Indexer: reads the inboxes, fills the index, and closes studies that are complete. One per store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from db.engine import Database
from db.filestore import FileStore
from db.index import add_instances, set_aside, snapshot, studies_due
from db.revisions import close_study
from hilum.config import Settings
from hilum.planning import plan_study, read_cards
from hilum.processes import Station, yield_to_reception
from inference.catalog import ModelCard
from study.entities import StoredInstance
from study.errors import ArchiveError

log = structlog.get_logger()

_PAUSE_SECONDS = 0.05  # between two looks at the inboxes; a look at empty ones costs microseconds
_REST_SECONDS = 30.0
_BATCH = 500  # instances per transaction


def run(station: Station) -> None:
    """Index until told to stop."""
    yield_to_reception()
    database = Database.open(station.settings.database_url)
    database.check_schema()
    indexer = Indexer(station.settings, database, FileStore(station.settings.data_dir))
    station.announce({})
    while not station.stop.wait(_PAUSE_SECONDS):
        indexer.turn()
    database.close()


class Indexer:
    """Takes what lies in the inboxes into the index, then closes the studies that have become complete."""

    def __init__(self, settings: Settings, database: Database, store: FileStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._cards: dict[str, ModelCard] = read_cards(settings)
        self._resting: dict[str, float] = {}
        self._listens_since = time.monotonic()

    def turn(self) -> None:
        """Index everything that was in the inboxes at the start of this turn, then close what was quiet by then.

        The time is taken before the look into the inboxes: whatever was received earlier is indexed before a study is
        judged, so that a backlog never makes a study look quiet.
        """
        as_of = datetime.now(UTC)
        waiting = [path for path in self._store.scan_inbox() if not self._rests(path.name)]
        for batch in _batches(waiting, _BATCH):
            self._index(batch)
        # While the node was down nobody could reach it: that was no silence of the sender's.
        if time.monotonic() - self._listens_since < self._settings.study.quiet_seconds:
            return
        with self._database.reading() as uow:
            due = studies_due(uow, self._settings.study.quiet_seconds, as_of)
        for study_instance_uid in due:
            if self._rests(study_instance_uid):
                continue
            try:
                self._close(study_instance_uid)
            except Exception:  # the loop's edge: one study that can not be judged must not stop all others
                log.exception("study.not_closed", study=study_instance_uid)
                self._leave_alone(study_instance_uid)

    def _index(self, paths: Sequence[Path]) -> None:
        instances = [instance for path in paths if (instance := self._read(path)) is not None]
        with self._database.writing() as uow:
            outcomes = add_instances(uow, instances)
            uow.commit()
        # Only now may the files leave the inbox: until the commit they are what a recovery finds.
        self._store.move_in(instances)
        log.info("index.batch", files=len(paths), instances=len(instances), outcomes=len(outcomes))

    def _read(self, path: Path) -> StoredInstance | None:
        try:
            return self._store.read_incoming(path)
        except ArchiveError as error:
            aside = self._store.put_aside(path, error.words)
            with self._database.writing() as uow:
                set_aside(uow, str(aside.relative_to(self._store.root)), error.reason)
                uow.commit()
            log.warning("index.set_aside", file=aside.name, words=error.words)
            return None
        except OSError:  # the disk, not the file: it stays where it is and is read again
            log.exception("index.unreadable", file=path.name)
            self._leave_alone(path.name)
            return None

    def _leave_alone(self, what: str) -> None:
        """Come back to a file or study that can not be dealt with just now after a while, and to all others at once."""
        self._resting[what] = time.monotonic() + _REST_SECONDS

    def _rests(self, what: str) -> bool:
        return self._resting.get(what, 0.0) > time.monotonic()

    def _close(self, study_instance_uid: str) -> None:
        with self._database.reading() as uow:
            seen = snapshot(uow, study_instance_uid)
        plan = plan_study(self._settings, self._cards, seen.series)
        with self._database.writing() as uow:
            closed = close_study(uow, study_instance_uid, plan.jobs, plan.words, seen.generation, plan.verdicts)
            uow.commit()
        log.info("study.closed", study=study_instance_uid, jobs=len(plan.jobs), closed=closed.closed)


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
