"""Starts a process that works for its keeper, asks it one thing at a time, watches it meanwhile, and ends it.

What works for us runs code of others on strange images: it may end, hang, eat the memory, or leave processes behind.
Its keeper loads none of that code, and sees from outside what goes on.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import psutil

from hilum.config import Settings
from hilum.processes import Child, StopSignal, spawn
from hilum.working.wire import Answer, endpoint, report_of, send_aside
from study.errors import DeadlineExceeded, MemoryExceeded, RunnerDied

_PAUSE_SECONDS: Final = 0.05
_HEARTBEAT_SECONDS: Final = 10.0
_START_SECONDS: Final = 120.0  # until a process that was just started tells its first step
_FAMILY_SECONDS: Final = 1.0  # between two looks at the processes that the child started
_MEGABYTE: Final = 1_000_000
_LONGEST_ANSWER: Final = 256 * _MEGABYTE
_PATIENCE_SECONDS: Final = 5  # with a message that was begun
_GRACE_SECONDS: Final = 5.0  # for a process to end that closed its line
_PR_SET_CHILD_SUBREAPER: Final = 36


_OURS: Final[set[int]] = set()
"""The process ids of the attendants' children."""


class Interrupted(Exception):
    """The node stops while something is under way."""


@dataclass(frozen=True)
class Limits:
    """What an order may take.

    Parameters
    ----------
    deadline_seconds
        From the first step that is told to the answer.
    cpu_deadline_seconds
        From the moment when the processor takes the place of a GPU whose memory did not suffice.
    memory_bytes
        Of the machine's memory, by the process and all that it started, above what it held when it told its first
        step: its libraries and the models that it keeps loaded are no order's. None: no limit.
    """

    deadline_seconds: float
    cpu_deadline_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass
class Progress:
    """How an order went, as it was seen from outside.

    Parameters
    ----------
    step
        What was begun last; "" where nothing was.
    """

    step: str = ""
    on_cpu: bool = False
    peak_bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    def details(self) -> dict[str, Any]:
        """Return for a job's record how far an attempt came that ended without an answer."""
        return {
            "stopped_in": self.step,
            "stopped_after_seconds": round(time.monotonic() - self.started, 3),
            "memory_mb": {"host_peak": self.peak_bytes // _MEGABYTE, "device_peak": None},
        }


class Attendant:
    """One child process of a role, replaced when it ends.

    Parameters
    ----------
    index
        Which of several of the role it is.
    work, process
        What it does and what it is, in the words of errors.
    adopting
        Whether what a child leaves behind becomes this process's own, and is ended with it. For a process whose
        children are attendants' alone.
    """

    def __init__(
        self,
        role: str,
        settings: Settings,
        stop: StopSignal,
        index: int = 0,
        *,
        work: str = "The analysis",
        process: str = "The process that ran the model",
        adopting: bool = False,
    ) -> None:
        self._work = work
        self._process = process
        self._adopting = adopting
        self._role = role
        self._settings = settings
        self._stop = stop
        self._index = index
        self._child: Child | None = None
        self._line: Connection | None = None
        self.started_at = 0.0
        self.facts: dict[str, Any] = {}

    @property
    def is_alive(self) -> bool:
        """Tell whether there is a child that has not ended."""
        return self._child is not None and self._child.process.poll() is None

    @property
    def status(self) -> int | None:
        """Return the exit status of a child that ended by itself; None where there is none."""
        return None if self._child is None else self._child.process.poll()

    def start(self) -> None:
        """Make sure that a child is alive."""
        if self.is_alive:
            return
        self.end()
        if self._adopting:
            adopt_orphans()
        ours, theirs = socket.socketpair()
        # A message that is begun and never ended must not keep its reader from the deadline
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE_SECONDS, 0))
        self._child = spawn(self._role, self._settings, index=self._index, descriptors={"line": theirs.fileno()})
        theirs.close()
        _OURS.add(self._child.process.pid)
        self._line = endpoint(ours.detach())
        self.started_at = time.monotonic()
        self.facts = {}
        threading.Thread(target=self._learn, args=(self._child,), name="facts", daemon=True).start()

    def end(self) -> None:
        """End the child and all that it started, whatever they do."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._child is not None:
            pid = self._child.process.pid
            family = _family(pid)
            self._child.kill()
            self._child.reap()
            self._child = None
            _OURS.discard(pid)
            end_processes([*family, *(_orphans() if self._adopting else ())])

    def ask(
        self, order: bytes, limits: Limits, progress: Progress, heartbeat: Callable[[], None] | None = None
    ) -> Answer:
        """Return the child's answer to an order; `progress` tells meanwhile and after how it goes.

        Parameters
        ----------
        heartbeat
            Is called every ten seconds while the child works.

        Raises
        ------
        DeadlineExceeded, MemoryExceeded
            If it took more than it may; it works on, and is to be ended.
        RunnerDied
            If it ended.
        Interrupted
            If the node stops.
        """
        self.start()
        line = self._line
        if line is None:  # pragma: no cover - start made it
            raise RunnerDied
        watch = _Watch(self._work, limits, progress, self._child.process.pid if self._child else 0, heartbeat)
        try:
            send_aside(line, order)
            while True:
                if line.poll(_PAUSE_SECONDS):
                    said = report_of(line.recv_bytes(_LONGEST_ANSWER))
                    if isinstance(said, Answer):
                        return said
                    watch.hear(said.step, on_cpu=said.on_cpu)
                if self._stop.is_set():
                    raise Interrupted
                watch.look()
        except (EOFError, ConnectionError):
            raise RunnerDied(self._epitaph(progress)) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Code of others runs there, and can write whatever it wants to wherever it wants to
            raise RunnerDied(
                f"{self._process} said what is no answer{_during(progress)} ({type(error).__name__})."
            ) from error

    def _epitaph(self, progress: Progress) -> str:
        try:
            status = self._child.reap(_GRACE_SECONDS) if self._child is not None else None
        except subprocess.TimeoutExpired:
            return f"{self._process} closed the line to its keeper{_during(progress)}."
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        return f"{self._process} ended {how}{_during(progress)}."

    def _learn(self, child: Child) -> None:
        facts = child.wait_until_ready()
        if facts is not None and child is self._child:
            self.facts = facts


class _Watch:
    """Looks at deadline, memory and heartbeat between two messages."""

    def __init__(
        self, work: str, limits: Limits, progress: Progress, pid: int, heartbeat: Callable[[], None] | None
    ) -> None:
        self._work = work
        self._limits = limits
        self._progress = progress
        self._pid = pid
        self._heartbeat = heartbeat
        self._deadline_seconds = _START_SECONDS
        self._deadline = time.monotonic() + _START_SECONDS
        self._next_beat = time.monotonic() + _HEARTBEAT_SECONDS
        self._next_family = time.monotonic()
        self._family_bytes = 0
        self._at_rest_bytes = 0

    def hear(self, step: str, *, on_cpu: bool) -> None:
        """Note what the child begins; on the processor another deadline holds."""
        if not self._progress.step:
            self._at_rest_bytes = private_bytes(self._pid)
            self._allow(self._limits.deadline_seconds)
        self._progress.step = step
        if on_cpu and not self._progress.on_cpu and self._limits.cpu_deadline_seconds is not None:
            self._allow(self._limits.cpu_deadline_seconds)
        self._progress.on_cpu = on_cpu

    def _allow(self, seconds: float) -> None:
        self._deadline_seconds = seconds
        self._deadline = time.monotonic() + seconds

    def look(self) -> None:
        """Raise where a limit is passed; call the heartbeat where it is due."""
        now = time.monotonic()
        if now > self._deadline:
            where = " on the processor" if self._progress.on_cpu else ""
            raise DeadlineExceeded(
                f"{self._work} took longer than {self._deadline_seconds:g} s{where} and was stopped"
                f"{_during(self._progress)}.",
                {"deadline_seconds": self._deadline_seconds},
            )
        self._look_at_memory(now)
        if self._heartbeat is not None and now > self._next_beat:
            self._heartbeat()
            self._next_beat = now + _HEARTBEAT_SECONDS

    def _look_at_memory(self, now: float) -> None:
        if now > self._next_family:
            self._family_bytes = sum(private_bytes(each.pid) for each in _family(self._pid))
            self._next_family = now + _FAMILY_SECONDS
        held = private_bytes(self._pid) + self._family_bytes
        self._progress.peak_bytes = max(self._progress.peak_bytes, held)
        limit = self._limits.memory_bytes
        taken = held - self._at_rest_bytes
        if limit is not None and taken > limit:
            raise MemoryExceeded(
                f"{self._work} took {taken // _MEGABYTE} MB of the machine's memory, more than the "
                f"{limit // _MEGABYTE} MB that it may, and was stopped{_during(self._progress)}; memory_mb in the "
                "model's entry gives it more.",
                {"taken_mb": taken // _MEGABYTE, "limit_mb": limit // _MEGABYTE},
            )


def _during(progress: Progress) -> str:
    return f" ({progress.step})" if progress.step else ""


def private_bytes(pid: int) -> int:
    """Return what a process holds of the machine's memory that is its own, swapped out or not; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith((b"RssAnon", b"RssShmem", b"VmSwap"))) * 1024


def adopt_orphans() -> None:
    """Make what descendants leave behind become children of this process, which ends them (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_processes(processes: list[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=5)


def _orphans() -> list[psutil.Process]:
    """Return what children of this process that are gone have left behind."""
    left = [child for child in psutil.Process().children() if child.pid not in _OURS]
    return [*left, *(each for orphan in left for each in _family(orphan.pid))]


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
