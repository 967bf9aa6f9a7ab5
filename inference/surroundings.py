"""What a bundle's code may change for the whole process, put back once it has run; and where chance starts."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.compose import Compose

from inference.switches import Switches

SEED: Final = 0
_QUIET: Final = (FutureWarning, DeprecationWarning, PendingDeprecationWarning, UserWarning)
"""What libraries tell those who write a bundle; whoever runs a node can do nothing about it."""


@contextmanager
def surroundings_kept(device: torch.device) -> Iterator[None]:
    """Leave the process after the block as it was before, whatever a bundle's code sets in it for all.

    That is torch's switches (`inference.switches`), the state of every source of chance, MONAI's tracking of where an
    image lies, numpy's handling of errors, the filters of warnings, signals and their timers, the kernel's limits, the
    working directory, the environment and the search path. What can not be put back, `inference.traces` notices.
    Warnings to those who write bundles are not shown within the block.
    """
    before = _Settings.found()
    chance = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with warnings.catch_warnings(), np.errstate(), torch.random.fork_rng(devices=devices):
            for kind in _QUIET:
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        before.put_back()
        random.setstate(chance[0])
        np.random.set_state(chance[1])


def start_chance_anew(*chains: Compose) -> None:
    """Let every source of chance start from the same place, so that a series gives the same result twice.

    Parameters
    ----------
    chains
        Transforms, of which MONAI gives each its own source where it takes one.
    """
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # the legacy state is what bundles use
    random.seed(SEED)
    for chain in chains:
        chain.set_random_state(seed=SEED)


@dataclass(frozen=True)
class _Settings:
    """What is set for the whole process, but for what a context manager of its library keeps."""

    switches: Switches
    tracks: bool
    folder: Path | None
    environment: dict[str, str]
    search_path: list[str]
    modules: dict[str, ModuleType]
    recursion: int
    mask: int
    limits: dict[int, tuple[int, int]]
    handlers: dict[int, Any]
    blocked: set[int]
    timers: dict[int, tuple[float, float]]

    @classmethod
    def found(cls) -> _Settings:
        return cls(
            switches=Switches.found(),
            tracks=get_track_meta(),
            folder=working_folder(),
            environment=dict(os.environ),
            search_path=list(sys.path),
            modules=dict(sys.modules),
            recursion=sys.getrecursionlimit(),
            mask=_mask(),
            limits=limits(),
            handlers={number: signal.getsignal(number) for number in signal.valid_signals()},
            blocked=set(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            timers=_timers(),
        )

    def put_back(self) -> None:
        self._put_signals_back()
        self.switches.put_back()
        set_track_meta(self.tracks)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        sys.path[:] = self.search_path
        sys.modules.update({name: module for name, module in self.modules.items() if sys.modules.get(name) is None})
        sys.setrecursionlimit(self.recursion)
        os.umask(self.mask)
        self._put_limits_back()
        if self.folder is not None:
            with suppress(OSError):  # it is gone, which `inference.traces` notices
                os.chdir(self.folder)

    def _put_signals_back(self) -> None:
        for which, timer in self.timers.items():
            if any(timer) != any(signal.getitimer(which)):  # one that was running goes on
                signal.setitimer(which, *timer)
        if threading.current_thread() is threading.main_thread():  # Python lets no other set them
            for number, handler in self.handlers.items():
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)

    def _put_limits_back(self) -> None:
        for which, limit in limits().items():
            if limit != self.limits[which]:
                with suppress(ValueError, OSError):  # a lower hard limit is for good, which `inference.traces` notices
                    resource.setrlimit(which, self.limits[which])


def working_folder() -> Path | None:
    """Return where the process works; None where that folder is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def limits() -> dict[int, tuple[int, int]]:
    """Return what the kernel allows this process at most, (soft, hard) of each kind."""
    kinds = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {kind: resource.getrlimit(kind) for kind in sorted(kinds)}


def _timers() -> dict[int, tuple[float, float]]:
    kinds = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    return {int(kind): signal.getitimer(kind) for kind in kinds}


def _mask() -> int:
    """Return which rights new files do not get; to read it, it has to be set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
