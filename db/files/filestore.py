"""The file store: where each file of the node lies below its data directory, and how it gets there durably.

=================================== ======================================================================
``inbox/<receiver>/``                what receivers took in, until it is indexed: files, and logs until they are split
``store/<study>/<series>/``          instances as they came, ``<SOP Instance UID>-<digest>.dcm``
``store/<study>/manifest.jsonl``     what no image could tell again: results, deliveries
``results/<study>/``                 result objects
``aside/``                           received files that could not be indexed, each with its reason
``commitment/``                      storage commitment messages of peers, until somebody has acted upon them
``work/``                            what only a running process needs
``backup.lock``                      held by a backup, and by who removes files
``ledger.jsonl``                     what no study's manifest can tell: pauses
``locks/``                           who works as what on which machine, and who leads (`db.leading`)
``node.json``, ``node.lock``         the node's lasting identity, and the lock of who runs it
=================================== ======================================================================

Paths in records are relative to the data directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from db.files.durable import append_line, make_folders, sync_folder, write_once
from db.files.incoming import read_object
from db.files.splitting import Splitter, look
from study.entities import StoredInstance
from study.errors import ArchiveError, StoreBusy
from study.uids import is_storable_uid

_DIGEST_IN_NAME = 32  # hexadecimal digits, 128 bits: nobody finds two data sets that share them
_STORED = ".dcm"
_BACKUP_LOCK = "backup.lock"
_MANIFEST = "manifest.jsonl"
_LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class NodeIdentity:
    """Who this node is, for as long as its data directory lives.

    Parameters
    ----------
    device_uid
        Root of the Device UIDs that its models get.
    serial
        Device Serial Number.
    """

    device_uid: str
    serial: str


class FileStore:
    """The files below one data directory.

    Parameters
    ----------
    root
        The data directory; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def work(self) -> Path:
        """Return the folder of what only a running process needs."""
        return self.root / "work"

    def splitter(self) -> Splitter:
        """Return what makes files of receivers' logs, for one thread."""
        return Splitter(_STORED)

    def inbox(self, receiver: str) -> Path:
        """Return the folder that the receiver of this name fills."""
        return self.root / "inbox" / receiver

    def results_folder(self, study_instance_uid: str) -> Path:
        """Return the folder of the study's result objects; ArchiveError if `study_instance_uid` is no UID."""
        return self.root / "results" / _folder_name(study_instance_uid)

    def study_folder(self, study_instance_uid: str) -> Path:
        """Return the folder of the study's instances; ArchiveError if `study_instance_uid` is no UID."""
        return self.root / "store" / _folder_name(study_instance_uid)

    def relative(self, path: Path) -> str:
        """Return `path` as records keep it."""
        return path.relative_to(self.root).as_posix()

    def free_bytes(self) -> int:
        """Return how much of the disk is free [bytes]."""
        return shutil.disk_usage(self.root).free

    def split_logs(self, splitter: Splitter, machine: str = "") -> None:
        """Make files of what receivers of a machine wrote into logs before this; "" is the only machine of a store.

        Raises
        ------
        OSError
            If the disk does not take the files; what is not split stays in its log.
        """
        named = {f"{machine}-receiver-*", "receiver-*"} if machine else {"receiver-*"}
        splitter.split(sorted(folder for pattern in named for folder in self.root.glob(f"inbox/{pattern}/")))

    def seconds_since_logged(self) -> float:
        """Return how long ago anything was written into a receiver's log [s]; infinity where there is none."""
        newest = -math.inf
        for path in self.root.glob("inbox/*/*.log"):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, path.stat().st_mtime)
        return time.time() - newest

    def unsplit(self) -> tuple[datetime | None, float]:
        """Return when the first came of what still is in a receiver's log, and of how many logs that is so, as a share.

        None where all of it became files. The share, from 0 to 1, is that of the receiver whose logs are the fullest.
        """
        found = [look(folder) for folder in self.root.glob("inbox/*/")]
        first = min((each.since for each in found if each.since is not None), default=None)
        share = max((each.share for each in found), default=0.0)
        return None if first is None else datetime.fromtimestamp(first, UTC), share

    def first_unsplit(self) -> datetime | None:
        """Return when the first came of what still is in a receiver's log; None where all of it became files."""
        return self.unsplit()[0]

    def first_received(self) -> datetime | None:
        """Return when the first came of what awaits indexing, in files or logs; None where nothing does."""
        found = [self.first_unsplit()]  # before the files: what is a file by now is found there
        for path in self.scan_inbox(limit=1):
            with contextlib.suppress(FileNotFoundError):
                found.append(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        return min((at for at in found if at is not None), default=None)

    def scan_inbox(self, limit: int | None = None) -> list[Path]:
        """Return the received files that await indexing, oldest first."""
        found: list[tuple[int, str, Path]] = []
        for folder in sorted(self.root.glob("inbox/*/")):
            with os.scandir(folder) as entries:
                found += [
                    (entry.stat().st_mtime_ns, entry.name, Path(entry.path))
                    for entry in entries
                    if entry.name.endswith(_STORED) and entry.is_file(follow_symlinks=False)
                ]
        return [path for _, _, path in sorted(found)[:limit]]

    def read_incoming(self, path: Path) -> StoredInstance:
        """Return what the received file at `path` is.

        Raises
        ------
        ArchiveError
            If it can not be indexed; the reason is in the words.
        """
        # A clock that was set back since must not make an instance come from the future: its study would never end.
        received_at = min(datetime.fromtimestamp(path.stat().st_mtime, UTC), datetime.now(UTC))
        found = read_object(path)
        header = found.header
        name = f"{header.sop_instance_uid}-{found.digest[:_DIGEST_IN_NAME]}{_STORED}"
        return StoredInstance(
            header=header,
            digest=found.digest,
            path=f"store/{header.study_instance_uid}/{header.series_instance_uid}/{name}",
            inbox_path=self.relative(path),
            size=found.size,
            calling_ae_title=found.calling_ae_title,
            received_at=received_at,
            fetched=found.fetched,
            rejection=found.rejection,
        )

    def move_in(self, instances: Sequence[StoredInstance]) -> None:
        """Move the files of `instances`, which are in the index, from the inbox to their places in the store.

        Bytes that are in their place already leave the inbox. Each folder is synced once.

        Raises
        ------
        ArchiveError
            If a file is in neither place.
        """
        targets = {instance.inbox_path: self.root / instance.path for instance in instances}
        gaining = {target.parent for target in targets.values()}
        make_folders(gaining)
        losing = {(self.root / inbox_path).parent for inbox_path in targets}
        for inbox_path, target in targets.items():
            _move(self.root / inbox_path, target)
        for folder in (*sorted(gaining), *sorted(losing)):  # first the new name lasts, then the old one goes
            sync_folder(folder)

    def locate(self, instance: StoredInstance) -> Path:
        """Return where the instance's file is: in the store, or still in the inbox.

        Raises
        ------
        ArchiveError
            If it is in neither place.
        """
        stored = self.root / instance.path
        # The file may move in between the first look and the second; it never moves back.
        for path in (stored, self.root / instance.inbox_path, stored):
            if path.is_file():
                return path
        raise ArchiveError("The file of an instance is neither in the store nor in an inbox.")

    def place_aside(self, path: Path) -> Path:
        """Return where `put_aside` moves the received file at `path`."""
        return self.root / "aside" / f"{path.parent.name}-{path.name}"

    def put_aside(self, path: Path, reason: str) -> Path:
        """Move a received file out of the way, with `reason` in a file beside it; return where it is now."""
        target = self.place_aside(path)
        folder = target.parent
        make_folders([folder])
        write_once(target.with_suffix(".reason.txt"), f"{reason}\n".encode())
        path.rename(target)
        sync_folder(folder)
        sync_folder(path.parent)
        return target

    def append_manifest(self, study_instance_uid: str, record: dict[str, Any]) -> None:
        """Add `record` to the manifest beside the study's files, durably, with the time."""
        folder = self.study_folder(study_instance_uid)
        make_folders([folder])
        _append(folder / _MANIFEST, record)

    def read_manifest(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """Return the manifest's records in order; a line that a crash cut off is no record."""
        return _read_records(self.study_folder(study_instance_uid) / _MANIFEST)

    def append_ledger(self, record: dict[str, Any]) -> None:
        """Add `record`, which is of the node and not of a study, to its ledger, durably, with the time."""
        make_folders([self.root])
        _append(self.root / _LEDGER, record)

    def read_ledger(self) -> list[dict[str, Any]]:
        """Return the records of the node's ledger in order; a line that a crash cut off is no record."""
        return _read_records(self.root / _LEDGER)

    def studies(self) -> list[str]:
        """Return the UIDs of the studies that have a folder in the store, in order."""
        folders = self.root.glob("store/*/")
        return sorted(folder.name for folder in folders if is_storable_uid(folder.name))

    def stored_files(self, study_instance_uid: str) -> list[Path]:
        """Return the files of a study's instances that are in the store, in the order in which they were received."""
        found = [path for path in self.study_folder(study_instance_uid).glob(f"*/*{_STORED}") if path.is_file()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def node_identity(self) -> NodeIdentity:
        """Return who this node is; settled once, at the first call on a data directory."""
        path = self.root / "node.json"
        if not path.exists():
            make_folders([self.root])
            fresh = {"device_uid": f"2.25.{uuid.uuid4().int}", "serial": f"HILUM-{secrets.token_hex(4).upper()}"}
            write_once(path, json.dumps(fresh, indent=1).encode())
        try:
            known = json.loads(path.read_bytes())
            return NodeIdentity(known["device_uid"], known["serial"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"{path} is damaged; restore it, results carry what it says.") from error

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the data directory for this process.

        Parameters
        ----------
        shared
            Whether others may hold it in the same way.

        Raises
        ------
        StoreBusy
            If another process holds it.
        """
        with self._held("node.lock", f"Another hilum serve uses {self.root}.", shared=shared):
            yield

    @contextlib.contextmanager
    def lock_of(self, worker: str, machine: str) -> Iterator[None]:
        """Hold the place of one worker of a machine: two of the same name would take each other's work.

        Raises
        ------
        StoreBusy
            If another process holds it.
        """
        make_folders([self.root / "locks"])
        name = f"locks/{worker}@{machine}.lock"
        with self._held(name, f"Another process on {machine} works as {worker} on {self.root}."):
            yield

    @contextlib.contextmanager
    def backing_up(self) -> Iterator[None]:
        """Have no file removed while this is held; several may hold it.

        It waits for a removal that is under way.
        """
        make_folders([self.root])
        with (self.root / _BACKUP_LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[bool]:
        """Tell whether files may be removed now: not while a backup copies them; none begins before this ends."""
        make_folders([self.root])
        with (self.root / _BACKUP_LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextlib.contextmanager
    def _held(self, name: str, words: str, *, shared: bool = False) -> Iterator[None]:
        make_folders([self.root])
        with (self.root / name).open("a") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusy(words) from None
            yield


def _folder_name(uid: str) -> str:
    if not is_storable_uid(uid):
        raise ArchiveError("A folder is asked for by what is no UID.")
    return uid


def _move(source: Path, target: Path) -> None:
    if target.exists():
        # The name holds the digest: these very bytes came before, or this move was made and not finished. Its time is
        # that of their last arrival, since a rebuild tells by it which of several versions counts.
        with contextlib.suppress(FileNotFoundError):
            received = source.stat().st_mtime_ns
            os.utime(target, ns=(received, received))
            source.unlink()
        return
    try:
        source.rename(target)
    except FileNotFoundError:
        if target.exists():  # another indexer moved it just now
            return
        raise ArchiveError("A file that the index knows is neither in the store nor in an inbox.") from None


def _append(path: Path, record: dict[str, Any]) -> None:
    stamped = {"at": datetime.now(UTC).isoformat(timespec="milliseconds")} | record
    append_line(path, json.dumps(stamped, separators=(",", ":")).encode())


def _read_records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [record for line in lines if (record := _record(line)) is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
