"""Every rule rejects an object that breaks it, and only such: each test changes one thing in a sound file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer import codes
from sr_writer.checking.seg import check_seg
from sr_writer.checking.sr import check_sr
from sr_writer.reading.content_tree import children
from sr_writer.results import write_results
from study.codes import Code
from study.errors import EncodingError, GeometryMismatch, NonconformantObject
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of

SHAPE = (9, 16, 24)
Change = Callable[[Dataset], object]


@dataclass(frozen=True)
class Written:
    folder: Path
    sources: list[Dataset]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    attributes = {"PatientName": "Müller^Jürgen", "IssuerOfPatientID": "A"}
    sources = headers_on_disk(folder / "in", SHAPE, attributes=attributes)
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, folder)
    return Written(folder, sources)


def changed(written: Written, form: str, change: Change, folder: Path) -> Path:
    dataset = dcmread(written.folder / f"{form}.dcm")
    change(dataset)
    dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def test_sound_files_pass(written: Written) -> None:
    segmentation = check_seg(written.folder / "seg.dcm", written.sources)
    check_sr(written.folder / "sr.dcm", written.sources, segmentation)


def setting(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def deleting(keyword: str) -> Change:
    return lambda dataset: delattr(dataset, keyword)


def in_frame(change: Change, index: int = 1) -> Change:
    return lambda dataset: change(dataset.PerFrameFunctionalGroupsSequence[index])


def in_shared(change: Change) -> Change:
    return lambda dataset: change(dataset.SharedFunctionalGroupsSequence[0])


def in_segment(change: Change) -> Change:
    return lambda dataset: change(dataset.SegmentSequence[1])


def source_image(frame: Dataset) -> Dataset:
    image: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return image


def own_equipment(dataset: Dataset) -> Dataset:
    item: Dataset = next(item for item in dataset.ContributingEquipmentSequence if "DeviceUID" in item)
    return item


COMMON: dict[str, tuple[Change, str]] = {
    "another patient": (setting("PatientID", "P2"), "PatientID"),
    "a re-encoded name": (setting("PatientName", "Mueller^Juergen"), "PatientName"),
    "another character set": (setting("SpecificCharacterSet", "ISO_IR 101"), "SpecificCharacterSet"),
    "another study": (setting("StudyInstanceUID", "2.25.77"), "StudyInstanceUID"),
    "a lost issuer": (deleting("IssuerOfPatientID"), "IssuerOfPatientID"),
    "an invented age": (setting("PatientAge", "044Y"), "PatientAge is there"),
    "a lost accession number": (setting("AccessionNumber", ""), "AccessionNumber"),
    "no algorithm": (lambda d: delattr(own_equipment(d), "DeviceUID"), "0 items"),
    "two algorithms": (
        lambda d: setattr(d.ContributingEquipmentSequence[0], "DeviceUID", "2.25.5"),
        "2 items",
    ),
    "another model name": (lambda d: setattr(own_equipment(d), "ManufacturerModelName", "x"), "ManufacturerModelName"),
    "another purpose": (
        lambda d: setattr(own_equipment(d).PurposeOfReferenceCodeSequence[0], "CodeValue", "109101"),
        "109102",
    ),
}


@pytest.mark.parametrize("form", ["seg", "sr"])
@pytest.mark.parametrize("name", sorted(COMMON))
def test_rules_of_every_result(written: Written, tmp_path: Path, form: str, name: str) -> None:
    change, words = COMMON[name]
    path = changed(written, form, change, tmp_path)
    check = check_seg if form == "seg" else check_sr
    with pytest.raises(NonconformantObject, match=words):
        check(path, written.sources)


@pytest.mark.parametrize("form", ["seg", "sr"])
def test_a_uid_that_is_none_is_refused(written: Written, tmp_path: Path, form: str) -> None:
    check = check_seg if form == "seg" else check_sr
    with disable_value_validation():
        path = changed(written, form, setting("SeriesInstanceUID", "1.02.3"), tmp_path)
        with pytest.raises(NonconformantObject, match="no UID"):
            check(path, written.sources)


def test_a_series_uid_of_the_source_is_no_uid_of_a_result(written: Written, tmp_path: Path) -> None:
    path = changed(written, "seg", setting("SeriesInstanceUID", written.sources[0].SeriesInstanceUID), tmp_path)
    with pytest.raises(NonconformantObject, match="one of the source's"):
        check_seg(path, written.sources)


def test_words_never_hold_the_patient(written: Written, tmp_path: Path) -> None:
    path = changed(written, "sr", setting("PatientName", "Secret^Sam"), tmp_path)
    with pytest.raises(NonconformantObject) as caught:
        check_sr(path, written.sources)
    assert "Secret" not in caught.value.words
    assert "ller" not in caught.value.words


SEG_GEOMETRY: dict[str, tuple[Change, str]] = {
    "a frame elsewhere": (
        in_frame(lambda f: setattr(f.PlanePositionSequence[0], "ImagePositionPatient", [-20, -30, -37])),
        "Image Position of 1 frames",
    ),
    "a mirrored orientation": (
        in_shared(lambda s: setattr(s.PlaneOrientationSequence[0], "ImageOrientationPatient", [-1, 0, 0, 0, 1, 0])),
        "Image Orientation",
    ),
    "another pixel spacing": (
        in_shared(lambda s: setattr(s.PixelMeasuresSequence[0], "PixelSpacing", [0.7, 0.8])),
        "Pixel Spacing",
    ),
    "another frame of reference": (setting("FrameOfReferenceUID", "2.25.8"), "Frame of Reference"),
    "a frame on the neighbour's image": (
        lambda d: setattr(
            source_image(d.PerFrameFunctionalGroupsSequence[1]),
            "ReferencedSOPInstanceUID",
            source_image(d.PerFrameFunctionalGroupsSequence[2]).ReferencedSOPInstanceUID,
        ),
        "Image Position",
    ),
}


@pytest.mark.parametrize("name", sorted(SEG_GEOMETRY))
def test_rules_of_a_segmentations_geometry(written: Written, tmp_path: Path, name: str) -> None:
    change, words = SEG_GEOMETRY[name]
    with pytest.raises(GeometryMismatch, match=words):
        check_seg(changed(written, "seg", change, tmp_path), written.sources)


def swap_rows_and_columns(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def blank_frame(dataset: Dataset) -> None:
    size = dataset.Rows * dataset.Columns // 8
    dataset.PixelData = bytes(size) + dataset.PixelData[size:]


def repeat_frame(dataset: Dataset) -> None:
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[1] = frames[0]


SEG_FORM: dict[str, tuple[Change, str]] = {
    "a fractional type": (setting("SegmentationType", "FRACTIONAL"), "SegmentationType"),
    "a lost frame": (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "Number of Frames"),
    "short pixel data": (lambda d: setattr(d, "PixelData", d.PixelData[:-2]), "Pixel Data has"),
    "an empty frame": (blank_frame, "1 frames are empty"),
    "a frame twice": (repeat_frame, "same segment on the same image"),
    "a gap in the numbers": (in_segment(setting("SegmentNumber", 3)), "numbered 1, 2"),
    "a segment without algorithm": (in_segment(deleting("SegmentAlgorithmName")), "SegmentAlgorithmName"),
    "a segment without colour": (in_segment(deleting("RecommendedDisplayCIELabValue")), "CIELab"),
    "the same tracking twice": (
        lambda d: setattr(d.SegmentSequence[1], "TrackingUID", d.SegmentSequence[0].TrackingUID),
        "Tracking UIDs",
    ),
    "a frame of a segment that is not there": (
        in_frame(lambda f: setattr(f.SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 4)),
        "exactly the segments",
    ),
    "a frame without source": (in_frame(setting("DerivationImageSequence", [])), "1 frames do not refer"),
    "locations not preserved": (
        in_frame(lambda f: setattr(source_image(f), "SpatialLocationsPreserved", "NO")),
        "1 frames do not refer",
    ),
    "an image of another study": (
        in_frame(lambda f: setattr(source_image(f), "ReferencedSOPInstanceUID", "2.25.6")),
        "1 references lead to no source image",
    ),
    "an image of another class": (
        in_frame(lambda f: setattr(source_image(f), "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4")),
        "another SOP Class",
    ),
    "another series": (
        lambda d: setattr(d.ReferencedSeriesSequence[0], "SeriesInstanceUID", "2.25.6"),
        "another series",
    ),
    "no series": (deleting("ReferencedSeriesSequence"), "source series is not referenced"),
    "a code of another meaning": (
        in_segment(lambda s: setattr(s.SegmentedPropertyTypeCodeSequence[0], "CodeMeaning", "Right lung")),
        "44029006/SCT",
    ),
    "a private code that is not ours": (
        in_segment(lambda s: setattr(s.SegmentedPropertyTypeCodeSequence[0], "CodingSchemeDesignator", "99HILUM")),
        "44029006/99HILUM",
    ),
}


@pytest.mark.parametrize("name", sorted(SEG_FORM))
def test_rules_of_a_segmentation(written: Written, tmp_path: Path, name: str) -> None:
    change, words = SEG_FORM[name]
    with pytest.raises(NonconformantObject, match=words):
        check_seg(changed(written, "seg", change, tmp_path), written.sources)


def test_rows_and_columns_swapped(written: Written, tmp_path: Path) -> None:
    with pytest.raises(GeometryMismatch, match="Rows or Columns"):
        check_seg(changed(written, "seg", swap_rows_and_columns, tmp_path), written.sources)


def group(document: Dataset, index: int = 0) -> Dataset:
    (container,) = children(document, codes.IMAGING_MEASUREMENTS)
    return list(children(container, codes.MEASUREMENT_GROUP))[index]


def without(item: Dataset, name: Code) -> None:
    kept = [child for child in item.ContentSequence if child not in list(children(item, name))]
    item.ContentSequence = ItemSequence(kept)


def in_region(change: Change) -> Change:
    return lambda document: change(next(children(group(document), codes.IMAGE_REGION)))


def in_number(change: Change) -> Change:
    return lambda document: change(next(children(group(document), value_type="NUM")).MeasuredValueSequence[0])


def move_region(region: Dataset) -> None:
    region.GraphicData = [float(value) + 20.0 for value in region.GraphicData]


def open_region(region: Dataset) -> None:
    region.GraphicData = list(region.GraphicData)[:-2]


SR_RULES: dict[str, tuple[Change, str]] = {
    "another title": (
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "126001"),
        "126000",
    ),
    "verified": (setting("VerificationFlag", "VERIFIED"), "VerificationFlag"),
    "partial": (setting("CompletionFlag", "PARTIAL"), "CompletionFlag"),
    "another template": (
        lambda d: setattr(d.ContentTemplateSequence[0], "TemplateIdentifier", "2000"),
        "TID 1500",
    ),
    "no procedure": (lambda d: without(d, codes.PROCEDURE_REPORTED), "procedure reported"),
    "another observer": (
        lambda d: setattr(next(children(d, codes.DEVICE_OBSERVER_UID)), "UID", "2.25.4"),
        "observer",
    ),
    "no measurements": (lambda d: without(d, codes.IMAGING_MEASUREMENTS), "neither a measurement group"),
    "no library": (lambda d: without(d, codes.IMAGE_LIBRARY), "Image Library"),
    "no tracking UID": (lambda d: without(group(d), codes.TRACKING_UNIQUE_IDENTIFIER), "Tracking Identifier or"),
    "no tracking identifier": (lambda d: without(group(d), codes.TRACKING_IDENTIFIER), "Tracking Identifier or"),
    "the same tracking UID twice": (
        lambda d: setattr(
            next(children(group(d, 1), codes.TRACKING_UNIQUE_IDENTIFIER)),
            "UID",
            next(children(group(d, 0), codes.TRACKING_UNIQUE_IDENTIFIER)).UID,
        ),
        "same Tracking UID",
    ),
    "no finding": (lambda d: without(group(d), codes.FINDING), "Finding is absent"),
    "no site": (lambda d: without(group(d), codes.FINDING_SITE), "Finding Site is absent"),
    "a volume in a planar group": (
        lambda d: setattr(group(d).ContentTemplateSequence[0], "TemplateIdentifier", "1410"),
        "planar group",
    ),
    "a number without value": (
        lambda d: setattr(next(children(group(d), value_type="NUM")), "MeasuredValueSequence", []),
        "no value",
    ),
    "a number without unit": (in_number(setting("MeasurementUnitsCodeSequence", [])), "no unit"),
    "an open contour": (in_region(open_region), "no closed polyline"),
    "a contour off the image": (in_region(move_region), "leaves its image"),
    "a contour on another study's image": (
        in_region(
            lambda r: setattr(r.ContentSequence[0].ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "2.25.3")
        ),
        "no source image",
    ),
    "evidence left out": (
        lambda d: (
            d.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence.pop()
        ),
        "not listed as evidence",
    ),
    "an unidentified private scheme": (deleting("CodingSchemeIdentificationSequence"), "not identified"),
}


@pytest.mark.parametrize("name", sorted(SR_RULES))
def test_rules_of_a_report(written: Written, tmp_path: Path, name: str) -> None:
    change, words = SR_RULES[name]
    with pytest.raises(NonconformantObject, match=words):
        check_sr(changed(written, "sr", change, tmp_path), written.sources)


def test_zero_is_a_number(written: Written, tmp_path: Path) -> None:
    change = in_number(lambda measured: setattr(measured, "NumericValue", "0.0"))
    check_sr(changed(written, "sr", change, tmp_path), written.sources)


def test_a_smaller_contour_first_is_refused(written: Written, tmp_path: Path) -> None:
    def add_smaller(document: Dataset) -> None:
        content = group(document).ContentSequence
        region = next(item for item in content if item.ValueType == "SCOORD")
        smaller = Dataset()
        smaller.update(region)
        points = np.array(region.GraphicData).reshape(-1, 2)
        smaller.GraphicData = [
            float(value) for value in (points.mean(axis=0) + (points - points.mean(axis=0)) / 4).ravel()
        ]
        content.insert(list(content).index(region), smaller)

    with pytest.raises(NonconformantObject, match="not the largest"):
        check_sr(changed(written, "sr", add_smaller, tmp_path), written.sources)


def test_a_group_of_another_name_than_its_segment_is_refused(written: Written, tmp_path: Path) -> None:
    def rename(document: Dataset) -> None:
        next(children(group(document), codes.TRACKING_IDENTIFIER)).TextValue = "Left lung"

    segmentation = check_seg(written.folder / "seg.dcm", written.sources)
    with pytest.raises(NonconformantObject, match="different identifiers"):
        check_sr(changed(written, "sr", rename, tmp_path), written.sources, segmentation)


def test_contours_where_the_segmentation_has_nothing_are_refused(written: Written, tmp_path: Path) -> None:
    def swap_tracking(segmentation: Dataset) -> None:
        first, second = segmentation.SegmentSequence
        for keyword in ("TrackingUID", "TrackingID"):
            first[keyword].value, second[keyword].value = second[keyword].value, first[keyword].value

    # The left lung begins one slice after the right one, so the right one's contours do not fit on it
    segmentation = check_seg(changed(written, "seg", swap_tracking, tmp_path), written.sources)
    with pytest.raises(NonconformantObject, match="does not have it"):
        check_sr(written.folder / "sr.dcm", written.sources, segmentation)


def test_every_finding_is_told_at_once(written: Written, tmp_path: Path) -> None:
    def ruin(dataset: Dataset) -> None:
        dataset.PatientID = "P2"
        dataset.FrameOfReferenceUID = "2.25.8"

    with pytest.raises(GeometryMismatch) as caught:
        check_seg(changed(written, "seg", ruin, tmp_path), written.sources)
    assert "PatientID" in caught.value.words
    assert caught.value.numbers["reasons"] == 2


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(400)])
def test_a_file_that_is_no_dicom_is_refused(written: Written, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.dcm").write_bytes(content)
    with pytest.raises(EncodingError, match="can not be read back"):
        check_seg(tmp_path / "broken.dcm", written.sources)


def test_a_cut_off_file_is_refused(written: Written, tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes((written.folder / "seg.dcm").read_bytes()[:-1000])
    with pytest.raises(EncodingError):
        check_seg(tmp_path / "cut.dcm", written.sources)
