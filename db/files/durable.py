"""Files whose presence survives a power cut: a file's bytes and its name in the folder are synced one by one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folders: Iterable[Path]) -> None:
    """Make sure that each folder exists and lasts; every parent that gains a name is synced once."""
    parents = {parent for folder in folders for parent in _make(folder)}
    for parent in sorted(parents):
        sync_folder(parent)


def write_once(path: Path, content: bytes) -> bool:
    """Make sure that `path` exists, whole and durable; tell whether it is we who wrote it, with `content`.

    Of several that try at once exactly one writes.
    """
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


@contextmanager
def draft_of(path: Path, content: bytes) -> Iterator[Path]:
    """Give a durable draft of what the file at `path` may become, beside it, with its owner and mode.

    `publish` puts it in the file's place; a draft that was not published is gone at the end.

    Raises
    ------
    OSError
        If it can not be written, or not be given to the file's owner.
    """
    found = path.stat()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            made = os.fstat(file.fileno())
            if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
            os.fchmod(file.fileno(), found.st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def publish(draft: Path, path: Path) -> None:
    """Put a draft in the place of the file that it is of, at once and durably."""
    draft.replace(path)
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append `line` to a file of lines, durably; a line that a crash cut off before is closed first.

    Several may append at once. Where the disk does not take all of the line, nothing of it stays.

    Raises
    ------
    OSError
        If the disk does not take it.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # what another has half written must not be taken for a crash's
        size = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, _start_of_line(file, size) + line + b"\n")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_new:
        sync_folder(path.parent)


def _start_of_line(file: FileIO, size: int) -> bytes:
    """Return what ends a line that was cut off; nothing where the last one is whole."""
    return b"\n" if size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n" else b""


def _write_all(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]


def _make(folder: Path) -> list[Path]:
    """Make `folder` with what is missing above it, and return the parents that gained a name."""
    if folder.is_dir():
        return []
    above = _make(folder.parent)
    folder.mkdir(exist_ok=True)
    return [*above, folder.parent]
