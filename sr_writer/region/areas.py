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
MOST_SLICES_OF_ALL = 144
"""... and on about so many slices of all regions together."""
FEWEST_SLICES = 2
"""... but on no fewer, where there are two: one contour alone is read as a planar region (PS3.16 TID 1410)."""


def areas_by_slice(label_map: LabelMap) -> Areas:
    """Return (slices, values): how many pixels of each value each slice has; column 0 is no value's.

    Raises
    ------
    EncodingError
        If the label map holds a value that none of its segments declares, or the same value in two layers.
    """
    declared = {segment.value for segment in label_map.segments}
    by_layer = [_areas_of(layer) for layer in label_map.layers]
    columns = max(max(declared, default=0) + 1, *(areas.shape[1] for areas in by_layer))
    by_layer = [np.pad(areas, ((0, 0), (0, columns - areas.shape[1]))) for areas in by_layer]
    layers_of = np.sum([areas.any(axis=0) for areas in by_layer], axis=0)
    strange = [value for value in np.flatnonzero(layers_of) if value and value not in declared]
    if strange:
        raise EncodingError(f"The label map holds values that no segment declares: {_listed(strange)}.")
    twice = [value for value in np.flatnonzero(layers_of > 1) if value]
    if twice:
        raise EncodingError(f"The label map holds values in more than one layer: {_listed(twice)}.")
    areas: Areas = np.sum(by_layer, axis=0, dtype=np.int64)
    return areas


def _areas_of(layer: NDArray[np.uint8] | NDArray[np.uint16]) -> Areas:
    # Most voxels are background, which is counted by what is left
    counts = [np.bincount(plane[plane != 0], minlength=1) for plane in layer]
    areas = np.zeros((len(counts), max((len(count) for count in counts), default=1)), dtype=np.int64)
    for index, count in enumerate(counts):
        areas[index, : len(count)] = count
        areas[index, 0] = layer[index].size - int(count.sum())
    return areas


def _listed(values: Sequence[np.intp]) -> str:
    return ", ".join(str(value) for value in values[:10])


def present_segments(label_map: LabelMap, areas: Areas) -> tuple[Segment, ...]:
    """Return the segments that have at least one voxel, by value: segment 1, 2, ... of the SEG."""
    totals = areas.sum(axis=0)
    ordered = sorted(label_map.segments, key=lambda segment: segment.value)
    return tuple(segment for segment in ordered if totals[segment.value])


def overlap(label_map: LabelMap) -> bool:
    """Tell whether any voxel belongs to more than one segment."""
    return any(
        np.any(np.sum([layer[index] > 0 for layer in label_map.layers], axis=0) > 1)
        for index in range(len(label_map.values))
        if label_map.further_layers
    )


def areas_of_region(label_map: LabelMap, areas: Areas, values: Sequence[int]) -> Areas:
    """Return (slices,): how many pixels of each slice have one of the values, each pixel once."""
    sums: Areas = areas[:, list(values)].sum(axis=1)
    if len(values) > 1 and label_map.further_layers:
        # Segments that overlap share pixels
        for index in np.flatnonzero(sums):
            sums[index] = np.count_nonzero(label_map.mask(int(index), values))
    return sums


def slices_each(regions: int) -> int:
    """Return on how many slices each of so many regions is drawn, at most."""
    return max(FEWEST_SLICES, min(MOST_SLICES, MOST_SLICES_OF_ALL // max(regions, 1)))


def slices_to_show(of_region: Areas, most: int = MOST_SLICES, avoid: Collection[int] = ()) -> tuple[list[int], int]:
    """Return the slices that show a region, its key image first, and how many slices it has.

    The key image has the largest area. The others are evenly spaced, and at the same places for regions of the same
    extent, so that few images serve all.

    Parameters
    ----------
    of_region
        (slices,), what `areas_of_region` gives.
    most
        How many slices, 2 or more.
    avoid
        Key images of regions that share voxels with this one: viewers write the numbers beside the first contour, and
        two texts in one place can not be read. The next best is taken, where there is another.
    """
    touched = [int(index) for index in np.flatnonzero(of_region)]
    if not touched:
        return [], 0
    free = [index for index in touched if index not in avoid]
    key = max(free or touched, key=lambda index: of_region[index])
    rest = [index for index in touched if index != key]
    if len(touched) <= most:
        return [key, *rest], len(touched)
    stride = -(-(touched[-1] - touched[0] + 1) // (most - 1))
    others = [index for index in rest if index % stride == 0] or [rest[len(rest) // 2]]
    return [key, *others[: most - 1]], len(touched)


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the indices, evenly spaced, the first and the last among them."""
    if len(indices) <= most:
        return list(indices)
    return [indices[round(place)] for place in np.linspace(0, len(indices) - 1, most)]
