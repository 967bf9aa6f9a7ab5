"""Files whose presence survives a power cut: a file's bytes and its name in the folder are synced one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
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
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    sync_folder(path.parent)
    return True


def append_line(path: Path, line: bytes) -> None:
    """Append `line` to a file of lines, durably; a line that a crash cut off before is closed first."""
    is_new = not path.exists()
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _make(folder: Path) -> list[Path]:
    """Make `folder` with what is missing above it, and return the parents that gained a name."""
    if folder.is_dir():
        return []
    above = _make(folder.parent)
    folder.mkdir(exist_ok=True)
    return [*above, folder.parent]
