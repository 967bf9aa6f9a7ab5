"""How an analysis goes: written while it goes, so that one that fails, or is stopped, has its record too."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from inference.machine import MEGABYTE
from inference.timing import ForwardClock

_VERSIONED: Final = ("hilum", "torch", "monai", "numpy", "scipy", "pydicom", "highdicom", "connected-components-3d")
_RESET_PEAK: Final = b"5"  # written to clear_refs, it makes the high water mark what is held now (proc(5))

Tell = Callable[[str, bool], None]
"""Is told each step as it begins, and whether the processor took the GPU's place."""


def tell_nobody(step: str, on_cpu: bool) -> None:
    """Drop the news: nobody waits for them."""
    del step, on_cpu


@dataclass
class Account:
    """The record of one analysis.

    Parameters
    ----------
    tell
        Is told what begins.
    forward
        Where given, it times the network's forward, for which a GPU is waited for each time.

    Attributes
    ----------
    device
        Where the network ran, as torch calls it; it changes where the processor takes the GPU's place.
    seconds
        Of each step: load, decode, preprocess, inference, postprocess, measure, encode.
    encode_seconds
        Of the parts of the last step, by form; "check" of all of them.
    begun
        The step that began last; "" before the first.
    was_warm
        Whether the model was loaded before; None where it did not come so far.
    memory_steps
        What was done, in order, since memory was short: each with its `step` and in `words`.
    running
        How the network ran: precision, compilation, memory format, threads, seed, what is deterministic.
    measurements
        What was found, for statistics: each with `finding`, `name`, `value`, `unit`; no text of a patient's.
    priors
        What became of each earlier series that the model was given.
    """

    tell: Tell = tell_nobody
    forward: ForwardClock | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=dict)
    encode_seconds: dict[str, float] = field(default_factory=dict)
    begun: str = ""
    was_warm: bool | None = None
    memory_steps: list[dict[str, Any]] = field(default_factory=list)
    running: dict[str, Any] = field(default_factory=dict)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    priors: list[dict[str, Any]] = field(default_factory=list)
    _on_cpu_instead: bool = False

    def __post_init__(self) -> None:
        _forget_host_peak()

    @contextmanager
    def step(self, name: str, *, quietly: bool = False) -> Iterator[None]:
        """Tell that a step begins, and count the time of the block towards it; what the GPU still does counts too.

        Parameters
        ----------
        quietly
            Whether to count alone: a step of one image after another is told of once.
        """
        if not quietly:
            self.tell(name, self._on_cpu_instead)
        self.begun = name
        start = time.perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def apart(self, step: str) -> Account:
        """Return a record of its own for what is done within a step: its news are that step's, memory is noted here."""
        inner = copy.copy(self)
        inner.tell = lambda _step, on_cpu: self.tell(step, on_cpu)
        inner.forward, inner.was_warm, inner.begun = None, None, ""
        inner.seconds, inner.running, inner.measurements, inner.priors = {}, {}, [], []
        return inner

    def begins_on(self, device: torch.device) -> None:
        """Note where the network is to run; the device's peak is counted from now on."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def note_memory(self, step: str, words: str, **facts: Any) -> None:  # noqa: ANN401 - what JSON can hold
        """Note what was done since memory was short."""
        self.memory_steps.append({"step": step, **facts, "words": words})

    def moves_to_cpu(self) -> None:
        """Note that the processor takes the GPU's place."""
        self._on_cpu_instead = True
        self.device = torch.device("cpu")

    def details(self) -> dict[str, Any]:
        """Return the record as a job keeps it (docs/json.md)."""
        return {
            "device": str(self.device),
            "device_name": _name(self.device),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "encode_seconds": {name: round(value, 4) for name, value in self.encode_seconds.items()},
            "memory_mb": {"host_peak": _host_peak_mb(), "device_peak": self._device_peak_mb()},
            "model_was_warm": self.was_warm,
            "memory_steps": self.memory_steps,
            "running": self.running,
            "versions": versions(),
            "measurements": self.measurements,
        } | ({"priors": self.priors} if self.priors else {})

    def _device_peak_mb(self) -> int | None:
        if not torch.cuda.is_available() or (self.device.type != "cuda" and not self._on_cpu_instead):
            return None
        return round(torch.cuda.max_memory_allocated() / MEGABYTE)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that take part; of CUDA where torch is built for it."""
    found = {name: version(name) for name in _VERSIONED}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _forget_host_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_bytes(_RESET_PEAK)
    except OSError:
        return  # no Linux, or not allowed: the peak is then that of the process's life


def _host_peak_mb() -> int | None:
    """Return the most memory that this process held since the account was opened [MB]; None where it is not known."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return None if kilobytes is None else round(int(kilobytes) * 1024 / MEGABYTE)
