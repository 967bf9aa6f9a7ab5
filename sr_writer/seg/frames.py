"""The frames of a Segmentation: which there are, and the functional groups that say what and where each one is.

A Segmentation has thousands of frames, and what two frames of one slice say of their place is the same. So each
functional group is encoded once, and an item of the Per-Frame Functional Groups Sequence is put together from bytes
(PS3.3 C.7.6.16, PS3.5 7.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.seg.parts import Part, extent
from sr_writer.source.carrying import set_element, tag_of
from sr_writer.source.images import frame_numbers, instance_items
from sr_writer.source.stand_ins import decimal

_ITEM = b"\xfe\xff\x00\xe0"  # (FFFE,E000) in little endian


@dataclass(frozen=True)
class Frame:
    """One frame: which slice it lies on, and which segment it shows; None where it may show all (LABELMAP)."""

    index: int
    segment_number: int | None


def binary_frames(part: Part) -> list[Frame]:
    """Return a frame for each segment on each slice that has it, segment after segment.

    The slices of each come as highdicom orders them, against their normal: from the head down in axial images.
    """
    pieces = enumerate(part.pieces, 1)
    return [Frame(int(index), number) for number, piece in pieces for index in piece.slices[::-1]]


def label_map_frames(part: Part) -> list[Frame]:
    """Return a frame for every slice from the last with a voxel to the first.

    Slices in between without a voxel have one too: then the frames are a volume without gaps, which every reader takes.
    """
    return [Frame(index, None) for index in reversed(extent(part.pieces))]


class PlacesOfSlices:
    """What the frames on each slice say of their place: encoded once, for all frames of all objects of a result."""

    def __init__(self, sources: Sequence[Dataset]) -> None:
        self._sources = sources
        self._derivations: dict[int, bytes] = {}
        self._positions: dict[int, bytes] = {}

    def derivation(self, index: int, template: Dataset) -> bytes:
        """Return the Derivation Image Sequence of the frames on a slice: what `template` has, with its source image."""
        if index not in self._derivations:
            self._derivations[index] = _derivation(template, self._sources[index])
        return self._derivations[index]

    def position(self, index: int) -> bytes:
        """Return the Plane Position Sequence of the frames on a slice."""
        if index not in self._positions:
            self._positions[index] = _position(self._sources[index])
        return self._positions[index]


def set_frames(segmentation: Dataset, frames: Sequence[Frame], slices: PlacesOfSlices) -> None:
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
    indices = sorted({frame.index for frame in frames}, reverse=True)
    ranks = {index: rank for rank, index in enumerate(indices, 1)}
    identified = "SegmentIdentificationSequence" in template
    numbers = {frame.segment_number for frame in frames}
    identifications = {number: _identification(number) if identified else b"" for number in numbers}
    items = (
        # In the order of their tags
        slices.derivation(frame.index, template)
        + _frame_content(frame, ranks[frame.index])
        + slices.position(frame.index)
        + identifications[frame.segment_number]
        for frame in frames
    )
    set_element(segmentation, _sequence("PerFrameFunctionalGroupsSequence", items))
    segmentation.NumberOfFrames = len(frames)


def _derivation(template: Dataset, source: Dataset) -> bytes:
    made_up = template.DerivationImageSequence[0]
    image = Dataset()
    image.ReferencedSOPClassUID = source.SOPClassUID
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    numbers = frame_numbers(source)
    if numbers is not None:
        image.ReferencedFrameNumber = numbers
    image.PurposeOfReferenceCodeSequence = made_up.SourceImageSequence[0].PurposeOfReferenceCodeSequence
    image.SpatialLocationsPreserved = made_up.SourceImageSequence[0].SpatialLocationsPreserved
    item, groups = Dataset(), Dataset()
    item.DerivationCodeSequence = made_up.DerivationCodeSequence
    item.SourceImageSequence = ItemSequence([image])
    groups.DerivationImageSequence = ItemSequence([item])
    return _encoded(groups)


def _position(source: Dataset) -> bytes:
    item, groups = Dataset(), Dataset()
    item.ImagePositionPatient = [decimal(value) for value in source.ImagePositionPatient]
    groups.PlanePositionSequence = ItemSequence([item])
    return _encoded(groups)


def _identification(number: int | None) -> bytes:
    item, groups = Dataset(), Dataset()
    item.ReferencedSegmentNumber = number
    groups.SegmentIdentificationSequence = ItemSequence([item])
    return _encoded(groups)


def _frame_content(frame: Frame, rank: int) -> bytes:
    """Return a Frame Content Sequence with Dimension Index Values (VR UL): segment number, if any, and rank."""
    values = [rank] if frame.segment_number is None else [frame.segment_number, rank]
    element = struct.pack("<2H2sH", 0x0020, 0x9157, b"UL", 4 * len(values)) + struct.pack(f"<{len(values)}I", *values)
    item = _ITEM + struct.pack("<I", len(element)) + element
    return struct.pack("<2H2s2xI", 0x0020, 0x9111, b"SQ", len(item)) + item


def references(sources: Sequence[Dataset]) -> tuple[RawDataElement, RawDataElement]:
    """Return Source Image Sequence and Referenced Series Sequence of all source images (PS3.3 C.12.4, C.12.2)."""
    instances = instance_items(sources)
    item = Dataset()
    item.SeriesInstanceUID = str(sources[0].SeriesInstanceUID)
    item.ReferencedInstanceSequence = ItemSequence(instances)
    images = [_encoded(instance) for instance in instances]
    return _sequence("SourceImageSequence", images), _sequence("ReferencedSeriesSequence", [_encoded(item)])


def _sequence(keyword: str, items: Iterable[bytes]) -> RawDataElement:
    """Return a sequence of items that are encoded already, for `sr_writer.files` to write as it stands."""
    value = b"".join(_ITEM + struct.pack("<I", len(item)) + item for item in items)
    return RawDataElement(tag_of(keyword), "SQ", len(value), value, 0, False, True)


def _encoded(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()
