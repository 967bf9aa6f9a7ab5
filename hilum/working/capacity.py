"""What the machine has for models: which devices, how much memory, and what may run side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from hilum.config import Settings
from inference.machine import MEGABYTE, machine_bytes
from inference.options import RunOptions

_SHARE_OF_MACHINE: Final = 0.75  # what is left is for libraries, loaded models (a fifth of the share), and the rest
_WARM_PART: Final = 5
_SIGNS_OF_A_GPU: Final = ("/dev/nvidia0", "/proc/driver/nvidia/gpus", "/dev/kfd", "/dev/dxg")
_COUNT: Final = "import torch; print(torch.cuda.device_count())"


def with_devices(settings: Settings) -> Settings:
    """Return the settings with `devices` as a list: "auto" is every GPU, or the processor where there is none.

    Only a process of its own asks torch, and only where something looks like a GPU.
    """
    if settings.inference.devices != "auto":
        return settings
    devices = tuple(f"cuda:{index}" for index in range(_gpus())) or ("cpu",)
    return settings.model_copy(update={"inference": settings.inference.model_copy(update={"devices": devices})})


def device_of(settings: Settings, index: int) -> str:
    """Return the device of the worker of that index; "" where this machine lists none, as of a keeper elsewhere."""
    devices = settings.inference.devices
    if devices == "auto":
        return "auto"
    return devices[index] if index < len(devices) else ""


def device_kind(settings: Settings) -> str:
    """Return "cuda" where models run on GPUs, at least also, else "cpu"."""
    return "cuda" if any(device.startswith("cuda") for device in with_devices(settings).inference.devices) else "cpu"


def seen_by(settings: Settings, index: int) -> dict[str, str]:
    """Return the environment in which the worker of that index sees its own GPU alone, as the first; or none.

    A bundle that names a GPU by itself then means the one that it runs on.
    """
    kind, _, number = device_of(settings, index).partition(":")
    if kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    there = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    if kind != "cuda" or not number:
        return {}
    place = int(number)
    return {"CUDA_VISIBLE_DEVICES": there[place] if place < len(there) else "" if there else number}


def torch_device(device: str) -> str:
    """Return what torch calls a device where `seen_by` holds."""
    return "cuda:0" if device.startswith("cuda:") else device


def threads_of(settings: Settings) -> int:
    """Return how many processor threads each worker takes: several share the processor; 0 leaves it to torch."""
    workers = len(settings.inference.devices) if settings.inference.devices != "auto" else 1
    if settings.inference.threads or workers == 1:
        return settings.inference.threads
    return max(1, len(os.sched_getaffinity(0)) // workers)


@dataclass(frozen=True)
class Running:
    """A job under way: its model, and the device that it runs on."""

    model_name: str
    device: str


class Budgets:
    """How much memory each model's jobs may take, and what fits beside what."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        devices = settings.inference.devices
        self._devices = devices if devices != "auto" else ("auto",)
        self.total_bytes = settings.inference.memory_mb * MEGABYTE or int(machine_bytes() * _SHARE_OF_MACHINE)

    def of(self, model: str) -> int:
        """Return what one job of a model may hold of the machine's memory [bytes]: what its entry says, or a share."""
        entry = self._settings.models.get(model)
        own = entry.memory_mb if entry is not None else None
        return own * MEGABYTE if own is not None else self.total_bytes // len(self._devices)

    def on_device(self, model: str, device: str, device_bytes: int | None) -> int | None:
        """Return what one job of a model may hold of a GPU's memory [bytes]; None: all of it, as it is alone there.

        Parameters
        ----------
        device_bytes
            What the device has.
        """
        entry = self._settings.models.get(model)
        if entry is not None and entry.device_memory_mb is not None:
            return entry.device_memory_mb * MEGABYTE
        workers = self._devices.count(device)
        return device_bytes // workers if device_bytes is not None and workers > 1 else None

    @property
    def warm_bytes(self) -> int:
        """Return how much of the machine's memory one worker's loaded models may hold [bytes]."""
        return self.total_bytes // len(self._devices) // _WARM_PART

    def options(self, model: str, device: str, device_bytes: int | None) -> RunOptions:
        """Return how a model of the configuration is run on a device."""
        entry = self._settings.models[model]
        return RunOptions(
            precision=entry.precision,
            compile=entry.compile,
            memory_bytes=self.of(model),
            device_memory_bytes=self.on_device(model, device, device_bytes),
            may_use_cpu=entry.cpu_deadline_seconds is not None,
        )

    def fits(self, model: str, device: str, device_bytes: int | None, running: Sequence[Running]) -> bool:
        """Tell whether a job of a model fits beside what runs on this machine; alone it always does."""
        if running and sum(self.of(each.model_name) for each in running) + self.of(model) > self.total_bytes:
            return False
        beside = [each for each in running if each.device == device]
        if not beside or device == "cpu" or device_bytes is None:
            return True
        wanted = [self.on_device(name, device, device_bytes) for name in (model, *(b.model_name for b in beside))]
        return sum(device_bytes if each is None else each for each in wanted) <= device_bytes


@cache
def _gpus() -> int:
    if not any(Path(sign).exists() for sign in _SIGNS_OF_A_GPU):
        return 0
    counted = subprocess.run([sys.executable, "-P", "-c", _COUNT], capture_output=True, text=True, check=False)
    return int(counted.stdout) if counted.returncode == 0 and counted.stdout.strip().isdigit() else 0
