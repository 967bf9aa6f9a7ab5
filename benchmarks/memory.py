"""Resident memory of a process, as Linux counts it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # whoever measures its own memory does not load what nodes need
    from tests.support.node import Node

_LOOK_SECONDS = 0.25
_QUIET_LOOKS = 3
_LONGEST_WAIT = 120.0  # [s]


def resident(pid: int) -> int:
    """Return what the process holds now [bytes] (VmRSS)."""
    return _field(pid, "VmRSS")


def high_water(pid: int) -> int:
    """Return the most that the process has held so far [bytes] (VmHWM)."""
    return _field(pid, "VmHWM")


def wait_until_idle(process: psutil.Process) -> None:
    """Return once the process has used no processor time for a while: it has loaded what it loads at its start.

    Raises
    ------
    SystemExit
        If it does not come to rest.
    """
    deadline = time.monotonic() + _LONGEST_WAIT
    before, quiet = -1.0, 0
    while quiet < _QUIET_LOOKS:
        if time.monotonic() > deadline:
            raise SystemExit("a process of the node does not come to rest: no figure is given")
        time.sleep(_LOOK_SECONDS)
        used = sum(process.cpu_times()[:2])
        quiet = quiet + 1 if used == before else 0
        before = used


def rested_runner(node: Node) -> psutil.Process:
    """Return the process that runs the node's models, once it has loaded them.

    Raises
    ------
    SystemExit
        If there is none, or it does not come to rest.
    """
    deadline = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < deadline:
        runners = [process for process in node.processes() if plays(process, "runner")]
        if runners:
            wait_until_idle(runners[0])
            return runners[0]
        time.sleep(_LOOK_SECONDS)
    raise SystemExit("the node has no process that runs models: no figure is given")


def plays(process: psutil.Process, role: str) -> bool:
    """Tell whether a process of a node has this role; one that has ended has none."""
    try:
        return role in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
