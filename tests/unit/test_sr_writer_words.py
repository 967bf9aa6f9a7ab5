"""What has no region is said in words that viewers show, and below them in codes that programs read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer import codes as report_codes
from sr_writer.checking.sr import check_sr
from sr_writer.reading.content_tree import children, code_of, descendants
from sr_writer.reading.report import keys_of_image, read_report, sentences_of, statements_of
from sr_writer.results import write_results
from sr_writer.source.images import key_of
from study import codes
from study.entities import ResultObject
from study.errors import EncodingError, NonconformantObject
from study.imaging import Assessment, LabelMap, ResultSet, Segment
from tests.support.results import (
    ABNORMAL,
    CHEST,
    CONTEXT,
    MODEL,
    NEOPLASM,
    PNEUMOTHORAX,
    SEGMENTS,
    assessments,
    headers_on_disk,
    lungs,
    radiograph,
    result_of,
    sides,
    variants_of,
)
from tests.support.series import axial_affine

SHAPE = (9, 20, 24)
NODULE = Segment(3, "Nodule", ABNORMAL, NEOPLASM, region=codes.LEFT_LUNG)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


@dataclass(frozen=True)
class Written:
    folder: Path
    objects: list[ResultObject]

    def document(self, number: int = 0) -> Dataset:
        return dcmread(self.folder / self.objects[number].path)

    def sentences(self, number: int = 0) -> tuple[str, ...]:
        return read_report(self.folder / self.objects[number].path).sentences


def write(folder: Path, result: ResultSet, sources: list[Dataset], form: str = "sr") -> Written:
    return Written(folder, write_results(result, sources, MODEL, CONTEXT, folder, variants_of(form)))


@pytest.fixture(scope="module")
def words(sources: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Written:
    absent = replace(sides()[0], key="nodule", label="Nodule", detected=False, measurements=())
    result = ResultSet(None, (*sides(), absent), ("A limit.",), assessments=assessments())
    return write(tmp_path_factory.mktemp("words"), result, sources)


def test_every_statement_is_a_sentence(words: Written) -> None:
    assert words.sentences() == (
        "Nodule: not detected. The algorithm looked for it and found nothing in these images.",
        "Pneumothorax: not detected; Certainty of Finding 7 %.",
        "Effusion: detected; Certainty of Finding 93.4 %; on image 1.",
        "Open question: not decided by the algorithm; Certainty of Finding 50 %. A note.",
        "Right lung: Volume 1700.3 mL; Attenuation Coefficient (mean) -812.5 HU; LAA-950 3.25 %; Perc15 -921 HU.",
        "Left lung: Attenuation Coefficient (mean) -812.5 HU; LAA-950 3.25 %; Perc15 -921 HU. "
        "Incomplete: the lung touches the last slice. Volume left out: the lung is not whole in the images. "
        "A note on the left lung.",
        "Breast density: Density (mean) 12.5 %.",
    )


def test_what_a_viewer_shows_is_words_alone_and_the_summary_first(words: Written) -> None:
    document = words.document()
    assert document.ContinuityOfContent == "SEPARATE"
    items = [item for item in document.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert {item.ValueType for item in items} == {"TEXT"}
    assert items[0].TextValue == (
        "What the algorithm lung_ct, version 1.2.0, says of these images. No person has verified it. "
        "Not for diagnostic use."
    )
    told = [str(item.TextValue) for item in items]
    assert "A limit." in told
    assert 'Series 3 (CT) "Phantom axial", 9 images.' in told


def test_the_codes_below_come_back(words: Written) -> None:
    report = read_report(words.folder / "sr.dcm")
    assert [finding.label for finding in report.findings] == [
        *("Nodule", "Pneumothorax", "Effusion", "Open question", "Right lung", "Left lung", "Breast density")
    ]
    assert [finding.detected for finding in report.findings] == [False, False, True, None, None, None, None]
    assert report.findings[4].measurements[0].value == 1700.3
    assert report.limits[0] == "A limit."


def test_it_is_no_measurement_report_and_has_no_region(words: Written) -> None:
    document = words.document()
    assert code_of(document) == report_codes.ALGORITHM_RESULT
    assert "ContentTemplateSequence" not in document
    assert not [item for item in descendants(document) if item.ValueType in ("SCOORD", "CONTAINER")]


def test_the_series_is_referred_to_by_its_middle_image(words: Written, sources: list[Dataset]) -> None:
    (about,) = children(words.document(), report_codes.SOURCE)
    assert [key for item in children(about) for key in keys_of_image(item)] == [key_of(sources[4])]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (slice(0, 3), "Lung CT classification - not for diagnostic use"),
        (slice(0, 4), "Lung CT measurements - not for diagnostic use"),
    ],
)
def test_a_report_of_classes_does_not_call_itself_measurements(
    tmp_path: Path, sources: list[Dataset], said: slice, expected: str
) -> None:
    written = write(tmp_path, ResultSet(None, (), assessments=assessments()[said]), sources)
    assert written.document().SeriesDescription == expected


def test_a_report_that_nothing_was_detected_says_so(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(np.zeros(SHAPE, dtype=np.uint8))
    findings = tuple(replace(each, detected=False, measurements=()) for each in result.findings)
    written = write(tmp_path, replace(result, findings=findings), sources)
    assert [finding.detected for finding in read_report(tmp_path / "sr.dcm").findings] == [False] * 3
    assert written.document().SeriesDescription == "Lung CT findings - not for diagnostic use"
    assert all("not detected" in sentence for sentence in written.sentences())


def test_a_segment_without_a_voxel_is_told_though_no_finding_speaks_of_it(
    tmp_path: Path, sources: list[Dataset]
) -> None:
    result = result_of(lungs(SHAPE), segments=(*SEGMENTS, NODULE))
    written = write(tmp_path, result, sources)
    statements = [item for item in read_report(tmp_path / "sr.dcm").findings if item.detected is False]
    assert [(item.label, item.finding, item.site) for item in statements] == [("Nodule", NEOPLASM, codes.LEFT_LUNG)]
    assert [each.path for each in written.objects] == ["sr.dcm", "sr-2.dcm"]
    assert written.sentences(1) == (
        "Nodule: not detected. The algorithm looked for it and found nothing in these images.",
    )


def test_a_finding_over_several_segments_tells_of_none_of_them_alone(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    values[values == 2] = 0
    result = result_of(values)
    both = result.findings[2:]
    write(tmp_path, replace(result, findings=both), sources)
    found = {item.label: item.detected for item in read_report(tmp_path / "sr.dcm").findings}
    assert found == {"Both lungs": True, "Left lung": False}


def test_a_segment_is_told_once(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(np.zeros(SHAPE, dtype=np.uint8))
    findings = tuple(replace(each, detected=False, measurements=()) for each in result.findings)
    assert len(write(tmp_path, replace(result, findings=findings[2:]), sources).sentences()) == 1
    assert len(write(tmp_path, replace(result, findings=()), sources).sentences()) == 2


def test_a_finding_of_a_region_without_a_voxel_is_not_detected(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE), segments=(*SEGMENTS, NODULE))
    nodule = replace(result.findings[0], key="n", label="Nodule", segment_values=(3,), measurements=())
    write(tmp_path, replace(result, findings=(*result.findings, nodule)), sources)
    found = {item.label: item.detected for item in read_report(tmp_path / "sr.dcm").findings}
    assert found["Nodule"] is False
    measured = replace(nodule, measurements=result.findings[0].measurements)
    with pytest.raises(EncodingError, match="Nodule is measured, and the label map has no voxel of it"):
        write(tmp_path, replace(result, findings=(measured,)), sources)


def test_words_beside_contours_stand_in_a_series_of_their_own(tmp_path: Path, sources: list[Dataset]) -> None:
    result = replace(result_of(lungs(SHAPE)), assessments=assessments())
    written = write(tmp_path, result, sources)
    contours, said = written.document(0), written.document(1)
    assert contours.SeriesInstanceUID != said.SeriesInstanceUID
    assert contours.SOPInstanceUID != said.SOPInstanceUID
    assert (contours.SeriesNumber, said.SeriesNumber) == (9500, 9550)
    assert (contours.SeriesDescription, said.SeriesDescription) == (
        "Lung CT measurements - not for diagnostic use",
        "Lung CT values in words - not for diagnostic use",
    )
    assert "stands in another series" in said.ContentSequence[0].TextValue
    # The measurement report is whole by itself, and both track the same
    assert [item.ConceptCodeSequence for item in statements_of(contours)] == [
        item.ConceptCodeSequence for item in statements_of(said)
    ]
    assert {finding.tracking_uid for finding in read_report(tmp_path / "sr-2.dcm").findings} <= {
        finding.tracking_uid for finding in read_report(tmp_path / "sr.dcm").findings
    }


def test_contours_alone_make_one_report(tmp_path: Path, sources: list[Dataset]) -> None:
    assert len(write(tmp_path, result_of(lungs(SHAPE)), sources).objects) == 1


@pytest.mark.parametrize("form", ["sr", "sr_comprehensive"])
def test_no_group_of_a_report_for_viewers_is_without_a_contour(
    tmp_path: Path, sources: list[Dataset], form: str
) -> None:
    result = result_of(lungs(SHAPE))
    whole = replace(sides()[0], key="whole", label="Whole image", segment_values=())
    written = write(tmp_path, replace(result, findings=(*result.findings, whole)), sources, form)
    assert [item for item in written.sentences(1) if item.startswith("Whole image: Volume 1700.3 mL")]
    (container,) = children(written.document(), report_codes.IMAGING_MEASUREMENTS)
    for group in children(container, report_codes.MEASUREMENT_GROUP):
        assert next(children(group, value_type="SCOORD"), None) is not None


def test_the_same_inputs_give_the_same_bytes(words: Written, tmp_path: Path, sources: list[Dataset]) -> None:
    result = replace(result_of(lungs(SHAPE)), assessments=assessments())
    first, second = (write(tmp_path / name, result, sources).objects for name in "ab")
    assert first == second


def test_a_radiograph_gets_its_report_of_words(tmp_path: Path) -> None:
    written = write(tmp_path, ResultSet(None, (), assessments=assessments()), radiograph(tmp_path / "in", "DX"))
    assert written.sentences()[1] == "Effusion: detected; Certainty of Finding 93.4 %; on image 1."


def test_an_image_without_a_number_is_said_to_be(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes={"InstanceNumber": None})
    written = write(tmp_path, ResultSet(None, (), assessments=assessments()[1:2]), sources)
    assert written.sentences() == ("Effusion: detected; Certainty of Finding 93.4 %; on image without a number.",)


def test_a_series_description_in_other_letters_is_left_out(tmp_path: Path) -> None:
    attributes = {"SpecificCharacterSet": "ISO_IR 144", "SeriesDescription": "Грудь", "SeriesNumber": None}
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes=attributes)
    written = write(tmp_path, ResultSet(None, (), assessments=assessments()), sources)
    (about,) = children(written.document(), report_codes.SOURCE)
    assert about.TextValue == "Series (CT), 1 image."


Change = Callable[[Dataset], object]


def sentence(document: Dataset, number: int = 1) -> Dataset:
    return sentences_of(document)[number - 1]


def statement(document: Dataset, number: int = 1) -> Dataset:
    (item,) = children(sentence(document, number), value_type="CODE")
    return item


def say(number: int, words: str) -> Change:
    return lambda document: setattr(sentence(document, number), "TextValue", words)


def add_region(document: Dataset) -> None:
    region = Dataset()
    region.ValueType, region.RelationshipType, region.GraphicType = "SCOORD", "CONTAINS", "POLYLINE"
    document.ContentSequence.append(region)


def add_group(document: Dataset) -> None:
    group, container = Dataset(), Dataset()
    for item, code in ((group, report_codes.MEASUREMENT_GROUP), (container, report_codes.IMAGING_MEASUREMENTS)):
        name = Dataset()
        name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code.value, code.scheme, code.meaning
        item.ConceptNameCodeSequence = ItemSequence([name])
        item.ValueType = "CONTAINER"
        item.ContentSequence = ItemSequence([])
    container.ContentSequence = ItemSequence([group])
    document.ContentSequence.append(container)


def without(document: Dataset, *names: codes.Code) -> None:
    dropped = [item for name in names for item in children(document, name)]
    document.ContentSequence = ItemSequence([item for item in document.ContentSequence if item not in dropped])


def detected(document: Dataset) -> None:
    code = statement(document).ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning = report_codes.DETECTED.value, report_codes.DETECTED.meaning


RULES: dict[str, tuple[Change, str]] = {
    "a region": (add_region, "has a measurement group or a region"),
    "a group": (add_group, "has a measurement group or a region"),
    "no summary": (lambda d: without(d, report_codes.SUMMARY), "no summary"),
    "no statement": (
        lambda d: without(d, report_codes.DETECTION, report_codes.MEASURED),
        "neither",
    ),
    "a sentence without codes": (lambda d: delattr(sentence(d), "ContentSequence"), "Sentence 1 has not one coded"),
    "a sentence with two": (
        lambda d: sentence(d).ContentSequence.append(statement(d, 2)),
        "Sentence 1 has not one coded",
    ),
    "a sentence of another finding": (say(1, "Nodul: not detected."), "Sentence 1 does not say"),
    "a sentence of the opposite": (say(1, "Nodule: detected."), "Sentence 1 does not say"),
    "codes of the opposite": (detected, "Sentence 1 does not say"),
    "a sentence without its number": (say(2, "Pneumothorax: not detected."), "Sentence 2 does not say"),
    "a sentence with another number": (
        say(5, "Right lung: Volume 170.3 mL; Attenuation (mean) -812.5 HU; LAA-950 3.25 %; Perc15 -921 HU."),
        "Sentence 5 does not say",
    ),
    "a sentence with the other sign": (
        say(5, "Right lung: Volume 1700.3 mL; Attenuation (mean) 812.5 HU; LAA-950 3.25 %; Perc15 -921 HU."),
        "Sentence 5 does not say",
    ),
    "another title": (lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "REASON"), "126000"),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_of_a_report_of_words(words: Written, sources: list[Dataset], tmp_path: Path, name: str) -> None:
    change, expected = RULES[name]
    document = words.document()
    change(document)
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match=re.escape(expected)):
        check_sr(tmp_path / "sr.dcm", sources)


def test_numbers_with_many_figures_agree_in_words_and_codes(tmp_path: Path, sources: list[Dataset]) -> None:
    tiny = Assessment("t", "Tiny: part 1", PNEUMOTHORAX, CHEST, probability=1.23456e-9, detected=False)
    written = write(tmp_path, ResultSet(None, (), assessments=(tiny,)), sources)
    assert written.sentences() == ("Tiny: part 1: not detected; Certainty of Finding 1.23e-07 %.",)


def test_a_result_that_says_nothing_is_refused(sources: list[Dataset], tmp_path: Path) -> None:
    label_map = LabelMap(lungs(SHAPE), axial_affine(), SEGMENTS)
    with pytest.raises(EncodingError, match="neither a finding nor an assessment"):
        write(tmp_path, ResultSet(label_map, ()), sources)
