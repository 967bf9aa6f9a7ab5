"""What a Segmentation, read back from its file, must keep: the source's geometry frame by frame, sound segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from sr_writer.checking.rules import GEOMETRY, common_reasons, demand_none, read_back
from sr_writer.reading.content_tree import items_named
from sr_writer.reading.segmentation import Mask, frame_mask, segment_number, source_key
from sr_writer.source.images import SourceKey, by_key
from study.errors import Reason
from study.uids import is_uid

_TOLERANCE_MM = 1e-3
_COSINE_TOLERANCE = 1e-3  # the source series itself may wobble by so much, and one orientation stands for all
_SPACING_TOLERANCE = 1e-3  # of the spacing

_REQUIRED_OF_SEGMENT = (
    "SegmentLabel",
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentAlgorithmType",
    "SegmentAlgorithmName",
    "SegmentationAlgorithmIdentificationSequence",
    "RecommendedDisplayCIELabValue",
    "TrackingID",
)


def check_seg(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the Segmentation in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images.

    Raises
    ------
    GeometryMismatch
        If a frame is not in the plane of the image that it refers to; all other findings are in the words too.
    NonconformantObject
        If another rule is broken.
    """
    segmentation = read_back(path)
    demand_none(seg_reasons(segmentation, sources))
    return segmentation


def seg_reasons(segmentation: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with a Segmentation."""
    frames = items_named(segmentation, "PerFrameFunctionalGroupsSequence")
    whole = list(_form(segmentation, frames))
    yield from whole
    yield from common_reasons(segmentation, sources)
    yield from _segments(segmentation)
    yield from _frame_of_reference(segmentation, sources[0])
    incomplete = sum(not _refers_to_one_image(frame) for frame in frames)
    if incomplete:
        yield Reason("Reference", f"{incomplete} frames do not refer to one source image at preserved locations.")
    if whole or incomplete:
        return
    yield from _planes(segmentation, frames, sources)
    yield from _pixels(segmentation, frames)


def _form(segmentation: Dataset, frames: Sequence[Dataset]) -> Iterator[Reason]:
    expected = {
        "SOPClassUID": SegmentationStorage,
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    }
    for keyword, value in expected.items():
        if segmentation.get(keyword) != value:
            yield Reason("Form", f"{keyword} is not {value}.")
    count = int(segmentation.get("NumberOfFrames") or 0)
    if not count or count != len(frames):
        yield Reason("Form", f"Number of Frames is {count}, and {len(frames)} frames are described.")
    pixels = count * int(segmentation.get("Rows") or 0) * int(segmentation.get("Columns") or 0)
    size = len(segmentation.get("PixelData") or b"")
    needed = -(-pixels // 8)
    if size != needed + needed % 2:
        yield Reason("Form", f"Pixel Data has {size} bytes, the frames need {needed + needed % 2}.")


def _segments(segmentation: Dataset) -> Iterator[Reason]:
    segments = items_named(segmentation, "SegmentSequence")
    numbers = [int(item.get("SegmentNumber") or 0) for item in segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        yield Reason("Segment", "The segments are not numbered 1, 2, ... in order.")
    for item in segments:
        lacking = [keyword for keyword in _REQUIRED_OF_SEGMENT if not item.get(keyword)]
        if lacking:
            yield Reason("Segment", f"A segment lacks {', '.join(lacking)}.")
    tracking = [str(item.get("TrackingUID", "")) for item in segments]
    if len(set(tracking)) < len(tracking) or not all(is_uid(uid) for uid in tracking):
        yield Reason("Segment", "The Tracking UIDs of the segments are not valid and distinct.")


def _frame_of_reference(segmentation: Dataset, first: Dataset) -> Iterator[Reason]:
    if not segmentation.get("FrameOfReferenceUID") or segmentation.FrameOfReferenceUID != first.FrameOfReferenceUID:
        yield Reason(GEOMETRY, "The Frame of Reference is not that of the first source image.")


def _refers_to_one_image(frame: Dataset) -> bool:
    derivations = items_named(frame, "DerivationImageSequence")
    if len(derivations) != 1 or not frame.get("PlanePositionSequence"):
        return False
    images = items_named(derivations[0], "SourceImageSequence")
    return len(images) == 1 and images[0].get("SpatialLocationsPreserved") == "YES"


def _planes(segmentation: Dataset, frames: Sequence[Dataset], sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Compare the plane of each frame with that of the image, or the frame of an image, that it refers to."""
    known = by_key(sources)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    off: Counter[str] = Counter()
    seen: Counter[tuple[int, SourceKey]] = Counter()
    nowhere = 0
    for frame in frames:
        key = source_key(frame)
        seen[segment_number(segmentation, frame), key] += 1
        source = known.get(key)
        if source is None:
            nowhere += 1
        else:
            off.update(_differences(segmentation, shared, frame, source))
    for what, count in off.items():
        yield Reason(GEOMETRY, f"{what} of {count} frames is not that of the source image.", {"frames": count})
    if nowhere:
        yield Reason("Reference", f"{nowhere} frames refer to no source image, or to no frame of it.")
    if max(seen.values()) > 1:
        yield Reason("Reference", "Two frames show the same segment on the same image.")
    yield from _spacing(shared, sources)


def _spacing(shared: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that a distance between slices is true of every two neighbours, where one is stated."""
    stated = (items_named(shared, "PixelMeasuresSequence") or (Dataset(),))[0].get("SpacingBetweenSlices")
    if stated is None or len(sources) < 2:
        return
    origins = np.array([_numbers(source, "ImagePositionPatient") for source in sources])
    cosines = _numbers(sources[0], "ImageOrientationPatient")
    steps = np.abs(np.diff(origins @ np.cross(cosines[:3], cosines[3:])))
    # Half a step is what a series may stray that is accepted as even
    if np.abs(steps - float(stated)).max() > 0.5 * float(stated):
        yield Reason(GEOMETRY, "Spacing Between Slices is not that of the source images.")


def _differences(segmentation: Dataset, shared: Dataset, frame: Dataset, source: Dataset) -> Iterator[str]:
    def groups(keyword: str) -> Dataset:
        item: Dataset = (items_named(frame, keyword) or items_named(shared, keyword) or [Dataset()])[0]
        return item

    position = _numbers(groups("PlanePositionSequence"), "ImagePositionPatient")
    if not _close(position, _numbers(source, "ImagePositionPatient"), _TOLERANCE_MM):
        yield "Image Position"
    orientation = _numbers(groups("PlaneOrientationSequence"), "ImageOrientationPatient")
    if not _close(orientation, _numbers(source, "ImageOrientationPatient"), _COSINE_TOLERANCE):
        yield "Image Orientation"
    spacing, expected = _numbers(groups("PixelMeasuresSequence"), "PixelSpacing"), _numbers(source, "PixelSpacing")
    if not _close(spacing, expected, _SPACING_TOLERANCE * float(expected.min())):
        yield "Pixel Spacing"
    if (segmentation.Rows, segmentation.Columns) != (source.Rows, source.Columns):
        yield "Rows or Columns"


def _numbers(dataset: Dataset, keyword: str) -> NDArray[np.float64]:
    return np.array([float(value) for value in dataset.get(keyword) or ()])


def _close(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: float) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0.0) <= tolerance)


def _pixels(segmentation: Dataset, frames: Sequence[Dataset]) -> Iterator[Reason]:
    """Every frame shows something, every segment has a frame, and no frame shows a segment that is not there."""
    rows, columns = int(segmentation.Rows), int(segmentation.Columns)
    empty = overlapping = 0
    covered: dict[SourceKey, Mask] = {}
    for index, frame in enumerate(frames):
        mask = frame_mask(segmentation.PixelData, index, rows, columns)
        earlier = covered.setdefault(source_key(frame), np.zeros_like(mask))
        empty += not mask.any()
        overlapping += bool((earlier & mask).any())
        earlier |= mask
    if empty:
        yield Reason("Pixels", f"{empty} frames are empty.", {"frames": empty})
    said = segmentation.get("SegmentsOverlap")
    if said != ("YES" if overlapping else "NO"):
        yield Reason("Pixels", f"Segments Overlap is {said}, and {overlapping} frames overlap others.")
    shown = {segment_number(segmentation, frame) for frame in frames}
    described = {int(item.get("SegmentNumber") or 0) for item in items_named(segmentation, "SegmentSequence")}
    if shown != described:
        yield Reason("Segment", "The frames do not show exactly the segments that are described.")
