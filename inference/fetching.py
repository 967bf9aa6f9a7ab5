"""Labels come from the device to the host: in as few bytes as they need, and one slice after the other.

A network's labels are mostly floating, and lie with the slices as their last axis. To walk through them slice by slice
goes across the processor's cache: 512^3 voxels then take seconds for each pass.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from inference.orientation import channels_reversed, tensor_reversed

_FOR_NUMBERS: Final = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)
"""Of which torch knows the extremes on every device."""
_COLUMNS: Final = 64  # at a time: bounds what is held besides, and their bytes fill a line of the processor's cache


def fetched(output: torch.Tensor) -> NDArray[Any]:
    """Return an output on the host, with the same axes and values.

    Where the values are whole and from 0 to 65535, they are integers, and lie in memory as the source does: the array
    with its spatial axes reversed is contiguous.

    Parameters
    ----------
    output
        (channels, columns, rows, slices), or without slices.
    """
    if _is_there(output):
        there: NDArray[Any] = output.numpy()
        return there
    kind = _kind(output)
    numbers = None if kind is None else _whole_numbers(output, kind)
    if numbers is None:
        plain: NDArray[Any] = output.cpu().numpy()
        return plain
    return channels_reversed(numbers.numpy())


def _is_there(output: torch.Tensor) -> bool:
    """Tell whether an output is on the host, of small integers, and lies as the source does: nothing is to be done."""
    small = output.dtype in (torch.bool, torch.uint8)
    return small and output.device.type == "cpu" and all(tensor_reversed(each).is_contiguous() for each in output)


def extremes(tensor: torch.Tensor) -> tuple[float, float]:
    """Return the lowest and the highest value of a tensor, no copy of which is made; both NaN if it holds one."""
    low, high = torch.aminmax(tensor)
    return low.item(), high.item()


def _kind(output: torch.Tensor) -> torch.dtype | None:
    """Return the type of integers that holds an output's range; None if there is none."""
    if output.dtype not in _FOR_NUMBERS or not output.numel():
        return None
    low, high = extremes(output)
    if not 0 <= low <= high <= np.iinfo(np.uint16).max:
        return None
    return torch.uint8 if high <= np.iinfo(np.uint8).max else torch.int32  # torch can do little with uint16


def _whole_numbers(output: torch.Tensor, kind: torch.dtype) -> torch.Tensor | None:
    """Return (channels, slices, rows, columns) on the host; None if a value is not whole.

    The axes are turned where the output is, and a channel at a time: what a device holds besides is small.
    """
    shape = tuple(reversed(output.shape[1:]))
    fetched = torch.empty((len(output), *shape), dtype=kind)
    turned = torch.empty(shape, dtype=kind, device=output.device)
    for channel, place in zip(output, fetched, strict=True):
        if not _turn(channel, turned):
            return None
        place.copy_(turned)
    return fetched


def _turn(channel: torch.Tensor, turned: torch.Tensor) -> bool:
    """Write a channel with its axes reversed; tell whether all of its values are whole."""
    same = []
    for columns, place in zip(torch.split(channel, _COLUMNS), torch.split(turned, _COLUMNS, dim=-1), strict=True):
        numbers = columns.to(turned.dtype)
        place.copy_(tensor_reversed(numbers))
        same.append((numbers == columns).all())
    return bool(torch.stack(same).all())  # once, since to ask waits for the device
