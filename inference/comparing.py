"""How far two label maps of one series are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.imaging import LabelMap, Segment

_Plane = NDArray[np.intp]  # numbers of segments, (rows, columns)


@dataclass(frozen=True)
class Difference:
    """How far two label maps are apart.

    Parameters
    ----------
    differing, held
        Voxels that have another label (or other labels, where segments overlap) in one than in the other; voxels that
        have a label in either.
    dice
        By the label of each segment; None for one that neither has.
    """

    differing: int
    held: int
    dice: dict[str, float | None]

    @property
    def share(self) -> float:
        """Return the part of the voxels with a label that differ, 0 to 1."""
        return self.differing / self.held if self.held else 0.0


def compare(label_map: LabelMap, other: LabelMap) -> Difference:
    """Return how far two label maps of one series are apart.

    Raises
    ------
    ValueError
        If they lie on grids of another shape, or have other segments.
    """
    if label_map.values.shape != other.values.shape or label_map.segments != other.segments:
        raise ValueError("Label maps of another grid, or with other segments, are not compared.")
    numbers = _numbers(label_map.segments)
    counts = np.zeros((len(label_map.segments), 3), dtype=np.int64)
    differing = held = 0
    for index in range(len(label_map.values)):
        ours, theirs = ([numbers[layer[index]] for layer in each.layers] for each in (label_map, other))
        counts += np.stack(
            [_shared(ours, theirs, len(counts)), *(_held(each, len(counts)) for each in (ours, theirs))], 1
        )
        unequal, either = _voxels(ours, theirs)
        differing, held = differing + unequal, held + either
    labels = [segment.label for segment in label_map.segments]
    return Difference(differing, held, dict(zip(labels, map(_dice, counts), strict=True)))


def _numbers(segments: Sequence[Segment]) -> _Plane:
    """Return the number of the segment, from 1 on, of each value that a label map may hold; 0 for what is none."""
    numbers = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.intp)
    for number, segment in enumerate(segments, 1):
        numbers[segment.value] = number
    return numbers


def _held(layers: Sequence[_Plane], segments: int) -> NDArray[np.int64]:
    """Return the voxels of each segment in a slice: all of them in one pass, however many they are."""
    counts = np.zeros(segments, dtype=np.int64)
    for layer in layers:
        counts += np.bincount(layer.ravel(), minlength=segments + 1)[1:]
    return counts


def _shared(ours: Sequence[_Plane], theirs: Sequence[_Plane], segments: int) -> NDArray[np.int64]:
    """Return the voxels that each segment has in both slices, whatever layers it lies in."""
    return _held([one[one == other] for one in ours for other in theirs], segments)


def _voxels(ours: Sequence[_Plane], theirs: Sequence[_Plane]) -> tuple[int, int]:
    """Return how many voxels have other segments in one slice than in the other, and how many have any in either."""
    shared = sum(((one == other) & (one > 0)).astype(np.intp) for one in ours for other in theirs)
    of_ours, of_theirs = (sum((layer > 0).astype(np.intp) for layer in layers) for layers in (ours, theirs))
    unequal = (shared != of_ours) | (shared != of_theirs)
    return int(np.count_nonzero(unequal)), int(np.count_nonzero(of_ours + of_theirs))


def _dice(counts: NDArray[np.int64]) -> float | None:
    both, ours, theirs = counts.tolist()
    return 2 * both / (ours + theirs) if ours + theirs else None
