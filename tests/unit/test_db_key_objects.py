"""What is read of a Key Object: in every encoding the same, bounded, and of hostile bytes nothing."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from db.files.frugal import Encoding, TooMuch
from db.files.incoming import read_object
from db.images.key_objects import read_rejection
from study.rejections import RejectionNote, RejectionTitle, rejection_note
from tests.support.series import ct_series

STUDY = "1.2.3"
EXPLICIT = Encoding(implicit=False, little=True, character_sets="")


def key_object(title: str = "113037") -> tuple[Dataset, list[tuple[str, str]]]:
    images = ct_series(np.zeros((3, 2, 2)), study_instance_uid=STUDY)
    made: Dataset = KeyObjectSelectionDocument(
        evidence=images,
        content=KeyObjectSelection(CodedConcept(title, "DCM", "Rejected"), images),
        series_instance_uid="1.2.4",
        series_number=1,
        sop_instance_uid="1.2.5",
        instance_number=1,
        manufacturer="Archive",
    )
    return made, [(STUDY, str(image.SOPInstanceUID)) for image in images]


def read(dataset: Dataset, folder: Path, syntax: str = ExplicitVRLittleEndian) -> RejectionNote | None:
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(folder / "ko.dcm", enforce_file_format=True)
    return read_object(folder / "ko.dcm").rejection


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
def test_it_is_read_in_every_encoding(tmp_path: Path, syntax: str, undefined: bool) -> None:
    made, named = key_object()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "ContentSequence", "ConceptNameCodeSequence"):
        made[keyword].is_undefined_length = undefined
        for item in made[keyword].value:
            item.is_undefined_length_sequence_item = undefined
    assert read(made, tmp_path, syntax) == RejectionNote(RejectionTitle.PATIENT_SAFETY, tuple(named))


def test_what_only_the_content_names_is_of_the_key_objects_own_study(tmp_path: Path) -> None:
    made, named = key_object("113001")
    del made.CurrentRequestedProcedureEvidenceSequence
    made.StudyInstanceUID = "1.2.9"
    found = read(made, tmp_path)
    assert found == RejectionNote(RejectionTitle.QUALITY, tuple(("1.2.9", uid) for _, uid in named))


@pytest.mark.parametrize("code", [("113000", "DCM"), ("113001", "99X"), ("", "DCM"), ("", "")])
def test_another_title_is_no_rejection(code: tuple[str, str]) -> None:
    assert rejection_note(code, [(STUDY, "1.2.6")], [], STUDY) is None


def test_what_is_no_uid_is_left_out_and_nothing_left_is_unread() -> None:
    code = ("113039", "DCM")
    assert rejection_note(code, [(STUDY, "../x"), (STUDY, "1.2.6"), ("", "1.2.7")], ["1.2.6", "x"], STUDY) == (
        RejectionNote(RejectionTitle.RETENTION, ((STUDY, "1.2.6"),))
    )
    found = rejection_note(code, [(STUDY, "x")], [], STUDY)
    assert found is not None
    assert (found.title, found.named) == (RejectionTitle.UNREAD, ())


def test_one_that_is_cut_off_is_unread(tmp_path: Path) -> None:
    made, _ = key_object()
    assert read(made, tmp_path) is not None
    whole = (tmp_path / "ko.dcm").read_bytes()
    (tmp_path / "ko.dcm").write_bytes(whole[: whole.index(b"\x40\x00\x75\xa3") + 40])
    found = read_object(tmp_path / "ko.dcm").rejection
    assert found is not None
    assert (found.title, found.unread) == (RejectionTitle.UNREAD, "It can not be read: EOFError.")


def written(*content: Dataset) -> bytes:
    """Return an explicit data set with the title of a rejection, and what its content refers to."""
    made, title = Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator = "113001", "DCM"
    made.ConceptNameCodeSequence = [title]
    if content:
        made.ContentSequence = list(content)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, made)
    return bytes(stream.getvalue())


def empty_items(count: int) -> bytes:
    """Return the content of a Key Object, of so many items that say nothing."""
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    return struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, count * len(item)) + item * count


def test_absurdly_many_references_and_deep_ones_are_refused_soon() -> None:
    began = time.monotonic()
    with pytest.raises(TooMuch):
        read_rejection(io.BytesIO(written() + empty_items(200_000)), EXPLICIT, STUDY)
    assert time.monotonic() - began < 10
    nested = Dataset()
    for _ in range(20):
        outer = Dataset()
        outer.ContentSequence = [nested]
        nested = outer
    with pytest.raises(TooMuch):
        read_rejection(io.BytesIO(written(nested)), EXPLICIT, STUDY)


def test_what_is_no_rejection_may_refer_to_as_much_as_it_likes() -> None:
    content = written().replace(b"113001", b"113000") + empty_items(200_000)
    assert read_rejection(io.BytesIO(content), EXPLICIT, STUDY) is None
