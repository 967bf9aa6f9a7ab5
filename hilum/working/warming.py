"""Which models a runner is to load ahead of their first jobs, and in which order."""

from __future__ import annotations

from collections.abc import Iterable


class Warming:
    """Remembers what was loaded, used, and found not to load.

    Parameters
    ----------
    models
        Names, in the order of the configuration.
    """

    def __init__(self, models: Iterable[str]) -> None:
        self._order = list(models)
        self._left: list[str] = []
        self._cold: set[str] = set()

    def begin_anew(self) -> None:
        """Have all models loaded again, the one that was used last first, but those that did not load."""
        self._left = [model for model in self._order if model not in self._cold]

    def next(self) -> str | None:
        """Return the next model to load; None where all are."""
        return self._left[0] if self._left else None

    def is_loaded(self, model: str) -> None:
        """Note that a model is loaded."""
        self._left = [each for each in self._left if each != model]

    def leave_cold(self, model: str) -> None:
        """Leave a model to its own jobs from now on, as long as this process lives."""
        self._cold.add(model)
        self.is_loaded(model)

    def is_used(self, model: str) -> None:
        """Note that a job of a model runs, which loads it."""
        self.is_loaded(model)
        if model in self._order:
            self._order.remove(model)
            self._order.insert(0, model)
