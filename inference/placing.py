"""Devices that a bundle's parts name themselves: the one that the bundle is run on takes their place.

MONAI's own run of a bundle asks for a place by ``device`` alone; parts that say "cuda:0" for themselves would work on
another worker's GPU, or on one at all where the processor is meant.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from monai.transforms.transform import Transform

from inference.memory import HOST
from study.errors import BundleInvalid

_NAMES: Final = frozenset({"device", "sw_device"})


def place_on(device: torch.device, *parts: object) -> None:
    """Have each part, and the transforms in it, work on `device` where it names any other device itself.

    What names the host stays there: so a bundle says that its volume is put together on it.
    """
    seen: set[int] = set()
    for part in parts:
        _place(part, device, seen)


def demand_place(tensor: object, device: torch.device, part: str) -> None:
    """Demand that what a part of a bundle gave lies on its device or on the host.

    Raises
    ------
    BundleInvalid
        If code in the bundle's configuration, which `place_on` does not see, put it elsewhere.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.device.type == HOST.type:
        return
    if tensor.device.type != device.type or device.index not in (None, tensor.device.index):
        raise BundleInvalid(
            f"The bundle's {part} puts its images on {tensor.device}, while it is run on {device}; have it name "
            "@device there."
        )


def _place(part: object, device: torch.device, seen: set[int]) -> None:
    if id(part) in seen:
        return
    seen.add(id(part))
    attributes: dict[str, Any] = getattr(part, "__dict__", {})
    for name, value in attributes.items():
        if name in _NAMES:
            attributes[name] = _ours(value, device)
        elif isinstance(value, Transform):
            _place(value, device, seen)
        elif name == "transforms" and isinstance(value, list | tuple):
            for each in value:
                _place(each, device, seen)


def _ours(named: Any, device: torch.device) -> Any:  # noqa: ANN401 - a bundle's own part may call anything a device
    if isinstance(named, list | tuple):
        return tuple(_ours(each, device) for each in named)
    if not isinstance(named, torch.device | str):
        return named
    try:
        return HOST if torch.device(named) == HOST else device
    except RuntimeError:
        return named  # no name of torch's
