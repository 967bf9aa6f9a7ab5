"""What a chaos run counted, and the table of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.sabotage.sitecustomize import STEPS


@dataclass
class Tally:
    """What a run counted.

    Parameters
    ----------
    problems
        Whatever must not be, each with the study or the round.
    """

    seed: int
    rounds: int = 0
    kills: int = 0
    random_kills: int = 0
    databases: int = 0  # that were lost
    hits: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    acknowledged: int = 0
    results: int = 0
    earlier: int = 0
    lost: int = 0
    missing: int = 0
    twice: int = 0
    stuck: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the table that stands at the end of a run."""
        yield f"{'step':34}{'role':12}{'hits':>5}"
        for step in STEPS:
            yield f"{step.name:34}{step.role:12}{self.hits[step.name]:5}"
        yield f"{'(any moment, any processes)':46}{self.random_kills:5}"
        for name in ("seed", "rounds", "kills", "studies"):
            yield f"{name:34}{getattr(self, name):17}"
        yield f"{'databases lost and made anew':34}{self.databases:17}"
        yield f"{'instances acknowledged':34}{self.acknowledged:17}"
        yield f"{'results in Orthanc':34}{self.results:17}"
        yield f"{'of earlier, incomplete revisions':34}{self.earlier:17}"
        for name in ("lost", "missing", "twice", "stuck"):
            yield f"{name:34}{getattr(self, name):17}"
        yield f"{'seconds':34}{self.seconds:17.0f}"
        yield from self.problems

    def is_clean(self, least_hits: int) -> bool:
        """Tell whether nothing is wrong, and each step was hit so often."""
        return not (self.lost or self.missing or self.twice or self.stuck or self.problems) and all(
            self.hits[step.name] >= least_hits for step in STEPS
        )
