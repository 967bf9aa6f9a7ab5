"""Indexer: reads the inboxes, fills the index, and closes studies that are complete. One per store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import structlog

from db import inquiries
from db.engine import Database, UnitOfWork
from db.filestore import FileStore
from db.index import add_instances, clamp_times, set_aside, studies_due
from db.revisions import close_study
from hilum.archives.awaiting import awaits_priors
from hilum.archives.senders import asked
from hilum.clock import Clock
from hilum.config import Settings
from hilum.looking import Look, Turn, look_at, whose_turn
from hilum.planning import plan_study, read_cards
from hilum.processes import Station, yield_to_reception
from inference.catalog import ModelCard
from study.entities import StoredInstance
from study.errors import ArchiveError

log = structlog.get_logger()

_PAUSE_SECONDS = 0.05  # between two looks at the inboxes; a look at empty ones costs microseconds
_REST_SECONDS = 30.0
_BATCH = 500  # instances per transaction
_AT_ONCE = 100  # studies that are looked at before the inboxes are again


def run(station: Station) -> None:
    """Index until told to stop."""
    yield_to_reception()
    database = Database.open(station.settings.database_url)
    database.check_schema()
    indexer = Indexer(station.settings, database, FileStore(station.settings.data_dir))
    indexer.resume()
    station.announce({})
    while not station.stop.wait(_PAUSE_SECONDS):
        indexer.turn()
    database.close()


class Indexer:
    """Takes what lies in the inboxes into the index, then closes the studies that have become complete."""

    def __init__(self, settings: Settings, database: Database, store: FileStore, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._settings = settings
        self._database = database
        self._store = store
        self._cards: dict[str, ModelCard] = read_cards(settings)
        self._resting: dict[str, float] = {}
        self._listens_since = time.monotonic()
        self._asked = asked(settings)
        self._waits: dict[str, Turn] = {}

    def resume(self) -> None:
        """Have archives asked, by the settings of now, about all that awaits evaluation."""
        with self._database.writing() as uow:
            inquiries.resume(uow, self._asked)
            uow.commit()

    def turn(self) -> None:
        """Index everything that was in the inboxes at the start of this turn, then close what was complete by then.

        The time is taken before the look into the inboxes: whatever was received earlier is indexed before a study is
        judged, so that a backlog never makes a study look quiet.
        """
        if jumped := self._clock.jumped():
            self._bear_jump(jumped)
        as_of = self._clock.now()
        waiting = [path for path in self._store.scan_inbox() if not self._rests(path.name)]
        for batch in _batches(waiting, _BATCH):
            self._index(batch)
        # While the node was down nobody could reach it: that was no silence of the sender's.
        listened = time.monotonic() - self._listens_since
        quiet_as_of = as_of if listened >= self._settings.study.quiet_seconds else None
        with self._database.reading() as uow:
            due = self._due(uow, quiet_as_of)
        for study_instance_uid in due:
            if self._rests(study_instance_uid):
                continue
            try:
                self._look(study_instance_uid, quiet_as_of)
            except Exception:  # the loop's edge: one study that can not be judged must not stop all others
                log.exception("study.not_closed", study=study_instance_uid)
                self._leave_alone(study_instance_uid)

    def _bear_jump(self, seconds: float) -> None:
        """Begin every quiet period anew: a clock that was moved says nothing of how long a study was silent."""
        log.warning("clock.jumped", seconds=round(seconds, 1))
        self._listens_since = time.monotonic()
        with self._database.writing() as uow:
            clamp_times(uow, self._clock.now())
            uow.commit()

    def _due(self, uow: UnitOfWork, quiet_as_of: datetime | None) -> list[str]:
        """Return the studies that are worth a look: something was proven, or they were silent for long enough."""
        found = [*inquiries.news(uow, _AT_ONCE), *inquiries.lists_due(uow, _AT_ONCE), *self._go_on(uow)]
        if quiet_as_of is not None:
            silent = studies_due(uow, self._settings.study.quiet_seconds, quiet_as_of)
            found += [uid for uid in silent if uid not in self._waits]
        return list(dict.fromkeys(found))

    def _go_on(self, uow: UnitOfWork) -> Iterator[str]:
        """Yield the studies of which a model waited for earlier ones, and does no more."""
        for uid in list(self._waits)[:_AT_ONCE]:
            turn = self._waits[uid] = self._waits.pop(uid)  # the others have their turn the next time
            still = (
                awaits_priors(uow, self._settings, self._cards[name], uid, turn.calling_ae_titles, since)
                for name, since in turn.waiting.items()
            )
            if not all(still):
                yield uid

    def _index(self, paths: Sequence[Path]) -> None:
        instances = [instance for path in paths if (instance := self._read(path)) is not None]
        with self._database.writing() as uow:
            outcomes = add_instances(uow, instances)
            studies = {instance.header.study_instance_uid for instance in instances}
            inquiries.begin(uow, studies, self._asked, self._settings.study.settle_seconds)
            uow.commit()
        for study_instance_uid in studies:
            self._waits.pop(study_instance_uid, None)
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

    def _look(self, study_instance_uid: str, quiet_as_of: datetime | None) -> None:
        with self._database.reading() as uow:
            turn = whose_turn(uow, self._settings, self._cards, study_instance_uid, quiet_as_of)
            if turn.is_anybodys:
                look = look_at(uow, self._settings, self._cards, study_instance_uid, turn.completeness)
        if turn.waiting:
            self._waits[study_instance_uid] = turn
        else:
            self._waits.pop(study_instance_uid, None)
        if turn.is_anybodys:
            self._close(turn, look)
        elif turn.inquiry is not None:
            with self._database.writing() as uow:
                inquiries.consider(uow, study_instance_uid, turn.inquiry.version, turn.look_again_at)
                uow.commit()

    def _close(self, turn: Turn, look: Look) -> None:
        """Enter the work of the models whose turn it is; nothing where something came, or was said, in between."""
        uid, seen = look.seen.study_instance_uid, look.seen
        plan = plan_study(self._settings, self._cards, seen.series, look.circumstances)
        with self._database.writing() as uow:
            closed = close_study(
                uow, uid, plan.jobs, plan.words, seen.generation, plan.verdicts, plan.not_admitted, turn.completeness
            )
            if not (closed.closed and _considered(uow, uid, turn)):
                return
            uow.commit()
        whole = turn.completeness.models is None
        log.info("study.closed" if whole else "study.closed_in_part", study=uid, jobs=len(plan.jobs))


def _considered(uow: UnitOfWork, study_instance_uid: str, turn: Turn) -> bool:
    """Note that what is known of a study's completeness is considered; False where more is known meanwhile."""
    if turn.inquiry is None:
        return True
    if turn.completeness.models is None:
        return inquiries.settle(uow, study_instance_uid, turn.inquiry.version, turn.completeness.unproven)
    inquiries.consider(uow, study_instance_uid, turn.inquiry.version, turn.look_again_at)
    return True


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
