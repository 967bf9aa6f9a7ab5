"""In which numbers a network computes, and that it computes the same way each time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from inference.options import Precision
from inference.switches import is_deterministic, rounding

_REDUCED: Final[dict[Precision, torch.dtype]] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def precision_on(
    device: torch.device, asked: Precision | None, *, mixed: bool, mixed_dtype: torch.dtype | None = None
) -> Precision:
    """Return in which numbers a network computes on a device.

    Parameters
    ----------
    asked
        What the site says; None: as the bundle allows.
    mixed, mixed_dtype
        Whether the bundle's own run is in mixed precision (``amp``), and in which type where it says so. As in MONAI,
        that is for a GPU alone.
    """
    if asked is not None:
        return "float32" if asked == "tf32" and device.type != "cuda" else asked
    if not mixed or device.type != "cuda":
        return "float32"
    return "bfloat16" if mixed_dtype is torch.bfloat16 else "float16"


def reduced(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a block in which a network computes in a reduced type, as MONAI's evaluator has it around its inferer."""
    dtype = _REDUCED.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def compute_repeatably(precision: Precision) -> None:
    """Compute from now on in the same way each time, and in TensorFloat-32 only where that is asked for.

    Left alone, torch lets cuDNN round the factors of convolutions to TensorFloat-32. The two switches are set by their
    older names: with those that came with torch 2.9, code that reads the older ones raises. They hold for the whole
    process; `inference.surroundings` puts them back.
    """
    cudnn: Any = torch.backends.cudnn
    products: Any = torch.backends.cuda.matmul
    products.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    cudnn.deterministic, cudnn.benchmark = True, False


def in_force(device: torch.device) -> dict[str, Any]:
    """Return how torch computes on a device now, whoever set it, as an analysis's record has it."""
    return {"tf32": "tf32" in rounding(device), "deterministic": is_deterministic()}


def as_float32(prediction: Any) -> Any:  # noqa: ANN401 - a network may return anything
    """Return a network's output in float32 where it is in a reduced type; anything else as it is."""
    if isinstance(prediction, torch.Tensor) and prediction.dtype in _REDUCED.values():
        return prediction.float()
    return prediction
