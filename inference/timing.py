"""How long the network itself takes within an analysis: for `hilum models bench`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class ForwardClock:
    """Counts what goes through a network, and the time that it takes.

    On a GPU it waits for each forward to end, which an analysis that nobody measures does not.

    Attributes
    ----------
    seconds, calls
        Of the network's forward, all in all.
    """

    seconds: float = 0.0
    calls: int = 0

    def on(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network, its forward timed."""
        return _Timed(network, self)

    def count(self, seconds: float) -> None:
        """Count one forward."""
        self.seconds += seconds
        self.calls += 1

    def figures(self) -> dict[str, float]:
        """Return what was counted, as it stands in an analysis's record."""
        return {"forward_seconds": round(self.seconds, 4), "forward_calls": self.calls}

    def start_anew(self) -> None:
        """Forget what was counted: the passage that it belongs to is begun again."""
        self.seconds, self.calls = 0.0, 0


class _Timed(torch.nn.Module):
    """A network, timed; hooks would be simpler, and TorchScript has none."""

    def __init__(self, network: torch.nn.Module, clock: ForwardClock) -> None:
        super().__init__()
        self.network = network
        self._clock = clock

    def forward(self, image: torch.Tensor, *further: Any, **named: Any) -> Any:  # noqa: ANN401 - it gives anything
        _wait(image)
        started = time.perf_counter()
        prediction = self.network(image, *further, **named)
        _wait(image)
        self._clock.count(time.perf_counter() - started)
        return prediction

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - an inferer of the bundle's own may ask for anything
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def _wait(image: torch.Tensor) -> None:
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
