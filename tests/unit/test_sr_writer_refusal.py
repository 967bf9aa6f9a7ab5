"""The report that a series was not analysed: readable, right for odd sources, and nothing like a finding."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import EnhancedSRStorage

from sr_writer import codes
from sr_writer.checking.refusal import check_refusal
from sr_writer.files import encoded
from sr_writer.notices import write_notices
from sr_writer.reading.content_tree import children, code_of, descendants, text_of
from sr_writer.reading.report import keys_of_image, read_report
from sr_writer.source.images import key_of
from sr_writer.sr.refusal import write_refusal
from study.codes import Code
from study.entities import Predecessor
from study.errors import EncodingError, MissingIdentity, NonconformantObject, Reason
from study.forms import Form, Variant, Wish, notice
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.results import CONTEXT, MODEL, headers_on_disk, radiograph
from tests.support.series import axial_affine

GAP = Reason(
    "MissingSlices",
    "Slice gap of 7.00 mm between the slices at 12.00 mm and 19.00 mm; the others are 2.00 mm apart.",
    {"gap_mm": 7.0, "step_mm": 2.0},
)
FEW = Reason("TooFewSlices", "The series has 3 slices, the model wants 10 or more.", {"slices": 3, "fewest": 10})
DIED = Reason("RunnerDied", "The process that ran the model ended without an answer.", {"signal": 9})
REFUSAL = Variant(Form.REFUSAL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), (9, 8, 8))


def written(
    folder: Path, sources: list[Dataset], *reasons: Reason, failed: bool = False, variant: Variant = REFUSAL
) -> Dataset:
    (result,) = write_notices(reasons or (GAP, FEW), sources, MODEL, CONTEXT, folder, [variant], failed=failed)
    return dcmread(folder / result.path)


def told(document: Dataset, name: Code) -> list[str]:
    return [str(item.TextValue) for item in children(document, name, "TEXT")]


def test_it_is_a_basic_text_report_that_says_so_in_the_list(tmp_path: Path, sources: list[Dataset]) -> None:
    document = written(tmp_path, sources)
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert document.SeriesDescription == "Lung CT NOT ANALYSED - not for diagnostic use"
    assert (document.SeriesNumber, document.Modality) == (9800, "SR")
    assert code_of(document) == codes.NOT_ANALYSED
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_it_says_what_was_not_analysed_and_that_silence_means_nothing(tmp_path: Path, sources: list[Dataset]) -> None:
    document = written(tmp_path, sources)
    assert told(document, codes.SUMMARY) == [
        "NOT ANALYSED. The algorithm lung_ct, version 1.2.0 (Lung CT), did not analyse this series. It says nothing "
        "about these images: that no finding of it is reported does not mean that there is none. "
        "Not for diagnostic use."
    ]
    assert told(document, codes.SOURCE) == ['Series 3 (CT) "Phantom axial".']
    assert "send the series again" in told(document, codes.WHAT_TO_DO)[0]
    assert (told(document, codes.ALGORITHM_NAME), told(document, codes.ALGORITHM_VERSION)) == (["lung_ct"], ["1.2.0"])


def test_every_reason_stands_in_its_words(tmp_path: Path, sources: list[Dataset]) -> None:
    assert told(written(tmp_path, sources, GAP, FEW), codes.REASON) == [GAP.words, FEW.words]


def test_numbers_that_the_words_do_not_tell_follow(tmp_path: Path, sources: list[Dataset]) -> None:
    reason = Reason("X", "The slices are 2.50 mm apart.", {"step_mm": 2.503, "slices": 44, "attribute": "PixelSpacing"})
    assert told(written(tmp_path, sources, reason), codes.REASON) == [
        "The slices are 2.50 mm apart. (attribute: PixelSpacing; slices: 44)"
    ]


def test_it_says_that_earlier_results_are_outdated_under_a_uid_of_its_own(sources: list[Dataset]) -> None:
    before = replace(CONTEXT, predecessors=(Predecessor("sr", EnhancedSRStorage, "2.25.1", "2.25.2"),))
    alone, after = (write_refusal((GAP,), sources, MODEL, each, REFUSAL, failed=False) for each in (CONTEXT, before))
    words = "Earlier results of this algorithm in this study are outdated"
    assert [words in told(each, codes.SUMMARY)[0] for each in (alone, after)] == [False, True]
    assert alone.SOPInstanceUID != after.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in after


def test_a_failure_is_no_refusal(tmp_path: Path, sources: list[Dataset]) -> None:
    document = written(tmp_path, sources, DIED, failed=True)
    assert document.SeriesDescription == "Lung CT ANALYSIS FAILED - not for diagnostic use"
    assert code_of(document) == codes.ANALYSIS_FAILED
    assert told(document, codes.SUMMARY)[0].startswith("ANALYSIS FAILED. ")
    assert "failed, for a technical reason" in told(document, codes.SUMMARY)[0]
    assert told(document, codes.REASON) == [f"{DIED.words} (signal: 9)"]
    assert "administrator" in told(document, codes.WHAT_TO_DO)[0]


def test_a_viewer_that_shows_the_items_below_the_root_shows_everything(tmp_path: Path, sources: list[Dataset]) -> None:
    document = written(tmp_path, sources)
    assert document.ContinuityOfContent == "SEPARATE"
    shown = [item for item in document.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert {item.ValueType for item in shown} == {"TEXT"}
    assert shown[0].ConceptNameCodeSequence[0].CodeMeaning == "Summary"


def test_it_refers_to_a_few_images_of_the_series(tmp_path: Path, sources: list[Dataset]) -> None:
    document = written(tmp_path, sources)
    (about,) = children(document, codes.SOURCE)
    keys = [key for item in descendants(document) for key in keys_of_image(item)]
    assert keys == [key_of(sources[index]) for index in (0, 4, 8)]
    assert len(list(children(about))) == 3


def test_other_reasons_make_another_report(sources: list[Dataset]) -> None:
    def uids(*reasons: Reason, failed: bool = False, variant: Variant = REFUSAL) -> tuple[str, str]:
        document = write_refusal(reasons, sources, MODEL, CONTEXT, variant, failed=failed)
        return document.SOPInstanceUID, document.SeriesInstanceUID

    more = replace(GAP, numbers={"gap_mm": 8.0})
    prefixed = Variant(Form.REFUSAL, description_prefix="AI ")
    made = [
        *(uids(GAP), uids(FEW), uids(GAP, FEW), uids(more), uids(GAP, failed=True), uids(GAP, variant=prefixed)),
    ]
    assert len({uid for pair in made for uid in pair}) == 12
    assert uids(GAP) == made[0]


def test_the_same_inputs_give_the_same_bytes(sources: list[Dataset]) -> None:
    first, second = (encoded(write_refusal((GAP,), sources, MODEL, CONTEXT, REFUSAL, failed=False)) for _ in range(2))
    assert first == second


def test_what_is_returned_is_what_is_on_disk(tmp_path: Path, sources: list[Dataset]) -> None:
    wished = notice(Wish("pacs", (Form.SR, Form.REFUSAL), description_prefix="AI "))
    assert wished is not None
    results = write_notices((GAP,), sources, MODEL, CONTEXT, tmp_path, [REFUSAL, wished, REFUSAL], failed=False)
    assert [(each.path, each.form) for each in results] == [("refusal.dcm", "refusal"), ("refusal-2.dcm", "refusal")]
    for each in results:
        content = (tmp_path / each.path).read_bytes()
        assert (each.digest, each.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert results[1].variant == "refusal;prefix=AI "
    described = str(dcmread(tmp_path / "refusal-2.dcm").SeriesDescription)
    assert described == "AI Lung CT NOT ANALYSED - not for diagnostic use"


def test_identity_is_carried_byte_for_byte(tmp_path: Path) -> None:
    attributes = {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люксембург^Роза", "PatientBirthDate": None}
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes=attributes)
    document = written(tmp_path, sources)
    assert document.PatientName == "Люксембург^Роза"
    assert document.PatientBirthDate == ""
    assert document.StudyInstanceUID == sources[0].StudyInstanceUID


def test_words_in_other_letters_are_no_obstacle_and_said_to_be_missing(tmp_path: Path, sources: list[Dataset]) -> None:
    reason = Reason("OtherDescription", 'The Series Description is "Thorax überlagert\t?", the model wants "CT ≥ 1".')
    assert told(written(tmp_path, sources, reason), codes.REASON) == [
        'The Series Description is "Thorax ?berlagert??", the model wants "CT >= 1". '
        "(? stands for a sign that can not be shown here.)"
    ]


ODD: dict[str, dict[str, Any]] = {
    "no position": {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "no size": {"Rows": None, "Columns": None},
    "no modality": {"Modality": None},
    "an odd series number": {"SeriesNumber": None, "SeriesDescription": "a\\b"},
    "nothing of type 2": dict.fromkeys(
        [
            *("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
            *("StudyID", "AccessionNumber", "InstanceNumber", "StudyDescription"),
        ]
    ),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_sources_get_their_report(tmp_path: Path, name: str) -> None:
    written(tmp_path, headers_on_disk(tmp_path / "in", (2, 8, 8), attributes=ODD[name]))


def test_mixed_geometry_is_no_obstacle(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", (3, 8, 8))
    sources[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    sources[2].Rows = 9
    sources[2].ImagePositionPatient = ""
    written(tmp_path, sources)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
def test_a_radiograph_gets_its_report(tmp_path: Path, modality: str) -> None:
    document = written(tmp_path, radiograph(tmp_path / "in", modality))
    assert len([key for item in descendants(document) for key in keys_of_image(item)]) == 1


def test_frames_of_a_multi_frame_image_are_named(tmp_path: Path) -> None:
    order = (2, 0, 1)
    multi = enhanced_image(np.zeros((3, 8, 8)), axial_affine(), order, "CT")
    sources = frame_headers(multi, order, tmp_path / "in")
    document = written(tmp_path, sources)
    keys = {key for item in descendants(document) for key in keys_of_image(item)}
    assert keys == {key_of(source) for source in sources}


def test_images_of_other_series_are_not_referred_to(tmp_path: Path, sources: list[Dataset]) -> None:
    other = deepcopy(sources[5])
    other.SeriesInstanceUID = "2.25.8"
    document = written(tmp_path, [*sources[:1], other])
    assert [key for item in descendants(document) for key in keys_of_image(item)] == [key_of(sources[0])]


def test_a_patient_without_id_gets_no_report(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", (1, 8, 8), attributes={"PatientID": ""})
    with pytest.raises(MissingIdentity):
        write_notices((GAP,), sources, MODEL, CONTEXT, tmp_path, [REFUSAL], failed=False)
    allowing = replace(CONTEXT, allow_empty_patient_id=True)
    assert write_notices((GAP,), sources, MODEL, allowing, tmp_path, [REFUSAL], failed=False)


def test_no_reason_and_no_image_are_errors(sources: list[Dataset]) -> None:
    with pytest.raises(EncodingError, match="for no reason"):
        write_refusal((), sources, MODEL, CONTEXT, REFUSAL, failed=False)
    nameless = deepcopy(sources[0])
    del nameless.SOPInstanceUID
    with pytest.raises(EncodingError, match="can be referred to"):
        write_refusal((GAP,), [nameless], MODEL, CONTEXT, REFUSAL, failed=False)


def test_it_is_no_report_of_a_result(tmp_path: Path, sources: list[Dataset]) -> None:
    written(tmp_path, sources)
    with pytest.raises(NonconformantObject, match="no report of a result"):
        read_report(tmp_path / "refusal.dcm")


Change = Callable[[Dataset], object]


def without(document: Dataset, name: Code) -> None:
    dropped = list(children(document, name))
    document.ContentSequence = ItemSequence([item for item in document.ContentSequence if item not in dropped])


def item(code: Code, value_type: str) -> Dataset:
    name, made = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code.value, code.scheme, code.meaning
    made.ConceptNameCodeSequence = ItemSequence([name])
    made.RelationshipType, made.ValueType = "CONTAINS", value_type
    return made


def blank(name: Code) -> Change:
    return lambda document: setattr(next(children(document, name)), "TextValue", " ")


def image(document: Dataset) -> Dataset:
    (about,) = children(document, codes.SOURCE)
    found: Dataset = next(children(about))
    return found


def enhanced(document: Dataset) -> None:
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage


def more_images(document: Dataset) -> None:
    (about,) = children(document, codes.SOURCE)
    about.ContentSequence.append(deepcopy(image(document)))


def lift_image(document: Dataset) -> None:
    document.ContentSequence.append(deepcopy(image(document)))


RULES: dict[str, tuple[Change, str]] = {
    "another class": (enhanced, "SOPClassUID"),
    "verified": (lambda d: setattr(d, "VerificationFlag", "VERIFIED"), "VerificationFlag"),
    "partial": (lambda d: setattr(d, "CompletionFlag", "PARTIAL"), "CompletionFlag"),
    "another patient": (lambda d: setattr(d, "PatientID", "P2"), "PatientID"),
    "another title": (lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "REASON"), "title does not say"),
    "a description of a result": (
        lambda d: setattr(d, "SeriesDescription", "Lung CT measurements"),
        "Series Description does not say",
    ),
    "no summary": (lambda d: without(d, codes.SUMMARY), "does not begin with what it is"),
    "a summary of the other kind": (
        lambda d: setattr(d.ContentSequence[0], "TextValue", "ANALYSIS FAILED."),
        "does not begin with what it is",
    ),
    "no reason": (lambda d: without(d, codes.REASON), 'no words under "Reason"'),
    "an empty reason": (lambda d: [blank(codes.REASON)(d)], 'no words under "Reason"'),
    "nothing to do": (lambda d: without(d, codes.WHAT_TO_DO), 'no words under "What to do"'),
    "a finding": (lambda d: d.ContentSequence.append(item(codes.FINDING, "CODE")), "reads as a finding"),
    "a detection": (lambda d: d.ContentSequence.append(item(codes.DETECTION, "TEXT")), "reads as a finding"),
    "a number": (lambda d: d.ContentSequence.append(item(codes.REASON, "NUM")), "reads as a finding"),
    "no series": (lambda d: without(d, codes.SOURCE), "does not refer to a few images"),
    "too many images": (more_images, "does not refer to a few images"),
    "an image below the root": (lift_image, "does not refer to a few images"),
    "another image": (
        lambda d: setattr(image(d).ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "2.25.9"),
        "no source images",
    ),
    "no evidence": (
        lambda d: (
            d.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence.pop()
        ),
        "not listed as evidence",
    ),
    "another observer": (
        lambda d: setattr(next(children(d, codes.DEVICE_OBSERVER_UID)), "UID", "2.25.4"),
        "observer",
    ),
    "no procedure": (lambda d: without(d, codes.PROCEDURE_REPORTED), "procedure reported"),
    "an unidentified scheme": (lambda d: delattr(d, "CodingSchemeIdentificationSequence"), "not identified"),
}


@pytest.fixture(scope="module")
def sound(sources: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    written(folder, sources, GAP)
    return folder / "refusal.dcm"


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_of_a_refusal(sound: Path, sources: list[Dataset], tmp_path: Path, name: str) -> None:
    change, words = RULES[name]
    document = dcmread(sound)
    change(document)
    document.save_as(tmp_path / "refusal.dcm")
    with pytest.raises(NonconformantObject, match=re.escape(words)):
        check_refusal(tmp_path / "refusal.dcm", sources)


def test_the_sound_one_passes(sound: Path, sources: list[Dataset]) -> None:
    assert text_of(check_refusal(sound, sources), codes.REASON) == GAP.words
