"""Read the contours of an RT Structure Set back, and fill them; nothing of the encoder is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.reading.content_tree import items_named
from sr_writer.source.carrying import element_bytes, tag_of
from sr_writer.source.grid import plane_axes, plane_origin
from sr_writer.source.images import SourceKey, keys_of_reference

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CONTOUR_DATA = tag_of("ContourData")


@dataclass(frozen=True, eq=False)
class ContourInFile:
    """One contour of a region of interest.

    Parameters
    ----------
    images
        The images, or frames of an image, that it refers to.
    numbers
        (numbers,), Contour Data as they stand there: x, y, z of each point in LPS [mm]; empty where one is no number.
    stated
        Number of Contour Points.
    longest
        Characters of the longest number.
    size
        Of the whole value [bytes].
    """

    kind: str
    images: tuple[SourceKey, ...]
    numbers: Points
    stated: int
    longest: int
    size: int

    @property
    def places(self) -> Points:
        """Return (points, 3) in LPS [mm]."""
        return self.numbers.reshape(-1, 3)


def contours_of(region: Dataset) -> Iterator[ContourInFile]:
    """Yield the contours of an item of the ROI Contour Sequence."""
    for item in items_named(region, "ContourSequence"):
        text = element_bytes(item, _CONTOUR_DATA)
        parts = text.strip(b" \0").split(b"\\")
        yield ContourInFile(
            kind=str(item.get("ContourGeometricType", "")),
            images=tuple(
                key for image in items_named(item, "ContourImageSequence") for key in keys_of_reference(image)
            ),
            numbers=_numbers(parts),
            stated=int(item.get("NumberOfContourPoints") or 0),
            longest=max(map(len, parts)),
            size=len(text),
        )


def _numbers(parts: list[bytes]) -> Points:
    try:
        return np.array(parts, dtype=np.float64)
    except ValueError:
        return np.empty(0)


def on_image(places: Points, source: Dataset) -> tuple[Points, float]:
    """Return (points, 2), (column, row) on a source image [pixels], and how far a point is off its plane [mm].

    The centre of the first pixel is at (0, 0).
    """
    axes = plane_axes(source)
    away = places - plane_origin(source)
    normal = np.cross(axes[0], axes[1])
    off = np.abs(away @ normal).max() / np.linalg.norm(normal)
    rows, columns = np.linalg.pinv(axes.T) @ away.T
    return np.column_stack([columns, rows]), float(off)


def area_within(points: Points) -> float:
    """Return the area inside a polygon [pixels], by its points alone."""
    columns, rows = (points - points[0]).T
    return abs(float(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1))) / 2


def filled(points: Points, shape: tuple[int, int]) -> Mask:
    """Return bool (rows, columns): the pixels whose centre is within a polygon, by the even-odd rule.

    What is outside of the image is left out.
    """
    rows, columns = shape
    start, end = points, np.roll(points, -1, axis=0)
    upper = np.where((start[:, 1] <= end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] <= end[:, 1])[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.int64)
    past = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.int64)
    crossed = past - first
    # One entry for each row of centres that each edge crosses
    edge = np.repeat(np.arange(len(points)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    at = np.clip(np.ceil(upper[edge, 0] + (row - upper[edge, 1]) * slope), 0, columns).astype(np.int64)
    turns = np.zeros((rows, columns + 1), dtype=np.uint8)
    np.add.at(turns, (row, at), 1)  # wraps at 256, which is even
    inside: Mask = np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :-1].astype(np.bool_)
    return inside
