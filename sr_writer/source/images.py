"""Which image, or which frame of a multi-frame image, a slice of the source series is, and how others refer to it.

A classic series has an image for each slice. A multi-frame image has them all as its frames: one SOP Instance UID, and
a frame number for each (PS3.3 10.3, Image SOP Instance Reference Macro).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sr_writer.source.carrying import ascii_text_of, decimals, tag_of
from study.frames import frame_number_of

_PLANE_TAGS = {
    keyword: tag_of(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
}
_REFERENCED_INSTANCE, _REFERENCED_FRAME = tag_of("ReferencedSOPInstanceUID"), tag_of("ReferencedFrameNumber")
_UID_TAGS = tuple(map(tag_of, ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")))

SourceKey = tuple[str, int | None]
"""SOP Instance UID, and the number of the frame, 1 and up; None for an image that is no multi-frame one."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Where images lie in the patient: a row for each of them.

    Parameters
    ----------
    origins
        (images, 3), the centres of the first pixels in LPS [mm].
    cosines
        (images, 6), directions along a row and along a column.
    spacings
        (images, 2), from row to row and from column to column [mm].
    shapes
        (images, 2), rows and columns.
    """

    origins: NDArray[np.float64]
    cosines: NDArray[np.float64]
    spacings: NDArray[np.float64]
    shapes: NDArray[np.int64]


class SourceImages(tuple[Dataset, ...]):
    """The headers of the source images in slice order, and what is asked of all of them again and again, read once."""

    @classmethod
    def of(cls, sources: Sequence[Dataset]) -> SourceImages:
        """Return the headers, with what was read of them before where they have that."""
        return sources if isinstance(sources, SourceImages) else cls(sources)

    @cached_property
    def keys(self) -> tuple[SourceKey, ...]:
        """Return which image or frame each header is of."""
        return tuple(map(key_of, self))

    @cached_property
    def by_key(self) -> dict[SourceKey, Dataset]:
        """Return the header of each slice by its image or frame."""
        return dict(zip(self.keys, self, strict=True))

    @cached_property
    def classes(self) -> dict[str, str]:
        """Return the SOP Class UID of each image by its SOP Instance UID."""
        return {str(source.SOPInstanceUID): str(source.SOPClassUID) for source in self}

    @cached_property
    def uids(self) -> frozenset[str]:
        """Return the UIDs of the images, their series, studies and Frames of Reference; "" where one is absent."""
        return frozenset(ascii_text_of(source, tag) for source in self for tag in _UID_TAGS)

    @cached_property
    def lacking(self) -> tuple[frozenset[str], ...]:
        """Return for each image which of the attributes that place it in the patient it lacks, by keyword."""
        return tuple(
            frozenset(keyword for keyword, tag in _PLANE_TAGS.items() if not decimals(source, tag)) for source in self
        )

    @cached_property
    def planes(self) -> Planes:
        """Return where the images lie; ValueError where one has no place."""
        origins, cosines, spacings = (
            np.array([decimals(source, tag) for source in self], dtype=np.float64).reshape(len(self), length)
            for tag, length in zip(_PLANE_TAGS.values(), (3, 6, 2), strict=True)
        )
        shapes = np.array([(int(source.Rows), int(source.Columns)) for source in self])
        return Planes(origins, cosines, spacings, shapes)


def key_of(source: Dataset) -> SourceKey:
    """Return which image or frame the header of a slice is of."""
    return str(source.SOPInstanceUID), frame_number_of(source)


def by_key(sources: Sequence[Dataset]) -> dict[SourceKey, Dataset]:
    """Return the header of each slice by its image or frame."""
    return SourceImages.of(sources).by_key


def keys_of_reference(item: Dataset) -> Iterator[SourceKey]:
    """Yield what an item that refers to an image means: each frame that it names; the whole image if it names none."""
    uid = ascii_text_of(item, _REFERENCED_INSTANCE)
    numbers = item.get("ReferencedFrameNumber") if _REFERENCED_FRAME in item.keys() else None  # noqa: SIM118 - quicker
    if numbers is None or numbers == "":
        yield uid, None
        return
    for number in numbers if isinstance(numbers, MultiValue) else [numbers]:
        yield uid, int(number)


def frame_numbers(source: Dataset) -> list[int] | None:
    """Return the Referenced Frame Number of a reference to a slice; None for an image that is no multi-frame one."""
    number = frame_number_of(source)
    return None if number is None else [number]


def instance_items(sources: Sequence[Dataset]) -> list[Dataset]:
    """Return a reference to each instance among the sources, once, in their order (SOP Instance Reference Macro)."""
    items: dict[str, Dataset] = {}
    for source in sources:
        item = Dataset()
        item.ReferencedSOPClassUID = source.SOPClassUID
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
        items.setdefault(str(source.SOPInstanceUID), item)
    return list(items.values())
