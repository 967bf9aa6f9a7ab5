"""What a Segmentation that was read from a file says of its frames: segment, source image, index."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from sr_writer.reading.content_tree import items_named
from sr_writer.reading.shared_items import share_items
from sr_writer.source.carrying import tag_of
from sr_writer.source.images import SourceKey, keys_of_reference

FRAME_CONTENT = tag_of("FrameContentSequence")
DERIVATION = tag_of("DerivationImageSequence")
IDENTIFICATION = tag_of("SegmentIdentificationSequence")

_ENCODED_INDEX_VALUES = re.compile(rb"\xfe\xff\x00\xe0.{4}\x20\x00\x57\x91UL.{2}", re.DOTALL)

Groups = dict[BaseTag, DataElement | RawDataElement]


class Shown(NamedTuple):
    """What a frame shows: which segment, 0 where it may be all (LABELMAP), on which source image."""

    number: int
    image: SourceKey


def frames_of(segmentation: Dataset) -> Sequence[Dataset]:
    """Return what is said of each frame; functional groups that are equal in the file are one object, decoded once.

    There are thousands of frames, which show some hundred segments on some hundred slices.
    """
    share_items(segmentation, (FRAME_CONTENT,))
    frames = items_named(segmentation, "PerFrameFunctionalGroupsSequence")
    decoded: dict[tuple[BaseTag, bytes], DataElement] = {}
    for frame in frames:
        for tag, element in groups_of_frame(frame).items():
            if isinstance(element, RawDataElement) and tag != FRAME_CONTENT:  # what another writer encoded in his way
                key = (tag, bytes(element.value or b""))
                if key not in decoded:
                    decoded[key] = frame[tag]
                frame[tag] = decoded[key]
    return frames


def groups_of_frame(frame: Dataset) -> Groups:
    """Return the functional groups of a frame by their tags, none of them converted."""
    return dict(frame.items())


def shown_by(segmentation: Dataset, frames: Sequence[Dataset]) -> list[Shown]:
    """Return what each frame shows; what frames share is looked at once."""
    is_label_map = segmentation.get("SegmentationType") == "LABELMAP"
    numbers: dict[int, int] = {}
    images: dict[int, SourceKey] = {}
    found = []
    for frame in frames:
        groups = groups_of_frame(frame)
        number = 0
        if not is_label_map:
            group = id(groups.get(IDENTIFICATION))
            if group not in numbers:
                numbers[group] = segment_number(segmentation, frame)
            number = numbers[group]
        group = id(groups.get(DERIVATION))
        if group not in images:
            images[group] = source_key(frame)
        found.append(Shown(number, images[group]))
    return found


def segment_number(segmentation: Dataset, frame: Dataset) -> int:
    """Return the segment that a frame shows; it stands in the shared groups where there is one segment only."""
    groups = frame if "SegmentIdentificationSequence" in frame else segmentation.SharedFunctionalGroupsSequence[0]
    return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def source_key(frame: Dataset) -> SourceKey:
    """Return the first source image of a frame, and the frame of it."""
    return next(keys_of_reference(frame.DerivationImageSequence[0].SourceImageSequence[0]))


def dimension_index_values(frame: Dataset) -> list[int]:
    """Return the Dimension Index Values of a frame; none where it has none."""
    element = groups_of_frame(frame).get(FRAME_CONTENT)
    if isinstance(element, RawDataElement) and element.value:
        # Every frame has its own, most often alone in its item: not worth an item of pydicom's
        head = _ENCODED_INDEX_VALUES.match(element.value)
        if head and struct.unpack_from("<H", element.value, 14)[0] == len(element.value) - head.end():
            return [value for (value,) in struct.iter_unpack("<I", element.value[head.end() :])]
    values = (items_named(frame, "FrameContentSequence") or (Dataset(),))[0].get("DimensionIndexValues")
    return [values] if isinstance(values, int) else list(values or ())
