"""Receivers' logs become files: what a receiver wrote into a log is a file of its inbox, before anybody indexes it.

`study.reception_log` has the format. A log that its receiver writes is split as far as it is written; one whose
receiver is gone is split to its end, and removed. What was split twice, since the mark was lost with the power, is the
same bytes under the same name: the index takes it for what it has.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from db.files.durable import sync_folder
from study.reception_log import (
    HEADING_BYTES,
    MARK_BYTES,
    PAGE,
    SUFFIX,
    TORN_SUFFIX,
    LoggedRecord,
    SplitMark,
    read_mark,
    read_record,
)

LOGGER = logging.getLogger(__name__)

_DRAFT: Final = ".split"
_LOCK: Final = "split.lock"
_AT_ONCE: Final = 64  # files that are synced together
_BYTES_AT_ONCE: Final = 2**26
_SYNCERS: Final = 4  # at a time: the file system commits what several of them wait for in one go


@dataclass(frozen=True)
class _Log:
    """A log that is open.

    Parameters
    ----------
    is_left
        Whether nobody writes it any more.
    """

    path: Path
    descriptor: int
    is_left: bool

    def unsplit_from(self) -> tuple[int, bytes | None]:
        """Return where the first record stands that is not split yet, and its generation; None for any."""
        mark = read_mark(os.pread(self.descriptor, MARK_BYTES, 0))
        first = self.record_at(PAGE)
        if mark is None or first is None or first.generation != mark.generation:
            return PAGE, None
        return mark.offset, mark.generation

    def record_at(self, offset: int) -> LoggedRecord | None:
        """Return what the heading at `offset` says; None where there is none."""
        return read_record(os.pread(self.descriptor, HEADING_BYTES, offset), offset)

    def records(self) -> Iterator[LoggedRecord]:
        """Yield what is not split yet, in the order in which it came."""
        offset, generation = self.unsplit_from()
        while (record := self.record_at(offset)) is not None and generation in (None, record.generation):
            yield record
            offset, generation = record.end, record.generation

    def content(self, record: LoggedRecord) -> bytes | None:
        """Return the bytes of a record's file; None where they are not those that were received.

        While the receiver lives they are: the kernel shows them before the heading, which is written after them.
        """
        content = os.pread(self.descriptor, record.length, record.content)
        if len(content) != record.length:
            return None
        return content if not self.is_left or zlib.crc32(content) == record.checksum else None


class Splitter:
    """Makes files of what the logs in some inboxes hold.

    Parameters
    ----------
    stored_suffix
        Of a file that is whole.
    """

    def __init__(self, stored_suffix: str) -> None:
        self._suffix = stored_suffix
        self._syncers = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="sync")

    def split(self, folders: Iterable[Path]) -> None:
        """Make files of what was in the logs when this began; a log that nobody writes any more is gone then.

        Parameters
        ----------
        folders
            The inboxes. One that somebody else just splits is left to him.

        Raises
        ------
        OSError
            If the disk does not take the files; what is not split stays in its log.
        """
        for folder in folders:
            logs = sorted(folder.glob(f"*{SUFFIX}"))
            if logs:
                self._split_folder(folder, logs)

    def _split_folder(self, folder: Path, logs: Sequence[Path]) -> None:
        with (folder / _LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            for draft in folder.glob(f"*{_DRAFT}"):
                draft.unlink()
            for path in logs:
                with suppress(FileNotFoundError), _opened(path) as log:
                    self._split_log(log)

    def _split_log(self, log: _Log) -> None:
        whole = True
        for batch in _batches(log.records()):
            taken = [(record, content) for record in batch if (content := log.content(record)) is not None]
            whole = len(taken) == len(batch)
            kept = taken if whole else [*_up_to_the_first_torn(batch, taken)]
            if kept:
                self._make_files(log.path.parent, kept)
                last = kept[-1][0]
                os.pwrite(log.descriptor, SplitMark(last.generation, last.end).encoded(), 0)
            if not whole:
                break
        if log.is_left:
            _let_go(log.path, whole)

    def _make_files(self, folder: Path, taken: Sequence[tuple[LoggedRecord, bytes]]) -> None:
        drafts = [folder / f"{record.name}{_DRAFT}" for record, _ in taken]
        try:
            for draft, (record, content) in zip(drafts, taken, strict=True):
                _write(draft, content, record.received_at)
            list(self._syncers.map(_sync, drafts))
            for draft in drafts:
                _publish(draft, self._suffix)
        except OSError:
            for draft in drafts:
                draft.unlink(missing_ok=True)
            raise
        sync_folder(folder)


@dataclass(frozen=True)
class Unsplit:
    """What waits to be split in the logs of an inbox.

    Parameters
    ----------
    since
        When the first of it came [s since 1970]; None where nothing waits.
    share
        Of the logs, those in which anything waits: from 0 to 1.
    """

    since: float | None
    share: float


def look(folder: Path) -> Unsplit:
    """Return what waits to be split in the logs of an inbox."""
    logs = list(folder.glob(f"*{SUFFIX}"))
    since = [at for path in logs if (at := _first_unsplit(path)) is not None]
    return Unsplit(min(since, default=None), len(since) / len(logs) if logs else 0.0)


def _first_unsplit(path: Path) -> float | None:
    with suppress(FileNotFoundError), _opened(path, only_look=True) as log:
        record = next(log.records(), None)
        return None if record is None else record.received_at / 1e9
    return None


def unsplit(folder: Path) -> Iterator[bytes]:
    """Yield the bytes of each file that the logs of an inbox hold still."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError), _opened(path, only_look=True) as log:
            yield from (content for each in log.records() if (content := log.content(each)) is not None)


@contextmanager
def _opened(path: Path, *, only_look: bool = False) -> Iterator[_Log]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _Log(path, descriptor, is_left=not only_look and _is_left(descriptor))
    finally:
        os.close(descriptor)


def _is_left(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _batches(records: Iterator[LoggedRecord]) -> Iterator[list[LoggedRecord]]:
    batch: list[LoggedRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == _AT_ONCE or sum(each.length for each in batch) >= _BYTES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _up_to_the_first_torn(
    batch: Sequence[LoggedRecord], taken: Sequence[tuple[LoggedRecord, bytes]]
) -> Iterator[tuple[LoggedRecord, bytes]]:
    for record, one in zip(batch, taken, strict=False):
        if one[0] is not record:
            return
        yield one


def _let_go(path: Path, whole: bool) -> None:
    """Remove a log that nobody writes; one with a record that is not whole is kept, for a person to look at."""
    if whole:
        path.unlink()
        return
    kept = path.with_suffix(TORN_SUFFIX)
    path.rename(kept)
    LOGGER.warning(
        "%s holds a record that is not whole. The power failed, or the receiver died, before its sender had an answer, "
        "or the disk lost what it had. Remove the file when the sender sent the object again.",
        kept.name,
    )


def _write(path: Path, content: bytes, received_at: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.utime(descriptor, ns=(received_at, received_at))
    finally:
        os.close(descriptor)


def _publish(draft: Path, suffix: str) -> None:
    draft.rename(draft.with_suffix(suffix))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
