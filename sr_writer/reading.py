"""Read our own results back from their files, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.content_tree import children, code_of, descendants, is_named, text_of
from study.codes import Code
from study.errors import NonconformantObject

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class MeasurementRow:
    """One number of a report.

    Parameters
    ----------
    unit
        As UCUM writes it ("mL", "[hnsf'U]", "%").
    derivation
        "Mean"; "" where the name says it.
    """

    name: str
    value: float
    unit: str
    derivation: str = ""


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed outline on one image: points (points, 2) as (column, row) [pixels]."""

    sop_instance_uid: str
    points: Points


@dataclass(frozen=True, eq=False)
class ReportedFinding:
    """One measurement group of a report.

    Parameters
    ----------
    remarks
        What the report says of the finding in words: limits, omissions, incompleteness.
    contours
        Those of the key image first.
    """

    label: str
    tracking_uid: str
    finding: Code | None
    site: Code | None
    detected: bool
    incomplete: bool
    measurements: tuple[MeasurementRow, ...]
    remarks: tuple[str, ...]
    contours: tuple[Contour, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """A report as plain values."""

    model_name: str
    model_version: str
    series_description: str
    findings: tuple[ReportedFinding, ...]
    limits: tuple[str, ...]


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
        For each frame its segment number, the SOP Instance UID of its source image, and bool (rows, columns).
    """

    model_name: str
    model_version: str
    series_description: str
    segments: tuple[SegmentInFile, ...]
    frames: tuple[tuple[int, str, Mask], ...]

    def label_map(self, sop_instance_uids: tuple[str, ...]) -> NDArray[np.uint16]:
        """Return uint16 (slices, rows, columns) of segment numbers, one slice for each source image given."""
        where = {uid: index for index, uid in enumerate(sop_instance_uids)}
        values = np.zeros((len(where), *self.frames[0][2].shape), dtype=np.uint16)
        for number, uid, mask in self.frames:
            values[where[uid]][mask] = number
        return values


def read_report(path: Path) -> Report:
    """Return what a report file says.

    Raises
    ------
    NonconformantObject
        If it is no measurement report.
    """
    document = dcmread(path)
    if not is_named(document, codes.IMAGING_MEASUREMENT_REPORT):
        raise NonconformantObject("The file is no measurement report.")
    name, version = _model(document)
    measurements = next(children(document, codes.IMAGING_MEASUREMENTS), Dataset())
    evaluations = next(children(document, codes.QUALITATIVE_EVALUATIONS), Dataset())
    about = [*children(measurements, codes.MEASUREMENT_GROUP), *children(evaluations, codes.DETECTION)]
    return Report(
        model_name=name,
        model_version=version,
        series_description=str(document.get("SeriesDescription", "")),
        findings=tuple(_finding(item) for item in about),
        limits=tuple(str(item.TextValue) for item in children(evaluations, value_type="TEXT")),
    )


def _finding(group: Dataset) -> ReportedFinding:
    """Return what a measurement group, or the statement that nothing was detected, says of a finding."""
    evaluations = {code_of(item, "ConceptCodeSequence") for item in children(group, value_type="CODE")}
    return ReportedFinding(
        label=text_of(group, codes.TRACKING_IDENTIFIER),
        tracking_uid=text_of(group, codes.TRACKING_UNIQUE_IDENTIFIER),
        finding=_coded(group, codes.FINDING),
        site=_coded(group, codes.FINDING_SITE),
        detected=not is_named(group, codes.DETECTION),
        incomplete=codes.INCOMPLETE in evaluations,
        measurements=tuple(_row(item) for item in children(group, value_type="NUM")),
        remarks=tuple(str(item.TextValue) for item in children(group, codes.COMMENT)),
        contours=tuple(contour_of(item) for item in children(group, codes.IMAGE_REGION, "SCOORD")),
    )


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
    )


def contour_of(region: Dataset) -> Contour:
    """Return the outline of an SCOORD content item."""
    image = next((item for item in descendants(region) if item.get("ValueType") == "IMAGE"), None)
    references = None if image is None else image.get("ReferencedSOPSequence")
    uid = str(references[0].ReferencedSOPInstanceUID) if references else ""
    return Contour(uid, np.asarray(region.GraphicData, dtype=np.float64).reshape(-1, 2))


def read_segmentation(path: Path) -> SegmentationInFile:
    """Return what a BINARY Segmentation file holds, decoded."""
    segmentation = dcmread(path)
    name, version = _model(segmentation)
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
                source_uid(frame),
                frame_mask(segmentation.PixelData, index, int(segmentation.Rows), int(segmentation.Columns)),
            )
            for index, frame in enumerate(frames)
        ),
    )


def segment_number(segmentation: Dataset, frame: Dataset) -> int:
    """Return the segment that a frame shows; it stands in the shared groups where there is one segment only."""
    groups = frame if "SegmentIdentificationSequence" in frame else segmentation.SharedFunctionalGroupsSequence[0]
    return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def source_uid(frame: Dataset) -> str:
    """Return the SOP Instance UID of the first source image of a frame."""
    return str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


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


def _model(dataset: Dataset) -> tuple[str, str]:
    """Return name and version of the model that made a result."""
    versions = dataset.get("SoftwareVersions") or ""
    return str(dataset.get("ManufacturerModelName", "")), versions if isinstance(versions, str) else str(versions[0])
