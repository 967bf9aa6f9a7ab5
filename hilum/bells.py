"""Bells between the processes of a node: who commits what concerns another role rings, and whoever is woken looks.

A ring says nothing but "look", and nothing depends on one: commands, other machines at the same database and roles that
were started alone do not ring, so everybody looks every so often without being rung for. Each process that listens has
a pipe, which the supervisor holds open at both ends and hands to all: it outlives each of them, and what was rung while
a role was away is heard by the next one.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from hilum.processes import StopSignal

LISTENING: Final = frozenset({"indexer", "archivist", "keeper", "sender"})
"""The roles that are rung for."""

UNRUNG_SECONDS: Final = 1.0
"""How often those look that are rung for whenever there is something [s]: for what nobody rings for."""

ALONE_SECONDS: Final = 0.05
"""How often those look whom others do not ring for [s]."""

_OWN: Final = "bell"
_OF: Final = "ring"
_PACE_SECONDS: Final = 0.01  # rings within so long are heard as one, after the first, which is heard at once
_MOST_BYTES: Final = 1 << 16


class Belfry:
    """The bells of a node's processes, as the supervisor holds them; a context manager.

    Parameters
    ----------
    posts
        Role and index of each process of the node; those that do not listen are left out.
    """

    def __init__(self, posts: Iterable[tuple[str, int]]) -> None:
        self._pipes = {post: _pipe() for post in posts if post[0] in LISTENING}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes.values():
            for descriptor in pipe:
                os.close(descriptor)
        self._pipes = {}

    def descriptors(self, role: str, index: int) -> dict[str, int]:
        """Return what a process inherits, by name: the end at which it hears, and those at which it rings."""
        found = {f"{_OF}-{name}-{number}": pipe[1] for (name, number), pipe in self._pipes.items()}
        own = self._pipes.get((role, index))
        return found if own is None else found | {_OWN: own[0]}


class Bells:
    """The bells as one process has them: its own, which it hears, and everybody's, which it rings.

    Parameters
    ----------
    own
        Where rings for this process come in; None where it is rung for by nobody.
    others
        Where each role is rung for.
    everybody_rings
        Whether whoever commits something rings: not so on a database that other machines work with as well.
    """

    def __init__(
        self, own: int | None = None, others: Mapping[str, Sequence[int]] | None = None, *, everybody_rings: bool = True
    ) -> None:
        self._own = own
        self._others = dict(others or {})
        self._longest_seconds = UNRUNG_SECONDS if own is not None and everybody_rings else ALONE_SECONDS
        self._ears: list[Ear] = []
        self._lock = threading.Lock()
        self._hears = False

    @classmethod
    def inherited(cls, descriptors: Mapping[str, int], *, everybody_rings: bool) -> Bells:
        """Return the bells among the descriptors that `Belfry.descriptors` named; none of them need be there."""
        others: dict[str, list[int]] = {}
        for name, descriptor in descriptors.items():
            kind, _, post = name.partition("-")
            if kind == _OF and post:
                others.setdefault(post.rpartition("-")[0], []).append(descriptor)
        return cls(descriptors.get(_OWN), others, everybody_rings=everybody_rings)

    def ring(self, *roles: str) -> None:
        """Have the processes of these roles look, soon; never waits, and rings that nobody heard yet are one."""
        for role in roles:
            for descriptor in self._others.get(role, ()):
                try:
                    os.write(descriptor, b"!")
                except (BlockingIOError, BrokenPipeError):  # full of rings that were not heard yet; the node ends
                    continue

    def ear(self, stop: StopSignal, pace_seconds: float = 0.0) -> Ear:
        """Return what one thread waits with for rings, and for the end; the first wait is none.

        Parameters
        ----------
        pace_seconds
            At least so long after one wait the next one ends [s]: what is rung within is worked upon together.
        """
        ear = Ear(stop, self._longest_seconds, pace_seconds)
        stop.call_when_set(ear.wake)
        with self._lock:
            self._ears = [each for each in self._ears if not each.is_over] + [ear]
            if self._own is not None and not self._hears:
                self._hears = True
                threading.Thread(target=self._listen, args=(os.dup(self._own),), name="bells", daemon=True).start()
        return ear

    def _listen(self, own: int) -> None:
        poll = select.poll()
        poll.register(own, select.POLLIN)
        while _is_rung(own, poll):
            with self._lock:
                ears = list(self._ears)
            for ear in ears:
                ear.wake()
            time.sleep(_PACE_SECONDS)


class Ear:
    """What one thread waits with between two looks; made by `Bells.ear`."""

    def __init__(self, stop: StopSignal, longest_seconds: float, pace_seconds: float = 0.0) -> None:
        self._stop = stop
        self._pace_seconds = pace_seconds
        self._not_before = 0.0
        self._longest_seconds = longest_seconds
        self._within = longest_seconds
        self._rung = threading.Event()
        self._rung.set()

    @property
    def is_over(self) -> bool:
        """Tell whether whoever waits with it is to end."""
        return self._stop.is_set()

    def wake(self) -> None:
        """End the wait that is under way, or the next one."""
        self._rung.set()

    def look_within(self, seconds: float | None) -> None:
        """Let the next wait be so long at most [s], since something falls due then; None: nothing does."""
        if seconds is not None:
            self._within = min(self._within, max(0.0, seconds))

    def wait(self) -> bool:
        """Wait until there may be something to do; tell whether to end instead.

        What is rung from then on ends the next wait, so that a look that begins now misses nothing.
        """
        if not self._stop.is_set():
            self._rung.wait(self._within)
            self._stop.wait(max(0.0, self._not_before - time.monotonic()))
        self._not_before = time.monotonic() + self._pace_seconds
        self._within = self._longest_seconds
        self._rung.clear()
        return self._stop.is_set()


def _is_rung(own: int, poll: select.poll) -> bool:
    """Wait for a ring and take it; False once nobody is left who could ring."""
    while True:
        poll.poll()
        try:
            if os.read(own, _MOST_BYTES):
                return True
        except BlockingIOError:  # the process that was here before has just heard it
            continue
        os.close(own)
        return False


def _pipe() -> tuple[int, int]:
    """Return a pipe of which neither end ever waits."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
