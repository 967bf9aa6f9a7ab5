r"""Outlines of a region on one slice, as closed polygons in DICOM image coordinates.

Coordinates are (column, row) as in SCOORD (PS3.3 C.18.6.1.2): 0\0 is the top left corner of the top left pixel, so the
centre of that pixel is 0.5\0.5. An outline runs through the middles of the pixel edges that part the region from the
rest, which cuts the corners of pixels and so follows slanting borders without steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_POINTS = 400
MOST_OUTLINES = 4
_SMALLEST_SHARE = 0.01  # of the region's area on the slice: smaller pieces are crumbs
_FINEST = 0.35  # [pixels]: an outline passes centres no nearer, so none ends up on its other side

# Directions of travel along pixel edges with the region on the right: right, down, left, up, as (row, column)
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def outlines(mask: Mask, most: int = MOST_OUTLINES) -> list[Points]:
    """Return the outer outlines of the pieces of a region, the largest piece first; holes are not outlined.

    Parameters
    ----------
    mask
        bool (rows, columns).

    Returns
    -------
    list of arrays (points, 2)
        (column, row) [pixels]; the last point of each equals the first.
    """
    whole = _box(mask)
    if whole is None:
        return []
    labels, _ = ndimage.label(mask[whole])
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    order = np.argsort(-areas[1:], kind="stable") + 1
    kept = [int(label) for label in order[:most] if areas[label] >= _SMALLEST_SHARE * areas.sum()]
    boxes = ndimage.find_objects(labels)
    corner = np.array([whole[1].start, whole[0].start], dtype=np.float64)
    return [corner + _outline(labels[boxes[label - 1]] == label, boxes[label - 1]) for label in kept]


def _box(mask: Mask) -> tuple[slice, slice] | None:
    """Return the smallest part of a slice that has all of a region; None where there is no region."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _outline(piece: Mask, box: tuple[slice, ...]) -> Points:
    """Return the outline of a piece that was cut out of its slice along `box`, (rows, columns)."""
    offset = np.array([box[1].start, box[0].start], dtype=np.float64)
    return simplified(_trace(_filled(np.pad(piece, 1))) - 1.0 + offset)


def _filled(piece: Mask) -> Mask:
    """Return a piece that touches no border without its holes: all that is not joined to the corner from outside."""
    outside, _ = ndimage.label(~piece)
    filled: Mask = outside != outside[0, 0]
    return filled


def _trace(mask: Mask) -> Points:
    """Walk around the one piece of `mask`, which touches no border; return the middles of the pixel edges.

    At a vertex where two pixels touch at a corner alone the walk turns right, so that they stay parted, as
    4-connectivity has it.
    """
    width, inside = mask.shape[1], mask.tobytes()
    steps = [row * width + column for row, column in _STEPS]
    # The pixels ahead on the right and on the left of a vertex, by heading; a vertex has its lower right pixel's index
    right, left = (0, -1, -width - 1, -width), (-width, 0, -1, -width - 1)
    start = inside.index(1)  # the top edge of the topmost, leftmost pixel, travelled to the right
    at, heading, travelled = start, 0, []
    while True:
        travelled.append(heading)
        at += steps[heading]
        if not inside[at + right[heading]]:
            heading = (heading + 1) % 4
        elif inside[at + left[heading]]:
            heading = (heading - 1) % 4
        if at == start and heading == 0:
            return _middles(divmod(start, width), travelled)


def _middles(start: tuple[int, int], headings: Sequence[int]) -> Points:
    """Return the middles of the edges of a closed way from a vertex (row, column); the last equals the first."""
    steps = np.array(_STEPS, dtype=np.float64)[np.array([*headings, headings[0]])]
    vertices = np.cumsum(steps, axis=0) - steps + start
    return np.ascontiguousarray((vertices + steps / 2)[:, ::-1])


def simplified(points: Points, most: int = MOST_POINTS, tolerance: float = _FINEST) -> Points:
    """Return a closed outline with at most `most` points, as close to `points` as that allows [pixels].

    Douglas and Peucker's method (Cartographica 1973;10:112-122) in two halves. Which point a chord is split at does not
    depend on the tolerance, so a coarser one takes less of the same splits.
    """
    splits = _splits(points, tolerance)
    while True:
        kept = _kept(splits, tolerance)
        if len(kept) <= most:
            return points[kept]
        tolerance *= 1.25


class _Splits(NamedTuple):
    """The points at which the chords of one round are split.

    Parameters
    ----------
    away, chords
        Twice the area of the triangle of the point over its chord, and the chord's length.
    parents
        Which split of the round before made the chord; -1 for those of the first round.
    """

    at: NDArray[np.intp]
    away: NDArray[np.float64]
    chords: NDArray[np.float64]
    parents: NDArray[np.intp]


def _splits(points: Points, tolerance: float) -> tuple[list[int], list[_Splits]]:
    """Return the points that are always kept, and round by round the further ones for a tolerance."""
    far = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    ends = [0, far, len(points) - 1]
    first, last = np.array(ends[:-1]), np.array(ends[1:])
    parents = np.array([-1, -1])
    rounds: list[_Splits] = []
    while True:
        wide = last - first >= 2
        if not wide.any():
            return ends, rounds
        split = _worst(points, first[wide], last[wide], parents[wide])
        needed = split.away > tolerance * split.chords
        rounds.append(_Splits(split.at[needed], split.away[needed], split.chords[needed], split.parents[needed]))
        at, which = rounds[-1].at, np.arange(np.count_nonzero(needed))
        first, last = np.concatenate([first[wide][needed], at]), np.concatenate([at, last[wide][needed]])
        parents = np.concatenate([which, which])


def _worst(points: Points, first: NDArray[np.intp], last: NDArray[np.intp], parents: NDArray[np.intp]) -> _Splits:
    """Return for each chord the point between its ends that is farthest from it, the first of several."""
    counts = last - first - 1
    starts = np.cumsum(counts) - counts
    chord = np.repeat(np.arange(len(counts)), counts)
    between = np.arange(counts.sum()) - starts[chord] + first[chord] + 1
    columns, rows = points[:, 0], points[:, 1]
    run, rise = columns[last] - columns[first], rows[last] - rows[first]
    away = np.abs(
        run[chord] * (rows[between] - rows[first][chord]) - rise[chord] * (columns[between] - columns[first][chord])
    )
    farthest = np.maximum.reduceat(away, starts)
    candidates = np.flatnonzero(away == farthest[chord])
    leading = np.diff(chord[candidates], prepend=-1) > 0
    return _Splits(between[candidates[leading]], farthest, np.hypot(run, rise), parents)


def _kept(splits: tuple[list[int], list[_Splits]], tolerance: float) -> NDArray[np.intp]:
    """Return the indices of the points that a tolerance keeps, ascending."""
    ends, rounds = splits
    found = [np.array(ends)]
    before = np.ones(1, dtype=np.bool_)  # the parent -1 of the first round
    for split in rounds:
        needed = before[split.parents] & (split.away > tolerance * split.chords)
        found.append(split.at[needed])
        before = needed
    return np.unique(np.concatenate(found))
