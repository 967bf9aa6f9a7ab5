"""What the pixels of a Segmentation, read back from its file, must keep: every frame and segment shows something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.reading.content_tree import items_named
from sr_writer.reading.frames import Shown
from sr_writer.reading.segmentation import (
    Bits,
    frame_bits,
    is_label_map,
    number_frames,
    values_in,
)
from sr_writer.source.images import SourceImages, SourceKey
from study.errors import Reason


def size_reasons(segmentation: Dataset, frames: int) -> Iterator[Reason]:
    """Yield what is wrong with the bits of a pixel and the size of all of them."""
    allowed = (8, 16) if is_label_map(segmentation) else (1,)
    bits = segmentation.get("BitsAllocated")
    if bits not in allowed or segmentation.get("BitsStored") != bits or segmentation.get("HighBit") != bits - 1:
        yield Reason("Form", f"BitsAllocated, BitsStored and HighBit are not {allowed[0]}, {allowed[0]} and below.")
        return
    content = segmentation.get("PixelData") or b""
    if segmentation.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian:
        pixels = frames * int(segmentation.get("Rows") or 0) * int(segmentation.get("Columns") or 0)
        needed = -(-pixels * bits // 8)
        if len(content) != needed + needed % 2:
            yield Reason("Form", f"Pixel Data has {len(content)} bytes, the frames need {needed + needed % 2}.")
    elif bits == 1:
        yield Reason("Form", "Single bits are compressed.")
    else:
        fragments = sum(1 for _ in generate_fragments(content)) - 1  # the first one is the offset table
        if fragments != frames:
            yield Reason("Form", f"Pixel Data has {fragments} fragments for {frames} frames.")


def pixel_reasons(segmentation: Dataset, shown: Sequence[Shown], sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield what is wrong with the pixels of a Segmentation of sound form.

    Parameters
    ----------
    shown
        By each frame.
    """
    if is_label_map(segmentation):
        yield from _numbers(segmentation, shown, sources)
    else:
        yield from _bits(segmentation, shown)


def _bits(segmentation: Dataset, shown: Sequence[Shown]) -> Iterator[Reason]:
    """Demand that every frame shows something, every segment has a frame, and no frame one that is not there."""
    pixels = int(segmentation.Rows) * int(segmentation.Columns)
    content = segmentation.PixelData
    empty = overlapping = 0
    covered: dict[SourceKey, Bits] = {}
    for index, (_, image) in enumerate(shown):
        bits = frame_bits(content, index, pixels)
        earlier = covered.setdefault(image, np.zeros_like(bits))
        empty += not bits.any()
        overlapping += bool((earlier & bits).any())
        earlier |= bits
    if empty:
        yield Reason("Pixels", f"{empty} frames are empty.", {"frames": empty})
    said = segmentation.get("SegmentsOverlap")
    if said != ("YES" if overlapping else "NO"):
        yield Reason("Pixels", f"Segments Overlap is {said}, and {overlapping} frames overlap others.")
    if {number for number, _ in shown} != _described(segmentation):
        yield Reason("Segment", "The frames do not show exactly the segments that are described.")


def _numbers(segmentation: Dataset, by_frame: Sequence[Shown], sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand a frame on every slice from one with a voxel to another, and no values but those that are described."""
    values_by_frame = [values_in(numbers) for numbers in number_frames(segmentation)]
    ranks = {key: rank for rank, key in enumerate(SourceImages.of(sources).keys)}
    shown = {
        ranks[image]: values for (_, image), values in zip(by_frame, values_by_frame, strict=True) if image in ranks
    }
    ends = [rank for rank in {min(shown, default=0), max(shown, default=0)} if not shown.get(rank)]
    if ends:
        yield Reason("Pixels", f"{len(ends)} frames are empty at an end of the volume.", {"frames": len(ends)})
    if sorted(shown) != list(range(min(shown, default=0), max(shown, default=0) + 1)):
        yield Reason("Pixels", "There are source images without a frame between those that have one.")
    if segmentation.get("SegmentsOverlap") != "NO":
        yield Reason("Pixels", f"Segments Overlap is {segmentation.get('SegmentsOverlap')}, which a label map can not.")
    if {value for values in values_by_frame for value in values} | {0} != _described(segmentation):
        yield Reason("Segment", "The pixels do not have exactly the values of the segments that are described.")


def _described(segmentation: Dataset) -> set[int]:
    return {int(item.get("SegmentNumber") or 0) for item in items_named(segmentation, "SegmentSequence")}
