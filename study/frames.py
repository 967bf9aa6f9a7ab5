"""A multi-frame image as the frames that it is made of: the header of each, as if it were an image of its own.

An Enhanced image keeps what all frames share in the Shared Functional Groups, and what differs in the Per-Frame ones
(PS3.3 C.7.6.16). A reader of slices wants both flat.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
GEOMETRY_MACROS = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
"""What places a frame in the patient (PS3.3 C.7.6.16.2.1 to C.7.6.16.2.4)."""
VALUE_MACROS = ("PixelValueTransformationSequence",)
"""What turns stored values into the modality's (PS3.3 C.7.6.16.2.9)."""

_LEFT_OUT = frozenset(
    tag_for_keyword(keyword)
    for keyword in (*FUNCTIONAL_GROUPS, "NumberOfFrames", "PixelData", "FloatPixelData", "DoubleFloatPixelData")
)


def frame_count(dataset: Dataset) -> int:
    """Return how many frames have a header of their own; 0 for a classic image."""
    return len(_items(dataset, FUNCTIONAL_GROUPS[1]))


def flattened(dataset: Dataset, number: int, macros: Iterable[str] = GEOMETRY_MACROS) -> Dataset:
    """Return the header of frame `number`, as that of a classic image.

    The top level's elements stand beside those of the frame's functional groups, of which a frame's own wins over a
    shared one; Referenced Frame Number (0008,1160) says which frame it is. Pixel data are left out.

    Parameters
    ----------
    number
        1 and up, as DICOM counts frames.
    macros
        Which functional groups.

    Raises
    ------
    IndexError
        If there is no such frame.
    """
    own = _items(dataset, FUNCTIONAL_GROUPS[1])[number - 1]
    elements = _elements(dataset)
    for group in (*_items(dataset, FUNCTIONAL_GROUPS[0])[:1], own):
        for keyword in macros:
            for item in _items(group, keyword)[:1]:
                elements |= _elements(item)
    header = Dataset(elements)  # update would convert each element, some milliseconds a frame
    header.ReferencedFrameNumber = number
    return header


def frame_number_of(header: Dataset) -> int | None:
    """Return which frame of a multi-frame image a header is of; None for a classic image."""
    number = header.get("ReferencedFrameNumber")
    return None if number is None or number == "" else int(number)


def _elements(dataset: Dataset) -> dict[BaseTag, DataElement | RawDataElement]:
    """Return the elements as they are, those that were not converted yet among them."""
    return {tag: dataset.get_item(tag) for tag in dataset.keys() if tag not in _LEFT_OUT}  # noqa: SIM118


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []
