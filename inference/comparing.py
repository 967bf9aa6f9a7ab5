"""How far two label maps of one series are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.imaging import LabelMap


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
    values = [segment.value for segment in label_map.segments]
    counts = np.zeros((len(values), 3), dtype=np.int64)
    differing = held = 0
    for index in range(len(label_map.values)):
        ours, theirs = _masks(label_map, index, values), _masks(other, index, values)
        differing += int((ours != theirs).any(axis=0).sum())
        held += int((ours | theirs).any(axis=0).sum())
        counts += np.stack([(ours & theirs).sum((1, 2)), ours.sum((1, 2)), theirs.sum((1, 2))], axis=1)
    labels = [segment.label for segment in label_map.segments]
    return Difference(differing, held, dict(zip(labels, map(_dice, counts), strict=True)))


def _masks(label_map: LabelMap, index: int, values: Sequence[int]) -> NDArray[np.bool_]:
    """Return bool (segments, rows, columns) of one slice."""
    return np.stack([label_map.mask(index, [value]) for value in values])


def _dice(counts: NDArray[np.int64]) -> float | None:
    both, ours, theirs = counts.tolist()
    return 2 * both / (ours + theirs) if ours + theirs else None
