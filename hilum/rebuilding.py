"""A lost database is made anew from the files: what is stored, and the ledgers beside it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from db.engine import Database, UnitOfWork
from db.files.durable import write_once
from db.files.filestore import FileStore
from db.images.index import add_instances, set_aside
from db.lasting.copying import renumber
from db.lasting.rebuilding import (
    Rebuilt,
    backdate,
    enter_work,
    is_entered,
    known_paths,
    largest_job,
    largest_job_here,
    leave_alone,
)
from db.lasting.retention import REMOVED, removed_paths, restore_removed
from db.work import pauses
from study.entities import ResultObject, StoredInstance
from study.errors import ArchiveError, Reason, SchemaMismatch
from study.states import Halted

Say = Callable[[str], None]

RESTORING: Final = "restoring"
"""A file of this name in the data directory says that a backup is being restored into it."""

_MARKER: Final = "rebuilding"
_OF_STRANGE_RECORDS: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
_CLOCKS_DIFFER: Final = timedelta(minutes=1)  # between this machine, by whose time records are, and a database server
_EVERY: Final = 100  # studies between two lines of progress


@dataclass
class Count:
    """What a rebuild came to."""

    studies: int = 0
    images: int = 0
    jobs: int = 0
    results: int = 0
    owed: int = 0
    due: int = 0
    aside: int = 0
    bare: int = 0
    strange: int = 0

    def words(self) -> Iterator[str]:
        """Give it in words."""
        yield (
            f"{self.studies} studies with {self.images} images, {self.jobs} jobs and {self.results} result objects "
            f"are in the new database; {self.owed} deliveries are owed, {self.due} studies are looked at again"
        )
        if self.aside:
            yield f"{self.aside} damaged files are kept aside; hilum doctor names them"
        if self.strange:
            yield f"{self.strange} manifests are not understood; hilum analyse STUDY has such a study analysed anew"
        if self.bare:
            yield f"{self.bare} studies have no images left here, and are not in it; their manifests are kept"


def prepare(database: Database, store: FileStore, say: Say, is_stopped: Callable[[], bool]) -> None:
    """Bring the database to the schema of this program; one that was lost is made anew from the files.

    What was begun and broken off is finished.

    Raises
    ------
    SchemaMismatch
        If a newer program made the database.
    ArchiveError
        If a backup was half restored, or the node is to stop before all is entered.
    """
    if (store.root / RESTORING).exists():
        raise ArchiveError(f"A backup was being restored into {store.root}; finish that by hilum restore.")
    if not database.has_schema() and store.studies():
        begin(store)
    database.migrate()
    if is_begun(store):
        say(f"the database is made from the files of {len(store.studies())} studies; nothing is received meanwhile")
        for words in rebuild(database, store, say, is_stopped).words():
            say(words)
        if is_stopped():
            raise ArchiveError("Stopped before the database was made from the files; hilum serve goes on with that.")
        (store.root / _MARKER).unlink()


def begin(store: FileStore) -> None:
    """Have the database made from the files, now or whenever it is opened next."""
    write_once(store.root / _MARKER, b"The database is being made from the files.\n")


def is_begun(store: FileStore) -> bool:
    """Tell whether the database is being made from the files, and that is not finished."""
    return (store.root / _MARKER).exists()


def is_ready(database: Database, store: FileStore) -> bool:
    """Tell whether `prepare` would find nothing to do."""
    if any((store.root / name).exists() for name in (_MARKER, RESTORING)):
        return False
    try:
        database.check_schema()
    except SchemaMismatch:
        return False
    return True


def rebuild(
    database: Database,
    store: FileStore,
    say: Say,
    is_stopped: Callable[[], bool] = lambda: False,
    since: datetime | None = None,
) -> Count:
    """Enter what the store has and the database does not; return how much that was.

    Studies that are in the database already are left alone. The images of all come first: a job of one study may read
    those of another.

    Parameters
    ----------
    since
        When the database was that of the node last: what their files tell of studies since then is entered too.
    """
    studies, count = store.studies(), Count()
    largest = max((largest_job(store.read_manifest(uid)) for uid in studies), default=0)
    with database.writing() as uow:
        renumber(uow)
        largest = max(largest, largest_job_here(uow))
        uow.commit()
    fresh = itertools.count(largest + 1)
    behind = [uid for uid in studies if _is_behind(database, store, uid, since)]
    entered = list(_until_stopped(behind, lambda uid: _enter_images(database, store, uid, count, say), say, is_stopped))
    list(_until_stopped(entered, lambda uid: _enter_work(database, store, uid, fresh, count, say), say, is_stopped))
    if not is_stopped():
        _settle_node(database, store)
    return count


def _until_stopped(
    studies: Sequence[str], act: Callable[[str], bool], say: Say, is_stopped: Callable[[], bool]
) -> Iterator[str]:
    """Act upon one study after the other, and yield those for which that came to something."""
    for done, uid in enumerate(studies, start=1):
        if is_stopped():
            return
        if act(uid):
            yield uid
        if done % _EVERY == 0:
            say(f"{done} of {len(studies)} studies")


def _is_behind(database: Database, store: FileStore, uid: str, since: datetime | None) -> bool:
    """Tell whether the files of a study tell more than the database."""
    with database.reading() as uow:
        known, entered = known_paths(uow, uid), is_entered(uow, uid)
    if known is None or since is None:
        return known is None or not entered
    if any(store.relative(path) not in known for path in store.stored_files(uid)):
        return True
    records = store.read_manifest(uid)
    return bool(records) and _is_since(records[-1], since)


def _is_since(record: Mapping[str, Any], since: datetime) -> bool:
    try:
        return datetime.fromisoformat(record["at"]) >= since - _CLOCKS_DIFFER
    except _OF_STRANGE_RECORDS:  # what it tells is found out when it is entered
        return True


def _enter_images(database: Database, store: FileStore, uid: str, count: Count, say: Say) -> bool:
    """Enter a study with its images; False, and nothing is entered, where none is here and nobody removed it."""
    removed = _removal(store.read_manifest(uid))
    instances = list(_read(database, store, uid, count, say))
    with database.writing() as uow:
        if removed is not None:
            restore_removed(uow, uid, removed, lambda path: (store.root / path).exists())
        elif not instances and known_paths(uow, uid) is None:
            say(f"{uid} has no images here")
            count.bare += 1
            return False
        add_instances(uow, instances)
        uow.commit()
    count.images += len(instances)
    return True


def _enter_work(database: Database, store: FileStore, uid: str, fresh: Iterator[int], count: Count, say: Say) -> bool:
    try:
        done = _enter_records(database, store, uid, fresh)
    except (ArchiveError, *_OF_STRANGE_RECORDS) as error:
        if isinstance(error, ArchiveError) and error.transient:
            raise
        # One manifest that somebody spoilt must not keep the node from its other studies
        say(f"{uid}: its manifest is not understood ({type(error).__name__}); nothing is done with its images")
        count.strange += 1
        with database.writing() as uow:
            done = leave_alone(uow, uid)
            backdate(uow, uid)
            uow.commit()
    _add_up(count, done)
    return True


def _enter_records(database: Database, store: FileStore, uid: str, fresh: Iterator[int]) -> Rebuilt:
    records = store.read_manifest(uid)
    removed = _removal(records)
    gone = frozenset[str]() if removed is None else frozenset(removed_paths(removed))
    with database.writing() as uow:
        done = enter_work(uow, uid, records, lambda result: result.path in gone or _is_here(store, result), fresh)
        if removed is not None:  # once more, now that what it marks is there
            restore_removed(uow, uid, removed, lambda path: (store.root / path).exists())
        backdate(uow, uid)
        uow.commit()
    return done


def _removal(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the last record of a removal; None where there is none, or it can not be read."""
    last = next((each for each in reversed(records) if each.get("record") == REMOVED), None)
    try:
        if last is not None:
            removed_paths(last)
            datetime.fromisoformat(last["removed_at"])
    except _OF_STRANGE_RECORDS:
        return None
    return last


def _add_up(count: Count, done: Rebuilt) -> None:
    count.studies += 1
    count.jobs += done.jobs
    count.results += done.results
    count.owed += done.owed
    count.due += done.due


def _read(database: Database, store: FileStore, uid: str, count: Count, say: Say) -> Iterator[StoredInstance]:
    """Yield what the study's files are; one whose bytes are not those that came is kept aside."""
    for path in store.stored_files(uid):
        try:
            instance = store.read_incoming(path)
            if store.root / instance.path != path:
                raise ArchiveError("The file is not what was received: its bytes have changed.")
        except ArchiveError as error:
            aside = store.put_aside(path, error.words)
            with database.writing() as uow:
                set_aside(uow, store.relative(aside), error.reason)
                uow.commit()
            say(f"{aside}: {error.words}")
            count.aside += 1
        else:
            yield instance


def _is_here(store: FileStore, result: ResultObject) -> bool:
    try:
        return hashlib.sha256((store.root / result.path).read_bytes()).hexdigest() == result.digest
    except OSError:
        return False


def _settle_node(database: Database, store: FileStore) -> None:
    """Enter what is of no study: what is kept aside, and what is paused."""
    with database.writing() as uow:
        for reason in sorted(store.root.glob("aside/*.reason.txt")):
            file = reason.with_name(reason.name.removesuffix(".reason.txt") + ".dcm")
            if file.exists():
                set_aside(uow, store.relative(file), Reason("SetAside", reason.read_text().strip()))
        _pause(uow, store.read_ledger())
        renumber(uow)
        uow.commit()


def _pause(uow: UnitOfWork, records: Sequence[dict[str, str]]) -> None:
    """Let what was paused be so still."""
    last = {each["what"]: each for each in records if each.get("record") in {"paused", "resumed"}}
    for what in Halted:
        told = last.get(what.value, {})
        if told.get("record") == "paused":
            pauses.begin(uow, what, told["words"])
