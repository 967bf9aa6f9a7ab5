"""The contours of a region in the patient, as items of a Contour Sequence (PS3.3 C.8.8.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from scipy import ndimage

from sr_writer.rtstruct.polygons import INSET, polygons
from sr_writer.source.carrying import set_element, tag_of
from sr_writer.source.grid import plane_axes, plane_origin
from sr_writer.source.images import frame_numbers
from study.errors import EncodingError

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

MOST_BYTES: Final = 65534
"""Of Contour Data: an element of VR DS holds no more in Explicit VR, and what is written as UN is lost on many readers
(PS3.5 6.2.2, 7.1.2)."""
_LONGEST_NUMBER = 16  # characters of VR DS (PS3.5 6.2)
_FINENESS = INSET / 5  # [pixels]: rounding never takes a point across the border that it keeps within
_CONTOUR_DATA = tag_of("ContourData")


@dataclass(frozen=True, eq=False)
class Plane:
    """Where a source image lies, and the reference to it.

    Parameters
    ----------
    origin
        (3,), the centre of the first pixel in LPS [mm].
    axes
        (2, 3), the step from one column to the next and from one row to the next in LPS [mm].
    decimals
        Of a coordinate in the patient [mm], so many that rounding does not matter.
    images
        One item: the image, or the frame of a multi-frame image.
    """

    origin: Points
    axes: Points
    decimals: int
    images: ItemSequence

    def placed(self, points: Points) -> Points:
        """Return (points, 3) in LPS [mm] for (points, 2), (column, row) with the first pixel's centre at (0, 0)."""
        places: Points = self.origin + points @ self.axes
        return places


def plane_of(source: Dataset) -> Plane:
    """Return where a source image lies; every image has a plane of its own (PS3.3 C.7.6.2.1.1)."""
    rows_then_columns = plane_axes(source)
    finest = float(np.linalg.norm(rows_then_columns, axis=1).min()) * _FINENESS
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    numbers = frame_numbers(source)
    if numbers is not None:
        reference.ReferencedFrameNumber = numbers
    return Plane(
        origin=plane_origin(source),
        axes=rows_then_columns[::-1],
        decimals=max(0, math.ceil(-math.log10(finest))),
        images=ItemSequence([reference]),
    )


def contour_items(mask: Mask, corner: tuple[int, int], plane: Plane) -> Iterator[Dataset]:
    """Yield a closed planar contour for each piece of a region on one slice.

    Parameters
    ----------
    mask
        bool (rows, columns), cut out of the slice.
    corner
        (row, column) of its first pixel on the slice.

    Raises
    ------
    EncodingError
        If a coordinate does not fit into VR DS.
    """
    offset = np.array(corner[::-1], dtype=np.float64)
    too_long = []
    for points in polygons(mask):
        text = _text(plane.placed(points + offset), plane.decimals)
        if len(text) > MOST_BYTES:
            too_long.append(points)
        else:
            yield _item(len(points), text, plane)
    if too_long:
        labels, _ = ndimage.label(mask)
        for points in too_long:
            first_column, first_row = np.rint(points[np.lexsort(points.T)[0]]).astype(int)
            yield from _halves(labels == labels[first_row, first_column], corner, plane)


def _halves(piece: Mask, corner: tuple[int, int], plane: Plane) -> Iterator[Dataset]:
    """Yield the contours of both halves of a piece that is too ragged for one: together they are the piece."""
    axis = int(np.argmax(piece.shape))
    middle = piece.shape[axis] // 2
    first, second = np.split(piece, [middle], axis=axis)
    further = (corner[0] + middle, corner[1]) if axis == 0 else (corner[0], corner[1] + middle)
    yield from contour_items(first, corner, plane)
    yield from contour_items(second, further, plane)


def _text(places: Points, decimals: int) -> bytes:
    """Return coordinates as VR DS has them: x, y, z of each point [mm], as short as they can be."""
    rounded = np.round(places, decimals) + 0.0  # and no minus before zero
    if not np.isfinite(rounded).all() or np.abs(rounded).max() >= 10.0 ** (_LONGEST_NUMBER - 2 - decimals):
        raise EncodingError("A contour has a coordinate that no decimal string can hold.")
    if (rounded[0, :2] == rounded[-1, :2]).all():
        # plastimatch would take the last point for the first one, whatever its z, and leave it out
        rounded = np.roll(rounded, 1, axis=0)
    text = "\\".join(map(repr, rounded.ravel().tolist())).encode()
    return text + b" " * (len(text) % 2)


def _item(count: int, text: bytes, plane: Plane) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = plane.images
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = count
    # Raw, and said to be encoded as it will be saved: pydicom would make an object of every number, which takes seconds
    item.set_original_encoding(False, True, default_encoding)
    set_element(item, RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, False, True))
    return item
