"""A process and all that it started: what they hold of the machine's memory, and how they end."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36
_OWN: Final = (b"RssAnon", b"RssShmem", b"VmSwap")
_OWN_BY_SHARE: Final = (b"Pss_Anon", b"Pss_Shmem", b"SwapPss")


def adopt_orphans() -> None:
    """Make what descendants leave behind become children of this process, which can end them (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def family(pid: int) -> list[psutil.Process]:
    """Return the processes that descend from one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def orphans(known: Collection[int]) -> list[psutil.Process]:
    """Return this process's children that are not known, which descendants left behind, and all that they started."""
    left = [child for child in psutil.Process().children() if child.pid not in known]
    return [*left, *(each for orphan in left for each in family(orphan.pid))]


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    ending = list(processes)
    for process in ending:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(ending, timeout=5)


def own_bytes(pid: int) -> int:
    """Return what a process holds of the machine's memory, files apart, swapped out or not; 0 where it is gone.

    What several processes share counts for each of them.
    """
    return _sum_of(pid, "status", _OWN)


def own_bytes_by_share(pid: int) -> int:
    """Return the same with a part of what is shared, so that processes add up; it takes the kernel milliseconds."""
    return _sum_of(pid, "smaps_rollup", _OWN_BY_SHARE)


def _sum_of(pid: int, file: str, names: tuple[bytes, ...]) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(names)) * 1024
