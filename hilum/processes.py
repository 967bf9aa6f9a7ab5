"""Processes of the node: how a role is started, told to stop, and made to end when its parent does."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from hilum.bells import Bells
from hilum.config import Settings

_PR_SET_PDEATHSIG = 1
_NICENESS = 5
_OOM_SCORE = 500  # of -1000 to 1000 (proc(5))


COMPUTING: Final = {
    # torch's threads wait for each other by spinning; beside any other load that costs several times the analysis.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Large pages: half of what a network costs on the processor may be faults of small ones (docs/benchmarks.md)
    "THP_MEM_ALLOC_ENABLE": "1",
    # torch.compile in this process alone: helpers that live on could not be told from what a model left behind
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""The environment in which models run; libraries read it as they are loaded. What a site sets itself wins."""


def announce_to_nobody(facts: Mapping[str, Any]) -> None:
    """Drop what a role announces: it was not started by a parent that waits."""
    del facts


class StopSignal:
    """Set once the process should end: by SIGTERM, SIGINT, or the end of the pipe that its parent holds."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._signalled = -1

    def install(self) -> None:
        """Stop on SIGTERM and SIGINT; only the main thread may call this."""
        read, self._signalled = os.pipe()
        self.watch_once(read)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def watch_once(self, descriptor: int) -> None:
        """Stop at the first byte, or the end, of the pipe `descriptor`."""

        def wait_for_a_byte() -> None:
            os.read(descriptor, 1)
            self.set()

        threading.Thread(target=wait_for_a_byte, name="signal-watch", daemon=True).start()

    def watch(self, descriptor: int) -> None:
        """Stop when the other end of the pipe `descriptor` is closed, however its holder ended."""

        def wait_for_the_end() -> None:
            while os.read(descriptor, 1):
                pass
            self.set()

        threading.Thread(target=wait_for_the_end, name="parent-watch", daemon=True).start()

    def call_when_set(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the signal is set; it must be quick and safe in a signal handler."""
        self._listeners.append(listener)

    def set(self) -> None:
        """Ask the process to end."""
        self._event.set()
        for listener in self._listeners:
            listener()

    def is_set(self) -> bool:
        """Tell whether the process should end."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the process should end, or so many seconds; tell which."""
        return self._event.wait(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # The event's lock may be held by the very code that the signal interrupts, so another thread sets it.
        del number, frame
        os.write(self._signalled, b"s")


@dataclass(frozen=True)
class Station:
    """What a role's process is given.

    Parameters
    ----------
    index
        Which of several processes of the role this is.
    descriptors
        Inherited file descriptors by name ("listen", "line").
    announce
        Tells the parent that the role is at work, with facts about it; once.
    host
        This machine's name where the role runs without a supervisor of its own; else empty.
    bells
        By which it is woken, and wakes other roles.
    """

    settings: Settings
    stop: StopSignal
    index: int = 0
    descriptors: Mapping[str, int] = field(default_factory=dict)
    announce: Callable[[Mapping[str, Any]], None] = announce_to_nobody
    host: str = ""
    bells: Bells = field(default_factory=Bells)

    def named(self, role: str) -> str:
        """Return the name of this process, unique in the store: roles that run alone carry their host's name."""
        return f"{self.host}{'-' if self.host else ''}{role}-{self.index}"


@dataclass
class Child:
    """A role's process, as its parent sees it."""

    role: str
    index: int
    process: subprocess.Popen[bytes]
    _alive: int
    _ready: int

    def wait_until_ready(self) -> dict[str, Any] | None:
        """Wait until the role is at work and return what it announced; None if it ended before."""
        with os.fdopen(self._ready, "rb") as pipe:
            line = pipe.readline()
        return dict(json.loads(line)) if line else None

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        if self.process.poll() is None:
            self.process.kill()

    def reap(self, seconds: float | None = None) -> int:
        """Wait for the process's end and return its exit status; close what tied it to us."""
        status = self.process.wait(seconds)
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        return status


def compute_as_a_runner() -> None:
    """Give this process a runner's environment; before anything that computes is imported."""
    for name, value in COMPUTING.items():
        os.environ.setdefault(name, value)


def spawn(
    role: str,
    settings: Settings,
    *,
    index: int = 0,
    descriptors: Mapping[str, int] | None = None,
    further: Mapping[str, str] | None = None,
) -> Child:
    """Start a role in a process of its own, which ends when this one does, however it ends.

    Call it from the main thread: PR_SET_PDEATHSIG acts when the *thread* that started the child ends.

    Parameters
    ----------
    further
        Environment of the role's own.

    Raises
    ------
    OSError
        If the system has no process, memory or descriptors for it.
    """
    alive_read, alive_write = os.pipe()
    ready_read, ready_write = os.pipe()
    inherited = {**(descriptors or {}), "alive": alive_read, "ready": ready_write}
    command = [sys.executable, "-P", "-m", "hilum.roles", role, str(index)]
    command += [f"{name}={descriptor}" for name, descriptor in inherited.items()]
    environment = environment_of_ours()
    if role == "runner":
        environment = COMPUTING | environment
    environment |= further or {}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            # What a model prints is nobody's, and where nobody reads it, it would hang
            stdout=subprocess.DEVNULL if role == "runner" else None,
            pass_fds=tuple(inherited.values()),
            env=environment,
            start_new_session=True,
        )
    except OSError:  # no memory for a process, no descriptors: it is tried again, and must not cost more of them
        for descriptor in (alive_write, ready_read):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (alive_read, ready_write):
            os.close(descriptor)
    if process.stdin is None:  # pragma: no cover - PIPE was asked for
        raise RuntimeError("the child has no standard input")
    try:
        process.stdin.write(settings.to_json().encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # the child died at once; its exit status tells
    return Child(role, index, process, alive_write, ready_read)


def environment_of_ours() -> dict[str, str]:
    """Return the environment in which a child of this process finds the same Hilum, and no settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")}
    return environment | {"PYTHONPATH": os.pathsep.join(_search_path())}


def _search_path() -> list[str]:
    """Return our own packages' folder first, so that a child finds the same Hilum whatever its directory."""
    home = str(Path(__file__).resolve().parents[1])
    return [home, *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != home)]


def yield_to_reception() -> None:
    """Let the receivers go first where the processor is short: a modality waits for them, nobody waits for this."""
    os.nice(_NICENESS)


def offer_to_the_kernel() -> None:
    """Have the kernel end this process, and not a receiver, where the machine runs out of memory (Linux alone)."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    except OSError:
        return  # elsewhere, or forbidden: the keeper watches its memory all the same


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent's thread ends (Linux; elsewhere the pipe must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def announce_through(descriptor: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that writes one line of facts to the pipe `descriptor` and closes it."""

    def announce(facts: Mapping[str, Any]) -> None:
        try:
            os.write(descriptor, json.dumps(dict(facts)).encode() + b"\n")
        except BrokenPipeError:
            pass  # nobody waits any more
        finally:
            os.close(descriptor)

    return announce
