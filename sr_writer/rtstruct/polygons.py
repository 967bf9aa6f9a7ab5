"""A region on one slice as polygons that give it back: filled by any common rule, they hold its pixel centres alone.

Coordinates are (column, row) with the centre of the first pixel at (0, 0), as positions in the patient are counted.

A piece is what hangs together by its pixels' edges (4-connectivity); each is one polygon, traversed with the region on
the right as the image is seen, so clockwise. A hole is let in by a channel without width from the border above it
(keyhole, PS3.3 C.8.8.6.3), so that a reader that joins contours and one that lets them cancel find the same. The
channel runs a quarter of a pixel beside the centres: no fill can lose one to it.

Corners of pixels are cut, which makes slanting borders smooth and costs half a pixel of area for each outline, where
that is less than half a percent; smaller pieces keep every corner, and with it their exact area. Everything lies a
thousandth of a pixel within the region's border: so pieces that touch stay apart, and a reader that rounds to whole
pixels comes to the region's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Indices = NDArray[np.int64]

INSET = 1e-3
"""How far within the border a polygon runs [pixels]."""
CUT_FROM = 100
"""Corners are cut in pieces of at least so many pixels for each of their outlines."""
_BESIDE = 0.25  # [pixels]: how far from the centres of its column a channel runs
_CUT = 0.5  # [pixels]: from a corner to the middle of the shortest edge

# The pixels around a vertex, as bits of its pattern
_NORTH_WEST, _NORTH_EAST, _SOUTH_WEST, _SOUTH_EAST = 1, 2, 4, 8
_FALLING = _NORTH_WEST | _SOUTH_EAST
_RISING = _NORTH_EAST | _SOUTH_WEST
_CORNERS_AT = np.array(
    [2 if pattern in (_FALLING, _RISING) else pattern.bit_count() % 2 for pattern in range(16)], dtype=np.int64
)
"""How many corners of the border a vertex is, by its pattern: two where pixels touch at the vertex alone."""


@dataclass(frozen=True, eq=False)
class _Border:
    """The border of a region as corners, each with the one that follows it.

    Parameters
    ----------
    rows, columns
        int64 (corners,), vertices: vertex (r, c) is the top left corner of pixel (r, c). Ordered by row, then column.
    following
        int64 (corners,), the index of the next corner, with the region on the right.
    """

    rows: Indices
    columns: Indices
    following: Indices


def polygons(mask: Mask) -> list[Points]:
    """Return one polygon for each piece of a region, in the order of their topmost pixels.

    Parameters
    ----------
    mask
        bool (rows, columns).

    Returns
    -------
    list of arrays (points, 2)
        (column, row) [pixels], pixel centres at integers; the last point is not the first one again.
    """
    border = _border(mask)
    rings = _rings(border.following.tolist())
    outer = [ring for ring in rings if _is_outer(border, ring)]
    holes = [ring[0] for ring in rings if not _is_outer(border, ring)]
    vertices: Points = np.column_stack([border.columns, border.rows]).astype(np.float64) - 0.5
    if not holes:
        return [_drawn(vertices[ring]) for ring in outer]
    places, following = _with_channels(mask, border, holes)
    vertices = np.concatenate([vertices, places])
    joined = [ring for ring in _rings(following) if ring[0] < len(border.rows)]
    return [_drawn(vertices[ring], np.array(ring) >= len(border.rows)) for ring in joined]


def _border(mask: Mask) -> _Border:
    pattern = _patterns(mask)
    width = pattern.shape[1]
    flat = np.flatnonzero(_CORNERS_AT[pattern])
    patterns = pattern.ravel()[flat]
    twice = _CORNERS_AT[patterns]
    where = np.repeat(flat, twice)
    patterns = np.repeat(patterns, twice)
    rows, columns = np.divmod(where, width)
    # Of two corners at a vertex the first one's horizontal edge is on the left; its vertical edge is above, unless the
    # pixels lie on a rising diagonal
    second = np.diff(where, prepend=-1) == 0
    below = second ^ (patterns == _RISING)
    following = np.empty(len(where), dtype=np.int64)
    left, right = np.arange(0, len(where), 2), np.arange(1, len(where), 2)
    _follow(following, left, right, patterns[left] & _SOUTH_EAST > 0)
    downwards = np.lexsort((below, rows, columns))
    upper, lower = downwards[::2], downwards[1::2]
    _follow(following, upper, lower, patterns[upper] & _SOUTH_WEST > 0)
    return _Border(rows, columns, following)


def _patterns(mask: Mask) -> NDArray[np.uint8]:
    """Return uint8 (rows + 1, columns + 1): which of the four pixels around each vertex are in the region."""
    padded = np.pad(mask, 1).astype(np.uint8)
    pattern: NDArray[np.uint8] = (
        padded[:-1, :-1] * _NORTH_WEST
        | padded[:-1, 1:] * _NORTH_EAST
        | padded[1:, :-1] * _SOUTH_WEST
        | padded[1:, 1:] * _SOUTH_EAST
    )
    return pattern


def _follow(following: Indices, first: Indices, second: Indices, forwards: Mask) -> None:
    """Let each edge lead from its first to its second end, or back."""
    following[np.where(forwards, first, second)] = np.where(forwards, second, first)


def _rings(following: list[int]) -> list[list[int]]:
    """Return the closed lines that corners form, each from its lowest index on; what leads nowhere is none."""
    waiting = following.copy()
    rings = []
    for start in range(len(waiting)):
        if waiting[start] < 0:
            continue
        ring, at = [], start
        while waiting[at] >= 0:
            ring.append(at)
            waiting[at], at = -1, waiting[at]
        rings.append(ring)
    return rings


def _is_outer(border: _Border, ring: list[int]) -> bool:
    """Tell whether a ring lies around its region: at its topmost, leftmost corner it then goes to the right."""
    return bool(border.rows[ring[1]] == border.rows[ring[0]])


def _with_channels(mask: Mask, border: _Border, holes: list[int]) -> tuple[Points, list[int]]:
    """Return the ends of a channel for each hole, (4 x holes, 2), and what follows each corner and then each end.

    Parameters
    ----------
    holes
        The topmost, leftmost corner of each.
    """
    following = border.following.tolist()
    before = np.argsort(border.following)
    vertices = border.rows * (mask.shape[1] + 1) + border.columns
    places: list[tuple[float, float]] = []
    # Each comes next after the corner where its edge begins, on the left, so that the last one is the leftmost
    for hole in sorted(holes, key=lambda corner: -int(border.columns[corner])):
        row, column = int(border.rows[hole]), int(border.columns[hole])
        above = np.flatnonzero(~mask[:row, column])
        top = int(above[-1]) + 1 if len(above) else 0
        edge = int(np.searchsorted(vertices, top * (mask.shape[1] + 1) + column, side="right")) - 1
        at = len(following)
        # edge -> outer end -> inner end -> around the hole -> inner end -> outer end -> where the edge led
        following += [at + 1, hole, at + 3, following[edge]]
        following[edge], following[int(before[hole])] = at, at + 2
        line = column - _BESIDE
        places += [(line, top - 0.5), (line, row - 0.5), (line, row - 0.5), (line, top - 0.5)]
    return np.array(places), following


def _drawn(vertices: Points, channel: Mask | None = None) -> Points:
    """Return a polygon of pixel edges as it is written: a hair within the region, corners cut or not, no idle points.

    Parameters
    ----------
    channel
        Which vertices are ends of channels; None for none of them.
    """
    ends = np.zeros(len(vertices), dtype=np.bool_) if channel is None else channel
    edges = np.roll(vertices, -1, axis=0) - vertices
    lengths = np.abs(edges).sum(axis=1)
    headings = edges / lengths[:, None]
    inwards = np.column_stack([-headings[:, 1], headings[:, 0]]) * INSET
    through = ends & np.roll(ends, -1) & (edges[:, 0] == 0)
    inwards[through] = 0.0
    outlines = 1 + int(np.count_nonzero(through)) // 2
    if _area(vertices) < CUT_FROM * outlines:
        return vertices + inwards + np.roll(inwards, 1, axis=0)
    cut_first = np.where(ends, 0.0, np.minimum(_CUT, lengths))[:, None] * headings
    cut_last = np.where(np.roll(ends, -1), 0.0, np.minimum(_CUT, lengths))[:, None] * headings
    points = np.stack([vertices + cut_first, vertices + edges - cut_last], axis=1) + inwards[:, None]
    return _without_idle_points(points[~through].reshape(-1, 2))


def _area(vertices: Points) -> float:
    """Return the area inside a polygon [pixels]; channels enclose none."""
    columns, rows = vertices.T
    return abs(float(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1))) / 2


def _without_idle_points(points: Points) -> Points:
    """Leave out points that repeat the one before, or lie on the straight way from it to the next."""
    points = points[np.abs(points - np.roll(points, 1, axis=0)).sum(axis=1) > INSET / 2]
    leaving = np.roll(points, -1, axis=0) - points
    arriving = np.roll(leaving, 1, axis=0)
    turning = np.abs(leaving[:, 0] * arriving[:, 1] - leaving[:, 1] * arriving[:, 0]) > INSET / 2
    back = (leaving * arriving).sum(axis=1) < 0
    kept: Points = points[turning | back]
    return kept
