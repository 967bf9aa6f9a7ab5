"""The machine's clock, and how far somebody moved it: silence is measured by it, and must not be made by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

_NO_JUMP_SECONDS: Final = 2.0  # how far a clock that is kept right may drift, or be stepped, between two looks


def _now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """A wall clock beside one that nobody can set.

    Parameters
    ----------
    wall
        Returns the time of day, aware of its zone.
    steady
        Returns seconds that only ever grow.
    """

    def __init__(self, wall: Callable[[], datetime] = _now, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._seen = wall(), steady()

    def now(self) -> datetime:
        """Return the time of day."""
        return self._wall()

    def jumped(self) -> float:
        """Return how far the wall clock was moved since the last look [s]; back is negative, 0 where it was not."""
        wall, steady = self._wall(), self._steady()
        moved = (wall - self._seen[0]).total_seconds() - (steady - self._seen[1])
        self._seen = wall, steady
        return moved if abs(moved) > _NO_JUMP_SECONDS else 0.0
