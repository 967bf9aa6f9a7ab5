"""What was measured of a model on one series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hilum.models.picking import Picked
from hilum.models.spread import Spread
from inference.catalog import ModelCard
from inference.comparing import Difference


@dataclass(frozen=True)
class Apart:
    """How far what a model says is from what it says as its bundle stands, in plain float32.

    Parameters
    ----------
    labels
        Of the label map; None for a model without one.
    probability
        The largest difference of a probability; None where there are none.
    decisions
        How many classes are decided otherwise.
    numbers
        Of each measurement: finding, name, unit, and both values; None where one run has none.
    """

    labels: Difference | None
    probability: float | None
    decisions: int
    numbers: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Bench:
    """What was measured of a model on one series.

    Parameters
    ----------
    runs
        The record of each run, as a job has it (docs/json.md).
    forward_seconds, forward_calls, inference_seconds
        Of the network alone, and of the step that it is a part of, in a further run that waited for each forward.
    apart
        From the same bundle as it stands, in plain float32.
    """

    card: ModelCard
    picked: Picked
    runs: tuple[dict[str, Any], ...]
    forward_seconds: float
    forward_calls: int
    inference_seconds: float
    apart: Apart

    @property
    def steps(self) -> dict[str, Spread]:
        """Return how long each step took over the runs that made it, and all of them together [s]."""
        names = dict.fromkeys(name for run in self.runs for name in run["seconds"])
        times = {name: [run["seconds"][name] for run in self.runs if name in run["seconds"]] for name in names}
        times["all"] = [sum(run["seconds"].values()) for run in self.runs]
        return {name: spread for name, values in times.items() if (spread := Spread.of(values))}

    @property
    def share(self) -> float:
        """Return the part of the inference step that is the network's, 0 to 1."""
        return self.forward_seconds / self.inference_seconds if self.inference_seconds else 0.0

    @property
    def peaks(self) -> dict[str, int | None]:
        """Return the most memory that a run held [MB]."""
        found = {key: [run["memory_mb"][key] for run in self.runs] for key in ("host_peak", "device_peak")}
        return {key: max((mb for mb in held if mb is not None), default=None) for key, held in found.items()}
