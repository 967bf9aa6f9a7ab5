"""A thorax in patient coordinates, which can be sampled on any grid, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.imaging import SeriesVolume

AIR, LUNG, TISSUE, BONE, LUMEN = -1000.0, -850.0, 40.0, 400.0, -995.0
RIGHT, LEFT = 1, 2

Point = tuple[float, float, float]
Matrix = NDArray[np.float64]

RIGHT_LUNG: tuple[Point, Point] = ((-75.0, 5.0, 0.0), (52.0, 75.0, 105.0))
"""Centre and half-axes in LPS [mm]; the right lung is the wider one."""
LEFT_LUNG: tuple[Point, Point] = ((78.0, 5.0, 0.0), (44.0, 75.0, 105.0))


@dataclass(frozen=True, eq=False)
class Thorax:
    """A sampled phantom: the volume, and 1 where the right lung is, 2 where the left lung is."""

    volume: SeriesVolume
    truth: NDArray[np.uint8]


def grid_affine(
    directions: tuple[Point, Point, Point], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> Matrix:
    """Return the affine of a grid around the origin; `directions` of (slice, row, column) axes in LPS."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions).T * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def thorax(
    affine: Matrix,
    shape: tuple[int, int, int],
    *,
    touching: bool = False,
    lungs: bool = True,
    trachea: bool = True,
    shift: Point = (0.0, 0.0, 0.0),
    noise: float = 15.0,
) -> Thorax:
    """Return a thorax sampled at the voxels' centres.

    Parameters
    ----------
    affine
        (slice, row, column, 1) to LPS [mm]; the thorax lies around the origin.
    touching
        Whether the lungs meet in front of the heart.
    shift
        Moves the patient by so much in LPS [mm].
    noise
        Standard deviation [HU].
    """
    indices = np.indices(shape, dtype=np.float64).reshape(3, -1)
    x, y, z = ((affine[:3, :3] @ indices + affine[:3, 3:]) - np.array(shift)[:, None]).reshape(3, *shape)
    values = np.full(shape, AIR)
    values[_ellipse(x, 170.0) + _ellipse(y, 110.0) <= 1] = TISSUE
    truth = np.zeros(shape, dtype=np.uint8)
    if lungs:
        for label, (centre, axes) in ((RIGHT, RIGHT_LUNG), (LEFT, LEFT_LUNG)):
            truth[_in_ellipsoid((x, y, z), centre, axes)] = label
        if touching:
            bridge = (np.abs(x) < 45.0) & (np.abs(y + 30.0) < 14.0) & (np.abs(z) < 40.0) & (truth == 0)
            truth[bridge & (x < 0)] = RIGHT
            truth[bridge & (x >= 0)] = LEFT
    truth[np.hypot(x, y - 75.0) < 18.0] = 0
    values[truth > 0] = LUNG
    values[np.hypot(x, y - 75.0) < 18.0] = BONE
    if trachea:
        walls, lumen = _airway(x, y, z, 11.0, 8.0), _airway(x, y, z, 9.0, 6.0)
        truth[walls] = 0
        values[walls] = TISSUE
        values[lumen] = LUMEN
    if noise:
        values += np.random.default_rng(7).normal(0.0, noise, shape)
    voxels = np.clip(values, -1024.0, 3071.0).astype(np.float32)
    uids = tuple(f"2.25.{index + 1}" for index in range(shape[0]))
    return Thorax(SeriesVolume(voxels, affine, uids), truth)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks: 1 for equal ones."""
    return 2.0 * float((first & second).sum()) / float(first.sum() + second.sum())


def _ellipse(distance: Matrix, half_axis: float) -> Matrix:
    squared: Matrix = (distance / half_axis) ** 2
    return squared


def _in_ellipsoid(position: tuple[Matrix, Matrix, Matrix], centre: Point, axes: Point) -> NDArray[np.bool_]:
    total = sum(
        (_ellipse(value - middle, axis) for value, middle, axis in zip(position, centre, axes, strict=True)),
        start=np.zeros(position[0].shape),
    )
    inside: NDArray[np.bool_] = total <= 1.0
    return inside


def _airway(x: Matrix, y: Matrix, z: Matrix, tracheal: float, bronchial: float) -> NDArray[np.bool_]:
    """Return a trachea from the neck to z = 20 mm, and two bronchi that go down and outward from there."""
    trachea = (np.hypot(x, y - 20.0) < tracheal) & (z > 20.0)
    along = 20.0 - z  # depth below the carina
    bronchi = (np.hypot(np.abs(x) - along, y - 20.0) < bronchial) & (along >= 0.0) & (along < 30.0)
    tube: NDArray[np.bool_] = trachea | bronchi
    return tube
