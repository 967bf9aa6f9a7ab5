r"""Outlines of a region on one slice, as closed polygons in DICOM image coordinates.

Coordinates are (column, row) as in SCOORD (PS3.3 C.18.6.1.2): 0\0 is the top left corner of the top left pixel, so the
centre of that pixel is 0.5\0.5. An outline runs through the middles of the pixel edges that part the region from the
rest, which cuts the corners of pixels and so follows slanting borders without steps.
"""

from __future__ import annotations

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
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return []
    whole = boxes[0]
    labels, _ = ndimage.label(mask[whole])
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    order = np.argsort(-areas[1:], kind="stable") + 1
    kept = [int(label) for label in order[:most] if areas[label] >= _SMALLEST_SHARE * areas.sum()]
    boxes = ndimage.find_objects(labels)
    corner = np.array([whole[1].start, whole[0].start], dtype=np.float64)
    return [corner + _outline(labels[boxes[label - 1]] == label, boxes[label - 1]) for label in kept]


def _outline(piece: Mask, box: tuple[slice, ...]) -> Points:
    """Return the outline of a piece that was cut out of its slice along `box`, (rows, columns)."""
    filled = ndimage.binary_fill_holes(piece)
    offset = np.array([box[1].start, box[0].start], dtype=np.float64)
    return simplified(_trace(np.pad(filled, 1)) - 1.0 + offset)


def _trace(mask: Mask) -> Points:
    """Walk around the one piece of `mask`, which touches no border; return the middles of the pixel edges.

    At a vertex where two pixels touch at a corner alone the walk turns right, so that they stay parted, as
    4-connectivity has it.
    """
    row, column = (int(index) for index in np.argwhere(mask)[0])
    start = (row, column, 0)  # the top edge of the topmost, leftmost pixel, travelled to the right
    middles = []
    at = start
    inside = mask.tolist()
    while True:
        row, column, heading = at
        step_row, step_column = _STEPS[heading]
        middles.append((column + step_column / 2, row + step_row / 2))
        row, column = row + step_row, column + step_column
        at = (row, column, _turn(inside, row, column, heading))
        if at == start:
            return np.array([*middles, middles[0]])


def _turn(inside: list[list[bool]], row: int, column: int, heading: int) -> int:
    """Return the next heading at the vertex (row, column), the top left corner of the pixel of the same indices."""
    # The pixels ahead on the right and on the left, by heading, relative to the vertex
    right, left = (
        ((0, 0), (-1, 0)),
        ((0, -1), (0, 0)),
        ((-1, -1), (0, -1)),
        ((-1, 0), (-1, -1)),
    )[heading]
    if not inside[row + right[0]][column + right[1]]:
        return (heading + 1) % 4
    return (heading - 1) % 4 if inside[row + left[0]][column + left[1]] else heading


def simplified(points: Points, most: int = MOST_POINTS, tolerance: float = _FINEST) -> Points:
    """Return a closed outline with at most `most` points, as close to `points` as that allows [pixels]."""
    while True:
        kept = _closed_douglas_peucker(points, tolerance)
        if len(kept) <= most:
            return kept
        tolerance *= 1.25


def _closed_douglas_peucker(points: Points, tolerance: float) -> Points:
    """Simplify a closed line by Douglas and Peucker's method (Cartographica 1973;10:112-122), in two halves."""
    far = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    columns, rows = np.ascontiguousarray(points.T)
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, far, len(points) - 1]] = True
    waiting = [(0, far), (far, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        run, rise = columns[last] - columns[first], rows[last] - rows[first]
        between = slice(first + 1, last)
        # Twice the area of the triangle over the chord: the distance from it, times the chord's length
        away = np.abs(run * (rows[between] - rows[first]) - rise * (columns[between] - columns[first]))
        worst = int(away.argmax())
        if away[worst] > tolerance * float(np.hypot(run, rise)):
            middle = first + 1 + worst
            keep[middle] = True
            waiting += [(first, middle), (middle, last)]
    return points[keep]
