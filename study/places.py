"""Where slices lie among each other: which share a place, and whose ranges along the normal interleave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.geometry import in_plane_directions, is_placed
from study.headers import InstanceHeader

Indices = NDArray[np.intp]

_SAME_ORIENTATION = 1e-2  # of a direction cosine
_SAME_PLACE_MM = 1e-2
_UNKNOWN = -1


class Places:
    """The places of the slices of a series; slices of several orientations never share one.

    Parameters
    ----------
    headers
        Those that do not say where they lie share no place with any other.
    """

    def __init__(self, headers: Sequence[InstanceHeader]) -> None:
        self._known = np.array([is_placed(header) for header in headers], dtype=np.bool_)
        self._orientation, normals = _orientations(headers)
        positions = np.zeros((len(headers), 3))
        for index in np.flatnonzero(self._known).tolist():
            positions[index] = headers[index].image_position_patient
        self._along = np.einsum("ij,ij->i", positions, normals)
        self._place = self._numbered()

    def _numbered(self) -> Indices:
        """Return a number for each place, and one of its own for each slice whose place is unknown."""
        order = np.lexsort((self._along, self._orientation, ~self._known))
        along, orientation = self._along[order], self._orientation[order]
        new = (np.diff(along) > _SAME_PLACE_MM) | (np.diff(orientation) != 0) | ~self._known[order][1:]
        place = np.zeros(len(order), dtype=np.intp)
        place[order[1:]] = np.cumsum(new)
        return place

    def are_distinct(self, indices: Indices) -> bool:
        """Tell whether each of the slices is known to have a place of its own."""
        return bool(self._known[indices].all()) and len(np.unique(self._place[indices])) == len(indices)

    def are_shared(self, indices: Indices, groups: Indices) -> bool:
        """Tell whether slices of several groups share a place; `groups` has the group of each of `indices`."""
        pairs = np.unique(np.stack([self._place[indices], groups]), axis=1)
        return int(pairs.shape[1]) > len(np.unique(self._place[indices]))

    def interleave(self, indices: Indices, groups: Indices) -> bool:
        """Tell whether the range of one group along the normal reaches into that of another."""
        known = self._known[indices]
        orientation, along, groups = self._orientation[indices][known], self._along[indices][known], groups[known]
        for turn in np.unique(orientation):
            here = orientation == turn
            # Ranges apart: sorted by place, each group is one run.
            in_order = groups[here][np.argsort(along[here], kind="stable")]
            if np.count_nonzero(np.diff(in_order)) + 1 > len(np.unique(in_order)):
                return True
        return False

    def most_images(self, indices: Indices) -> int:
        """Return how many images the fullest place has."""
        return int(np.unique(self._place[indices], return_counts=True)[1].max())

    def ranks(self, indices: Indices, values: Indices) -> Indices | None:
        """Return for each slice how many at its place have a lower value.

        None where that is no order: places differ in how many images they have, or a place has two of one value.
        """
        place = self._place[indices]
        _, counts = np.unique(place, return_counts=True)
        if not self._known[indices].all() or counts.min() != counts.max() or counts[0] < 2:
            return None
        order = np.lexsort((values, place))
        by_place = values[order].reshape(len(counts), counts[0])
        if (np.diff(by_place, axis=1) == 0).any():
            return None
        ranks = np.zeros(len(indices), dtype=np.intp)
        ranks[order] = np.tile(np.arange(counts[0]), len(counts))
        return ranks


def _orientations(headers: Sequence[InstanceHeader]) -> tuple[Indices, NDArray[np.float64]]:
    """Return which orientation each slice has, and its normal, (slices, 3)."""
    directions = [in_plane_directions(header) for header in headers]
    axes = np.array([np.concatenate(pair) if pair else np.zeros(6) for pair in directions]).reshape(len(headers), 6)
    orientation = np.full(len(headers), _UNKNOWN, dtype=np.intp)
    normals = np.zeros((len(headers), 3))
    left = np.array([pair is not None for pair in directions], dtype=np.bool_)
    while left.any():
        first = int(np.argmax(left))
        alike = left & (np.abs(axes - axes[first]).max(axis=1) <= _SAME_ORIENTATION)
        orientation[alike] = first
        normals[alike] = np.cross(axes[first, :3], axes[first, 3:])
        left &= ~alike
    return orientation, normals
