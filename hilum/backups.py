"""A backup of the whole node, taken while it runs, and a node made of one, on this machine or another.

The database is copied first, at one moment; then the files, so that whatever it names is among them. What the files
tell beyond it (images that came, results that were delivered meanwhile) is entered when the backup is restored.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from db.engine import Database
from db.files.durable import draft_of, make_folders, publish, sync_folder, write_once
from db.files.filestore import FileStore
from db.lasting.copying import copy_to_file, fill_from_file, holds_studies
from db.schema import REVISION
from hilum.rebuilding import RESTORING, Count, Say, rebuild
from study.errors import ArchiveError

# In this order: a file moves from the inbox to the store meanwhile, and never back
_FOLDERS: Final = ("inbox", "store", "results", "aside", "commitment")
_FILES: Final = ("node.json", "ledger.jsonl")
_DATABASE: Final = "hilum.db"
_ABOUT: Final = "backup.json"
_FRESH: Final = f"{_DATABASE}.new"
_PART: Final = ".part"
_LOG: Final = ".log"
_HALF_WRITTEN: Final = (_PART, ".new", ".split", ".lock")


@dataclass
class Copied:
    """What a backup or a restore copied, and what was there already."""

    files: int = 0
    size: int = 0  # [bytes]
    there: int = 0
    gone: int = 0  # from an earlier backup, of studies that retention removed since


def back_up(database: Database, store: FileStore, target: Path) -> Copied:
    """Bring the backup in the folder `target` up to date; one that is there stays good until the new one is whole.

    Raises
    ------
    ArchiveError
        If the folder holds another node's backup, or lies in the data directory.
    OSError
        If it can not be written.
    """
    identity = store.node_identity().device_uid
    _demand_place(store, target, identity)
    make_folders([target])
    (target / _FRESH).unlink(missing_ok=True)
    with store.backing_up():
        at = database.now()
        copy_to_file(database, target / _FRESH)
        copied = Copied()
        left = _left_the_inbox(store, target)
        for source in _files(store.root):
            _copy(source, target / source.relative_to(store.root), copied)
        _drop_removed(store, target, copied)
    os.sync()
    for path in left:
        path.unlink()
    (target / _FRESH).replace(target / _DATABASE)
    _describe(target, {"device_uid": identity, "at": at.isoformat(), "schema": REVISION})
    return copied


def restore(database: Database, store: FileStore, source: Path, say: Say) -> tuple[Copied, Count]:
    """Make the node of a backup: its files, its database, and what the files tell beyond that.

    A restore that was broken off is finished by another one.

    Raises
    ------
    ArchiveError
        If `source` is no backup, or there is a node here already.
    SchemaMismatch
        If a newer program made the backup.
    """
    about = _about(source)
    marker = store.root / RESTORING
    if not marker.exists():
        _demand_nothing(database, store)
        make_folders([store.root])
        write_once(marker, b"A backup is being restored here.\n")
    copied = Copied()
    for path in _files(source):
        _copy(path, store.root / path.relative_to(source), copied)
    os.sync()
    if not holds_studies(database):
        _fill(database, store, source)
    database.migrate()  # where an earlier restore was broken off in between
    count = rebuild(database, store, say, since=datetime.fromisoformat(about["at"]))
    marker.unlink()
    sync_folder(store.root)
    return copied, count


def made_at(source: Path) -> datetime:
    """Return when the backup in a folder was made; ArchiveError where there is none."""
    return datetime.fromisoformat(_about(source)["at"])


def _fill(database: Database, store: FileStore, source: Path) -> None:
    copy = store.root / f"{_DATABASE}{_PART}"  # it is brought to the newest schema; the backup stays as it is
    shutil.copyfile(source / _DATABASE, copy)
    try:
        fill_from_file(database, copy)
    finally:
        for suffix in ("", "-wal", "-shm", ".migrating"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _demand_place(store: FileStore, target: Path, identity: str) -> None:
    if target.resolve().is_relative_to(store.root.resolve()):
        raise ArchiveError(
            f"{target} lies in the data directory: a disk that is lost takes both. Choose another folder."
        )
    if (target / _ABOUT).exists() and _about(target)["device_uid"] != identity:
        raise ArchiveError(f"{target} holds the backup of another node; choose another folder.")


def _demand_nothing(database: Database, store: FileStore) -> None:
    there = [name for name in (*_FOLDERS, *_FILES) if (store.root / name).exists()]
    if there:
        raise ArchiveError(
            f"{store.root} holds a node already ({', '.join(there)}); a backup is restored into an empty data directory"
        )
    if holds_studies(database):
        raise ArchiveError("The database holds studies already; a backup is restored into an empty one.")


def _about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((folder / _ABOUT).read_bytes())
    except FileNotFoundError:
        raise ArchiveError(f"{folder} holds no whole backup: it has no {_ABOUT}.") from None
    except ValueError:
        raise ArchiveError(f"{folder / _ABOUT} is damaged.") from None
    return about


def _describe(target: Path, about: dict[str, Any]) -> None:
    path, content = target / _ABOUT, json.dumps(about, indent=1).encode()
    if write_once(path, content):
        return
    with draft_of(path, content) as draft:
        publish(draft, path)


def _files(root: Path) -> Iterator[Path]:
    """Yield what a node's files are, below its data directory or a backup; not what is half written."""
    for name in _FOLDERS:
        for folder, _, files in os.walk(root / name):
            # A receiver's log first: what it holds becomes files beside it meanwhile
            in_order = sorted(files, key=lambda file: (not file.endswith(_LOG), file))
            yield from (Path(folder) / file for file in in_order if _is_whole(file))
    yield from (root / name for name in _FILES if (root / name).exists())


def _is_whole(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(_HALF_WRITTEN)


def _copy(source: Path, target: Path, copied: Copied) -> None:
    """Make `target` the same file, with its time; what has the same size and time is."""
    try:
        found = source.stat()
        if _is_same(target, found):
            copied.there += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}{_PART}")
        shutil.copyfile(source, draft)
    except FileNotFoundError:
        if source.exists():
            raise
        return  # it moved into the store, where it is found, or an attempt that came to nothing was tidied away
    os.utime(draft, ns=(found.st_atime_ns, found.st_mtime_ns))
    draft.replace(target)
    copied.files += 1
    copied.size += found.st_size


def _is_same(target: Path, found: os.stat_result) -> bool:
    try:
        there = target.stat()
    except FileNotFoundError:
        return False
    return (there.st_size, there.st_mtime_ns) == (found.st_size, found.st_mtime_ns)


def _left_the_inbox(store: FileStore, target: Path) -> list[Path]:
    """Return what an earlier backup holds of the inboxes that is in them no more: it is in the store by now."""
    held = [path for path in (target / "inbox").rglob("*") if path.is_file()]
    return [path for path in held if not (store.root / path.relative_to(target)).exists()]


def _drop_removed(store: FileStore, target: Path, copied: Copied) -> None:
    """Take out of the backup what retention removed here on purpose; nothing else that is missing here."""
    backup = FileStore(target)
    for uid in backup.studies():
        if not any(record.get("record") == "removed" for record in store.read_manifest(uid)):
            continue
        for folder in (backup.study_folder(uid), backup.results_folder(uid)):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not (store.root / path.relative_to(target)).exists():
                    path.unlink()
                    copied.gone += 1
            for path in sorted(folder.rglob("*/"), reverse=True):
                with suppress(OSError):  # not empty: what is in there is here as well
                    path.rmdir()
