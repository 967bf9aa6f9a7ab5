"""What a measurement group or a statement of a report must keep: a subject, sound numbers, a region that is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.reading.content_tree import children, code_of, is_named, items_named, text_of
from sr_writer.reading.report import Contour, contour_of, segment_of
from sr_writer.reading.segmentation import images_of_segments, segments_of
from sr_writer.source.images import SourceKey
from study.codes import CERTAINTY_OF_FINDING, PERCENT, VOLUME, Code
from study.errors import Reason
from study.uids import is_uid

DECISIONS: Mapping[Code | None, str] = {
    codes.DETECTED: "detected",
    codes.NOT_DETECTED: "not detected",
    codes.ASSESSED: "not decided",
}
"""What a statement about a detection can say, and how the sentence about it begins."""

_VOLUMES = frozenset({"mL", "L", "uL", "cm3", "mm3", "dm3"})
"""Units of volumes in UCUM."""
_VOLUMETRIC = ("1411", "1501")
_FEWEST_POINTS = 4  # a closed triangle


def _subject(item: Dataset, required: Sequence[Code]) -> Iterator[str]:
    """Yield what a measurement group or a statement lacks to say what it is about."""
    if not is_uid(text_of(item, codes.TRACKING_UNIQUE_IDENTIFIER)) or not text_of(item, codes.TRACKING_IDENTIFIER):
        yield "Tracking Identifier or Tracking Unique Identifier is absent."
    for name in required:
        if code_of(next(children(item, name), Dataset()), "ConceptCodeSequence") is None:
            yield f"{name.meaning} is absent."


def group_words(group: Dataset, known: Mapping[SourceKey, Dataset]) -> Iterator[str]:
    """Yield what is wrong with a measurement group: its subject, template, numbers and contours.

    Parameters
    ----------
    known
        The header of each source image.
    """
    yield from _subject(group, (codes.FINDING, codes.FINDING_SITE))
    regions = list(children(group, codes.IMAGE_REGION, "SCOORD"))
    template = (items_named(group, "ContentTemplateSequence") or (Dataset(),))[0].get("TemplateIdentifier")
    if template != ("1411" if regions or segment_of(group) else "1501"):
        yield f"it is marked as TID {template}."
    for item in children(group, value_type="NUM"):
        yield from _number(item)
        if _is_volume(item) and template not in _VOLUMETRIC:
            yield "a volume stands in a planar group (TID 1410)."
    for region in regions:
        yield from _region(region, known)
    if regions and not _key_image_first([contour_of(region) for region in regions]):
        yield "the first contour is not the largest of its slice."


def _is_volume(item: Dataset) -> bool:
    """Tell whether a number is a volume, by its name or its unit."""
    units = (code_of(each, "MeasurementUnitsCodeSequence") for each in items_named(item, "MeasuredValueSequence"))
    return is_named(item, VOLUME) or any(unit is not None and unit.value in _VOLUMES for unit in units)


def segment_words(group: Dataset, source: Dataset, segmentations: Sequence[Dataset]) -> Iterator[str]:
    """Yield what is wrong with the reference of a group to the segment that is its region (TID 1411)."""
    references = list(children(group, codes.REFERENCED_SEGMENT))
    if not references:
        return
    segment = segment_of(group)
    if len(references) > 1 or segment is None:
        yield "it refers to more than one segment, or to none."
        return
    if next(children(group, value_type="SCOORD"), None) is not None:
        yield "it has contours besides the segment that it refers to."
    series = [str(item.get("UID", "")) for item in children(group, codes.SOURCE_SERIES_FOR_SEGMENTATION)]
    if series != [str(source.SeriesInstanceUID)]:
        yield "the source series of the segment is not that of the images."
    tracked = [
        str(item.get("TrackingUID", ""))
        for each in segmentations
        if str(each.SOPInstanceUID) == segment[0]
        for item in items_named(each, "SegmentSequence")
        if item.get("SegmentNumber") == segment[1]
    ]
    if tracked != [text_of(group, codes.TRACKING_UNIQUE_IDENTIFIER)]:
        yield "the segment that it refers to is not there, or is tracked as another."


def statement_words(statement: Dataset) -> Iterator[str]:
    """Yield what is wrong with a statement outside of the groups: what it is about, what it says, its numbers."""
    yield from _subject(statement, (codes.FINDING,))
    numbers = list(children(statement, value_type="NUM"))
    certainties = [item for item in numbers if is_named(item, CERTAINTY_OF_FINDING)]
    said = code_of(statement, "ConceptCodeSequence")
    if is_named(statement, codes.DETECTION):
        if said not in DECISIONS:
            yield "it says neither that something was detected, nor that it was not, nor that this is left open."
    elif not is_named(statement, codes.MEASURED) or len(numbers) == len(certainties):
        yield "it is neither about a detection nor about a number."
    if len(certainties) > 1 or (said == codes.ASSESSED and not certainties):
        yield "it has not one certainty."
    for item in numbers:
        yield from _number(item)
    for item in certainties:
        yield from _certainty(item)


def _certainty(item: Dataset) -> Iterator[str]:
    for measured in items_named(item, "MeasuredValueSequence"):
        value = measured.get("NumericValue")
        if value is not None and not 0 <= float(value) <= 100:
            yield "a certainty is not from 0 to 100."
        if code_of(measured, "MeasurementUnitsCodeSequence") != PERCENT:
            yield "a certainty is not in percent."


def _number(item: Dataset) -> Iterator[str]:
    measured = items_named(item, "MeasuredValueSequence")
    if len(measured) != 1:
        yield "a number has no value."
        return
    value = measured[0].get("NumericValue")  # 0 is a number like any other, and false
    if value is None or not math.isfinite(float(value)):
        yield "a number is not finite."
    unit = code_of(measured[0], "MeasurementUnitsCodeSequence")
    if unit is None or unit.scheme != "UCUM":
        yield "a number has no unit in UCUM."


def _region(region: Dataset, known: Mapping[SourceKey, Dataset]) -> Iterator[str]:
    contour = contour_of(region)
    source = known.get(contour.image)
    if source is None:
        yield "a contour is on no source image."
        return
    points = contour.points
    if region.get("GraphicType") != "POLYLINE" or len(points) < _FEWEST_POINTS or (points[0] != points[-1]).any():
        yield "a contour is no closed polyline."
    if points.min() < 0 or (points > (source.Columns, source.Rows)).any():
        yield "a contour leaves its image."


def _key_image_first(contours: Sequence[Contour]) -> bool:
    """Tell whether the first contour is the largest on its own image: viewers jump to the first one."""
    same_image = [contour for contour in contours if contour.image == contours[0].image]
    return _area(contours[0]) >= max(_area(contour) for contour in same_image) - 1.0


def _area(contour: Contour) -> float:
    """Return the area inside an outline [pixels]."""
    columns, rows = contour.points[:, 0], contour.points[:, 1]
    return abs(float(np.dot(columns[:-1], rows[1:]) - np.dot(columns[1:], rows[:-1]))) / 2


def tie_reasons(groups: Sequence[Dataset], segmentations: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that a group that tracks what a segment tracks has its name, and contours on its slices only."""
    names: dict[str, str] = {}
    slices: dict[str, set[SourceKey]] = {}
    for segmentation in segmentations:
        images = images_of_segments(segmentation)
        for item in segments_of(segmentation):
            uid = str(item.get("TrackingUID", ""))
            names[uid] = str(item.get("TrackingID", ""))
            slices.setdefault(uid, set()).update(images[int(item.SegmentNumber)])
    for group in groups:
        uid = text_of(group, codes.TRACKING_UNIQUE_IDENTIFIER)
        if uid not in names:
            continue
        if text_of(group, codes.TRACKING_IDENTIFIER) != names[uid]:
            yield Reason("Tracking", "A group and a segment of the same Tracking UID have different identifiers.")
        drawn = {contour_of(region).image for region in children(group, codes.IMAGE_REGION, "SCOORD")}
        if not drawn <= slices[uid]:
            yield Reason("Tracking", "Contours of a segment are on slices where the Segmentation does not have it.")
