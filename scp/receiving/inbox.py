"""Where received objects become durable: a folder of files, each complete or not there, and of logs.

An object is written to ``NAME.part``, synced, renamed to ``NAME.dcm``, and the folder is synced; or it is written into
a log, synced, and becomes ``NAME.dcm`` when the log is split (`scp.receiving.reception_log`). Only then may the sender
be told Success. Names are the node's own: nothing from the wire becomes part of a path.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from scp.receiving.reception_log import Incoming, IncomingRecord, ReceptionLog
from study.errors import ArchiveError, ReceiveError

PARTIAL_SUFFIX: Final = ".part"
STORED_SUFFIX: Final = ".dcm"

_OUT_OF_RESOURCES = 0xA700
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHECK_EVERY = 64 * 2**20
_START_EVERY = 16 * 2**20


class Inbox:
    """A folder that one process owns and its threads write into.

    Parameters
    ----------
    folder
        Made where it is missing. What a dead owner left half written in it is removed.
    reserve_bytes
        As much of the disk stays free: objects are refused before the disk is full [bytes].
    log_bytes
        As much of it the logs take at most; 0 where nobody splits them, and every object is a file of its own at once.

    Raises
    ------
    ArchiveError
        If another process owns the folder.
    """

    def __init__(self, folder: Path, reserve_bytes: int, log_bytes: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._reserve_bytes = reserve_bytes
        self._names = itertools.count()
        self._owner = f"{os.getpid():x}{secrets.token_hex(2)}"
        self._folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._folder_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._folder_descriptor)
            raise ArchiveError(f"Another process receives into {folder}; give each receiver its own folder.") from None
        for leftover in (*folder.glob(f"*{PARTIAL_SUFFIX}"), *folder.glob("*.new")):
            leftover.unlink()
        self._log_bytes = log_bytes
        self._logs = ReceptionLog(folder, self._owner, log_bytes, lambda: self._room() > log_bytes)

    def close(self) -> None:
        """Give the folder up; another process may own it then."""
        self._logs.close()
        os.close(self._folder_descriptor)

    def begin(self, file_meta: bytes) -> Incoming:
        """Return an object that starts with `file_meta` and is not yet stored.

        Raises
        ------
        ReceiveError
            A700 where the disk is at its reserve or takes no more.
        """
        self.check_reserve()
        name = f"{time.time_ns():020d}-{self._owner}-{next(self._names):06d}"
        incoming = self._new(self.folder / name)
        incoming.write([file_meta])
        return incoming

    def _new(self, base: Path) -> Incoming:
        try:
            log = self._logs.borrow()
        except OSError as error:
            raise _out_of_resources(error) from error
        if log is None:
            return IncomingFile(self, base)
        return IncomingRecord(self._logs, log, base, STORED_SUFFIX, lambda: IncomingFile(self, base), _out_of_resources)

    def check_reserve(self) -> None:
        """Make sure that the disk has more than its reserve free.

        Raises
        ------
        ReceiveError
            A700 where it has not.
        """
        room = self._room()
        # What the logs hold takes as much again when it is split; how much that is, is asked only where it may matter
        if room < 0 or (room < self._log_bytes and room < self._logs.unsplit_bytes()):
            raise ReceiveError(
                _OUT_OF_RESOURCES,
                "Out of disk space; free some and send again.",
                {"free_bytes": room + self._reserve_bytes, "reserve_bytes": self._reserve_bytes},
            )

    def _room(self) -> int:
        """Return how much of the disk is free beyond the reserve [bytes]."""
        disk = os.fstatvfs(self._folder_descriptor)
        return disk.f_bavail * disk.f_frsize - self._reserve_bytes

    def sync(self) -> None:
        """Make the names in the folder durable."""
        os.fsync(self._folder_descriptor)


class IncomingFile:
    """One object on its way to the disk: `write` as often as needed, then `commit` or `discard`.

    Whatever fails, nothing half written is left behind.
    """

    def __init__(self, inbox: Inbox, base: Path) -> None:
        self._inbox = inbox
        self._partial = base.with_name(base.name + PARTIAL_SUFFIX)
        self._stored = base.with_name(base.name + STORED_SUFFIX)
        self._unchecked = self._started = 0
        self._is_open = True
        self.size = 0
        try:
            self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise _out_of_resources(error) from error

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append `parts`.

        Raises
        ------
        ReceiveError
            A700 where the disk does not take them; the file is gone then.
        """
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._descriptor, view) :]
                self.size += len(part)
                self._unchecked += len(part)
            self._start_writing()
            if self._unchecked >= _CHECK_EVERY:
                self._unchecked = 0
                self._inbox.check_reserve()
        except OSError as error:
            self._drop()
            raise _out_of_resources(error) from error
        except ReceiveError:
            self.discard()
            raise

    def _start_writing(self) -> None:
        """Have the kernel write while more comes, and not only with the sync: a gigabyte takes two thirds as long."""
        if self.size - self._started >= _START_EVERY:
            os.posix_fadvise(self._descriptor, self._started, self.size - self._started, os.POSIX_FADV_DONTNEED)
            self._started = self.size

    def start(self, count: int) -> bytes:
        """Return the first `count` bytes of what was written."""
        with self._partial.open("rb") as file:
            return file.read(count)

    def commit(self) -> Path:
        """Make the file durable under its final name, and return that.

        Raises
        ------
        ReceiveError
            A700 where the disk fails; the file is gone then.
        """
        try:
            os.fsync(self._descriptor)
            self._partial.rename(self._stored)
            self._inbox.sync()
        except OSError as error:
            with suppress(OSError):  # a disk that takes nothing any more: what stays was never answered with Success
                self._stored.unlink(missing_ok=True)
            self._drop()
            raise _out_of_resources(error) from error
        self._close()
        return self._stored

    def discard(self) -> None:
        """Remove what was written and not committed."""
        if self._is_open:
            try:
                self._partial.unlink(missing_ok=True)
            finally:
                self._close()

    def _drop(self) -> None:
        """Remove what was written as far as the disk lets us; what stays is removed at the receiver's next start."""
        with suppress(OSError):
            self.discard()

    def _close(self) -> None:
        self._is_open = False
        os.close(self._descriptor)


def _out_of_resources(error: OSError) -> ReceiveError:
    if error.errno in _FULL:
        return ReceiveError(_OUT_OF_RESOURCES, "The disk is full; free some space and send again.")
    return ReceiveError(
        _OUT_OF_RESOURCES, f"The disk does not take the object ({errno.errorcode.get(error.errno or 0)})."
    )
