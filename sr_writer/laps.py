"""How long the parts of a longer work took, one after the other."""

from __future__ import annotations

import time


class Laps:
    """Seconds by the name of each part; the first begins now.

    Attributes
    ----------
    seconds
        Of each part so far; of one that came several times the sum [s].
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, part: str) -> None:
        """Count what passed since the last part's end towards this one."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
