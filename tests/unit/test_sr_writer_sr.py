from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes as report_codes
from sr_writer.checking.sr import document_reasons
from sr_writer.files import encoded, save
from sr_writer.reading.content_tree import children, code_of, descendants, is_named, text_of
from sr_writer.reading.report import MeasurementRow, Report, groups_of, read_report, statements_of
from sr_writer.region.areas import MOST_SLICES
from sr_writer.seg.writing import write_seg
from sr_writer.sr.document import WITH_CONTOURS, write_reports
from study import codes
from study.codes import Code
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import Finding, Measurement, ResultSet
from tests.support.results import BRAIN, CONTEXT, MODEL, TUMOUR, headers_on_disk, lungs, predecessor, result_of

SHAPE = (30, 24, 32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def saved(result: ResultSet, sources: list[Dataset], folder: Path, variant: Variant = WITH_CONTOURS) -> Dataset:
    segmentations = write_seg(result, sources, MODEL, CONTEXT) if result.label_map is not None else []
    report, *_ = write_reports(result, sources, MODEL, CONTEXT, segmentations, variant=variant)
    save(report, folder / "sr.dcm")
    return dcmread(folder / "sr.dcm")


def predecessors(document: Dataset) -> list[tuple[str, str, str, str]]:
    return [
        (study.StudyInstanceUID, series.SeriesInstanceUID, each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID)
        for study in document.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    ]


def read(result: ResultSet, sources: list[Dataset], folder: Path) -> Report:
    saved(result, sources, folder)
    return read_report(folder / "sr.dcm")


def test_it_is_a_complete_unverified_measurement_report(tmp_path: Path, sources: list[Dataset]) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert code_of(document) == report_codes.IMAGING_MEASUREMENT_REPORT
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (document.SeriesNumber, document.SeriesDescription) == (
        9500,
        "Lung CT measurements - not for diagnostic use",
    )


def test_a_device_observed_and_no_person(tmp_path: Path, sources: list[Dataset]) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    assert text_of(document, report_codes.DEVICE_OBSERVER_UID) == MODEL.device_uid
    names = {code.meaning for code in map(code_of, children(document)) if code}
    assert not {name for name in names if name.startswith("Person Observer")}


def test_the_numbers_come_back_with_unit_and_derivation(tmp_path: Path, sources: list[Dataset]) -> None:
    report = read(result_of(lungs(SHAPE)), sources, tmp_path)
    right = report.findings[0]
    assert (right.label, right.site) == ("Right lung", codes.RIGHT_LUNG)
    assert right.measurements == (
        MeasurementRow("Volume", 1700.3, "mL"),
        MeasurementRow("Attenuation Coefficient", -812.5, "[hnsf'U]", "Mean"),
        MeasurementRow(codes.LAA_950.meaning, 3.25, "%"),
        MeasurementRow(codes.PERCENTILE_15.meaning, -921.0, "[hnsf'U]"),
    )


def test_what_limits_a_finding_stands_in_its_group_in_words(tmp_path: Path, sources: list[Dataset]) -> None:
    left = read(result_of(lungs(SHAPE)), sources, tmp_path).findings[1]
    assert left.incomplete
    words = " ".join(left.remarks)
    assert "Incomplete: the lung touches the last slice." in words
    assert "Volume left out: the lung is not whole in the images." in words
    assert "A note on the left lung." in words
    assert "Contours are a selection: on 10 of 27 slices" in words
    assert "segment of the same Tracking UID" in words


def test_limits_of_the_whole_result_are_readable(tmp_path: Path, sources: list[Dataset]) -> None:
    assert read(result_of(lungs(SHAPE)), sources, tmp_path).limits == ("The images came from a phantom.",)


def test_groups_are_volumetric_with_contours_on_source_images(tmp_path: Path, sources: list[Dataset]) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    uids = {str(source.SOPInstanceUID) for source in sources}
    for group in groups_of(document):
        assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
        regions = list(children(group, report_codes.IMAGE_REGION))
        assert {region.GraphicType for region in regions} == {"POLYLINE"}
        slices = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for r in regions for item in descendants(r)}
        assert slices <= uids
        assert 9 <= len(slices) <= MOST_SLICES


def test_the_key_image_has_the_largest_area_and_comes_first(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    values[17, 2:20, 2:15] = 1
    report = read(result_of(values), sources, tmp_path)
    assert report.findings[0].contours[0].sop_instance_uid == sources[17].SOPInstanceUID


def test_a_region_of_several_segments_has_a_key_image_of_its_own(tmp_path: Path, sources: list[Dataset]) -> None:
    right, left, both = read(result_of(lungs(SHAPE)), sources, tmp_path).findings
    assert both.contours[0].sop_instance_uid not in {
        right.contours[0].sop_instance_uid,
        left.contours[0].sop_instance_uid,
    }
    assert "Right lung, Left lung" in " ".join(both.remarks)


def test_contours_outline_the_region_in_column_row_order(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    contour = read(result_of(values), sources, tmp_path).findings[0].contours[0]
    index = [source.SOPInstanceUID for source in sources].index(contour.sop_instance_uid)
    rows, columns = np.nonzero(values[index] == 1)
    assert tuple(contour.points.min(axis=0)) == (columns.min(), rows.min())
    assert tuple(contour.points.max(axis=0)) == (columns.max() + 1, rows.max() + 1)


def test_only_images_with_contours_are_in_the_library_in_one_group(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    for index, source in enumerate(sources):
        source.FrameOfReferenceUID = f"2.25.{index + 1}"
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (library,) = children(document, report_codes.IMAGE_LIBRARY)
    (group,) = children(library, report_codes.IMAGE_LIBRARY_GROUP)
    entries = list(children(group, value_type="IMAGE"))
    listed = {str(entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for entry in entries}
    drawn = {
        contour.sop_instance_uid
        for finding in read_report(tmp_path / "sr.dcm").findings
        for contour in finding.contours
    }
    assert listed == drawn
    assert len(entries) < len(sources)
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    for entry in entries:
        own = by_uid[str(entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)].FrameOfReferenceUID
        assert {item.UID for item in children(entry, value_type="UIDREF")} == {own}


def test_tracking_ties_a_group_to_its_segment_and_a_combined_one_to_none(
    tmp_path: Path, sources: list[Dataset]
) -> None:
    result = result_of(lungs(SHAPE))
    (seg,) = write_seg(result, sources, MODEL, CONTEXT)
    report = read(result, sources, tmp_path)
    segments = [(item.TrackingID, item.TrackingUID) for item in seg.SegmentSequence]
    right, left, both = report.findings
    assert [(finding.label, finding.tracking_uid) for finding in (right, left)] == segments
    assert both.tracking_uid not in {uid for _, uid in segments}


def test_what_was_not_detected_is_said_outside_of_the_groups(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    nodule = Finding("nodule", "Nodule", codes.ANATOMICAL_STRUCTURE, codes.BOTH_LUNGS, (), detected=False)
    document = saved(replace(result, findings=(*result.findings, nodule)), sources, tmp_path)
    assert len(groups_of(document)) == 3
    found = read_report(tmp_path / "sr.dcm").findings[3]
    assert (found.label, found.detected, found.site) == ("Nodule", False, codes.BOTH_LUNGS)
    assert "found nothing" in found.remarks[0]


def test_the_procedure_reported_is_the_sources_where_it_names_one(tmp_path: Path) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "CTTH", "99SITE", "CT Größe"
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"ProcedureCodeSequence": [procedure]})
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (item,) = children(document, report_codes.PROCEDURE_REPORTED)
    assert item.ConceptCodeSequence[0].CodeValue == "CTTH"
    assert item.ConceptCodeSequence[0].CodeMeaning == "CT Größe"


def test_the_procedure_reported_follows_the_modality_where_the_source_names_none(
    tmp_path: Path, sources: list[Dataset]
) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (item,) = children(document, report_codes.PROCEDURE_REPORTED)
    assert code_of(item, "ConceptCodeSequence") == report_codes.CT_PROCEDURE


def test_the_private_scheme_is_identified_where_it_is_used(tmp_path: Path, sources: list[Dataset]) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (scheme,) = document.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99HILUM"
    assert scheme.CodingSchemeName
    assert "CodingSchemeUID" not in scheme


def test_the_same_inputs_give_the_same_bytes(sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    first, second = ([encoded(each) for each in write_reports(result, sources, MODEL, CONTEXT)] for _ in range(2))
    assert first == second


def test_another_reader_finds_the_groups_and_their_contours(tmp_path: Path, sources: list[Dataset]) -> None:
    saved(result_of(lungs(SHAPE)), sources, tmp_path)
    content: Any = srread(tmp_path / "sr.dcm").content
    groups = content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Right lung", "Left lung", "Both lungs"]
    assert len(groups[0].get_measurements()) == 4
    assert len(groups[0].roi) == len(read_report(tmp_path / "sr.dcm").findings[0].contours)


def test_typographic_signs_are_spelled_out_and_everything_else_is_ascii(tmp_path: Path, sources: list[Dataset]) -> None:
    result = replace(result_of(lungs(SHAPE)), limits=("Slices ≤ 1.5 mm – “thin”",))
    assert read(result, sources, tmp_path).limits == ('Slices <= 1.5 mm - "thin"',)
    with pytest.raises(EncodingError, match=r"U\+00FC"):
        write_reports(replace(result, limits=("für",)), sources, MODEL, CONTEXT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(sources: list[Dataset], value: float) -> None:
    result = result_of(lungs(SHAPE))
    broken = replace(result.findings[0], measurements=(Measurement(codes.VOLUME, value, codes.MILLILITRE),))
    with pytest.raises(EncodingError, match="must be a number"):
        write_reports(replace(result, findings=(broken,)), sources, MODEL, CONTEXT)


def test_a_report_without_a_segmentation_does_not_speak_of_one(tmp_path: Path, sources: list[Dataset]) -> None:
    (report,) = write_reports(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT)
    save(report, tmp_path / "sr.dcm")
    words = " ".join(remark for each in read_report(tmp_path / "sr.dcm").findings for remark in each.remarks)
    assert "Segmentation" not in words
    assert is_named(dcmread(tmp_path / "sr.dcm"), report_codes.IMAGING_MEASUREMENT_REPORT)


def test_a_comprehensive_sr_has_the_same_tree(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    (tmp_path / "3d").mkdir()
    plain = saved(result, sources, tmp_path, Variant(Form.SR_COMPREHENSIVE, segmentation=Form.SEG))
    in_3d = saved(result, sources, tmp_path / "3d")
    assert plain.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert plain.ContentSequence == in_3d.ContentSequence
    assert (plain.SeriesDescription, plain.SeriesNumber) == (in_3d.SeriesDescription, 9700)
    assert not {plain.SOPInstanceUID, plain.SeriesInstanceUID} & {in_3d.SOPInstanceUID, in_3d.SeriesInstanceUID}


def test_items_are_read_one_by_one(tmp_path: Path, sources: list[Dataset]) -> None:
    document = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    containers = [document, *(item for item in descendants(document) if item.ValueType == "CONTAINER")]
    assert len(containers) == 8
    assert {item.ContinuityOfContent for item in containers} == {"SEPARATE"}


def test_findings_without_numbers_are_no_measurements(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    findings = tuple(replace(finding, measurements=()) for finding in result.findings)
    document = saved(replace(result, findings=findings), sources, tmp_path)
    assert document.SeriesDescription == "Lung CT findings - not for diagnostic use"


def test_a_region_of_one_pixel_is_no_rectangle_to_a_viewer(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    values[values == 1] = 0
    values[5:9, 6, 6] = 1
    contours = read(result_of(values), sources, tmp_path).findings[0].contours
    assert {len(contour.points) for contour in contours} == {9}
    for contour in contours:
        assert (contour.points[0] == contour.points[-1]).all()
        assert tuple(contour.points.min(axis=0)) == (6, 6)
        assert tuple(contour.points.max(axis=0)) == (7, 7)


def test_a_side_of_a_finding_that_is_absent_is_coded(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    side = Code("7771000", "SCT", "Left")
    kidney = Finding("k", "Left kidney", TUMOUR[0].property_type, BRAIN, (), detected=False, laterality=side)
    document = saved(replace(result, findings=(*result.findings, kidney)), sources, tmp_path)
    (statement,) = statements_of(document)
    (site,) = children(statement, report_codes.FINDING_SITE)
    assert code_of(next(children(site)), "ConceptCodeSequence") == side


def test_a_report_names_those_of_its_variant_that_it_takes_the_place_of(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    before = (predecessor(WITH_CONTOURS.key), replace(predecessor("other"), sop_instance_uid="2.25.4713"))
    context = replace(CONTEXT, predecessors=before)
    report, *_ = write_reports(result, sources, MODEL, context)
    study = sources[0].StudyInstanceUID
    assert predecessors(report) == [(study, "2.25.4712", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.4711")]
    assert report.SOPInstanceUID == write_reports(result, sources, MODEL, CONTEXT)[0].SOPInstanceUID
    assert predecessors(saved(result, sources, tmp_path)) == []


@pytest.mark.parametrize("wrong", ["itself", "another study", "nothing"])
def test_a_report_with_wrong_predecessors_fails_the_check(sources: list[Dataset], wrong: str) -> None:
    context = replace(CONTEXT, predecessors=(predecessor(WITH_CONTOURS.key),))
    report, *_ = write_reports(result_of(lungs(SHAPE)), sources, MODEL, context)
    assert [reason for reason in document_reasons(report, [report.SOPClassUID]) if reason.code == "Reference"] == []
    (study,) = report.PredecessorDocumentsSequence
    if wrong == "itself":
        study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = report.SOPInstanceUID
    elif wrong == "another study":
        study.StudyInstanceUID = "2.25.1"
    else:
        del study.ReferencedSeriesSequence
    codes_found = [reason.code for reason in document_reasons(report, [report.SOPClassUID])]
    assert codes_found == ["Reference"]
