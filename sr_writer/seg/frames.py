"""The frames of a Segmentation: which there are, and the functional groups that say what and where each one is.

A Segmentation has thousands of frames, and what two frames of one slice say of their place is the same. So each
functional group is encoded once, and an item of the Per-Frame Functional Groups Sequence is put together from bytes
(PS3.3 C.7.6.16, PS3.5 7.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.seg.objects import ObjectContent, extent
from sr_writer.source.carrying import set_element, tag_of
from sr_writer.source.images import frame_numbers
from sr_writer.source.stand_ins import decimal

_ITEM = b"\xfe\xff\x00\xe0"  # (FFFE,E000) in little endian


class Frame(NamedTuple):
    """One frame: which slice it lies on, and which segment it shows; None where it may show all (LABELMAP)."""

    slice_index: int
    segment_number: int | None


def binary_frames(content: ObjectContent) -> list[Frame]:
    """Return a frame for each segment on each slice that has it, segment after segment.

    The slices of each come as highdicom orders them, against their normal: from the head down in axial images.
    """
    pieces = enumerate(content.pieces, 1)
    return [Frame(int(index), number) for number, piece in pieces for index in piece.slices[::-1]]


def label_map_frames(content: ObjectContent) -> list[Frame]:
    """Return a frame for every slice from the last with a voxel to the first.

    Slices in between without a voxel have one too: then the frames are a volume without gaps, which every reader takes.
    """
    return [Frame(index, None) for index in reversed(extent(content.pieces))]


@dataclass(frozen=True)
class Qualifiers:
    """What every frame says alike: how it was derived, and what its source image is to it; encoded."""

    of_derivation: bytes
    of_image: bytes

    @classmethod
    def of(cls, frame: Dataset) -> Qualifiers:
        """Return what a frame that highdicom made says."""
        made_up = frame.DerivationImageSequence[0]
        derivation, image = Dataset(), Dataset()
        derivation.DerivationCodeSequence = made_up.DerivationCodeSequence
        image.PurposeOfReferenceCodeSequence = made_up.SourceImageSequence[0].PurposeOfReferenceCodeSequence
        image.SpatialLocationsPreserved = made_up.SourceImageSequence[0].SpatialLocationsPreserved
        return cls(_encoded(derivation), _encoded(image))


class SourceReferences:
    """What objects and frames say of their source images: encoded once, for all frames of all objects of a result."""

    def __init__(self, sources: Sequence[Dataset]) -> None:
        self._sources = sources
        self._derivations: dict[int, bytes] = {}
        self._positions: dict[int, bytes] = {}

    @cached_property
    def of_object(self) -> tuple[RawDataElement, RawDataElement]:
        """Return Source Image Sequence and Referenced Series Sequence of all images (PS3.3 C.12.4, C.12.2)."""
        instances = _items(
            _reference(source) for source in {str(source.SOPInstanceUID): source for source in self._sources}.values()
        )
        series = _sequence("ReferencedInstanceSequence", instances)
        series += _element("SeriesInstanceUID", "UI", str(self._sources[0].SeriesInstanceUID))
        return _raw("SourceImageSequence", instances), _raw("ReferencedSeriesSequence", _items([series]))

    def derivation(self, index: int, qualifiers: Qualifiers) -> bytes:
        """Return the Derivation Image Sequence of the frames on a slice."""
        if index not in self._derivations:
            source = self._sources[index]
            image = _reference(source, frame_numbers(source)) + qualifiers.of_image
            item = _sequence("SourceImageSequence", _items([image])) + qualifiers.of_derivation
            self._derivations[index] = _sequence("DerivationImageSequence", _items([item]))
        return self._derivations[index]

    def position(self, index: int) -> bytes:
        """Return the Plane Position Sequence of the frames on a slice."""
        if index not in self._positions:
            place = "\\".join(str(decimal(value)) for value in self._sources[index].ImagePositionPatient)
            item = _element("ImagePositionPatient", "DS", place)
            self._positions[index] = _sequence("PlanePositionSequence", _items([item]))
        return self._positions[index]


def set_frames(segmentation: Dataset, frames: Sequence[Frame], references: SourceReferences) -> None:
    """Make a Segmentation say of each frame what it shows and where: the plane of its source, and the reference to it.

    The index of a frame along the slices counts those that have a frame, from 1, in the order of the frames (PS3.3
    C.7.6.17).

    Parameters
    ----------
    segmentation
        As highdicom made it, with one frame at least, which says how references are qualified. If one segment stands in
        the shared functional groups, it is repeated in no frame.
    """
    template = segmentation.PerFrameFunctionalGroupsSequence[0]
    qualifiers = Qualifiers.of(template)
    indices = sorted({frame.slice_index for frame in frames}, reverse=True)
    ranks = {index: rank for rank, index in enumerate(indices, 1)}
    identified = "SegmentIdentificationSequence" in template
    numbers = {frame.segment_number for frame in frames}
    identifications = {number: _identification(number) if identified else b"" for number in numbers}
    items = (
        # In the order of their tags
        references.derivation(frame.slice_index, qualifiers)
        + _frame_content(frame, ranks[frame.slice_index])
        + references.position(frame.slice_index)
        + identifications[frame.segment_number]
        for frame in frames
    )
    set_element(segmentation, _raw("PerFrameFunctionalGroupsSequence", _items(items)))
    segmentation.NumberOfFrames = len(frames)


def _reference(source: Dataset, frames: Sequence[int] | None = None) -> bytes:
    """Return a reference to an image, or to frames of it (Image SOP Instance Reference Macro)."""
    reference = _element("ReferencedSOPClassUID", "UI", str(source.SOPClassUID))
    reference += _element("ReferencedSOPInstanceUID", "UI", str(source.SOPInstanceUID))
    if frames is not None:
        reference += _element("ReferencedFrameNumber", "IS", "\\".join(map(str, frames)))
    return reference


def _identification(number: int | None) -> bytes:
    item, groups = Dataset(), Dataset()
    item.ReferencedSegmentNumber = number
    groups.SegmentIdentificationSequence = ItemSequence([item])
    return _encoded(groups)


def _frame_content(frame: Frame, rank: int) -> bytes:
    """Return a Frame Content Sequence with Dimension Index Values: segment number, if any, and rank."""
    if frame.segment_number is None:
        return _content_until_values(1) + struct.pack("<I", rank)
    return _content_until_values(2) + struct.pack("<2I", frame.segment_number, rank)


@cache
def _content_until_values(count: int) -> bytes:
    """Return what a Frame Content Sequence with so many Dimension Index Values (VR UL) begins with."""
    item, groups = Dataset(), Dataset()
    item.DimensionIndexValues = [0] * count
    groups.FrameContentSequence = ItemSequence([item])
    return _encoded(groups)[: -4 * count]


def _element(keyword: str, vr: str, value: str) -> bytes:
    """Return an element of ASCII text in Explicit VR Little Endian (PS3.5 7.1.2)."""
    tag, content = tag_of(keyword), value.encode("ascii")
    content += (b"\0" if vr == "UI" else b" ") * (len(content) % 2)
    return struct.pack("<2H2sH", tag.group, tag.element, vr.encode(), len(content)) + content


def _items(contents: Iterable[bytes]) -> bytes:
    return b"".join(_ITEM + struct.pack("<I", len(content)) + content for content in contents)


def _sequence(keyword: str, items: bytes) -> bytes:
    tag = tag_of(keyword)
    return struct.pack("<2H2s2xI", tag.group, tag.element, b"SQ", len(items)) + items


def _raw(keyword: str, items: bytes) -> RawDataElement:
    """Return a sequence that is encoded already, for `sr_writer.files` to write as it stands."""
    return RawDataElement(tag_of(keyword), "SQ", len(items), items, 0, False, True)


def _encoded(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()
