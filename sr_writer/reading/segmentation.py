"""Read our own Segmentations back from their files: frame by frame, or as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import RLELossless

from sr_writer.reading.content_tree import items_named, model_of
from sr_writer.reading.frames import frames_of, shown_by
from sr_writer.source.images import SourceKey

Mask = NDArray[np.bool_]
Bits = NDArray[np.uint8]
Numbers = NDArray[np.uint8] | NDArray[np.uint16]

LABELMAP = "LABELMAP"


@dataclass(frozen=True)
class SegmentInFile:
    """One segment of a Segmentation."""

    number: int
    label: str
    tracking_id: str
    tracking_uid: str
    cielab: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class FrameInFile:
    """Where one segment is on one source image.

    Parameters
    ----------
    bits
        Packed, eight pixels to a byte, the first in the least significant bit: there may be thousands of frames.
    """

    number: int
    image: SourceKey
    bits: Bits
    shape: tuple[int, int]

    @property
    def mask(self) -> Mask:
        """Return bool (rows, columns)."""
        return unpacked(self.bits, self.shape)


@dataclass(frozen=True, eq=False)
class SegmentationInFile:
    """A Segmentation as plain values.

    Parameters
    ----------
    segments
        Without the background of a label map.
    """

    model_name: str
    model_version: str
    series_description: str
    segments: tuple[SegmentInFile, ...]
    frames: tuple[FrameInFile, ...]

    def label_map(self, sources: Sequence[SourceKey]) -> NDArray[np.uint16]:
        """Return uint16 (slices, rows, columns) of segment numbers, one slice for each source image given.

        Where segments overlap, the smaller one is seen.
        """
        where = {key: index for index, key in enumerate(sources)}
        values = np.zeros((len(where), *self.frames[0].shape), dtype=np.uint16)
        sizes: Counter[int] = Counter()
        for frame in self.frames:
            sizes[frame.number] += int(np.bitwise_count(frame.bits).sum())
        for frame in sorted(self.frames, key=lambda frame: -sizes[frame.number]):
            values[where[frame.image]][frame.mask] = frame.number
        return values

    def mask(self, number: int, sources: Sequence[SourceKey]) -> Mask:
        """Return bool (slices, rows, columns), where one segment is, one slice for each source image given."""
        where = {key: index for index, key in enumerate(sources)}
        found = np.zeros((len(where), *self.frames[0].shape), dtype=np.bool_)
        for frame in self.frames:
            if frame.number == number:
                found[where[frame.image]] = frame.mask
        return found


def read_segmentation(path: Path) -> SegmentationInFile:
    """Return what a BINARY or LABELMAP Segmentation file holds, decoded."""
    segmentation = dcmread(path)
    name, version = model_of(segmentation)
    return SegmentationInFile(
        model_name=name,
        model_version=version,
        series_description=str(segmentation.get("SeriesDescription", "")),
        segments=tuple(
            SegmentInFile(
                number=int(item.SegmentNumber),
                label=str(item.SegmentLabel),
                tracking_id=str(item.get("TrackingID", "")),
                tracking_uid=str(item.get("TrackingUID", "")),
                cielab=tuple(item.RecommendedDisplayCIELabValue),
            )
            for item in segments_of(segmentation)
        ),
        frames=tuple(regions_of(segmentation)),
    )


def is_label_map(segmentation: Dataset) -> bool:
    """Tell whether the pixels of a Segmentation are segment numbers."""
    return bool(segmentation.get("SegmentationType") == LABELMAP)


def segments_of(segmentation: Dataset) -> Sequence[Dataset]:
    """Return what describes the segments, without the background of a label map, which is value 0."""
    described = items_named(segmentation, "SegmentSequence")
    if not is_label_map(segmentation):
        return described
    return [item for item in described if item.get("SegmentNumber") != segmentation.get("PixelPaddingValue")]


def regions_of(segmentation: Dataset) -> Iterator[FrameInFile]:
    """Yield where each segment is on each source image that has it."""
    shape = (int(segmentation.Rows), int(segmentation.Columns))
    shown = shown_by(segmentation, frames_of(segmentation))
    if is_label_map(segmentation):
        for (_, image), numbers in zip(shown, number_frames(segmentation), strict=True):
            for number in values_in(numbers):
                bits = np.packbits(numbers == number, bitorder="little")
                yield FrameInFile(number, image, bits, shape)
        return
    pixels = segmentation.PixelData
    for index, (number, image) in enumerate(shown):
        yield FrameInFile(number, image, frame_bits(pixels, index, shape[0] * shape[1]), shape)


def images_of_segments(segmentation: Dataset) -> dict[int, set[SourceKey]]:
    """Return the source images that each segment is on, by its number."""
    found: dict[int, set[SourceKey]] = {int(item.SegmentNumber): set() for item in segments_of(segmentation)}
    shown = shown_by(segmentation, frames_of(segmentation))
    if is_label_map(segmentation):
        for (_, image), numbers in zip(shown, number_frames(segmentation), strict=True):
            for number in values_in(numbers):
                found.setdefault(number, set()).add(image)
    else:
        for number, image in shown:
            found.setdefault(number, set()).add(image)
    return found


def frame_mask(pixel_data: bytes, index: int, rows: int, columns: int) -> Mask:
    """Return bool (rows, columns), one frame of single-bit pixels."""
    return unpacked(frame_bits(pixel_data, index, rows * columns), (rows, columns))


def frame_bits(pixel_data: bytes, index: int, pixels: int) -> Bits:
    """Return one frame of single-bit pixels, packed: its first pixel is the least significant bit of the first byte.

    Frames follow each other without padding, so one may begin within a byte (PS3.5 8.1.1). What is left of the last
    byte is zero.
    """
    first = index * pixels
    last = first + pixels
    packed = np.frombuffer(pixel_data, dtype=np.uint8, count=-(-last // 8) - first // 8, offset=first // 8)
    if first % 8 == 0 and pixels % 8 == 0:
        return packed
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + pixels]
    return np.packbits(bits, bitorder="little")


def unpacked(bits: Bits, shape: tuple[int, int]) -> Mask:
    """Return bool (rows, columns) of packed pixels."""
    plain = np.unpackbits(bits, count=shape[0] * shape[1], bitorder="little")
    return plain.reshape(shape).view(np.bool_)


def number_frames(segmentation: Dataset) -> Iterator[Numbers]:
    """Yield each frame of a label map: (rows, columns) of segment numbers."""
    shape = (int(segmentation.Rows), int(segmentation.Columns))
    if segmentation.file_meta.TransferSyntaxUID == RLELossless:
        for frame, _ in get_decoder(RLELossless).iter_array(segmentation, raw=True):
            yield cast(Numbers, frame)
        return
    dtype = np.dtype("u1") if segmentation.BitsAllocated == 8 else np.dtype("<u2")
    size = shape[0] * shape[1]
    for index in range(int(segmentation.NumberOfFrames)):
        offset = index * size * dtype.itemsize
        frame = np.frombuffer(segmentation.PixelData, dtype=dtype, count=size, offset=offset)
        yield cast(Numbers, frame.reshape(shape))


def values_in(numbers: Numbers) -> list[int]:
    """Return the segment numbers in a frame of a label map, without the background."""
    return [int(number) for number in np.flatnonzero(np.bincount(numbers.ravel())) if number]
