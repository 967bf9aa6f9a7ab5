"""Read our own Segmentations back from their files, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.reading.content_tree import model_of
from sr_writer.source.images import SourceKey, keys_of_reference

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SegmentInFile:
    """One segment of a Segmentation."""

    number: int
    label: str
    tracking_id: str
    tracking_uid: str
    cielab: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class SegmentationInFile:
    """A Segmentation as plain values.

    Parameters
    ----------
    frames
        For each frame its segment number, its source image, and bool (rows, columns).
    """

    model_name: str
    model_version: str
    series_description: str
    segments: tuple[SegmentInFile, ...]
    frames: tuple[tuple[int, SourceKey, Mask], ...]

    def label_map(self, sources: Sequence[SourceKey]) -> NDArray[np.uint16]:
        """Return uint16 (slices, rows, columns) of segment numbers, one slice for each source image given.

        Where segments overlap, the smaller one is seen.
        """
        where = {key: index for index, key in enumerate(sources)}
        values = np.zeros((len(where), *self.frames[0][2].shape), dtype=np.uint16)
        sizes: Counter[int] = Counter()
        for number, _, mask in self.frames:
            sizes[number] += int(np.count_nonzero(mask))
        for number, key, mask in sorted(self.frames, key=lambda frame: -sizes[frame[0]]):
            values[where[key]][mask] = number
        return values

    def mask(self, number: int, sources: Sequence[SourceKey]) -> Mask:
        """Return bool (slices, rows, columns), where one segment is, one slice for each source image given."""
        where = {key: index for index, key in enumerate(sources)}
        found = np.zeros((len(where), *self.frames[0][2].shape), dtype=np.bool_)
        for shown, key, mask in self.frames:
            if shown == number:
                found[where[key]] = mask
        return found


def read_segmentation(path: Path) -> SegmentationInFile:
    """Return what a BINARY Segmentation file holds, decoded."""
    segmentation = dcmread(path)
    name, version = model_of(segmentation)
    frames = segmentation.PerFrameFunctionalGroupsSequence
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
            for item in segmentation.SegmentSequence
        ),
        frames=tuple(
            (
                segment_number(segmentation, frame),
                source_key(frame),
                frame_mask(segmentation.PixelData, index, int(segmentation.Rows), int(segmentation.Columns)),
            )
            for index, frame in enumerate(frames)
        ),
    )


def segment_number(segmentation: Dataset, frame: Dataset) -> int:
    """Return the segment that a frame shows; it stands in the shared groups where there is one segment only."""
    groups = frame if "SegmentIdentificationSequence" in frame else segmentation.SharedFunctionalGroupsSequence[0]
    return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def source_key(frame: Dataset) -> SourceKey:
    """Return the first source image of a frame, and the frame of it."""
    return next(keys_of_reference(frame.DerivationImageSequence[0].SourceImageSequence[0]))


def frame_mask(pixel_data: bytes, index: int, rows: int, columns: int) -> Mask:
    """Return bool (rows, columns), one frame of single-bit pixels.

    Frames follow each other without padding, so one may begin within a byte (PS3.5 8.1.1).
    """
    first = index * rows * columns
    last = first + rows * columns
    packed = np.frombuffer(pixel_data, dtype=np.uint8, count=-(-last // 8) - first // 8, offset=first // 8)
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + rows * columns]
    mask: Mask = bits.reshape(rows, columns).astype(bool)
    return mask
