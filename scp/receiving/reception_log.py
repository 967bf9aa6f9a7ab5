"""Objects become durable in logs that are written over again: no name in a folder and no length of a file is synced.

On ext4 a new file costs a commit of the file system's journal, whatever its size; blocks that are there already cost
none (docs/benchmarks.md, "What was tried"). Whoever reads the inbox splits the logs into files later
(`study.reception_log` has the format).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from scp.durable import sync_folder
from study.reception_log import (
    GENERATION_BYTES,
    HEADING_BYTES,
    MARK_BYTES,
    PAGE,
    SUFFIX,
    LoggedRecord,
    SplitMark,
    read_mark,
)

LOGGER = logging.getLogger(__name__)

LONGEST_OBJECT: Final = 2**23
"""A longer object becomes a file of its own at once [bytes]."""

_FULL: Final = 2**23  # no record begins behind it, so a log has at most twice as much
_FILLING: Final = 2**20
_FILL_PAUSE_SECONDS: Final = 0.02  # what comes meanwhile goes first
_HELD: Final = 2**16  # so much is gathered before it is written: a small object goes to the disk by one call


class Incoming(Protocol):
    """An object on its way to the disk: `write` as often as needed, then `commit` or `discard`."""

    size: int

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append `parts`."""

    def start(self, count: int) -> bytes:
        """Return the first `count` bytes of what was written."""

    def commit(self) -> Path:
        """Make the object durable; return the file that it is or becomes."""

    def discard(self) -> None:
        """Remove what was written and not committed."""


class ReceptionLog:
    """The logs of one receiver; each is written by one thread at a time.

    They are filled beforehand, one after the other, so that an object finds blocks that are there already.

    Parameters
    ----------
    folder
        Its inbox.
    owner
        Unique among all who ever write into the folder.
    most_bytes
        How much of the disk the logs take at most.
    may_fill
        Tells whether the disk has room for that, beyond what is to stay free.
    """

    def __init__(self, folder: Path, owner: str, most_bytes: int, may_fill: Callable[[], bool]) -> None:
        self._may_fill = may_fill
        self._folder = folder
        self._owner = owner
        self._most = most_bytes // (_FULL + LONGEST_OBJECT)
        self._lock = threading.Lock()
        self._logs: list[LogFile] = []
        self._idle: list[LogFile] = []
        self._full: deque[LogFile] = deque()
        self._closed = threading.Event()
        self._filler = threading.Thread(target=self._fill, name="reception-log", daemon=True)
        if self._most:
            self._filler.start()

    def borrow(self) -> LogFile | None:
        """Return a log that nobody else writes; None where all are at work or still to be split.

        Raises
        ------
        OSError
            If the disk takes no more.
        """
        with self._lock:
            while self._idle:
                log = self._idle.pop()
                if log.has_room():
                    return log
                self._full.append(log)
            if self._full and self._full[0].has_room():
                return self._full.popleft()
            may_grow = len(self._logs) < self._most and not self._closed.is_set()
            return self._new() if may_grow else None

    def give_back(self, log: LogFile) -> None:
        """Let others write a log."""
        with self._lock:
            if self._closed.is_set():
                log.close()
            else:
                self._idle.append(log)

    def retire(self, log: LogFile) -> None:
        """Write no more into a log; what it holds is split, and it is removed."""
        with self._lock:
            self._logs.remove(log)
        log.close()

    def unsplit_bytes(self) -> int:
        """Return how much of the disk the records take that are no files yet [bytes]."""
        with self._lock:
            return sum(log.unsplit_bytes() for log in self._logs)

    def close(self) -> None:
        """Lend no more logs; what they hold is split, and they are removed. A lent one is closed at its return."""
        with self._lock:
            self._closed.set()
        if self._most:
            self._filler.join()
        with self._lock:
            for log in (*self._idle, *self._full):
                log.close()
            self._idle = []
            self._full.clear()

    def _fill(self) -> None:
        """Have all logs ready; where the disk is short, they grow as objects come."""
        try:
            while not self._closed.wait(_FILL_PAUSE_SECONDS) and self._may_fill():
                with self._lock:
                    if len(self._logs) >= self._most:
                        return
                    log = self._new()
                self._fill_one(log)
        except OSError as error:
            LOGGER.warning("the logs for reception are not all ready: %s", error.strerror)

    def _fill_one(self, log: LogFile) -> None:
        try:
            log.fill()
        except OSError:
            self.retire(log)
            raise
        self.give_back(log)

    def _new(self) -> LogFile:
        log = LogFile(self._folder / f"{self._owner}-{secrets.token_hex(4)}{SUFFIX}")
        self._logs.append(log)
        return log


class LogFile:
    """One log, durable under its name; locked for as long as it is written.

    Raises
    ------
    OSError
        If it can not be made.
    """

    def __init__(self, path: Path) -> None:
        draft = path.with_suffix(".new")
        self.descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            # Before it has its name: a log that nobody locks is taken for one whose receiver died
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
            sync_folder(path.parent)
        except OSError:
            os.close(self.descriptor)
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self.generation = secrets.token_bytes(GENERATION_BYTES)
        self.end = PAGE

    def fill(self) -> None:
        """Give it blocks for all that it holds."""
        for start in range(0, _FULL + PAGE, _FILLING):
            os.pwrite(self.descriptor, bytes(_FILLING), start)
        os.fsync(self.descriptor)

    def has_room(self) -> bool:
        """Tell whether another record may begin here; where all is split, it is begun at the front again."""
        if self.end > PAGE and self._is_split():
            self.generation, self.end = secrets.token_bytes(GENERATION_BYTES), PAGE
        return self.end <= _FULL

    def unsplit_bytes(self) -> int:
        """Return how long its records are, unless they are all split [bytes]."""
        return 0 if self._is_split() else self.end - PAGE

    def close(self) -> None:
        """Let whoever splits it remove it."""
        os.close(self.descriptor)

    def _is_split(self) -> bool:
        mark = read_mark(os.pread(self.descriptor, MARK_BYTES, 0))
        return self.end == PAGE or mark == SplitMark(self.generation, self.end)


class IncomingRecord:
    """An object on its way into a log; one that gets too long becomes a file of its own.

    Parameters
    ----------
    log
        Borrowed from `logs`, and given back with the end.
    base
        The path of the file that it becomes, without a suffix.
    suffix
        Of that file.
    new_file
        Makes a file of its own.
    failed
        Gives the error to raise where the disk does not take the object.
    """

    def __init__(
        self,
        logs: ReceptionLog,
        log: LogFile,
        base: Path,
        suffix: str,
        new_file: Callable[[], Incoming],
        failed: Callable[[OSError], Exception],
    ) -> None:
        self.size = 0
        self._logs = logs
        self._log: LogFile | None = log
        self._offset = log.end
        self._stored = base.with_name(base.name + suffix)
        self._name = base.name
        self._new_file = new_file
        self._file: Incoming | None = None
        self._failed = failed
        self._held = bytearray()
        self._written = 0
        self._checksum = 0

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append `parts`.

        Raises
        ------
        ReceiveError
            Where the disk does not take them; nothing of the object is kept then.
        """
        if self._file is None and self.size + sum(map(len, parts)) > LONGEST_OBJECT:
            self._become_file()
        if self._file is not None:
            self._file.write(parts)
            self.size = self._file.size
            return
        try:
            for part in parts:
                self._append(part)
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def start(self, count: int) -> bytes:
        """Return the first `count` bytes of what was written."""
        if self._file is not None:
            return self._file.start(count)
        log = self._borrowed()
        first = os.pread(log.descriptor, min(count, self._written), self._offset + HEADING_BYTES)
        return first + bytes(self._held[: count - len(first)])

    def commit(self) -> Path:
        """Make the object durable, and return the path of the file that it becomes.

        Raises
        ------
        ReceiveError
            Where the disk fails. The object may be stored all the same; the sender, who is told so, sends it again.
        """
        if self._file is not None:
            return self._file.commit()
        log = self._borrowed()
        record = LoggedRecord(log.generation, self._offset, self.size, time.time_ns(), self._checksum, self._name)
        try:
            self._write_whole(log, record.encoded())
            os.fdatasync(log.descriptor)
        except OSError as error:
            self._log = None
            self._logs.retire(log)  # nobody knows how far it is written
            raise self._failed(error) from error
        log.end = record.end
        self._release()
        return self._stored

    def discard(self) -> None:
        """Remove what was written and not committed."""
        if self._file is not None:
            self._file.discard()
        self._release()

    def _append(self, part: bytes | memoryview) -> None:
        self._checksum = zlib.crc32(part, self._checksum)
        self.size += len(part)
        if len(self._held) + len(part) <= _HELD:
            self._held += part
        else:
            self._write_through([self._held, part])
            self._held = bytearray()

    def _write_through(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        at = self._offset + HEADING_BYTES + self._written
        self._written += _write_at(self._borrowed().descriptor, at, parts)

    def _write_whole(self, log: LogFile, heading: bytes) -> None:
        """Write the heading; of an object that is gathered still, with all of it."""
        if self._written:
            self._write_through([self._held])
            _write_at(log.descriptor, self._offset, [heading])
        else:
            _write_at(log.descriptor, self._offset, [heading, self._held])

    def _become_file(self) -> None:
        self._file = self._new_file()
        for piece in self._pieces():
            self._file.write([piece])
        self._release()

    def _pieces(self) -> Iterator[bytes]:
        descriptor, at = self._borrowed().descriptor, self._offset + HEADING_BYTES
        for start in range(0, self._written, 2**20):
            yield os.pread(descriptor, min(2**20, self._written - start), at + start)
        yield bytes(self._held)

    def _borrowed(self) -> LogFile:
        assert self._log is not None  # neither committed nor discarded yet
        return self._log

    def _release(self) -> None:
        if self._log is not None:
            self._logs.give_back(self._log)
            self._log = None


def _write_at(descriptor: int, offset: int, parts: Sequence[bytes | bytearray | memoryview]) -> int:
    """Write the parts one behind the other; return how long they are [bytes]."""
    total = sum(map(len, parts))
    written = os.pwritev(descriptor, parts, offset)
    if written < total:  # a full disk, mostly: the next call says so
        rest = b"".join(parts)[written:]
        while rest:
            count = os.pwrite(descriptor, rest, offset + written)
            written, rest = written + count, rest[count:]
    return total
