"""What a model says without a region: classes with probabilities, numbers, on volumes and on single radiographs.

Here as a measurement report (TID 1500), which `sr_segments` is always; the same in words: test_sr_writer_words.py.
"""

from __future__ import annotations

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
from sr_writer.reading.report import MeasurementRow, Report, keys_of_image, read_report
from sr_writer.region.areas import MOST_SLICES
from sr_writer.results import write_results
from sr_writer.source.images import key_of
from sr_writer.sr.document import write_reports
from study import codes
from study.codes import Code
from study.errors import EncodingError, NonconformantObject
from study.imaging import Assessment, Measurement, ResultSet
from tests.support.results import (
    CHEST,
    CONTEXT,
    MODEL,
    PNEUMOTHORAX,
    PROJECTIONS,
    assessments,
    headers_on_disk,
    lungs,
    radiograph,
    result_of,
    variants_of,
)
from tests.support.series import axial_affine

SHAPE = (30, 20, 24)


@dataclass(frozen=True)
class Written:
    folder: Path
    sources: list[Dataset]

    @property
    def path(self) -> Path:
        return self.folder / "sr_segments.dcm"

    @property
    def document(self) -> Dataset:
        return dcmread(self.path)

    @property
    def report(self) -> Report:
        return read_report(self.path)


def write(folder: Path, sources: list[Dataset], *said: Assessment, limits: tuple[str, ...] = ()) -> Written:
    result = ResultSet(None, (), limits, assessments=said)
    (report,) = write_results(result, sources, MODEL, CONTEXT, folder, variants_of("sr_segments"))
    assert report.path == "sr_segments.dcm"
    return Written(folder, sources)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    return write(folder, headers_on_disk(folder / "in", SHAPE), *assessments(), limits=("A limit.",))


def statements(document: Dataset) -> list[Dataset]:
    (evaluations,) = children(document, report_codes.QUALITATIVE_EVALUATIONS)
    return list(children(evaluations, value_type="CODE"))


def test_what_was_said_comes_back(written: Written) -> None:
    absent, present, undecided, measured = written.report.findings
    assert [finding.detected for finding in written.report.findings] == [False, True, None, None]
    assert [finding.certainty for finding in written.report.findings] == [7.0, 93.4, 50.0, None]
    assert (absent.label, absent.finding, absent.site) == ("Pneumothorax", PNEUMOTHORAX, CHEST)
    assert (present.site, present.images) == (None, (key_of(written.sources[0]),))
    assert undecided.remarks == ("A note.",)
    assert measured.measurements == (MeasurementRow("Density", 12.5, "%", "Mean"),)
    assert "A limit." in written.report.limits


def test_the_words_that_a_viewer_shows_claim_no_more_than_the_model(written: Written) -> None:
    said = [code_of(item, "ConceptCodeSequence") for item in statements(written.document)]
    assert [code.meaning for code in said if code] == ["Not detected", "Detected", "Assessed, not decided", "Breast"]
    names = [code_of(item) for item in statements(written.document)]
    assert [code.meaning for code in names if code] == 3 * ["Detection by the algorithm"] + [
        "Measured by the algorithm"
    ]


def test_no_measurement_group_is_written(written: Written) -> None:
    assert not list(children(written.document, report_codes.IMAGING_MEASUREMENTS))


def test_a_statement_is_inferred_from_its_images_which_the_library_has(written: Written) -> None:
    _, present, *_ = statements(written.document)
    (image,) = children(present, value_type="IMAGE")
    assert image.RelationshipType == "INFERRED FROM"
    (library,) = children(written.document, report_codes.IMAGE_LIBRARY)
    listed = {key for item in descendants(library) for key in keys_of_image(item)}
    assert listed == {key_of(written.sources[0])}


def test_what_is_about_all_images_refers_to_the_middle_one(tmp_path: Path, written: Written) -> None:
    document = write(tmp_path, written.sources, assessments()[0]).document
    (key,) = {key for item in descendants(document) for key in keys_of_image(item)}
    assert key == key_of(written.sources[SHAPE[0] // 2])


def test_many_images_are_a_selection_and_said_to_be(tmp_path: Path, written: Written) -> None:
    wide = Assessment("wide", "Wide", PNEUMOTHORAX, probability=0.9, detected=True, slices=tuple(range(2, 28)))
    (finding,) = write(tmp_path, written.sources, wide).report.findings
    assert len(finding.images) == MOST_SLICES
    assert (finding.images[0], finding.images[-1]) == (key_of(written.sources[2]), key_of(written.sources[27]))
    assert finding.remarks == (f"Concerns 26 images, of which {MOST_SLICES} are referenced.",)


def test_the_same_key_tracks_a_finding_and_an_assessment_apart(tmp_path: Path, written: Written) -> None:
    result = result_of(lungs(SHAPE), axial_affine())
    same = Assessment("right_lung", "Right lung", PNEUMOTHORAX, CHEST, probability=0.5, detected=True)
    write_results(replace(result, assessments=(same,)), written.sources, MODEL, CONTEXT, tmp_path)
    found = read_report(tmp_path / "sr.dcm").findings
    assert [finding.label for finding in found].count("Right lung") == 2
    assert len({finding.tracking_uid for finding in found}) == 4


def test_the_certainty_is_explained_once(written: Written, tmp_path: Path) -> None:
    assert sum("Certainty of Finding is" in limit for limit in written.report.limits) == 1
    assert write(tmp_path, written.sources, assessments()[3]).report.limits == ()


def test_the_same_inputs_give_the_same_bytes(written: Written, tmp_path: Path) -> None:
    again = write(tmp_path, written.sources, *assessments(), limits=("A limit.",))
    assert again.path.read_bytes() == written.path.read_bytes()


@pytest.mark.parametrize("modality", sorted(PROJECTIONS))
def test_a_radiograph_gets_its_report(tmp_path: Path, modality: str) -> None:
    case = write(tmp_path, radiograph(tmp_path / "in", modality), *assessments())
    (library,) = children(case.document, report_codes.IMAGE_LIBRARY)
    told = {code.meaning for item in descendants(library) if (code := code_of(item))}
    spacing = {"Horizontal Pixel Spacing", "Patient Orientation Row"} if modality != "CR" else set()
    assert told >= {"Modality", "Pixel Data Rows", "Source"} | spacing
    assert not told & {"Frame of Reference UID", "Image Position (Patient) X", "Slice Thickness"}
    assert case.report.findings[0].certainty == 7.0


def test_an_orientation_that_says_half_is_left_out(tmp_path: Path) -> None:
    sources = radiograph(tmp_path / "in", "DX")
    sources[0].PatientOrientation = ["L", ""]
    (library,) = children(write(tmp_path, sources, *assessments()).document, report_codes.IMAGE_LIBRARY)
    told = {code.meaning for item in descendants(library) if (code := code_of(item))}
    assert "Patient Orientation Row" not in told


@pytest.mark.parametrize("modality", sorted(PROJECTIONS))
def test_no_region_is_written_on_a_radiograph(tmp_path: Path, modality: str) -> None:
    result = result_of(np.ones((1, 20, 30), dtype=np.uint8))
    for form in ("seg", "sr"):
        with pytest.raises(EncodingError, match="no place in the patient"):
            write_results(
                result, radiograph(tmp_path / "in", modality), MODEL, CONTEXT, tmp_path, variants=variants_of(form)
            )


def test_a_modality_that_the_standard_does_not_name_is_left_out(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes={"Modality": "ZZ"})
    (library,) = children(write(tmp_path, sources, *assessments()).document, report_codes.IMAGE_LIBRARY)
    assert "Modality" not in {code.meaning for item in descendants(library) if (code := code_of(item))}


@pytest.mark.parametrize(("modality", "value"), [("PT", "44136-0"), ("NM", "49118-3"), ("DX", "363679005")])
def test_the_procedure_reported_follows_the_modality(tmp_path: Path, modality: str, value: str) -> None:
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes={"Modality": modality})
    (item,) = children(write(tmp_path, sources, *assessments()).document, report_codes.PROCEDURE_REPORTED)
    assert item.ConceptCodeSequence[0].CodeValue == value


@pytest.mark.parametrize("probability", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_probability_that_is_none_is_refused(written: Written, probability: float) -> None:
    wrong = replace(assessments()[0], probability=probability)
    with pytest.raises(EncodingError, match="from 0 to 1"):
        write_reports(ResultSet(None, (), assessments=(wrong,)), written.sources, MODEL, CONTEXT)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_ends_are_probabilities(tmp_path: Path, written: Written, probability: float) -> None:
    case = write(tmp_path, written.sources, replace(assessments()[0], probability=probability))
    assert case.report.findings[0].certainty == 100 * probability


def test_a_number_that_is_none_is_refused(written: Written) -> None:
    wrong = replace(assessments()[3], measurements=(Measurement(codes.VOLUME, float("nan"), codes.MILLILITRE),))
    with pytest.raises(EncodingError, match="must be a number"):
        write_reports(ResultSet(None, (), assessments=(wrong,)), written.sources, MODEL, CONTEXT)


def test_an_assessment_that_says_nothing_is_refused(written: Written) -> None:
    empty = Assessment("empty", "Empty", PNEUMOTHORAX)
    with pytest.raises(EncodingError, match="Empty has neither"):
        write_reports(ResultSet(None, (), assessments=(empty,)), written.sources, MODEL, CONTEXT)


@pytest.mark.parametrize("index", [-1, SHAPE[0]])
def test_an_image_that_there_is_not_is_refused(written: Written, index: int) -> None:
    wrong = replace(assessments()[1], slices=(index,))
    with pytest.raises(EncodingError, match="does not have"):
        write_reports(ResultSet(None, (), assessments=(wrong,)), written.sources, MODEL, CONTEXT)


def test_a_result_that_says_nothing_is_refused(written: Written) -> None:
    with pytest.raises(EncodingError, match="neither a finding nor an assessment"):
        write_reports(ResultSet(None, ()), written.sources, MODEL, CONTEXT)


Change = Callable[[list[Dataset]], object]


def without(item: Dataset, name: Code) -> None:
    dropped = list(children(item, name))
    item.ContentSequence = ItemSequence([child for child in item.ContentSequence if child not in dropped])


def certainty(statement: Dataset) -> Dataset:
    (item,) = children(statement, codes.CERTAINTY_OF_FINDING)
    measured: Dataset = item.MeasuredValueSequence[0]
    return measured


def unit(statement: Dataset) -> Dataset:
    item: Dataset = certainty(statement).MeasurementUnitsCodeSequence[0]
    return item


def say(statement: Dataset, code: Code) -> None:
    item = statement.ConceptCodeSequence[0]
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning


def copy_tracking(said: list[Dataset]) -> None:
    first, second = (next(children(item, report_codes.TRACKING_UNIQUE_IDENTIFIER)) for item in said[:2])
    second.UID = first.UID


def refer_to(uid: str) -> Change:
    def change(said: list[Dataset]) -> None:
        (image,) = children(said[1], value_type="IMAGE")
        image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = uid

    return change


RULES: dict[str, tuple[Change, str]] = {
    "no tracking UID": (lambda s: without(s[0], report_codes.TRACKING_UNIQUE_IDENTIFIER), "1: Tracking Identifier or"),
    "no tracking identifier": (lambda s: without(s[3], report_codes.TRACKING_IDENTIFIER), "4: Tracking Identifier or"),
    "the same tracking UID": (copy_tracking, "same Tracking UID"),
    "no finding": (lambda s: without(s[0], report_codes.FINDING), "1: Finding is absent"),
    "a certainty over 100": (lambda s: setattr(certainty(s[0]), "NumericValue", "101"), "not from 0 to 100"),
    "a certainty below 0": (lambda s: setattr(certainty(s[0]), "NumericValue", "-1"), "not from 0 to 100"),
    "a certainty without a value": (lambda s: setattr(certainty(s[0]), "NumericValue", None), "not finite"),
    "a certainty in another unit": (lambda s: setattr(unit(s[0]), "CodeValue", "1"), "not in percent"),
    "a certainty that is none": (
        lambda s: setattr(next(children(s[0], codes.CERTAINTY_OF_FINDING)), "MeasuredValueSequence", []),
        "no value",
    ),
    "no decision and no certainty": (lambda s: without(s[2], codes.CERTAINTY_OF_FINDING), "not one certainty"),
    "another decision": (lambda s: say(s[0], codes.TISSUE), "nor that this is left open"),
    "numbers alone without a number": (
        lambda s: without(s[3], Code("DENS", "99ACME", "Density")),
        "neither about a detection nor about a number",
    ),
    "an image of another study": (refer_to("2.25.7"), "no source images"),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_of_a_statement(written: Written, tmp_path: Path, name: str) -> None:
    change, words = RULES[name]
    document = written.document
    change(statements(document))
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match=words):
        check_sr(tmp_path / "sr.dcm", written.sources)


def test_an_image_that_the_library_lacks_is_refused(written: Written, tmp_path: Path) -> None:
    document = written.document
    refer_to(written.sources[5].SOPInstanceUID)(statements(document))
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match="Image Library lacks"):
        check_sr(tmp_path / "sr.dcm", written.sources)
