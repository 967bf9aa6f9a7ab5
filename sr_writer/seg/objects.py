"""Which segments, on which slices, go into which Segmentation object.

One object holds everything, as a rule. It takes several where segments overlap and the type can not say so (a pixel of
a label map has one value; PS3.3 C.8.20.2.3.3), and where a destination shows no object of more than so many frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sr_writer.region.areas import Areas
from study.imaging import LabelMap, Segment

Slices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Piece:
    """What one object shows of one segment: all of it, as a rule.

    Parameters
    ----------
    layer
        Index of the layer of the label map that has the segment.
    slices
        Indices of the slices on which it has voxels here, ascending.
    part, parts
        Which part of the segment it is, 1 and up, and how many there are.
    """

    segment: Segment
    layer: int
    slices: Slices
    part: int = 1
    parts: int = 1


@dataclass(frozen=True, eq=False)
class ObjectContent:
    """What one Segmentation object shows.

    Parameters
    ----------
    pieces
        By segment value: segment number 1, 2, ... of the object.
    number, count
        Which object it is, 1 and up, and how many there are.
    reasons
        Why there are several, in words; none where there is one.
    """

    pieces: tuple[Piece, ...]
    number: int = 1
    count: int = 1
    reasons: tuple[str, ...] = ()


def binary_objects(
    label_map: LabelMap, segments: Sequence[Segment], areas: Areas, most: int | None
) -> list[ObjectContent]:
    """Return what each BINARY object shows: a frame for each segment on each slice that has it.

    Segments stay whole, unless one alone has more frames than an object may have.
    """
    pieces = [cut for piece in _pieces(label_map, segments, areas) for cut in _cut(piece, most, _by_frames)]
    return _numbered(_first_fit(pieces, most, _frames_of_binary), _reasons(most, overlapping=False))


def label_map_objects(
    label_map: LabelMap, segments: Sequence[Segment], areas: Areas, most: int | None, *, overlapping: bool
) -> list[ObjectContent]:
    """Return what each LABELMAP object shows: a frame for every slice from its first to its last that has a voxel.

    Parameters
    ----------
    overlapping
        Whether any voxel belongs to more than one segment. Then each layer has objects of its own; else one object
        shows them all.
    """
    pieces = _pieces(label_map, segments, areas)
    groups = [[piece for piece in pieces if piece.layer == layer] for layer in range(len(label_map.layers))]
    found: list[list[Piece]] = []
    for group in groups if overlapping else [pieces]:
        cuts = [cut for piece in group for cut in _cut(piece, most, _by_extent)]
        # Neighbours share slices, so they share objects
        cuts.sort(key=lambda piece: int(piece.slices[0]))
        found += _first_fit(cuts, most, _frames_of_label_map)
    return _numbered(found, _reasons(most, overlapping=overlapping))


def extent(pieces: Sequence[Piece]) -> range:
    """Return every slice from the first that shows one of the pieces to the last."""
    return range(
        min(int(piece.slices[0]) for piece in pieces),
        max(int(piece.slices[-1]) for piece in pieces) + 1,
    )


def _pieces(label_map: LabelMap, segments: Sequence[Segment], areas: Areas) -> list[Piece]:
    pieces = []
    for segment in segments:
        slices = np.flatnonzero(areas[:, segment.value])
        first = slices[0]
        layer = next(i for i, values in enumerate(label_map.layers) if (values[first] == segment.value).any())
        pieces.append(Piece(segment, layer, slices))
    return pieces


def _cut(piece: Piece, most: int | None, by: Callable[[Slices, int], list[Slices]]) -> Iterator[Piece]:
    """Yield a piece, or where it alone has too many frames for one object, its parts along the slices."""
    runs = [piece.slices] if most is None else by(piece.slices, most)
    for part, slices in enumerate(runs, 1):
        yield replace(piece, slices=slices, part=part, parts=len(runs))


def _by_frames(slices: Slices, most: int) -> list[Slices]:
    return [slices[first : first + most] for first in range(0, len(slices), most)]


def _by_extent(slices: Slices, most: int) -> list[Slices]:
    runs = []
    while len(slices):
        inside = slices < slices[0] + most
        runs.append(slices[inside])
        slices = slices[~inside]
    return runs


def _frames_of_binary(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.slices) for piece in pieces)


def _frames_of_label_map(pieces: Sequence[Piece]) -> int:
    return len(extent(pieces))


def _first_fit(
    pieces: Sequence[Piece], most: int | None, frames_of: Callable[[Sequence[Piece]], int]
) -> list[list[Piece]]:
    """Return the pieces by object: each goes into the first with room; parts of a segment stay in order."""
    found: list[list[Piece]] = []
    last: dict[int, int] = {}
    for piece in pieces:
        after = last.get(piece.segment.value, -1) + 1
        roomy = (n for n in range(after, len(found)) if most is None or frames_of([*found[n], piece]) <= most)
        place = next(roomy, len(found))
        if place == len(found):
            found.append([])
        found[place].append(piece)
        last[piece.segment.value] = place
    return found


def _numbered(found: Sequence[Sequence[Piece]], reasons: tuple[str, ...]) -> list[ObjectContent]:
    return [
        ObjectContent(
            tuple(sorted(pieces, key=lambda piece: piece.segment.value)),
            number,
            len(found),
            reasons if len(found) > 1 else (),
        )
        for number, pieces in enumerate(found, 1)
    ]


def _reasons(most: int | None, *, overlapping: bool) -> tuple[str, ...]:
    words = ("segments overlap",) if overlapping else ()
    return words if most is None else (*words, f"{most} frames at most")
