"""What a Segmentation, read back from its file, must keep: the source's geometry frame by frame, sound segments.

BINARY and LABELMAP objects keep the same rules, as far as they have the same parts. What the pixels must keep stands in
`seg_pixels`, what the objects of one result must keep together in `seg_set`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.checking.rules import GEOMETRY, common_reasons, demand_none, form_reasons, read_back
from sr_writer.checking.seg_pixels import pixel_reasons, size_reasons
from sr_writer.reading.content_tree import code_of, items_named
from sr_writer.reading.frames import (
    DERIVATION,
    FRAME_CONTENT,
    IDENTIFICATION,
    Shown,
    dimension_index_values,
    frames_of,
    groups_of_frame,
    shown_by,
)
from sr_writer.reading.segmentation import LABELMAP, is_label_map, segments_of
from sr_writer.source.carrying import decimals, set_element, tag_of
from sr_writer.source.images import Planes, SourceImages, SourceKey
from study.errors import Reason
from study.forms import SOP_CLASSES, Form
from study.uids import is_uid

_TOLERANCE_MM = 1e-3
_COSINE_TOLERANCE = 1e-3  # the source series itself may wobble by so much, and one orientation stands for all
_SPACING_TOLERANCE = 1e-3  # of the spacing

_TYPES: Final[Mapping[str, str]] = {
    SOP_CLASSES[Form.SEG]: "BINARY",
    SOP_CLASSES[Form.SEG_LABELMAP]: LABELMAP,
}
"""The Segmentation Type of each SOP Class."""

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
_BACKGROUND = ("125040", "DCM")


def check_seg(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the Segmentation in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images in slice order.

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
    frames = frames_of(segmentation)
    whole = list(_form(segmentation, frames))
    yield from whole
    yield from common_reasons(_condensed(segmentation, frames), sources)
    yield from _segments(segmentation)
    yield from _of_the_source(segmentation, sources[0])
    incomplete = _refer_elsewhere(frames)
    if incomplete:
        yield Reason("Reference", f"{incomplete} frames do not refer to one source image at preserved locations.")
    if whole or incomplete:
        return
    shown = shown_by(segmentation, frames)
    yield from _planes(segmentation, frames, shown, SourceImages.of(sources))
    yield from _dimensions(frames, shown, numbered=not is_label_map(segmentation))
    yield from pixel_reasons(segmentation, shown, sources)


def _condensed(segmentation: Dataset, frames: Sequence[Dataset]) -> Dataset:
    """Return what a Segmentation says, each functional group of its frames once, and without their ranks.

    Frames share most of what is said of them. Their ranks are looked at apart (`_dimensions`).
    """
    groups = {id(element): element for frame in frames for tag, element in frame.items() if tag != FRAME_CONTENT}
    items = []
    for element in groups.values():
        items.append(Dataset())
        set_element(items[-1], element)
    condensed = Dataset()
    condensed.update(segmentation)
    # An element of its own: the other one is the Segmentation's
    set_element(condensed, DataElement(tag_of("PerFrameFunctionalGroupsSequence"), "SQ", ItemSequence(items)))
    condensed.file_meta = segmentation.file_meta
    condensed.set_original_encoding(False, True, segmentation.original_character_set)
    return condensed


def _form(segmentation: Dataset, frames: Sequence[Dataset]) -> Iterator[Reason]:
    kind = _TYPES.get(str(segmentation.get("SOPClassUID", "")))
    if kind is None:
        yield Reason("Form", "SOPClassUID is not that of a Segmentation.")
        return
    expected = {
        "Modality": "SEG",
        "SegmentationType": kind,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelPaddingValue": 0 if kind == LABELMAP else None,
    }
    yield from form_reasons(segmentation, expected)
    count = int(segmentation.get("NumberOfFrames") or 0)
    if not count or count != len(frames):
        yield Reason("Form", f"Number of Frames is {count}, and {len(frames)} frames are described.")
    shared = items_named(segmentation, "SharedFunctionalGroupsSequence")
    identified = sum(IDENTIFICATION in groups_of_frame(groups) for groups in (*frames, *shared))
    if identified not in ((0,) if kind == LABELMAP else (1, len(frames))):
        yield Reason("Form", f"{identified} of {len(frames)} frames name a segment.")
    yield from size_reasons(segmentation, count)


def _segments(segmentation: Dataset) -> Iterator[Reason]:
    segments = segments_of(segmentation)
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
    if is_label_map(segmentation):
        yield from _background(segmentation)


def _background(segmentation: Dataset) -> Iterator[Reason]:
    """Demand that value 0 is described as background, and as the last one.

    Viewers that count descriptions in place of reading Segment Numbers else show a segment as its neighbour.
    """
    last = (items_named(segmentation, "SegmentSequence") or (Dataset(),))[-1]
    code = code_of(last, "SegmentedPropertyTypeCodeSequence")
    if last.get("SegmentNumber") != 0 or code is None or (code.value, code.scheme) != _BACKGROUND:
        yield Reason("Segment", "The background is not described, or not after all segments.")


def _of_the_source(segmentation: Dataset, first: Dataset) -> Iterator[Reason]:
    if not segmentation.get("FrameOfReferenceUID") or segmentation.FrameOfReferenceUID != first.FrameOfReferenceUID:
        yield Reason(GEOMETRY, "The Frame of Reference is not that of the first source image.")
    if segmentation.get("LossyImageCompression") != (first.get("LossyImageCompression") or "00"):
        yield Reason("Form", "Lossy Image Compression is not that of the first source image.")


def _refer_elsewhere(frames: Sequence[Dataset]) -> int:
    """Return how many frames do not refer to one source image at preserved locations, or have no place."""
    known: dict[tuple[int, int], bool] = {}
    wrong = 0
    for frame in frames:
        # Frames share the groups of their slice
        groups = groups_of_frame(frame)
        pair = (id(groups.get(DERIVATION)), id(groups.get(_POSITION)))
        if pair not in known:
            known[pair] = _refers_to_one_image(frame) and bool(frame.get("PlanePositionSequence"))
        wrong += not known[pair]
    return wrong


def _refers_to_one_image(frame: Dataset) -> bool:
    derivations = items_named(frame, "DerivationImageSequence")
    if len(derivations) != 1:
        return False
    images = items_named(derivations[0], "SourceImageSequence")
    return len(images) == 1 and images[0].get("SpatialLocationsPreserved") == "YES"


def _planes(
    segmentation: Dataset, frames: Sequence[Dataset], shown: Sequence[Shown], sources: SourceImages
) -> Iterator[Reason]:
    """Compare the plane of each frame with that of the image, or the frame of an image, that it refers to."""
    ranks = {key: rank for rank, key in enumerate(sources.keys)}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    off: Counter[str] = Counter()
    compared: dict[tuple[int, ...], list[str]] = {}
    nowhere = 0
    for frame, (_, image) in zip(frames, shown, strict=True):
        rank = ranks.get(image)
        if rank is None:
            nowhere += 1
            continue
        own = groups_of_frame(frame)
        groups = (rank, *(id(own.get(tag)) for tag in _PLANE_GROUPS))
        if groups not in compared:
            compared[groups] = list(_differences(segmentation, shared, frame, sources.planes, rank))
        off.update(compared[groups])
    for what, count in off.items():
        yield Reason(GEOMETRY, f"{what} of {count} frames is not that of the source image.", {"frames": count})
    if nowhere:
        yield Reason("Reference", f"{nowhere} frames refer to no source image, or to no frame of it.")
    if max(Counter(shown).values()) > 1:
        yield Reason("Reference", "Two frames show the same segment on the same image.")
    yield from _spacing(shared, sources)


_POSITION = tag_of("PlanePositionSequence")
_PLANE_GROUPS = (_POSITION, tag_of("PlaneOrientationSequence"), tag_of("PixelMeasuresSequence"))


def _spacing(shared: Dataset, sources: SourceImages) -> Iterator[Reason]:
    """Demand that a distance between slices is true of every two neighbours, where one is stated."""
    stated = (items_named(shared, "PixelMeasuresSequence") or (Dataset(),))[0].get("SpacingBetweenSlices")
    if stated is None or len(sources) < 2:
        return
    cosines = sources.planes.cosines[0]
    steps = np.abs(np.diff(sources.planes.origins @ np.cross(cosines[:3], cosines[3:])))
    # Half a step is what a series may stray that is accepted as even
    if np.abs(steps - float(stated)).max() > 0.5 * float(stated):
        yield Reason(GEOMETRY, "Spacing Between Slices is not that of the source images.")


def _differences(segmentation: Dataset, shared: Dataset, frame: Dataset, planes: Planes, rank: int) -> Iterator[str]:
    """Yield in what the plane of a frame is not that of the source image of this index."""

    def numbers(group: str, keyword: str) -> NDArray[np.float64]:
        item = (items_named(frame, group) or items_named(shared, group) or [Dataset()])[0]
        return np.array(decimals(item, tag_of(keyword)))

    if not _close(numbers("PlanePositionSequence", "ImagePositionPatient"), planes.origins[rank], _TOLERANCE_MM):
        yield "Image Position"
    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient")
    if not _close(orientation, planes.cosines[rank], _COSINE_TOLERANCE):
        yield "Image Orientation"
    spacing, expected = numbers("PixelMeasuresSequence", "PixelSpacing"), planes.spacings[rank]
    if not _close(spacing, expected, _SPACING_TOLERANCE * float(expected.min())):
        yield "Pixel Spacing"
    if (segmentation.Rows, segmentation.Columns) != tuple(planes.shapes[rank]):
        yield "Rows or Columns"


def _close(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: float) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0.0) <= tolerance)


def _dimensions(frames: Sequence[Dataset], shown: Sequence[Shown], *, numbered: bool) -> Iterator[Reason]:
    """Demand that the index values of a frame are its segment, where it has one, and the rank of its slice."""
    ranks: dict[int, SourceKey] = {}
    wrong = 0
    for frame, (number, image) in zip(frames, shown, strict=True):
        *segments, rank = dimension_index_values(frame) or [0]
        wrong += ranks.setdefault(rank, image) != image or segments != ([number] if numbered else [])
    if wrong:
        yield Reason("Dimension", f"Dimension Index Values of {wrong} frames are not their segment and slice.")
    if sorted(ranks) != list(range(1, len(ranks) + 1)) or len(set(ranks.values())) < len(ranks):
        yield Reason("Dimension", "Dimension Index Values do not count the slices 1, 2, ....")
