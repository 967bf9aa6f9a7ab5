"""Unevenly spaced slices as an even volume, and labels back onto the slices: where the site allows that for a model.

Along the slices' normal the values are interpolated linearly between the two neighbouring slices; labels go back by
nearest neighbour. `study.geometry` decides which series may be treated so, and says so in the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.imaging import Labels


def evened(voxels: NDArray[np.float32], offsets: Sequence[float], slices: int) -> NDArray[np.float32]:
    """Return float32 (slices, rows, columns), evenly spaced from the first to the last of the given slices.

    Parameters
    ----------
    voxels
        (given slices, rows, columns).
    offsets
        The place of each given slice along the normal, from the first, ascending [mm].
    """
    places = np.asarray(offsets, dtype=np.float64)
    even = np.empty((slices, *voxels.shape[1:]), dtype=np.float32)
    for index, place in enumerate(np.linspace(places[0], places[-1], slices)):
        above = int(np.clip(np.searchsorted(places, place), 1, len(places) - 1))
        share = np.float32((place - places[above - 1]) / (places[above] - places[above - 1]))
        np.multiply(voxels[above - 1], 1 - share, out=even[index])
        even[index] += share * voxels[above]
    return even


def nearest_even(offsets: Sequence[float], slices: int) -> NDArray[np.intp]:
    """Return which slice of the even volume is nearest to each given slice."""
    places = np.asarray(offsets, dtype=np.float64)
    step = (places[-1] - places[0]) / (slices - 1)
    nearest: NDArray[np.intp] = np.clip(np.rint((places - places[0]) / step), 0, slices - 1).astype(np.intp)
    return nearest


def nearest_given(offsets: Sequence[float], slices: int) -> NDArray[np.intp]:
    """Return which given slice is nearest to each slice of the even volume."""
    places = np.asarray(offsets, dtype=np.float64)
    even = np.linspace(places[0], places[-1], slices)
    nearest: NDArray[np.intp] = np.abs(even[:, None] - places[None, :]).argmin(axis=1)
    return nearest


def on_slices(labels: Labels, offsets: Sequence[float]) -> Labels:
    """Return labels of an even volume on the given slices."""
    taken: Labels = labels[nearest_even(offsets, len(labels))]
    return taken
