"""Indexer: reads the inboxes, fills the index, and closes studies that are complete. One per store."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from db.complete import inquiries
from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from db.images.index import add_instances, clamp_times, seconds_until_silent, set_aside, studies_due
from db.lasting.ledger import closed_record
from db.work.revisions import close_study
from hilum.archives.awaiting import awaits_priors
from hilum.archives.senders import asked
from hilum.bells import Bells
from hilum.clock import Clock
from hilum.config import Settings
from hilum.looking import Look, Turn, look_at, whose_turn
from hilum.outages import OF_ALL_FILES, at_work, is_outage, keep_at
from hilum.planning import plan_study, read_cards
from hilum.processes import Station, yield_to_reception
from hilum.versions import Comparing, settle
from hilum.working.leading import lead_of
from inference.catalog import ModelCard
from study.entities import StoredInstance
from study.errors import ArchiveError, DatabaseUnavailable
from study.rejections import RejectionTitle

log = structlog.get_logger()

_REST_SECONDS = 30.0
_REST_AFTER_CRASH_SECONDS = 5.0
_HOLDS_UP_SECONDS = 600.0  # for so long a file that can not be read keeps studies open that it may belong to
_ROUNDING_SECONDS = 0.002  # times are kept to the millisecond
_PACE_SECONDS = 0.05  # at least between two turns: what comes within is indexed together
_STILL_SECONDS = 0.03  # nothing came for so long: a sender pauses, or is done
_LONGEST_UNSPLIT_SECONDS = 2.0
_FULL_SHARE = 0.75  # of a receiver's logs; without one an object is a file of its own, which takes twice as long
_BATCH = 500  # instances per transaction
_AT_ONCE = 100  # studies that are looked at before the inboxes are again


def run(station: Station) -> None:
    """Index until told to stop, while no other indexer of the store does."""
    yield_to_reception()
    database = Database.open(station.settings.database_url)
    database.check_schema()
    store = FileStore(station.settings.data_dir)
    splitter = store.splitter()

    def split() -> None:
        if _is_receiving(store):
            splits.look_within(_STILL_SECONDS)
            return
        store.split_logs(splitter, station.host)
        looks.wake()

    splits = station.bells.ear(station.stop, _STILL_SECONDS)
    looks = station.bells.ear(station.stop, _PACE_SECONDS)
    # Whoever leads: a receiver's logs are split on its own machine
    splitting = at_work(
        [lambda: keep_at(split, station.stop, "split.crashed", _REST_AFTER_CRASH_SECONDS, ear=splits)], station.stop
    )
    with lead_of(station.settings, database, "indexer") as lead:
        station.announce({})
        indexers: list[Indexer] = []

        def turn() -> None:
            if not indexers:
                fresh = Indexer(station.settings, database, store, bells=station.bells)
                fresh.resume()
                indexers.append(fresh)
            indexers[0].turn()
            looks.look_within(indexers[0].looks_again_in)

        # It outlives what goes wrong: a new one would begin all quiet periods anew
        crashed = "indexer.turn_crashed"
        keep_at(turn, station.stop, crashed, _REST_AFTER_CRASH_SECONDS, when=lambda: lead.is_held, ear=looks)
    for thread in splitting:
        thread.join()
    database.close()


def _is_receiving(store: FileStore) -> bool:
    """Tell whether objects come one upon the other just now, none has waited for long, and there is room for more.

    Their senders wait for the processors that splitting and indexing would take; nobody waits for the index before the
    last of them has come.
    """
    if not 0 <= store.seconds_since_logged() < _STILL_SECONDS:
        return False
    first, share = store.unsplit()
    if first is None or share >= _FULL_SHARE:
        return False
    return 0 <= time.time() - first.timestamp() < _LONGEST_UNSPLIT_SECONDS


class Indexer:
    """Takes what lies in the inboxes into the index, then closes the studies that have become complete.

    Attributes
    ----------
    looks_again_in
        How long after a turn the next one may find something that nobody rings for [s]; None: nothing is known of.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: FileStore,
        clock: Clock | None = None,
        bells: Bells | None = None,
    ) -> None:
        self.looks_again_in: float | None = None
        self._bells = bells or Bells()
        self._clock = clock or Clock()
        self._settings = settings
        self._database = database
        self._store = store
        self._cards: dict[str, ModelCard] = read_cards(settings)
        self._resting: dict[str, float] = {}
        self._unread: dict[Path, float] = {}  # since when, of the received files that are not in the index yet
        self._clamps = False
        self._listens_since = time.monotonic()
        self._comparing = Comparing(settings, database, store)
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
        self._bear_jump(self._clock.jumped())
        as_of = self._clock.now()
        unsplit = self._store.first_unsplit()  # before the files: what is one by then is found among them
        if unsplit is not None:
            as_of = min(as_of, unsplit)
        received = self._store.scan_inbox()
        left = {path for path in received if self._rests(path.name)}
        for batch in _batches([path for path in received if path not in left], _BATCH):
            self._index(batch)
        left |= {path for path in received if self._rests(path.name)}
        # While the node was down nobody could reach it: that was no silence of the sender's.
        listened = time.monotonic() - self._listens_since
        quiet_as_of = self._indexed_until(left, as_of) if listened >= self._settings.study.quiet_seconds else None
        with self._database.reading() as uow:
            due = self._due(uow, quiet_as_of)
            self.looks_again_in = self._next_look(uow, due, listened)
        for study_instance_uid in due:
            if self._rests(study_instance_uid):
                continue
            try:
                self._look(study_instance_uid, quiet_as_of)
            except Exception as error:  # the loop's edge: one study that can not be judged must not stop all others
                if is_outage(error, OF_ALL_FILES):
                    raise
                log.exception("study.not_closed", study=study_instance_uid)
                self._leave_alone(study_instance_uid)

    def _bear_jump(self, seconds: float) -> None:
        """Begin every quiet period anew: a clock that was moved says nothing of how long a study was silent."""
        if seconds:
            log.warning("clock.jumped", seconds=round(seconds, 1))
            self._listens_since = time.monotonic()
            self._clamps = True
        if self._clamps:  # now, or once the database is there
            with self._database.writing() as uow:
                clamp_times(uow, self._clock.now())
                uow.commit()
            self._clamps = False

    def _indexed_until(self, left: Collection[Path], as_of: datetime) -> datetime:
        """Return the time by which all that had come is in the index: what was left in the inbox may be of any study.

        One file that can never be read does not keep all studies open for ever.
        """
        now = time.monotonic()
        self._unread = {path: self._unread.get(path, now) for path in left}
        young = [path for path, since in self._unread.items() if now - since < _HOLDS_UP_SECONDS]
        return min([as_of, *(at for path in young if (at := _received_at(path)) is not None)])

    def _due(self, uow: UnitOfWork, quiet_as_of: datetime | None) -> list[str]:
        """Return the studies that are worth a look: something was proven, or they were silent for long enough."""
        found = [*inquiries.news(uow, _AT_ONCE), *inquiries.lists_due(uow, _AT_ONCE), *self._go_on(uow)]
        if quiet_as_of is not None:
            silent = studies_due(uow, self._settings.study.quiet_seconds, quiet_as_of)
            found += [uid for uid in silent if uid not in self._waits]
        return list(dict.fromkeys(found))

    def _next_look(self, uow: UnitOfWork, due: Collection[str], listened: float) -> float | None:
        """Return in how long another study falls due [s]; at once where there was any, which may have to wait."""
        if self._waits or any(not self._rests(uid) for uid in due):
            return 0.0
        quiet = self._settings.study.quiet_seconds
        times = [seconds_until_silent(uow, quiet), inquiries.seconds_until_due(uow)]
        times += [quiet - listened] if listened < quiet else []
        return min((each + _ROUNDING_SECONDS for each in times if each is not None), default=None)

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
        try:
            self._enter(instances)
        except DatabaseUnavailable:
            raise
        except ArchiveError:  # of one of them: the others are not to wait for it
            for each in instances:
                self._enter_alone(each)

    def _enter_alone(self, instance: StoredInstance) -> None:
        try:
            self._enter([instance])
        except DatabaseUnavailable:
            raise
        except ArchiveError:
            log.exception("index.not_entered", file=instance.inbox_path)
            self._leave_alone(Path(instance.inbox_path).name)

    def _enter(self, instances: Sequence[StoredInstance]) -> None:
        if not instances:
            return
        with self._database.writing() as uow:
            outcomes = add_instances(uow, instances)
            studies = {instance.header.study_instance_uid for instance in instances}
            inquiries.begin(uow, studies, self._asked, self._settings.study.settle_seconds)
            uow.commit()
        for study_instance_uid in studies:
            self._waits.pop(study_instance_uid, None)
        # Only now may the files leave the inbox: until the commit they are what a recovery finds.
        self._store.move_in(instances)
        for instance in instances:
            _tell_rejection(instance)
        self._bells.ring("archivist")
        log.info("index.batch", instances=len(instances), outcomes=len(outcomes))

    def _read(self, path: Path) -> StoredInstance | None:
        try:
            return self._store.read_incoming(path)
        except ArchiveError as error:
            self._set_aside(path, error)
        except Exception:  # the disk, or a header that nobody foresaw: it stays where it is and is read again
            log.exception("index.unreadable", file=path.name)
            self._leave_alone(path.name)
        return None

    def _set_aside(self, path: Path, error: ArchiveError) -> None:
        aside = self._store.place_aside(path)
        # First the record: a file that is aside without one would be missed by nobody
        with self._database.writing() as uow:
            set_aside(uow, self._store.relative(aside), error.reason)
            uow.commit()
        try:
            self._store.put_aside(path, error.words)
        except OSError:  # a full disk, mostly; it is neither lost nor in the way of others
            log.exception("index.not_set_aside", file=path.name)
            self._leave_alone(path.name)
            return
        log.warning("index.set_aside", file=aside.name, words=error.words)

    def _leave_alone(self, what: str) -> None:
        """Come back to a file or study that can not be dealt with just now after a while, and to all others at once."""
        now = time.monotonic()
        self._resting = {name: until for name, until in self._resting.items() if until > now}
        self._resting[what] = now + _REST_SECONDS

    def _rests(self, what: str) -> bool:
        return self._resting.get(what, 0.0) > time.monotonic()

    def _look(self, study_instance_uid: str, quiet_as_of: datetime | None) -> None:
        if self._comparing.holds_up(study_instance_uid):
            return
        settle(self._database, study_instance_uid)
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
        whole = turn.completeness.models is None
        with self._database.writing() as uow:
            closed = close_study(
                uow, uid, plan.jobs, plan.words, seen.generation, plan.verdicts, plan.not_admitted, turn.completeness
            )
            if not (closed.closed and _considered(uow, uid, turn)):
                return
            self._store.append_manifest(uid, closed_record(uow, uid, whole=whole))
            uow.commit()
        self._bells.ring("keeper", "sender")  # an older job may be the current one again, and owe its results
        log.info("study.closed" if whole else "study.closed_in_part", study=uid, jobs=len(plan.jobs))


def _tell_rejection(instance: StoredInstance) -> None:
    note, study = instance.rejection, instance.header.study_instance_uid
    if note is not None and note.title is RejectionTitle.UNREAD:
        log.warning("rejection.unread", study=study, key_object=instance.header.sop_instance_uid, words=note.unread)
    elif note is not None:
        log.info("rejection.heeded", study=study, title=note.title.value, objects=len(note.named))


def _considered(uow: UnitOfWork, study_instance_uid: str, turn: Turn) -> bool:
    """Note that what is known of a study's completeness is considered; False where more is known meanwhile."""
    if turn.inquiry is None:
        return True
    if turn.completeness.models is None:
        return inquiries.settle(uow, study_instance_uid, turn.inquiry.version, turn.completeness.unproven)
    inquiries.consider(uow, study_instance_uid, turn.inquiry.version, turn.look_again_at)
    return True


def _received_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
