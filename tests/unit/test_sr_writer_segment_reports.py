"""Reports whose groups refer to the segments of the Segmentation, for archives and research tools."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer import codes
from sr_writer.checking.sr import check_sr
from sr_writer.reading.content_tree import children, items_named
from sr_writer.reading.report import groups_of, read_report
from sr_writer.results import write_results
from study.errors import NonconformantObject
from study.forms import Form, Variant, Wish, settle
from study.imaging import ResultSet
from tests.support.results import (
    CONTEXT,
    MODEL,
    headers_on_disk,
    lungs,
    nested,
    result_of,
    sides,
    variants_of,
)

SHAPE = (9, 20, 24)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


@dataclass(frozen=True)
class Written:
    report: Path
    segmentations: list[Dataset]


def write(
    folder: Path, result: ResultSet, sources: list[Dataset], *forms: str, most_frames: int | None = None
) -> Written:
    wish = Wish("pacs", tuple(Form(form) for form in (*forms, "sr_segments")), most_frames=most_frames)
    settled = settle(wish, {}).variants
    objects = write_results(result, sources, MODEL, CONTEXT, folder, settled)
    (report,) = (folder / each.path for each in objects if each.form == "sr_segments")
    return Written(report, [dcmread(folder / each.path) for each in objects if each.form in forms])


@pytest.fixture(scope="module")
def written(sources: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("written"), result_of(lungs(SHAPE)), sources, "seg")


def test_a_group_refers_to_its_segment_and_draws_nothing(written: Written, sources: list[Dataset]) -> None:
    (seg,) = written.segmentations
    right, left, _ = read_report(written.report).findings
    assert (right.segment, left.segment) == ((seg.SOPInstanceUID, 1), (seg.SOPInstanceUID, 2))
    assert not right.contours
    assert right.tracking_uid == seg.SegmentSequence[0].TrackingUID
    assert right.remarks == ()
    for group in groups_of(dcmread(written.report))[:2]:
        (series,) = children(group, codes.SOURCE_SERIES_FOR_SEGMENTATION)
        assert sources[0].SeriesInstanceUID == series.UID


def test_a_region_of_several_segments_is_drawn_and_says_why(written: Written) -> None:
    both = read_report(written.report).findings[2]
    assert both.segment is None
    assert both.contours
    assert both.remarks[0] == (
        "Drawn here, since a report can refer to one segment only, and the region is several together."
    )
    assert both.remarks[-1] == (
        "The whole region is these segments of the Segmentation together: Right lung, Left lung."
    )


def test_the_evidence_lists_images_and_the_segmentation(written: Written, sources: list[Dataset]) -> None:
    (study,) = dcmread(written.report).CurrentRequestedProcedureEvidenceSequence
    listed = {
        series.SeriesInstanceUID: [str(item.ReferencedSOPClassUID) for item in series.ReferencedSOPSequence]
        for series in study.ReferencedSeriesSequence
    }
    (seg,) = written.segmentations
    assert set(listed) == {sources[0].SeriesInstanceUID, seg.SeriesInstanceUID}
    assert listed[seg.SeriesInstanceUID] == [seg.SOPClassUID]


def test_another_reader_finds_the_segment(written: Written) -> None:
    content: Any = srread(written.report).content
    right, left, both = content.get_volumetric_roi_measurement_groups()
    (seg,) = written.segmentations
    for number, group in enumerate((right, left), 1):
        (reference,) = group.referenced_segment[0].ReferencedSOPSequence
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber) == (seg.SOPInstanceUID, number)
    assert len(both.roi) > 1


def test_it_says_what_it_is(written: Written) -> None:
    document = dcmread(written.report)
    assert document.SeriesDescription == "Lung CT measurements of segments - not for diagnostic use"
    assert (document.SeriesNumber, document.SOPClassUID) == (9600, "1.2.840.10008.5.1.4.1.1.88.34")


def test_a_finding_without_a_region_has_a_group(tmp_path: Path, sources: list[Dataset]) -> None:
    report = write(tmp_path, ResultSet(None, sides()), sources).report
    document = dcmread(report)
    assert {group.ContentTemplateSequence[0].TemplateIdentifier for group in groups_of(document)} == {"1501"}
    assert read_report(report).findings[0].measurements[0].value == 1700.3


def test_segments_that_overlap_are_found_wherever_they_are(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    sources = headers_on_disk(tmp_path / "in", shape)
    found = write(tmp_path, nested(shape), sources, "seg_labelmap")
    where = {
        str(item.TrackingUID): (str(each.SOPInstanceUID), int(item.SegmentNumber))
        for each in found.segmentations
        for item in each.SegmentSequence
        if "TrackingUID" in item
    }
    assert len(found.segmentations) == 3
    for finding in read_report(found.report).findings:
        assert finding.segment == where[finding.tracking_uid]


def test_a_segment_that_is_cut_over_two_objects_is_drawn(tmp_path: Path, sources: list[Dataset]) -> None:
    found = write(tmp_path, result_of(lungs(SHAPE)), sources, "seg", most_frames=5)
    assert len(found.segmentations) > 2
    for finding in read_report(found.report).findings[:2]:
        assert finding.segment is None
        assert finding.contours
        assert finding.remarks[-3:][0] == (
            "Drawn here, since the Segmentation has no segment that is this region alone and whole."
        )


def test_whole_segments_in_two_objects_are_referred_to(tmp_path: Path, sources: list[Dataset]) -> None:
    found = write(tmp_path, result_of(lungs(SHAPE)), sources, "seg", most_frames=7)
    assert len(found.segmentations) == 2
    right, left, _ = read_report(found.report).findings
    assert right.segment == (found.segmentations[0].SOPInstanceUID, 1)
    assert left.segment == (found.segmentations[1].SOPInstanceUID, 1)


def test_without_a_segmentation_everything_is_drawn(tmp_path: Path, sources: list[Dataset]) -> None:
    right, *_ = read_report(write(tmp_path, result_of(lungs(SHAPE)), sources).report).findings
    assert right.contours
    assert right.remarks[0] == "Drawn here, since no Segmentation of this result is sent."


def test_a_second_finding_on_a_segment_is_drawn(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    again = replace(result.findings[0], key="again", label="Right lung again")
    found = write(tmp_path, replace(result, findings=(*result.findings, again)), sources, "seg")
    first, *_, second = read_report(found.report).findings
    assert first.segment is not None
    assert second.segment is None
    assert second.remarks[-1] == "The whole region is these segments of the Segmentation together: Right lung."


def test_what_is_not_there_is_not_detected(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    values[values == 2] = 0
    found = write(tmp_path, replace(result_of(values), findings=sides()[:1]), sources, "seg")
    assert {item.label: item.detected for item in read_report(found.report).findings} == {
        "Right lung": True,
        "Left lung": False,
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: list[Dataset]) -> None:
    one, two = (write(tmp_path / name, result_of(lungs(SHAPE)), sources, "seg").report for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_each_segmentation_has_a_report_of_its_own(tmp_path: Path, sources: list[Dataset]) -> None:
    of_seg = write(tmp_path / "a", result_of(lungs(SHAPE)), sources, "seg").report
    of_labelmap = write(tmp_path / "b", result_of(lungs(SHAPE)), sources, "seg_labelmap").report
    assert dcmread(of_seg).SOPInstanceUID != dcmread(of_labelmap).SOPInstanceUID
    assert variants_of("seg", "sr_segments")[1] == Variant(Form.SR_SEGMENTS, segmentation=Form.SEG)


Change = Callable[[Dataset], object]


def reference(document: Dataset, group: int = 0) -> Dataset:
    (item,) = children(groups_of(document)[group], codes.REFERENCED_SEGMENT)
    return item


def referred(document: Dataset) -> Dataset:
    (item,) = items_named(reference(document), "ReferencedSOPSequence")
    return item


def give(keyword: str, value: object) -> Change:
    return lambda document: setattr(referred(document), keyword, value)


def add_contour(document: Dataset) -> None:
    region = next(children(groups_of(document)[2], codes.IMAGE_REGION))
    groups_of(document)[0].ContentSequence.append(deepcopy(region))


def twice(document: Dataset) -> None:
    groups_of(document)[0].ContentSequence.append(deepcopy(reference(document)))


def another_series(document: Dataset) -> None:
    (item,) = children(groups_of(document)[0], codes.SOURCE_SERIES_FOR_SEGMENTATION)
    item.UID = "2.25.3"


def no_series(document: Dataset) -> None:
    group = groups_of(document)[0]
    dropped = list(children(group, codes.SOURCE_SERIES_FOR_SEGMENTATION))
    group.ContentSequence = ItemSequence([item for item in group.ContentSequence if item not in dropped])


def not_listed(document: Dataset) -> None:
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    study.ReferencedSeriesSequence = ItemSequence(
        [item for item in study.ReferencedSeriesSequence if len(item.ReferencedSOPSequence) > 1]
    )


def template(identifier: str) -> Change:
    return lambda document: setattr(groups_of(document)[0].ContentTemplateSequence[0], "TemplateIdentifier", identifier)


RULES: dict[str, tuple[Change, str]] = {
    "the other segment": (give("ReferencedSegmentNumber", 2), "is tracked as another"),
    "a segment that is not there": (give("ReferencedSegmentNumber", 7), "is not there"),
    "two segments": (give("ReferencedSegmentNumber", [1, 2]), "more than one segment, or to none"),
    "no segment": (lambda d: delattr(referred(d), "ReferencedSegmentNumber"), "more than one segment, or to none"),
    "another object": (give("ReferencedSOPInstanceUID", "2.25.4"), "is not there"),
    "another class": (give("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"), "another SOP Class"),
    "two references": (twice, "more than one segment, or to none"),
    "contours besides": (add_contour, "contours besides the segment"),
    "another series": (another_series, "source series of the segment"),
    "no series": (no_series, "source series of the segment"),
    "no evidence": (not_listed, "not listed as evidence"),
    "a planar group": (template("1410"), "a volume stands in a planar group"),
    "a group without a region": (template("1501"), "marked as TID 1501"),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_of_a_reference(written: Written, sources: list[Dataset], tmp_path: Path, name: str) -> None:
    change, words = RULES[name]
    document = dcmread(written.report)
    change(document)
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match=words):
        check_sr(tmp_path / "sr.dcm", sources, written.segmentations)


def test_the_sound_one_passes_with_its_segmentation_alone(written: Written, sources: list[Dataset]) -> None:
    check_sr(written.report, sources, written.segmentations)
    with pytest.raises(NonconformantObject, match="is not there"):
        check_sr(written.report, sources)


def test_a_volume_of_another_name_stands_in_no_planar_group_either(
    written: Written, sources: list[Dataset], tmp_path: Path
) -> None:
    document = dcmread(written.report)
    for item in children(groups_of(document)[0], value_type="NUM"):
        item.ConceptNameCodeSequence[0].CodeValue = "118565007"
    template("1410")(document)
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match="a volume stands in a planar group"):
        check_sr(tmp_path / "sr.dcm", sources, written.segmentations)
