"""Two unequal blocks in patient coordinates, which can be sampled on any grid, with the truth beside them.

No mirror image and no turn of them is like them, so a result on the wrong side or axis can not pass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.imaging import SeriesVolume

LIVER, SPLEEN = 1, 2
LIVER_HU, SPLEEN_HU, REST_HU = 200.0, 400.0, 0.0
_BLOCKS = (
    # Right, front, low: wide from right to left. Left, back, high: long from head to feet. (low, high) in LPS [mm]
    (LIVER, LIVER_HU, ((-34.0, -8.0), (-22.0, -6.0), (-24.0, -10.0))),
    (SPLEEN, SPLEEN_HU, ((12.0, 24.0), (4.0, 26.0), (-2.0, 26.0))),
)

Point = tuple[float, float, float]
Shape = tuple[int, int, int]

# Directions of the (slice, row, column) axes in LPS; the slices run along the normal of their plane.
ORIENTATIONS: dict[str, tuple[Point, Point, Point]] = {
    "axial, head first, supine": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "axial, head first, prone": ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    "axial, feet first, supine": ((0, 0, -1), (0, 1, 0), (-1, 0, 0)),
    "axial, feet first, prone": ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}
POSITIONS = {
    "axial, head first, supine": "HFS",
    "axial, head first, prone": "HFP",
    "axial, feet first, supine": "FFS",
    "axial, feet first, prone": "FFP",
    "sagittal": "HFS",
    "coronal": "HFS",
}


def grid(orientation: str, spacing: Point = (2.0, 1.2, 1.0), extent: float = 84.0) -> tuple[NDArray[np.float64], Shape]:
    """Return the affine, (slice, row, column, 1) to LPS [mm], and the shape of a grid around the blocks."""
    directions = np.array(ORIENTATIONS[orientation], dtype=np.float64).T
    shape = (int(extent // spacing[0]), int(extent // spacing[1]), int(extent // spacing[2]))
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + (1.0, -2.0, 3.0)  # off the middle
    return affine, shape


def blocks(affine: NDArray[np.float64], shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the voxels [HU] and the truth (1 liver, 2 spleen), both (slices, rows, columns)."""
    indices = np.indices(shape).astype(np.float64).reshape(3, -1)
    places = (affine[:3, :3] @ indices + affine[:3, 3:]).reshape(3, *shape)
    voxels = np.full(shape, REST_HU, dtype=np.float32)
    truth = np.zeros(shape, dtype=np.uint8)
    for value, hu, box in _BLOCKS:
        inside = np.all([(low <= axis) & (axis <= high) for axis, (low, high) in zip(places, box, strict=True)], axis=0)
        voxels[inside], truth[inside] = hu, value
    return voxels, truth


def blocks_volume(orientation: str) -> tuple[SeriesVolume, NDArray[np.uint8]]:
    """Return the blocks as a volume in an orientation, and the truth."""
    affine, shape = grid(orientation)
    voxels, truth = blocks(affine, shape)
    return SeriesVolume(voxels, affine, tuple(f"2.25.{index + 1}" for index in range(len(voxels)))), truth
