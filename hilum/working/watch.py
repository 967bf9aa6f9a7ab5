"""What an order may take, how far it is, and what is looked at while a process carries it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from hilum.working.family import own_bytes, own_bytes_by_share
from inference.machine import MEGABYTE
from study.errors import DeadlineExceeded, MemoryExceeded

_START_SECONDS: Final = 120.0  # until a process that was just started tells its first step
_FAMILY_SECONDS: Final = 1.0  # between two looks at the processes that the child started

_MORE_MEMORY: Final = "memory_mb in the model's entry gives it more"

Members = Callable[[], Iterable[psutil.Process]]
"""Gives the processes that a process started."""


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
    remedy
        What gives it more time, in words.
    heartbeat_seconds
        How often somebody is told that it is still at work.
    """

    deadline_seconds: float
    cpu_deadline_seconds: float | None = None
    memory_bytes: int | None = None
    remedy: str = ""
    heartbeat_seconds: float = 10.0


@dataclass
class Progress:
    """How an order goes, as it is seen from outside.

    Parameters
    ----------
    step
        What was begun last; "" where nothing was.
    seconds
        Of the steps that ended.
    """

    step: str = ""
    on_cpu: bool = False
    peak_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.monotonic)

    def begin(self, step: str, *, on_cpu: bool) -> None:
        """Note that a step begins, and that the one before it ended."""
        now = time.monotonic()
        if self.step:
            self.seconds[self.step] = self.seconds.get(self.step, 0.0) + now - self._since
        self.step, self.on_cpu, self._since = step, on_cpu, now

    @property
    def where(self) -> str:
        """Return the step in brackets, as errors have it; "" before the first."""
        return f" ({self.step})" if self.step else ""

    def details(self) -> dict[str, Any]:
        """Return for a job's record how far an attempt came that ended without an answer."""
        return {
            "stopped_in": self.step,
            "stopped_after_seconds": round(time.monotonic() - self.started, 3),
            "seconds": {step: round(seconds, 4) for step, seconds in self.seconds.items()},
            "memory_mb": {"host_peak": self.peak_bytes // MEGABYTE, "device_peak": None},
        }


class Watch:
    """Looks at deadline, memory and heartbeat between two messages of a process.

    Parameters
    ----------
    work
        What the process does, as the subject of an error.
    members
        Gives what the process started.
    heartbeat
        Is called as often as the limits say.
    """

    def __init__(
        self,
        work: str,
        limits: Limits,
        progress: Progress,
        pid: int,
        members: Members = tuple,
        heartbeat: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._limits = limits
        self._progress = progress
        self._pid = pid
        self._members = members
        self._heartbeat = heartbeat
        self._moved = False
        self._deadline_seconds = _START_SECONDS
        self._deadline = time.monotonic() + _START_SECONDS
        self._next_beat = time.monotonic() + limits.heartbeat_seconds
        self._memory = _Memory(pid, members)

    def hear(self, step: str, *, on_cpu: bool) -> None:
        """Note what the process begins; on the processor another deadline holds."""
        if not self._progress.step:
            self._memory.begin()
            self._allow(self._limits.deadline_seconds)
        if on_cpu and not self._moved and self._limits.cpu_deadline_seconds is not None:
            self._moved = True  # once: whoever says it again and again gains nothing
            self._allow(self._limits.cpu_deadline_seconds)
        self._progress.begin(step, on_cpu=on_cpu)

    def look(self) -> None:
        """Call the heartbeat where it is due.

        Raises
        ------
        DeadlineExceeded, MemoryExceeded
            If the order took more than it may.
        """
        now = time.monotonic()
        if now > self._deadline:
            raise self._too_late()
        self._look_at_memory()
        if self._heartbeat is not None and now > self._next_beat:
            self._heartbeat()
            self._next_beat = now + self._limits.heartbeat_seconds

    def _allow(self, seconds: float) -> None:
        self._deadline_seconds = seconds
        self._deadline = time.monotonic() + seconds

    def _too_late(self) -> DeadlineExceeded:
        if not self._progress.step:
            words = f"{self._work} did not begin within {self._deadline_seconds:g} s; its process was stopped."
            return DeadlineExceeded(words, {"deadline_seconds": self._deadline_seconds})
        where = " on the processor" if self._progress.on_cpu else ""
        words = f"{self._work} took longer than {self._deadline_seconds:g} s{where} and was stopped"
        numbers: dict[str, float | int | str] = {"deadline_seconds": self._deadline_seconds}
        if self._limits.remedy:
            numbers["remedy"] = self._limits.remedy
        return DeadlineExceeded(f"{words}{self._progress.where}.", numbers)

    def _look_at_memory(self) -> None:
        self._progress.peak_bytes = max(self._progress.peak_bytes, self._memory.held())
        limit = self._limits.memory_bytes
        taken = self._memory.taken_beyond(limit) if limit is not None else None
        if limit is not None and taken is not None:
            raise MemoryExceeded(
                f"{self._work} took {taken // MEGABYTE} MB of the machine's memory, more than the "
                f"{limit // MEGABYTE} MB that it may, and was stopped{self._progress.where}.",
                {"taken_mb": taken // MEGABYTE, "limit_mb": limit // MEGABYTE, "remedy": _MORE_MEMORY},
            )


class _Memory:
    """What a process and all that it started hold; what processes share is looked into only where it decides."""

    def __init__(self, pid: int, members: Members) -> None:
        self._pid = pid
        self._members = members
        self._family: tuple[int, ...] = ()
        self._family_bytes = 0
        self._look_at_family_at = self._look_closely_at = time.monotonic()
        self._at_rest: int | None = None
        self._at_rest_by_share = 0

    def begin(self) -> None:
        """Count from what is held now."""
        self._look_at_family_at = time.monotonic()
        self._at_rest = self.held()
        self._at_rest_by_share = self._held_by_share()

    def held(self) -> int:
        """Return what is held [bytes], of the processes that were started as of the last second."""
        now = time.monotonic()
        if now >= self._look_at_family_at:
            self._family = tuple(each.pid for each in self._members())
            self._family_bytes = sum(map(own_bytes, self._family))
            self._look_at_family_at = now + _FAMILY_SECONDS
        return own_bytes(self._pid) + self._family_bytes

    def taken_beyond(self, limit: int) -> int | None:
        """Return what was taken since the beginning where it is more than a limit [bytes], else None."""
        now = time.monotonic()
        if self._at_rest is None or now < self._look_closely_at:
            return None
        taken = self.held() - self._at_rest
        if taken <= limit or not self._family:
            return taken if taken > limit else None
        by_share = self._held_by_share() - self._at_rest_by_share
        self._look_closely_at = now + _FAMILY_SECONDS
        return by_share if by_share > limit else None

    def _held_by_share(self) -> int:
        return sum(map(own_bytes_by_share, (self._pid, *self._family)))
