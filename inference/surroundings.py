"""What a bundle's code may change for the whole process, put back once it has run; and where chance starts."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from monai.transforms.compose import Compose

SEED: Final = 0


@contextmanager
def surroundings_kept(device: torch.device) -> Iterator[None]:
    """Leave the process after the block as it was before, whatever a bundle's code sets in it for all.

    That is torch's default type and device, threads, gradients, precision and determinism, the state of every source
    of chance, numpy's handling of errors, the filters of warnings, the working directory, the environment and the
    search path.
    """
    before = _Settings.found()
    chance = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with warnings.catch_warnings(), np.errstate(), torch.random.fork_rng(devices=devices):
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

    dtype: torch.dtype
    threads: int
    gradients: bool
    deterministic: bool
    warns_only: bool
    cudnn: tuple[bool, bool, bool]
    tf32: tuple[bool, bool]
    folder: Path
    environment: dict[str, str]
    search_path: list[str]
    recursion: int

    @classmethod
    def found(cls) -> _Settings:
        cudnn = torch.backends.cudnn
        return cls(
            dtype=torch.get_default_dtype(),
            threads=torch.get_num_threads(),
            gradients=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            warns_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn=(cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
            tf32=(torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32),
            folder=Path.cwd(),
            environment=dict(os.environ),
            search_path=list(sys.path),
            recursion=sys.getrecursionlimit(),
        )

    def put_back(self) -> None:
        torch.set_default_dtype(self.dtype)
        if torch.get_default_device().type != "cpu":
            torch.set_default_device(None)  # nobody but a bundle sets one
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.gradients)
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:  # to set it imports the compiler
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warns_only)
        cudnn: Any = torch.backends.cudnn
        cudnn.enabled, cudnn.deterministic, cudnn.benchmark = self.cudnn
        torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32 = self.tf32
        os.chdir(self.folder)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        sys.path[:] = self.search_path
        sys.setrecursionlimit(self.recursion)
