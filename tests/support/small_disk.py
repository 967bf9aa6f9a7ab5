"""A file system of a few megabytes that a test may fill, and empty again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CHUNK = bytes(2**16)


@dataclass(frozen=True)
class SmallDisk:
    """The file system, with what fills it out of the way of whoever uses `folder`."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where others write."""
        return self.root / "used"

    def fill(self, leaving: int = 0) -> None:
        """Take all room but `leaving` bytes."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_CHUNK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            ballast.truncate(max(ballast.seek(0, os.SEEK_END) - leaving, 0))

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def protect(self) -> None:
        """Take no writes any more."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.root)], check=True)

    @contextmanager
    def full(self, leaving: int = 0) -> Iterator[None]:
        """Be full meanwhile."""
        self.fill(leaving)
        try:
            yield
        finally:
            self.free()

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"


@contextmanager
def small_disk(folder: Path, megabytes: int = 12) -> Iterator[SmallDisk]:
    """Give a file system of its own at `folder`; skipped where this user may not mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a file system of its own (root)")
    disk = SmallDisk(folder)
    disk.folder.mkdir()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
