"""Where each value of a label map is: areas by slice, and which slices show a region best."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from study.errors import EncodingError
from study.imaging import LabelMap, Segment

Areas = NDArray[np.int64]

MOST_SLICES = 12
"""Contours stand on at most so many slices of a region: more make a report that validators and viewers choke on."""


def areas_by_slice(label_map: LabelMap) -> Areas:
    """Return (slices, values): how many pixels of each value each slice has; column 0 is background.

    Raises
    ------
    EncodingError
        If the label map holds a value that none of its segments declares.
    """
    declared = {segment.value for segment in label_map.segments}
    columns = max(declared, default=0) + 1
    counts = [np.bincount(plane.ravel(), minlength=columns) for plane in label_map.values]
    widest = max((len(count) for count in counts), default=columns)
    areas = np.zeros((len(counts), widest), dtype=np.int64)
    for index, count in enumerate(counts):
        areas[index, : len(count)] = count
    strange = [value for value in np.flatnonzero(areas.sum(axis=0)) if value and value not in declared]
    if strange:
        listed = ", ".join(str(value) for value in strange[:10])
        raise EncodingError(f"The label map holds values that no segment declares: {listed}.")
    return areas


def present_segments(label_map: LabelMap, areas: Areas) -> tuple[Segment, ...]:
    """Return the segments that have at least one voxel, by value: segment 1, 2, ... of the SEG."""
    totals = areas.sum(axis=0)
    ordered = sorted(label_map.segments, key=lambda segment: segment.value)
    return tuple(segment for segment in ordered if totals[segment.value])


def slices_to_show(
    areas: Areas, values: Sequence[int], most: int = MOST_SLICES, avoid: Collection[int] = ()
) -> tuple[list[int], int]:
    """Return the slices that show a region, its key image first, and how many slices it has.

    The key image has the largest area. The others are evenly spaced, and at the same places for regions of the same
    extent, so that few images serve all.

    Parameters
    ----------
    avoid
        Key images of regions that share voxels with this one: viewers write the numbers beside the first contour, and
        two texts in one place can not be read. The next best is taken, where there is another.
    """
    of_region = areas[:, list(values)].sum(axis=1)
    touched = np.flatnonzero(of_region)
    if not len(touched):
        return [], 0
    free = [index for index in touched if index not in avoid]
    key = int(max(free or touched, key=lambda index: of_region[index]))
    if len(touched) <= most:
        return [key, *(int(index) for index in touched if index != key)], len(touched)
    stride = -(-int(touched[-1] - touched[0] + 1) // (most - 1))
    others = [int(index) for index in touched if index % stride == 0 and index != key]
    return [key, *others[: most - 1]], len(touched)
