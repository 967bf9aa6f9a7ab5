"""Starts a process that works for its keeper, asks it one thing at a time, watches it meanwhile, and ends it.

What works for us runs code of others on strange images: it may end, hang, eat the memory, or leave processes behind.
Its keeper loads none of that code, and sees from outside what goes on.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil

from hilum.config import Settings
from hilum.processes import Child, StopSignal, spawn
from hilum.working.family import adopt_orphans, end_processes, family, orphans
from hilum.working.line import Line
from hilum.working.watch import Limits, Progress, Watch
from hilum.working.wire import Answer, News, report_of
from study.errors import RunnerDied

_PAUSE_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 5.0  # for a process to end that closed its line

_OURS: Final[set[int]] = set()
"""The process ids of the attendants' children."""


class Interrupted(Exception):
    """The node stops while something is under way."""


class Attendant:
    """One child process of a role, replaced when it ends.

    Parameters
    ----------
    index
        Which of several of the role it is.
    work, process
        What it does and what it is, in the words of errors.
    environment
        Of the child's own.
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
        environment: Mapping[str, str] | None = None,
        adopting: bool = False,
    ) -> None:
        self._environment = environment
        self._work = work
        self._process = process
        self._adopting = adopting
        self._role = role
        self._settings = settings
        self._stop = stop
        self._index = index
        self._child: Child | None = None
        self._line: Line | None = None
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
        self._child = spawn(
            self._role,
            self._settings,
            index=self._index,
            descriptors={"line": theirs.fileno()},
            further=self._environment,
        )
        theirs.close()
        _OURS.add(self._child.process.pid)
        self._line = Line(ours)
        self.started_at = time.monotonic()
        self.facts = {}
        threading.Thread(target=self._learn, args=(self._child,), name="facts", daemon=True).start()

    def end(self) -> None:
        """End the child and all that it started, whatever they do."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._child is not None:
            started = self._started()
            pid = self._child.process.pid
            self._child.kill()
            self._child.reap()
            self._child = None
            _OURS.discard(pid)
            end_processes([*started, *self._detached()])

    @property
    def is_clean(self) -> bool:
        """Tell whether the child's last order left nothing behind: no detached process, and nothing unheard.

        Of processes that it still has as its children it knows itself which are its libraries' own.
        """
        return self._line is not None and self._line.is_quiet and not self._detached()

    def _started(self) -> list[psutil.Process]:
        own = family(self._child.process.pid) if self._child is not None else []
        return [*own, *self._detached()]

    def _detached(self) -> list[psutil.Process]:
        return orphans(_OURS) if self._adopting else []

    def ask(
        self, order: bytes, limits: Limits, progress: Progress, heartbeat: Callable[[], None] | None = None
    ) -> Answer:
        """Return the child's answer to an order; `progress` tells meanwhile and after how it goes.

        Parameters
        ----------
        heartbeat
            Is called while the child works, as often as the limits say.

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
        line, child = self._line, self._child
        if line is None or child is None:  # pragma: no cover - start made them
            raise RunnerDied
        watch = Watch(self._work, limits, progress, child.process.pid, self._started, heartbeat)
        line.send_aside(order)
        while True:
            said = self._hear(line, progress)
            if isinstance(said, Answer):
                return said
            if said is not None:
                watch.hear(said.step, on_cpu=said.on_cpu)
            if self._stop.is_set():
                raise Interrupted
            watch.look()

    def _hear(self, line: Line, progress: Progress) -> Answer | News | None:
        """Return what the child says; None where it says nothing for a moment."""
        try:
            message = line.receive(_PAUSE_SECONDS)
            return None if message is None else report_of(message)
        except (EOFError, ConnectionError):
            raise RunnerDied(self._epitaph(progress)) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Code of others runs there, and can write whatever it wants to wherever it wants to
            raise RunnerDied(
                f"{self._process} said what is no answer{progress.where} ({type(error).__name__})."
            ) from error

    def _epitaph(self, progress: Progress) -> str:
        try:
            status = self._child.reap(_GRACE_SECONDS) if self._child is not None else None
        except subprocess.TimeoutExpired:
            return f"{self._process} closed the line to its keeper{progress.where}."
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        return f"{self._process} ended {how}{progress.where}."

    def _learn(self, child: Child) -> None:
        facts = child.wait_until_ready()
        if facts is not None and child is self._child:
            self.facts = facts
