"""What a report, read back from its file, must keep: the shape of its tree, sound numbers, contours on real images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from sr_writer import codes
from sr_writer.checking.rules import common_reasons, demand_none, read_back
from sr_writer.reading.content_tree import children, code_of, descendants, is_named, items_named, text_of
from sr_writer.reading.report import Contour, contour_of, keys_of_image
from sr_writer.reading.segmentation import segment_number, source_key
from sr_writer.source.images import SourceKey, by_key
from study.codes import CERTAINTY_OF_FINDING, PERCENT, VOLUME, Code
from study.errors import Reason
from study.uids import is_uid

_DECISIONS = (codes.DETECTED, codes.NOT_DETECTED, codes.ASSESSED)
_FEWEST_POINTS = 4  # a closed triangle


def check_sr(path: Path, sources: Sequence[Dataset], segmentation: Dataset | None = None) -> Dataset:
    """Return the report in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images.
    segmentation
        The Segmentation of the same result, read back from its file, where there is one.

    Raises
    ------
    NonconformantObject
        If a rule is broken; the words tell all that are.
    """
    document = read_back(path)
    demand_none(sr_reasons(document, sources, segmentation))
    return document


def sr_reasons(document: Dataset, sources: Sequence[Dataset], segmentation: Dataset | None) -> Iterator[Reason]:
    """Yield everything that is wrong with a report."""
    yield from _form(document)
    yield from common_reasons(document, sources)
    yield from _evidence(document)
    container = next(children(document, codes.IMAGING_MEASUREMENTS), Dataset())
    evaluations = next(children(document, codes.QUALITATIVE_EVALUATIONS), Dataset())
    groups = list(children(container, codes.MEASUREMENT_GROUP))
    statements = list(children(evaluations, value_type="CODE"))
    if not groups and not statements:
        yield Reason(
            "Tree", "The report has neither a measurement group nor a statement of what was found or measured."
        )
    yield from _images(document, sources)
    yield from _library(document, (*groups, *statements))
    tracking = [text_of(item, codes.TRACKING_UNIQUE_IDENTIFIER) for item in (*groups, *statements)]
    if len(set(tracking)) < len(tracking):
        yield Reason("Tracking", "Two measurement groups or statements have the same Tracking UID.")
    known = by_key(sources)
    for number, group in enumerate(groups, 1):
        for words in _group(group, known):
            yield Reason("Group", f"Measurement group {number}: {words}")
    for number, statement in enumerate(statements, 1):
        for words in _statement(statement):
            yield Reason("Statement", f"Statement {number}: {words}")
    if segmentation is not None:
        yield from _ties(groups, segmentation)


def _form(document: Dataset) -> Iterator[Reason]:
    expected = {
        "SOPClassUID": Comprehensive3DSRStorage,
        "Modality": "SR",
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ValueType": "CONTAINER",
    }
    for keyword, value in expected.items():
        if document.get(keyword) != value:
            yield Reason("Form", f"{keyword} is not {value}.")
    if not is_named(document, codes.IMAGING_MEASUREMENT_REPORT):
        yield Reason("Tree", "The root is not an Imaging Measurement Report (126000, DCM).")
    templates = items_named(document, "ContentTemplateSequence") or (Dataset(),)
    if templates[0].get("TemplateIdentifier") != "1500":
        yield Reason("Tree", "The root's template is not TID 1500.")
    if next(children(document, codes.PROCEDURE_REPORTED), None) is None:
        yield Reason("Tree", "The procedure reported is absent.")
    observer = next(children(document, codes.DEVICE_OBSERVER_UID), Dataset())
    if not observer.get("UID") or observer.get("UID") != document.get("DeviceUID"):
        yield Reason("Equipment", "The observer is not the device that made the report.")


def _evidence(document: Dataset) -> Iterator[Reason]:
    """Every instance that the tree refers to is listed as evidence, once (PS3.3 C.17.2.3)."""
    listed = [
        str(item.ReferencedSOPInstanceUID)
        for study in items_named(document, "CurrentRequestedProcedureEvidenceSequence")
        for series in items_named(study, "ReferencedSeriesSequence")
        for item in items_named(series, "ReferencedSOPSequence")
    ]
    missing = {uid for uid, _ in _referenced(document)} - set(listed)
    if missing:
        yield Reason("Reference", f"{len(missing)} images of the report are not listed as evidence.")
    if len(set(listed)) < len(listed):
        yield Reason("Reference", "An image is listed as evidence twice.")


def _referenced(item: Dataset) -> set[SourceKey]:
    return {key for below in descendants(item) for key in keys_of_image(below)}


def _images(document: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    strange = _referenced(document) - set(by_key(sources))
    if strange:
        yield Reason("Reference", f"{len(strange)} images of the report are no source images, or no frames of one.")


def _library(document: Dataset, referring: Sequence[Dataset]) -> Iterator[Reason]:
    libraries = list(children(document, codes.IMAGE_LIBRARY))
    grouped = [group for library in libraries for group in children(library, codes.IMAGE_LIBRARY_GROUP)]
    images = {key for group in grouped for key in _referenced(group)}
    if len(libraries) != 1 or not images:
        yield Reason("Tree", "There is not one Image Library with entries in a group.")
    if {key for item in referring for key in _referenced(item)} - images:
        yield Reason("Reference", "Contours or statements are about images that the Image Library lacks.")


def _subject(item: Dataset, required: Sequence[Code]) -> Iterator[str]:
    """Yield what a measurement group or a statement lacks to say what it is about."""
    if not is_uid(text_of(item, codes.TRACKING_UNIQUE_IDENTIFIER)) or not text_of(item, codes.TRACKING_IDENTIFIER):
        yield "Tracking Identifier or Tracking Unique Identifier is absent."
    for name in required:
        if code_of(next(children(item, name), Dataset()), "ConceptCodeSequence") is None:
            yield f"{name.meaning} is absent."


def _group(group: Dataset, known: Mapping[SourceKey, Dataset]) -> Iterator[str]:
    yield from _subject(group, (codes.FINDING, codes.FINDING_SITE))
    regions = list(children(group, codes.IMAGE_REGION, "SCOORD"))
    template = (items_named(group, "ContentTemplateSequence") or (Dataset(),))[0].get("TemplateIdentifier")
    if template != ("1411" if regions else "1501"):
        yield f"it is marked as TID {template}."
    for item in children(group, value_type="NUM"):
        yield from _number(item)
        if is_named(item, VOLUME) and template == "1410":
            yield "a volume stands in a planar group (TID 1410)."
    for region in regions:
        yield from _region(region, known)
    if regions and not _key_image_first([contour_of(region) for region in regions]):
        yield "the first contour is not the largest of its slice."


def _statement(statement: Dataset) -> Iterator[str]:
    """Yield what is wrong with a statement outside of the groups: what it is about, what it says, its numbers."""
    yield from _subject(statement, (codes.FINDING,))
    numbers = list(children(statement, value_type="NUM"))
    certainties = [item for item in numbers if is_named(item, CERTAINTY_OF_FINDING)]
    said = code_of(statement, "ConceptCodeSequence")
    if is_named(statement, codes.DETECTION):
        if said not in _DECISIONS:
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


def _ties(groups: Sequence[Dataset], segmentation: Dataset) -> Iterator[Reason]:
    """Demand that a group that tracks what a segment tracks has its name, and contours on its slices only."""
    slices: dict[int, set[SourceKey]] = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        slices.setdefault(segment_number(segmentation, frame), set()).add(source_key(frame))
    by_tracking = {str(item.TrackingUID): item for item in segmentation.SegmentSequence}
    for group in groups:
        segment = by_tracking.get(text_of(group, codes.TRACKING_UNIQUE_IDENTIFIER))
        if segment is None:
            continue
        if text_of(group, codes.TRACKING_IDENTIFIER) != segment.TrackingID:
            yield Reason("Tracking", "A group and a segment of the same Tracking UID have different identifiers.")
        if not _referenced(group) <= slices.get(int(segment.SegmentNumber), set()):
            yield Reason("Tracking", "Contours of a segment are on slices where the Segmentation does not have it.")
