"""Which image, or which frame of a multi-frame image, a slice of the source series is, and how others refer to it.

A classic series has an image for each slice. A multi-frame image has them all as its frames: one SOP Instance UID, and
a frame number for each (PS3.3 10.3, Image SOP Instance Reference Macro).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from study.frames import frame_number_of

SourceKey = tuple[str, int | None]
"""SOP Instance UID, and the number of the frame, 1 and up; None for an image that is no multi-frame one."""


def key_of(source: Dataset) -> SourceKey:
    """Return which image or frame the header of a slice is of."""
    return str(source.SOPInstanceUID), frame_number_of(source)


def by_key(sources: Sequence[Dataset]) -> dict[SourceKey, Dataset]:
    """Return the header of each slice by its image or frame."""
    return {key_of(source): source for source in sources}


def keys_of_reference(item: Dataset) -> Iterator[SourceKey]:
    """Yield what an item that refers to an image means: each frame that it names; the whole image if it names none."""
    uid = str(item.get("ReferencedSOPInstanceUID", ""))
    numbers = item.get("ReferencedFrameNumber")
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
