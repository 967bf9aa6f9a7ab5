"""The rules that every result keeps, form by form: each test spoils one thing in a sound file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.checking.objects import CHECKS, beside_of, checked, form_of, is_ours, naming, together_reasons
from sr_writer.checking.structure import structure_reasons
from sr_writer.checking.texts import decodes, undecodable
from study.errors import NonconformantObject
from study.forms import Form
from tests.support.mutations import (
    Mutation,
    Written,
    changed,
    deleting,
    demand,
    everything,
    in_first,
    own_equipment,
    reasons_against,
    setting,
    setting_bytes,
)

UTF_8 = setting_bytes("SpecificCharacterSet", "CS", b"ISO_IR 192")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return everything(tmp_path_factory.mktemp("written"))


@pytest.mark.parametrize("form", list(Form))
def test_sound_files_pass(written: Written, form: Form) -> None:
    found = checked(form, written.files[form], written.sources, [written.segmentation])
    assert form_of(found) is form
    assert is_ours(found)


def test_every_form_has_a_check() -> None:
    assert set(CHECKS) == set(Form)


def rename_request(dataset: Dataset) -> None:
    for keyword in ("RequestAttributesSequence", "ReferencedRequestSequence"):
        for item in dataset.get(keyword) or ():
            item.RequestedProcedureID = "RP2"


def drop_request(dataset: Dataset) -> None:
    for keyword in ("RequestAttributesSequence", "ReferencedRequestSequence"):
        dataset.pop(keyword, None)


def purpose(dataset: Dataset) -> Dataset:
    item: Dataset = own_equipment(dataset).PurposeOfReferenceCodeSequence[0]
    return item


RULES: dict[str, Mutation] = {
    "another patient": (setting("PatientID", "P2"), "Identity", "PatientID is not"),
    "a re-encoded name": (setting("PatientName", "Mueller^Juergen"), "Identity", "PatientName is not"),
    "another character set": (UTF_8, "Identity", "SpecificCharacterSet is not"),
    "a text of ours outside ASCII": (
        setting("SeriesDescription", "Größe"),
        "Characters",
        "SeriesDescription has characters outside ASCII",
    ),
    "a nested text of ours outside ASCII": (
        lambda d: setattr(own_equipment(d), "ContributionDescription", "Ärger"),
        "Characters",
        "ContributionDescription has characters outside ASCII",
    ),
    "another study": (setting("StudyInstanceUID", "2.25.77"), "Identity", "StudyInstanceUID is not"),
    "a lost issuer": (deleting("IssuerOfPatientID"), "Identity", "IssuerOfPatientID is not"),
    "an invented age": (setting("PatientAge", "044Y"), "Identity", "PatientAge is there"),
    "a lost accession number": (setting("AccessionNumber", ""), "Identity", "AccessionNumber is not"),
    "no sex": (deleting("PatientSex"), "Identity", "PatientSex is not"),
    "another order": (rename_request, "Identity", "not what the source has"),
    "no order": (drop_request, "Identity", "names an order"),
    "no algorithm": (lambda d: delattr(own_equipment(d), "DeviceUID"), "Equipment", "0 items"),
    "two algorithms": (lambda d: d.ContributingEquipmentSequence.append(own_equipment(d)), "Equipment", "2 items"),
    "another model name": (
        lambda d: setattr(own_equipment(d), "ManufacturerModelName", "x"),
        "Equipment",
        "ManufacturerModelName is absent",
    ),
    "another purpose": (lambda d: setattr(purpose(d), "CodeValue", "109101"), "Equipment", "109102"),
    "no UID of the device": (deleting("DeviceUID"), "UID", "is absent"),
    "a UID that is none": (setting("SeriesInstanceUID", "1.02.3"), "UID", "1 values of SeriesInstanceUID"),
    "a nested UID that is none": (lambda d: setattr(own_equipment(d), "DeviceUID", "1..3"), "UID", "of DeviceUID"),
    "a UID for two things": (lambda d: setattr(d, "SeriesInstanceUID", d.SOPInstanceUID), "UID", "used twice"),
    "an image of another study": (
        in_first("ReferencedSOPInstanceUID", setting("ReferencedSOPInstanceUID", "2.25.6")),
        "Reference",
        "lead to no source image",
    ),
    "an image of another class": (
        in_first("ReferencedSOPClassUID", setting("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4")),
        "Reference",
        "another SOP Class",
    ),
    "a frame of an image that has none": (
        in_first("ReferencedSOPInstanceUID", setting("ReferencedFrameNumber", 1)),
        "Reference",
        "name a frame that is no source image",
    ),
    "a code without meaning": (in_first("CodeMeaning", setting("CodeMeaning", "")), "Code", "incomplete"),
    "a private code that is not ours": (
        lambda d: setattr(purpose(d), "CodingSchemeDesignator", "99HILUM"),
        "Code",
        "109102/99HILUM",
    ),
    "a private scheme that nobody knows": (
        lambda d: setattr(purpose(d), "CodingSchemeDesignator", "99ACME"),
        "Code",
        "99ACME is used and not identified",
    ),
}


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("name", sorted(RULES))
def test_a_result_that_breaks_a_rule_is_refused(written: Written, tmp_path: Path, form: Form, name: str) -> None:
    change, code, words = RULES[name]
    demand(reasons_against(written, form, change, tmp_path), code, words)


@pytest.mark.parametrize("form", list(Form))
def test_texts_that_the_character_set_does_not_decode_are_refused(written: Written, tmp_path: Path, form: Form) -> None:
    content = written.files[form].read_bytes()
    assert content.count(b"ISO_IR 100") == 1
    (tmp_path / "changed.dcm").write_bytes(content.replace(b"ISO_IR 100", b"ISO_IR 192"))
    with pytest.raises(NonconformantObject) as caught:
        checked(form, tmp_path / "changed.dcm", written.sources, [written.segmentation])
    demand(caught.value.reasons, "Characters", "PatientName can not be decoded in the declared character set")
    demand(caught.value.reasons, "Identity", "SpecificCharacterSet is not")


NO_SERIES = {Form.PDF}
"""Forms that have no place to name a series."""


@pytest.mark.parametrize("form", [form for form in Form if form not in NO_SERIES])
def test_another_series_is_refused(written: Written, tmp_path: Path, form: Form) -> None:
    change = in_first("SeriesInstanceUID", setting("SeriesInstanceUID", "2.25.6"))
    reasons = reasons_against(written, form, change, tmp_path)
    demand(reasons, "Reference", "another series")


def test_a_type_2_attribute_that_the_source_lacks_stays_empty(written: Written, tmp_path: Path) -> None:
    (stripped, *others) = [dcmread(path, stop_before_pixels=True) for path in _files_of(written)]
    del stripped.StudyID
    with pytest.raises(NonconformantObject, match="StudyID, which the source lacks, is not empty"):
        checked(Form.SR, written.files[Form.SR], [stripped, *others])


def _files_of(written: Written) -> list[Path]:
    return [Path(str(source.filename)) for source in written.sources]


def test_a_series_uid_of_the_source_is_no_uid_of_a_result(written: Written, tmp_path: Path) -> None:
    change = setting("SeriesInstanceUID", written.sources[0].SeriesInstanceUID)
    demand(reasons_against(written, Form.SEG, change, tmp_path), "UID", "one of the source's")


def test_words_never_hold_the_patient(written: Written, tmp_path: Path) -> None:
    reasons = reasons_against(written, Form.SR, setting("PatientName", "Secret^Sam"), tmp_path)
    words = " ".join(reason.words for reason in reasons)
    assert "Secret" not in words
    assert "ller" not in words


def test_every_finding_is_told_at_once(written: Written, tmp_path: Path) -> None:
    def ruin(dataset: Dataset) -> None:
        dataset.PatientID = "P2"
        dataset.FrameOfReferenceUID = "2.25.8"

    reasons = reasons_against(written, Form.SEG, ruin, tmp_path)
    assert sorted(reason.code for reason in reasons) == ["GeometryMismatch", "Identity"]


def test_what_a_rule_stumbles_over_is_refused(written: Written, tmp_path: Path) -> None:
    reasons = reasons_against(written, Form.SEG, deleting("SharedFunctionalGroupsSequence"), tmp_path)
    assert reasons
    with pytest.raises(NonconformantObject, match=r"x\.dcm lacks what must be there.*KeyError"), naming(Path("x.dcm")):
        Dataset()["PatientID"]


def meta_length(content: bytes) -> int:
    return 144 + int.from_bytes(content[140:144], "little")


def in_content(change: Callable[[bytes, int], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: change(content, meta_length(content))


def with_element(tag: tuple[int, int], vr: bytes, value: bytes) -> Callable[[bytes], bytes]:
    """Return the change that puts an element before all others of the data set."""
    element = struct.pack("<HH2sH", *tag, vr, len(value)) + value
    return in_content(lambda content, at: content[:at] + element + content[at:])


def sequence(items: bytes, length: int | None = None) -> Callable[[bytes], bytes]:
    """Return the change that puts a sequence before all other elements of the data set."""
    head = struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, len(items) if length is None else length)
    return in_content(lambda content, at: content[:at] + head + items + content[at:])


def item(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content) if length is None else length) + content


UNDEFINED = 0xFFFFFFFF
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
NESTED = b""
for _ in range(400):
    NESTED = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(NESTED) + 8) + item(NESTED)

FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "is empty"),
    "no DICOM": (lambda _: b"no DICOM at all", "no DICOM file"),
    "zeros": (lambda _: bytes(400), "no DICOM file"),
    "no length of its file meta": (lambda content: content[:132] + content[144:], "begin with its length"),
    "file meta cut off": (lambda content: content[:150], "within its file meta"),
    "file meta longer than it says": (
        lambda content: content[:140] + struct.pack("<I", meta_length(content) - 152) + content[144:],
        "",
    ),
    "nothing but file meta": (in_content(lambda content, at: content[:at]), "nothing follows"),
    "cut off": (lambda content: content[:-1000], "was cut"),
    "cut off by a byte": (lambda content: content[:-1], "was cut"),
    "cut off in an element": (lambda content: content + b"\xfc\xff\xfc\xff", "within an element"),
    "cut off in a long element": (lambda content: content + b"\xfc\xff\xfc\xffOB\0\0\0", "within an element"),
    "bytes behind the end": (lambda content: content + bytes(12), "ascending"),
    "another object behind the end": (in_content(lambda content, at: content + content[at:]), "ascending"),
    "an element twice": (in_content(lambda content, at: content[:at] + content[at:] + content[at:]), "ascending"),
    "an odd length": (with_element((0x0004, 0x1141), b"CS", b"A"), "odd length"),
    "no VR": (with_element((0x0004, 0x1141), b"??", b"AB"), "no Value Representation"),
    "a sequence of no items": (sequence(b"\0" * 8), "no item"),
    "an item longer than its sequence": (sequence(item(b"", 20)), "longer than what it stands in"),
    "half an item": (sequence(item(b"")[:4]), "longer than what it stands in"),
    "a long item without end": (sequence(item(b"", 2**31), UNDEFINED), "longer than what it stands in"),
    "an item without end": (sequence(item(b"", UNDEFINED)), "no end"),
    "a sequence without end": (sequence(item(b""), UNDEFINED), ""),
    "deep nesting": (sequence(item(NESTED)), "too deeply"),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_no_whole_object_is_refused(written: Written, tmp_path: Path, name: str) -> None:
    change, words = FILES[name]
    path = tmp_path / "broken.dcm"
    path.write_bytes(change(written.files[Form.SEG].read_bytes()))
    with pytest.raises(NonconformantObject) as caught:
        checked(Form.SEG, path, written.sources)
    (reason,) = caught.value.reasons
    assert reason.code == "File"
    assert words in reason.words


@pytest.mark.parametrize("content", [sequence(b""), sequence(item(b"")), sequence(item(b"") + END, UNDEFINED)])
def test_sound_sequences_are_read(written: Written, tmp_path: Path, content: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "sound.dcm"
    path.write_bytes(content(written.files[Form.SEG].read_bytes()))
    assert list(structure_reasons(path)) == []


def test_an_instance_other_than_its_file_meta_says_is_refused(written: Written, tmp_path: Path) -> None:
    path = changed(
        written.files[Form.SEG],
        lambda d: setattr(d.file_meta, "MediaStorageSOPInstanceUID", "2.25.9"),
        tmp_path,
    )
    with pytest.raises(NonconformantObject, match="another instance than its file meta says"):
        checked(Form.SEG, path, written.sources)


@pytest.mark.parametrize(
    ("value", "declared", "readable"),
    [
        (b"Muller", (), True),
        (b"M\xfcller", (), False),
        (b"M\xfcller", ("ISO_IR 100",), True),
        (b"M\xfcller", ("ISO_IR 192",), False),
        (b"M\xfcller", ("ISO 2022 IR 6", "ISO 2022 IR 87"), False),
        ("Люксембург".encode("iso8859_5"), ("ISO_IR 144",), True),
        (b"Yamada=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", ("", "ISO 2022 IR 87"), True),
        (b"Yamada=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", ("ISO_IR 100",), False),
        ("王^小東".encode(), ("ISO_IR 192",), True),
        ("张^小东".encode("gb18030"), ("GB18030",), True),
        (b"\xff\xff", ("GB18030",), False),
        (b"M\xfcller", ("ISO_IR 999",), False),
    ],
)
def test_a_character_set_decodes_or_does_not(value: bytes, declared: tuple[str, ...], readable: bool) -> None:
    assert decodes(value, declared) is readable


def test_a_text_that_the_source_itself_does_not_decode_is_told(written: Written) -> None:
    dataset = dcmread(written.files[Form.SR])
    assert undecodable(dataset) == []
    UTF_8(dataset)
    assert undecodable(dataset) == ["PatientName"]


def objects(written: Written, *forms: Form) -> list[Dataset]:
    return [dcmread(written.files[form]) for form in forms]


def test_objects_of_one_set_have_nothing_against_each_other(written: Written) -> None:
    assert list(together_reasons(objects(written, *Form))) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sr, seg: setattr(sr, "SeriesInstanceUID", seg.SeriesInstanceUID), "SeriesInstanceUID is that of"),
        (lambda sr, seg: setattr(sr, "SOPInstanceUID", seg.SeriesInstanceUID), "SOPInstanceUID is that of"),
        (lambda sr, seg: setattr(sr, "DeviceUID", seg.SOPInstanceUID), "DeviceUID is that of"),
        (lambda _, seg: setattr(seg.SegmentSequence[0], "TrackingID", "Liver"), "another identifier"),
    ],
)
def test_objects_of_one_set_are_held_against_each_other(
    written: Written, change: Callable[[Dataset, Dataset], None], words: str
) -> None:
    seg, sr = objects(written, Form.SEG, Form.SR)
    change(sr, seg)
    found = list(together_reasons([seg, sr]))
    assert [index for index, _ in found] == [1]
    assert words in found[0][1].words


def test_a_report_is_held_against_segmentations_of_its_own_set(written: Written) -> None:
    seg, sr, other = objects(written, Form.SEG, Form.SR, Form.SEG)
    other.DeviceUID = "2.25.4"
    assert beside_of(sr, [seg, other, sr]) == [seg]


def test_objects_of_others_are_not_ours(written: Written) -> None:
    (source, *_) = written.sources
    assert not is_ours(source)
    assert form_of(source) is None
