from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from sr_writer.files import save
from sr_writer.source.carrying import element_bytes, tag_of
from sr_writer.source.identity import set_identity, set_referenced_request, set_request_attributes
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
    with pytest.raises(MissingIdentity, match="Patient ID"):
        set_identity(Dataset(), source)
    result = Dataset()
    set_identity(result, source, allow_empty_patient_id=True)
    assert "PatientID" in result


def test_a_missing_study_uid_is_refused_always(tmp_path: Path) -> None:
    (source, *_) = headers_on_disk(tmp_path / "in", (2, 4, 4))
    del source.StudyInstanceUID
    with pytest.raises(MissingIdentity, match="Study Instance UID"):
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
