"""What an RT Structure Set, read back from its file, must keep: sound regions, each contour on its own image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from sr_writer.checking.rules import GEOMETRY, common_reasons, demand_none, form_reasons, read_back
from sr_writer.reading.content_tree import items_named
from sr_writer.reading.structure_set import ContourInFile, area_within, contours_of, filled, on_image
from sr_writer.source.images import SourceKey, by_key
from study.errors import Reason

_TOLERANCE_MM = 1e-3
_BEYOND = 0.5 + 1e-6  # [pixels] from the centre of the first or last pixel to the border of the image
_FEWEST_POINTS = 3
_LONGEST_NUMBER, _MOST_BYTES = 16, 65534  # of VR DS: one number, and the whole value in Explicit VR (PS3.5 6.2, 7.1.2)
_AREA_TOLERANCE = 0.02  # between the pixels within a contour and the area inside its line

_REQUIRED_OF_SET = ("StructureSetLabel", "StructureSetName", "StructureSetDate", "StructureSetTime")
_REQUIRED_OF_REGION = ("ROIName", "ROIGenerationDescription", "ROIDerivationAlgorithmIdentificationSequence")
_REQUIRED_OF_OBSERVATION = ("SegmentedPropertyCategoryCodeSequence", "RTROIIdentificationCodeSequence")

Covered = dict[SourceKey, NDArray[np.bool_]]


def check_rtstruct(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the RT Structure Set in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images.

    Raises
    ------
    GeometryMismatch
        If a contour is not in the plane of the image that it refers to; all other findings are in the words too.
    NonconformantObject
        If another rule is broken.
    """
    structure_set = read_back(path)
    demand_none(rtstruct_reasons(structure_set, sources))
    return structure_set


def rtstruct_reasons(structure_set: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with an RT Structure Set."""
    yield from _form(structure_set)
    yield from common_reasons(structure_set, sources)
    yield from _references(structure_set, sources)
    yield from _numbers(structure_set)
    for item in items_named(structure_set, "StructureSetROISequence"):
        yield from _region(item, structure_set)
    for item in items_named(structure_set, "RTROIObservationsSequence"):
        yield from _lacking("An observation", item, _REQUIRED_OF_OBSERVATION)
    known = by_key(sources)
    for item in items_named(structure_set, "ROIContourSequence"):
        yield from _contours(item, known)


def _form(structure_set: Dataset) -> Iterator[Reason]:
    expected = {
        "SOPClassUID": RTStructureSetStorage,
        "Modality": "RTSTRUCT",
        "ApprovalStatus": "UNAPPROVED",
    }
    yield from form_reasons(structure_set, expected)
    yield from _lacking("The set", structure_set, _REQUIRED_OF_SET)


def _lacking(what: str, item: Dataset, keywords: Sequence[str]) -> Iterator[Reason]:
    lacking = [keyword for keyword in keywords if not item.get(keyword)]
    if lacking:
        yield Reason("Region", f"{what} lacks {', '.join(lacking)}.")


def _references(structure_set: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand one Frame of Reference, the first source's, with its study, its series, and every source image in it."""
    first = sources[0]
    frames = items_named(structure_set, "ReferencedFrameOfReferenceSequence")
    studies = [study for frame in frames for study in items_named(frame, "RTReferencedStudySequence")]
    series = [one for study in studies for one in items_named(study, "RTReferencedSeriesSequence")]
    stated = [structure_set.get("FrameOfReferenceUID"), *(frame.get("FrameOfReferenceUID") for frame in frames)]
    if stated != [first.FrameOfReferenceUID] * 2:
        yield Reason(GEOMETRY, "The Frame of Reference is not that of the first source image.")
    if [study.get("ReferencedSOPInstanceUID") for study in studies] != [first.StudyInstanceUID]:
        yield Reason("Reference", "The source study is not what is referenced as the study.")
    images = [image for one in series for image in items_named(one, "ContourImageSequence")]
    listed = Counter(str(image.get("ReferencedSOPInstanceUID", "")) for image in images)
    if listed != Counter({str(source.SOPInstanceUID): 1 for source in sources}):
        yield Reason("Reference", "The images of the source series are not listed once each.")


def _numbers(structure_set: Dataset) -> Iterator[Reason]:
    """Demand that the three sequences are about the same regions, which have numbers and names of their own."""
    regions = items_named(structure_set, "StructureSetROISequence")
    numbers = [int(item.get("ROINumber") or 0) for item in regions]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        yield Reason("Region", "The regions are not numbered 1, 2, ... in order.")
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        items = items_named(structure_set, keyword)
        if [int(item.get("ReferencedROINumber") or 0) for item in items] != numbers:
            yield Reason("Region", f"{keyword} is not about each region once, in order.")
    observations = items_named(structure_set, "RTROIObservationsSequence")
    if len({item.get("ObservationNumber") for item in observations} - {None}) < len(observations):
        yield Reason("Region", "The observations have no numbers of their own.")
    names = {str(item.get("ROIName", "")).casefold() for item in regions}
    if len(names) < len(regions):
        yield Reason("Region", "Two regions have the same name.")


def _region(item: Dataset, structure_set: Dataset) -> Iterator[Reason]:
    yield from _lacking("A region", item, _REQUIRED_OF_REGION)
    if item.get("ROIGenerationAlgorithm") != "AUTOMATIC":
        yield Reason("Region", "A region is not said to be made by an algorithm.")
    if item.get("ReferencedFrameOfReferenceUID") != structure_set.get("FrameOfReferenceUID"):
        yield Reason(GEOMETRY, "A region is in another Frame of Reference.")


def _contours(region: Dataset, known: Mapping[SourceKey, Dataset]) -> Iterator[Reason]:
    """Demand colour and contours of a region, and that its contours share no pixel.

    Some readers join the contours of a slice, others let them cancel where they overlap: what overlaps is ambiguous.
    """
    number = region.get("ReferencedROINumber")
    colour = region.get("ROIDisplayColor") or []
    if len(colour) != 3 or not all(0 <= int(part) <= 255 for part in colour):
        yield Reason("Region", f"Region {number} has no colour.")
    words: Counter[str] = Counter()
    covered: Covered = {}
    contours = list(contours_of(region))
    for contour in contours:
        unreadable = list(_unreadable(contour, known))
        words.update(unreadable or _misplaced(contour, known, covered))
    if not contours:
        yield Reason("Region", f"Region {number} has no contour.")
    for what, count in sorted(words.items()):
        code = GEOMETRY if what == _OFF_PLANE else "Contour"
        yield Reason(code, f"Region {number}: {count} contours {what}.", {"contours": count})


_OFF_PLANE = "are not in the plane of their image"


def _unreadable(contour: ContourInFile, known: Mapping[SourceKey, Dataset]) -> Iterator[str]:
    """Yield why a contour is nothing that can be looked at on its image."""
    if contour.kind != "CLOSED_PLANAR":
        yield "are not closed and planar"
    if len(contour.images) != 1 or contour.images[0] not in known:
        yield "do not refer to one source image"
    if len(contour.numbers) != 3 * contour.stated or contour.stated < _FEWEST_POINTS:
        yield "have not the points that they should have"
    if not np.isfinite(contour.numbers).all():
        yield "have a coordinate that is not finite"
    if contour.longest > _LONGEST_NUMBER or contour.size > _MOST_BYTES:
        yield "do not fit into decimal strings"


def _misplaced(contour: ContourInFile, known: Mapping[SourceKey, Dataset], covered: Covered) -> Iterator[str]:
    """Yield why a contour is nothing on its image, and note which pixels it covers."""
    key = contour.images[0]
    source = known[key]
    rows, columns = int(source.Rows), int(source.Columns)
    points, off = on_image(contour.places, source)
    if off > _TOLERANCE_MM:
        yield _OFF_PLANE
    if points.min() < -_BEYOND or (points > (columns - 1 + _BEYOND, rows - 1 + _BEYOND)).any():
        yield "leave their image"
        return
    corner = np.floor(points.min(axis=0)).astype(int).clip(0)
    width, height = np.ceil(points.max(axis=0)).astype(int) + 1 - corner
    mask = filled(points - corner, (int(height), int(width)))
    count = int(np.count_nonzero(mask))
    if not count:
        yield "enclose no pixel"
    if abs(area_within(points) - count) > max(1, count) * _AREA_TOLERANCE:
        yield "enclose another area than their pixels have"
    earlier = covered.setdefault(key, np.zeros((rows + 2, columns + 2), dtype=np.bool_))
    earlier = earlier[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
    if (earlier & mask).any():
        yield "overlap another contour of the region"
    earlier |= mask
