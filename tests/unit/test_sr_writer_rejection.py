"""A Key Object Selection rejects results and nothing else, in the name of the patient whose results they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.checking.objects import checked, description_of, form_of
from sr_writer.checking.rejection import check_rejection, rejected_by
from sr_writer.files import save
from sr_writer.ko.rejection import Rejection, maker_of, subject_of, write_rejection
from sr_writer.reading.content_tree import children, is_named, text_of
from study.codes import Code
from study.errors import EncodingError, MissingIdentity, NonconformantObject
from study.forms import Form
from tests.support.mutations import Written, everything
from tests.support.results import CONTEXT, MODEL

WHY = Rejection("Left and right are confused.")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return everything(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def taken_back(written: Written) -> list[Dataset]:
    """The headers of one result in every form."""
    files = [path for form, path in written.files.items() if form is not Form.REJECTION]
    return [dcmread(path, stop_before_pixels=True) for path in files]


def test_it_refers_to_each_object_as_what_it_is(taken_back: list[Dataset], tmp_path: Path) -> None:
    save(write_rejection(WHY, taken_back, MODEL, CONTEXT), tmp_path / "rejection.dcm")
    document = checked(Form.REJECTION, tmp_path / "rejection.dcm", [subject_of(taken_back)], taken_back)
    assert form_of(document) is Form.REJECTION
    assert description_of(Form.REJECTION, document) == "rejection by Key Object Selection (of 9 objects)"
    images = {str(each.SOPInstanceUID) for each in taken_back if each.Modality in ("SEG", "OT")}
    kinds: dict[str, set[str]] = {}
    for item in children(document):
        for reference in item.get("ReferencedSOPSequence", ()):
            kinds.setdefault(item.ValueType, set()).add(str(reference.ReferencedSOPInstanceUID))
    assert kinds == {"IMAGE": images, "COMPOSITE": {str(each.SOPInstanceUID) for each in taken_back} - images}
    assert len(kinds["IMAGE"]) == 3
    assert text_of(document, codes.KEY_OBJECT_DESCRIPTION) == WHY.words
    (order,) = document.ReferencedRequestSequence
    assert (order.RequestedProcedureID, order.AccessionNumber) == ("RP1", "A9")
    assert (document.Modality, document.SeriesNumber) == ("KO", 9900)
    assert document.SeriesDescription == "Lung CT withdrawn - not for diagnostic use"


@pytest.mark.parametrize(("safety", "title"), [(False, codes.REJECTED_FOR_QUALITY), (True, codes.REJECTED_FOR_SAFETY)])
def test_its_title_says_whether_a_patient_may_come_to_harm(
    taken_back: list[Dataset], *, safety: bool, title: Code
) -> None:
    assert is_named(write_rejection(replace(WHY, safety=safety), taken_back, MODEL, CONTEXT), title)


def test_the_same_objects_and_reason_have_the_same_uids_whenever_they_are_taken_back(taken_back: list[Dataset]) -> None:
    later = replace(CONTEXT, created_at=datetime(2027, 1, 1, tzinfo=UTC))

    def uids(why: Rejection, objects: list[Dataset]) -> tuple[str, str]:
        made = write_rejection(why, objects, MODEL, later)
        return str(made.SOPInstanceUID), str(made.SeriesInstanceUID)

    first = write_rejection(WHY, taken_back, MODEL, CONTEXT)
    same = uids(WHY, taken_back[::-1])
    assert same == (first.SOPInstanceUID, first.SeriesInstanceUID)
    others = [
        uids(replace(WHY, safety=True), taken_back),
        uids(Rejection("Another"), taken_back),
        uids(WHY, taken_back[:1]),
    ]
    assert len({same, *others}) == 4


def test_who_made_the_results_is_read_from_them(taken_back: list[Dataset]) -> None:
    for each in taken_back:
        assert maker_of(each, "9.9") == replace(MODEL, software_version="9.9")
    silent = dcmread(str(taken_back[0].filename), stop_before_pixels=True)
    del silent.ContributingEquipmentSequence
    with pytest.raises(EncodingError, match="does not say which model made it"):
        maker_of(silent, "9.9")


def test_a_reason_is_told_in_signs_that_every_reader_has(taken_back: list[Dataset]) -> None:
    made = write_rejection(Rejection("Seiten verkehrt: ≤ 3 mm, größer"), taken_back, MODEL, CONTEXT)
    told = text_of(made, codes.KEY_OBJECT_DESCRIPTION)
    assert told.startswith("Seiten verkehrt: <= 3 mm, gr??er (? stands for")


def test_results_of_several_studies_or_of_nobody_are_not_rejected(taken_back: list[Dataset]) -> None:
    other = Dataset()
    other.update(taken_back[0])
    other.StudyInstanceUID = "2.25.6"
    for several in ([*taken_back, other], []):
        with pytest.raises(EncodingError, match="study by study"):
            write_rejection(WHY, several, MODEL, CONTEXT)
    other.StudyInstanceUID = taken_back[0].StudyInstanceUID
    other.PatientID = ""
    with pytest.raises(MissingIdentity):
        write_rejection(WHY, [other], MODEL, CONTEXT)


def test_an_image_of_the_patient_is_never_rejected(written: Written, taken_back: list[Dataset], tmp_path: Path) -> None:
    source = written.sources[0]
    made = write_rejection(WHY, taken_back[:1], MODEL, CONTEXT)
    made.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = source.SOPInstanceUID
    made.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPClassUID = source.SOPClassUID
    save(made, tmp_path / "rejection.dcm")
    assert rejected_by(made) == [source.SOPInstanceUID]
    with pytest.raises(NonconformantObject, match="rejects 1 objects that are none of those results"):
        check_rejection(tmp_path / "rejection.dcm", written.sources, taken_back)
