from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from highdicom._standard_utils import get_module_attribute_map
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from sr_writer.files import save
from sr_writer.source.carrying import element_bytes, tag_of
from sr_writer.source.identity import (
    CARRIED,
    procedure_code_items,
    set_identity,
    set_referenced_request,
    set_request_attributes,
)
from study.errors import MissingIdentity
from tests.support.results import headers_on_disk

CHARACTER_SETS: dict[str, tuple[Any, str]] = {
    "latin 1": ("ISO_IR 100", "Müller^Jürgen"),
    "cyrillic": ("ISO_IR 144", "Люксембург^Роза"),
    "utf 8": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "japanese, code extensions": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "japanese, two extensions": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
    "latin 1, code extensions": (["ISO 2022 IR 6", "ISO 2022 IR 100"], "Buc^Jérôme"),
}


def raw(path: Path, keyword: str) -> bytes:
    """Return the value of an element as it stands in the file, found without decoding text."""
    return element_bytes(dcmread(path), tag_of(keyword))


def carried(source: Dataset, folder: Path) -> Path:
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"
    set_identity(result, source)
    save(result, folder / "result.dcm")
    return folder / "result.dcm"


@pytest.mark.parametrize("name", sorted(CHARACTER_SETS))
def test_names_arrive_byte_for_byte_in_any_character_set(tmp_path: Path, name: str) -> None:
    character_set, patient = CHARACTER_SETS[name]
    attributes = {"SpecificCharacterSet": character_set, "PatientName": patient}
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    path = carried(source, tmp_path)
    written = dcmread(tmp_path / "in" / "00000.dcm")
    assert raw(path, "PatientName") == element_bytes(written, tag_of("PatientName"))
    assert raw(path, "SpecificCharacterSet") == element_bytes(written, tag_of("SpecificCharacterSet"))
    assert str(dcmread(path).PatientName) == str(written.PatientName)


def test_latin_1_bytes_without_a_declared_set_arrive_as_they_are(tmp_path: Path) -> None:
    headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"PatientName": "Muller"})
    content = (tmp_path / "in" / "00000.dcm").read_bytes()
    content = content.replace(b"ISO_IR 100", b"          ").replace(b"Muller", b"M\xfcller")
    (tmp_path / "in" / "00000.dcm").write_bytes(content)
    path = carried(dcmread(tmp_path / "in" / "00000.dcm"), tmp_path)
    assert raw(path, "PatientName") == b"M\xfcller"
    assert raw(path, "SpecificCharacterSet").strip() == b""


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "U"),
        ("PatientBirthDate", ""),
        ("AccessionNumber", ""),
        ("StudyDate", ""),
        ("PatientID", "  leading spaces"),
        ("PatientAge", "055Y"),
        ("IssuerOfPatientID", "General Hospital"),
        ("TimezoneOffsetFromUTC", "+0530"),
        ("StudyInstanceUID", "1." + "1" * 62),
    ],
)
def test_unusual_values_arrive_as_they_are(tmp_path: Path, keyword: str, value: str) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={keyword: value})
    assert raw(carried(source, tmp_path), keyword).rstrip(b" \0").decode() == value


@pytest.mark.parametrize("keyword", ["PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"])
def test_an_absent_type_2_attribute_is_written_empty(tmp_path: Path, keyword: str) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={keyword: None})
    written = dcmread(carried(source, tmp_path))
    assert keyword in written
    assert written[keyword].value in ("", None)


def test_an_absent_optional_attribute_stays_absent(tmp_path: Path) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"StudyDescription": None})
    assert "StudyDescription" not in dcmread(carried(source, tmp_path))


@pytest.mark.parametrize("value", ["", None, "  "])
def test_an_empty_patient_id_is_refused_unless_the_site_allows_it(tmp_path: Path, value: str | None) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"PatientID": value})
    with pytest.raises(MissingIdentity, match=r"Patient ID.* set results\.allow_empty_patient_id = true"):
        set_identity(Dataset(), source)
    result = Dataset()
    set_identity(result, source, allow_empty_patient_id=True)
    assert "PatientID" in result


def test_a_missing_study_uid_is_refused_always(tmp_path: Path) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4))
    del source.StudyInstanceUID
    with pytest.raises(MissingIdentity, match="Study Instance UID; mend it at the modality and send"):
        set_identity(Dataset(), source, allow_empty_patient_id=True)


def test_sequences_arrive_with_their_text_undecoded(tmp_path: Path) -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "Größe"
    attributes = {"IssuerOfAccessionNumberSequence": [issuer], "SpecificCharacterSet": "ISO_IR 100"}
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    written = dcmread(carried(source, tmp_path))
    item = written.IssuerOfAccessionNumberSequence[0]
    assert element_bytes(item, tag_of("LocalNamespaceEntityID")).rstrip() == "Größe".encode("latin-1")


def test_an_implicit_vr_source_gives_the_same_bytes(tmp_path: Path) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"PatientName": "Müller"})
    source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    source.save_as(tmp_path / "implicit.dcm", enforce_file_format=True)
    path = carried(dcmread(tmp_path / "implicit.dcm"), tmp_path)
    assert raw(path, "PatientName") == "Müller".encode("latin-1")
    assert dcmread(path)[Tag(0x0010, 0x0010)].VR == "PN"


def order(**values: Any) -> Dataset:  # noqa: ANN401 - attributes by keyword have no common type
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_a_report_names_each_request_and_fills_in_from_the_top_level(tmp_path: Path) -> None:
    requests = [
        order(RequestedProcedureID="RP1", AccessionNumber="ACC1", RequestedProcedureDescription="Thorax"),
        order(RequestedProcedureID="RP2"),
    ]
    attributes = {
        "RequestAttributesSequence": requests,
        "AccessionNumber": "ACC0",
        "PlacerOrderNumberImagingServiceRequest": "PLACER",
        "FillerOrderNumberImagingServiceRequest": "FILLER",
    }
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    result = Dataset()
    set_referenced_request(result, source)
    first, second = result.ReferencedRequestSequence
    assert (first.AccessionNumber, second.AccessionNumber) == ("ACC1", "ACC0")
    assert (first.RequestedProcedureID, second.RequestedProcedureID) == ("RP1", "RP2")
    assert first.RequestedProcedureDescription == "Thorax"
    assert {first.PlacerOrderNumberImagingServiceRequest, second.PlacerOrderNumberImagingServiceRequest} == {"PLACER"}
    assert first.FillerOrderNumberImagingServiceRequest == "FILLER"
    assert first.StudyInstanceUID == source.StudyInstanceUID
    assert len(second.RequestedProcedureCodeSequence) == 0


def test_an_image_object_takes_over_the_request_attributes(tmp_path: Path) -> None:
    attributes = {"RequestAttributesSequence": [order(RequestedProcedureID="RP1")]}
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    result = Dataset()
    set_request_attributes(result, source)
    assert result.RequestAttributesSequence[0].RequestedProcedureID == "RP1"


def test_no_order_makes_no_request(tmp_path: Path) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"AccessionNumber": ""})
    result = Dataset()
    set_referenced_request(result, source)
    assert "ReferencedRequestSequence" not in result


def item_of(keyword: str, value: str) -> Dataset:
    item = Dataset()
    setattr(item, keyword, value)
    return item


def nested(path: Path, sequence: str, keyword: str) -> bytes:
    """Return the value of an element of the first item as it stands in the file."""
    return element_bytes(dcmread(path)[sequence].value[0], tag_of(keyword)).rstrip(b" ")


@pytest.mark.parametrize("name", sorted(CHARACTER_SETS))
def test_nested_names_arrive_byte_for_byte_in_any_character_set(tmp_path: Path, name: str) -> None:
    character_set, text = CHARACTER_SETS[name]
    attributes = {
        "SpecificCharacterSet": character_set,
        "OtherPatientIDsSequence": [item_of("IssuerOfPatientID", text)],
        "RequestAttributesSequence": [item_of("RequestedProcedureDescription", text)],
        "ProcedureCodeSequence": [code(text)],
        "AccessionNumber": "A1",
    }
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"
    result.ConceptCodeSequence = procedure_code_items(source)
    set_identity(result, source)
    set_request_attributes(result, source)
    set_referenced_request(result, source)
    save(result, tmp_path / "result.dcm")
    written = tmp_path / "in" / "00000.dcm"
    for sequence, keyword, origin in (
        ("OtherPatientIDsSequence", "IssuerOfPatientID", "OtherPatientIDsSequence"),
        ("RequestAttributesSequence", "RequestedProcedureDescription", "RequestAttributesSequence"),
        ("ReferencedRequestSequence", "RequestedProcedureDescription", "RequestAttributesSequence"),
        ("ConceptCodeSequence", "CodeMeaning", "ProcedureCodeSequence"),
    ):
        assert nested(tmp_path / "result.dcm", sequence, keyword) == nested(written, origin, keyword), sequence


def code(meaning: str) -> Dataset:
    item = item_of("CodeMeaning", meaning)
    item.CodeValue, item.CodingSchemeDesignator = "TH", "99RIS"
    return item


def test_bytes_that_the_declared_set_does_not_decode_arrive_as_they_are(tmp_path: Path) -> None:
    headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"PatientName": "Muller"})
    content = (tmp_path / "in" / "00000.dcm").read_bytes()
    content = content.replace(b"ISO_IR 100", b"ISO_IR 192").replace(b"Muller", b"M\xfcller")
    (tmp_path / "in" / "00000.dcm").write_bytes(content)
    path = carried(dcmread(tmp_path / "in" / "00000.dcm"), tmp_path)
    assert raw(path, "PatientName") == b"M\xfcller"
    assert raw(path, "SpecificCharacterSet").strip() == b"ISO_IR 192"


def test_a_request_keeps_the_character_set_of_its_own_item(tmp_path: Path) -> None:
    request = item_of("RequestedProcedureDescription", "Грудь")
    request.SpecificCharacterSet = "ISO_IR 144"
    attributes = {
        "SpecificCharacterSet": "ISO_IR 100",
        "RequestAttributesSequence": [request],
        "AccessionNumber": "A1",
        "FillerOrderNumberImagingServiceRequest": "Größe",
    }
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.1"
    set_identity(result, source)
    set_referenced_request(result, source)
    save(result, tmp_path / "result.dcm")
    (written,) = dcmread(tmp_path / "result.dcm").ReferencedRequestSequence
    assert written.RequestedProcedureDescription == "Грудь"
    assert written.AccessionNumber == "A1"
    assert written.FillerOrderNumberImagingServiceRequest == ""  # it would read as something else


def test_what_others_wrote_as_unknown_is_carried_by_its_known_kind(tmp_path: Path) -> None:
    headers_on_disk(tmp_path / "in", (2, 4, 4), attributes={"OtherPatientIDsSequence": [item_of("PatientID", "X1")]})
    path = tmp_path / "in" / "00000.dcm"
    content = path.read_bytes()
    accession = struct.pack("<HH2sH", 0x0008, 0x0050, b"SH", 4)
    unknown = struct.pack("<HH2sHI", 0x0008, 0x0050, b"UN", 0, 4)
    assert content.count(accession) == 1
    content = content.replace(accession, unknown)
    explicit = struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 2) + b"X1"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(explicit)) + explicit
    other_ids = struct.pack("<HH2sHI", 0x0010, 0x1002, b"SQ", 0, len(item)) + item
    assert content.count(other_ids) == 1
    implicit = struct.pack("<HHI", 0x0010, 0x0020, 2) + b"X1"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(implicit)) + implicit
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    as_unknown = struct.pack("<HH2sHI", 0x0010, 0x1002, b"UN", 0, 0xFFFFFFFF) + item + end  # PS3.5 6.2.2, note 2
    path.write_bytes(content.replace(other_ids, as_unknown))
    written = dcmread(carried(dcmread(path), tmp_path))
    assert (written["AccessionNumber"].VR, written.AccessionNumber) == ("SH", "A123")
    assert written.OtherPatientIDsSequence[0].PatientID == "X1"


def test_a_big_endian_source_gives_the_same_bytes(tmp_path: Path) -> None:
    attributes = {"PatientName": "Müller", "PatientWeight": "80", "PregnancyStatus": 4}
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4), attributes=attributes)
    fresh = Dataset()
    for element in source:
        fresh.add(element)
    fresh.file_meta = source.file_meta
    fresh.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    fresh.save_as(tmp_path / "big.dcm", enforce_file_format=True)
    written = dcmread(carried(dcmread(tmp_path / "big.dcm"), tmp_path))
    assert (str(written.PatientName), written.PatientWeight, written.PregnancyStatus) == ("Müller", 80, 4)


MODULES = ("patient", "clinical-trial-subject", "general-study", "patient-study", "clinical-trial-study")
NOT_CARRIED = {"ReferencedPatientPhotoSequence"}  # it leads to an object of others, which may not be there


def test_no_attribute_of_patient_and_study_is_forgotten() -> None:
    """What a result takes over is the standard's whole list, which highdicom keeps as tables of the modules."""
    listed = {
        entry["keyword"]
        for module in MODULES
        for entry in get_module_attribute_map()[module]
        if not entry["path"] and entry["keyword"] not in NOT_CARRIED
    }
    assert len(listed) > 60
    assert sorted(listed - set(CARRIED)) == []
