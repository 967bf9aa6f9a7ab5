"""Read our own reports back from their files, as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.reading.content_tree import children, code_of, descendants, is_named, items_named, model_of, text_of
from sr_writer.source.images import SourceKey, keys_of_reference
from study.codes import CERTAINTY_OF_FINDING, Code
from study.errors import NonconformantObject

Points = NDArray[np.float64]


@dataclass(frozen=True)
class ChangeRow:
    """How a number of a report differs from the same one of an earlier study.

    Parameters
    ----------
    study_date
        YYYYMMDD.
    earlier, absolute
        The number of then, and what is more now, in the unit of the number.
    percent
        The same relative to then; None where the report does not say it.
    """

    study_instance_uid: str
    study_date: str
    earlier: float
    absolute: float
    percent: float | None


@dataclass(frozen=True)
class MeasurementRow:
    """One number of a report.

    Parameters
    ----------
    unit
        As UCUM writes it ("mL", "[hnsf'U]", "%").
    derivation
        "Mean"; "" where the name says it.
    changes
        Since each earlier study, the latest first.
    """

    name: str
    value: float
    unit: str
    derivation: str = ""
    changes: tuple[ChangeRow, ...] = ()


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed outline on one image: points (points, 2) as (column, row) [pixels].

    Parameters
    ----------
    frame_number
        Of a multi-frame image, 1 and up.
    """

    sop_instance_uid: str
    points: Points
    frame_number: int | None = None

    @property
    def image(self) -> SourceKey:
        """Return the image, or the frame, that it is drawn on."""
        return self.sop_instance_uid, self.frame_number


@dataclass(frozen=True, eq=False)
class ReportedFinding:
    """One measurement group of a report, or one statement outside of the groups.

    Parameters
    ----------
    detected
        Whether it was found; None where the report leaves that open, or only measures.
    remarks
        What the report says of the finding in words: limits, omissions, incompleteness.
    contours
        Those of the key image first.
    images
        The images that a statement is about; none where it is about all.
    segment
        The segment that is its region, where the report refers to it: SOP Instance UID and segment number.
    """

    label: str
    tracking_uid: str
    finding: Code | None
    site: Code | None
    detected: bool | None
    incomplete: bool
    measurements: tuple[MeasurementRow, ...]
    remarks: tuple[str, ...]
    contours: tuple[Contour, ...] = ()
    images: tuple[SourceKey, ...] = ()
    segment: tuple[str, int] | None = None

    @property
    def certainty(self) -> float | None:
        """Return the probability that the finding is present [%]; None where the report gives none."""
        named = CERTAINTY_OF_FINDING.meaning
        return next((row.value for row in self.measurements if row.name == named), None)


@dataclass(frozen=True, eq=False)
class Report:
    """A report as plain values.

    Parameters
    ----------
    sentences
        What a report of words says of its findings, one for each; none in a measurement report.
    compared_with
        The earlier series that it compares with, in words.
    """

    model_name: str
    model_version: str
    series_description: str
    findings: tuple[ReportedFinding, ...]
    limits: tuple[str, ...]
    sentences: tuple[str, ...] = ()
    compared_with: tuple[str, ...] = ()


def read_report(path: Path) -> Report:
    """Return what a report file says.

    Raises
    ------
    NonconformantObject
        If it is no report of a result.
    """
    document = dcmread(path)
    if not is_named(document, codes.IMAGING_MEASUREMENT_REPORT) and not is_of_words(document):
        raise NonconformantObject("The file is no report of a result.")
    name, version = model_of(document)
    return Report(
        model_name=name,
        model_version=version,
        series_description=str(document.get("SeriesDescription", "")),
        findings=tuple(_finding(item) for item in (*groups_of(document), *statements_of(document))),
        limits=tuple(str(item.TextValue) for item in children(_evaluations(document), codes.COMMENT, "TEXT")),
        sentences=tuple(str(item.TextValue) for item in sentences_of(document)),
        compared_with=tuple(
            str(item.TextValue) for item in children(_evaluations(document), codes.COMPARED_WITH, "TEXT")
        ),
    )


def is_of_words(document: Dataset) -> bool:
    """Tell whether a report says everything in words: it has no region."""
    return is_named(document, codes.ALGORITHM_RESULT)


def groups_of(document: Dataset) -> list[Dataset]:
    """Return the measurement groups of a report."""
    container = next(children(document, codes.IMAGING_MEASUREMENTS), Dataset())
    return list(children(container, codes.MEASUREMENT_GROUP))


def sentences_of(document: Dataset) -> list[Dataset]:
    """Return the items of a report of words that say something of a finding."""
    if not is_of_words(document):
        return []
    return [item for name in (codes.DETECTION, codes.MEASURED) for item in children(document, name, "TEXT")]


def statements_of(document: Dataset) -> list[Dataset]:
    """Return the codes of all that is said outside of measurement groups."""
    if is_of_words(document):
        return [code for item in sentences_of(document) for code in children(item, value_type="CODE")]
    return list(children(_evaluations(document), value_type="CODE"))


def _evaluations(document: Dataset) -> Dataset:
    """Return what the statements and limits stand in."""
    if is_of_words(document):
        return document
    return next(children(document, codes.QUALITATIVE_EVALUATIONS), Dataset())


def _finding(group: Dataset) -> ReportedFinding:
    """Return what a measurement group, or a statement outside of the groups, says of a finding."""
    evaluations = {code_of(item, "ConceptCodeSequence") for item in children(group, value_type="CODE")}
    return ReportedFinding(
        label=text_of(group, codes.TRACKING_IDENTIFIER),
        tracking_uid=text_of(group, codes.TRACKING_UNIQUE_IDENTIFIER),
        finding=_coded(group, codes.FINDING),
        site=_coded(group, codes.FINDING_SITE),
        detected=_detected(group),
        incomplete=codes.INCOMPLETE in evaluations,
        measurements=tuple(_row(item) for item in children(group, value_type="NUM")),
        remarks=tuple(str(item.TextValue) for item in children(group, codes.COMMENT)),
        contours=tuple(contour_of(item) for item in children(group, codes.IMAGE_REGION, "SCOORD")),
        images=tuple(key for item in children(group, codes.SOURCE, "IMAGE") for key in keys_of_image(item)),
        segment=segment_of(group),
    )


def segment_of(group: Dataset) -> tuple[str, int] | None:
    """Return the segment that a measurement group refers to, where it refers to one: SOP Instance UID and number."""
    for item in children(group, codes.REFERENCED_SEGMENT, "IMAGE"):
        for reference in items_named(item, "ReferencedSOPSequence"):
            numbers = reference.get("ReferencedSegmentNumber")
            if isinstance(numbers, int):
                return str(reference.get("ReferencedSOPInstanceUID", "")), numbers
    return None


def _detected(group: Dataset) -> bool | None:
    """Return whether something was found: a measurement group is about what was."""
    if is_named(group, codes.MEASUREMENT_GROUP):
        return True
    said = code_of(group, "ConceptCodeSequence") if is_named(group, codes.DETECTION) else None
    return {codes.DETECTED: True, codes.NOT_DETECTED: False}.get(said) if said else None


def _coded(group: Dataset, name: Code) -> Code | None:
    item = next(children(group, name), None)
    return None if item is None else code_of(item, "ConceptCodeSequence")


def _row(item: Dataset) -> MeasurementRow:
    measured = item.MeasuredValueSequence[0]
    derivation = next((child for child in children(item) if child.ValueType == "CODE"), None)
    name, unit = code_of(item), code_of(measured, "MeasurementUnitsCodeSequence")
    derived = None if derivation is None else code_of(derivation, "ConceptCodeSequence")
    return MeasurementRow(
        name=name.meaning if name else "",
        value=float(measured.NumericValue),
        unit=unit.value if unit else "",
        derivation=derived.meaning if derived else "",
        changes=tuple(_change(change) for change in children(item, codes.COMPARISON, "TEXT")),
    )


def _change(item: Dataset) -> ChangeRow:
    then = next(children(item, codes.EARLIER_VALUE, "NUM"), Dataset())
    absolute = next(children(item, codes.CHANGE, "NUM"), Dataset())
    relative = next(children(item, codes.RELATIVE_CHANGE, "NUM"), None)
    dated = next(children(then, codes.STUDY_DATE, "DATE"), Dataset())
    return ChangeRow(
        study_instance_uid=text_of(then, codes.STUDY),
        study_date=str(dated.get("Date", "")),
        earlier=float(then.MeasuredValueSequence[0].NumericValue),
        absolute=float(absolute.MeasuredValueSequence[0].NumericValue),
        percent=None if relative is None else float(relative.MeasuredValueSequence[0].NumericValue),
    )


def contour_of(region: Dataset) -> Contour:
    """Return the outline of an SCOORD content item."""
    keys = [key for item in descendants(region) for key in keys_of_image(item)]
    uid, frame_number = keys[0] if len(keys) == 1 else ("", None)
    return Contour(uid, np.asarray(region.GraphicData, dtype=np.float64).reshape(-1, 2), frame_number)


def keys_of_image(item: Dataset) -> Iterator[SourceKey]:
    """Yield the image, or the frames of one, that a content item refers to; nothing where it is no IMAGE."""
    if item.get("ValueType") == "IMAGE":
        for reference in items_named(item, "ReferencedSOPSequence"):
            yield from keys_of_reference(reference)
