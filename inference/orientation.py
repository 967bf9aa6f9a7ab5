"""Between two conventions of an image's axes: (slice, row, column) in LPS here, (column, row, slice) in RAS in MONAI.

MONAI's readers give arrays whose first axis runs along a row of the picture, with affines to RAS (NIfTI's convention).
This is the only module that swaps axes or signs; nothing else flips anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from study.imaging import Affine

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED_INDEX = np.eye(4)[[2, 1, 0, 3]]


def to_monai(voxels: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], Affine]:
    """Return a view of the voxels with the axes (column, row, slice), and its affine to RAS [mm].

    Parameters
    ----------
    voxels
        (slices, rows, columns).
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    """
    return voxels.transpose(2, 1, 0), _LPS_TO_RAS @ affine @ _REVERSED_INDEX


def from_monai(array: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], Affine]:
    """Return a view of the array with the axes (slice, row, column), and its affine to LPS [mm].

    Parameters
    ----------
    array
        (columns, rows, slices).
    affine
        (4, 4), (column, row, slice, 1) to RAS [mm].
    """
    return array.transpose(2, 1, 0), _LPS_TO_RAS @ affine @ _REVERSED_INDEX


def plane_to_monai(plane: NDArray[Any], spacing: tuple[float, float]) -> tuple[NDArray[Any], Affine]:
    """Return a single image with the axes (column, row), and the affine that MONAI's readers give such an image.

    It has no place in the patient: a column step runs to the left, a row step to the back, as in an axial image.

    Parameters
    ----------
    plane
        (rows, columns).
    spacing
        Along (row, column) [mm].
    """
    return plane.transpose(1, 0), np.diag([-spacing[1], -spacing[0], 1.0, 1.0])


def plane_from_monai(array: NDArray[Any]) -> NDArray[Any]:
    """Return a single image, (columns, rows), with the axes (row, column)."""
    return array.transpose(1, 0)


def channels_reversed(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of (channels, ...) whose spatial axes are in the reverse order."""
    return array.transpose(0, *range(array.ndim - 1, 0, -1))


def tensor_reversed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of a tensor whose axes are in the reverse order."""
    return tensor.permute(*range(tensor.ndim - 1, -1, -1))
