"""An instance's header: what hostile and odd data sets leave of it."""

from __future__ import annotations

import contextlib
import json
import warnings
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from study.headers import HEADER_KEYWORDS, InstanceHeader

PLACING = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUID": "1.2.3.4",
    "StudyInstanceUID": "1.2",
    "SeriesInstanceUID": "1.2.3",
}
VRS = [
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW"),
    *("PN", "SH", "SL", "SQ", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US", "UT", "UV", "ZZ"),
]


def raw(keyword: str, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(
        Tag(tag_for_keyword(keyword) or 0), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True
    )


def dataset_of(*elements: RawDataElement) -> Dataset:
    """Return a data set as a reader makes it: every value still in its bytes."""
    dataset = Dataset({element.tag: element for element in elements})
    for keyword, uid in PLACING.items():
        if keyword not in dataset:
            element = raw(keyword, "UI", uid.encode())
            dataset._dict[element.tag] = element
    # A data set that was read knows its encoding and the character set that it declares.
    dataset.set_original_encoding(False, True, ["iso8859"])
    return dataset


def header_of(keyword: str, vr: str, value: bytes) -> InstanceHeader:
    return InstanceHeader.of(dataset_of(raw(keyword, vr, value)))


_bytes = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [
            b"1e400",
            b"inf",
            b"nan",
            b"-inf",
            b"1\\\\3",
            b"9" * 40,
            b"1_0",
            b"\\",
            b"\0",
            b"a\0b",
            b"1.5",
            b"0x10",
            b"=^=^=",
            b"\x1b$B",
        ]
    ),
)


@settings(max_examples=600)
@given(
    elements=st.lists(st.tuples(st.sampled_from(HEADER_KEYWORDS), st.sampled_from(VRS), _bytes), min_size=1, max_size=6)
)
def test_malformed_values_never_raise_nor_warn(elements: list[tuple[str, str, bytes]]) -> None:
    dataset = dataset_of(*(raw(*element) for element in elements if element[0] not in PLACING))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        header = InstanceHeader.of(dataset)
    assert not heard  # a warning would quote the value, which may be a patient's
    stored = json.dumps(header.to_json(), allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in stored  # no database takes it
    assert InstanceHeader.from_json(json.loads(stored)) == header
    for number in (header.rows, header.series_number, header.instance_number):
        assert number is None or -(2**31) <= number < 2**31


@settings(max_examples=300)
@given(keyword=st.sampled_from(sorted(PLACING)), vr=st.sampled_from(VRS), value=_bytes)
def test_malformed_placing_uid_is_a_value_error(keyword: str, vr: str, value: bytes) -> None:
    with contextlib.suppress(ValueError):
        header = header_of(keyword, vr, value)
        assert set(header.sop_instance_uid + header.series_instance_uid) <= set("0123456789.")


@pytest.mark.parametrize("keyword", sorted(PLACING))
@pytest.mark.parametrize("value", [b"", b"\0", b"../../etc", b"1.2\\1.3", b"1." * 33, b"1..2", "１.２".encode()])
def test_uid_that_can_not_place_an_instance(keyword: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=keyword):
        header_of(keyword, "UI", value)


@pytest.mark.parametrize("keyword", sorted(PLACING))
def test_absent_uid(keyword: str) -> None:
    dataset = dataset_of()
    del dataset[keyword]
    with pytest.raises(ValueError, match=f"{keyword} is absent"):
        InstanceHeader.of(dataset)


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "name", "expected"),
    [
        ("SeriesNumber", "IS", b"12 ", "series_number", 12),
        ("SeriesNumber", "IS", b"12.0", "series_number", 12),
        ("SeriesNumber", "IS", b"12.5", "series_number", None),
        ("SeriesNumber", "IS", b"99999999999", "series_number", None),
        ("SeriesNumber", "IS", b"one", "series_number", None),
        ("SeriesNumber", "IS", b"1\\2", "series_number", None),
        ("Rows", "US", b"\x00\x02", "rows", 512),
        ("Rows", "US", b"\x00\x02\x00", "rows", None),
        ("Rows", "DS", b"1e400", "rows", None),
        ("NumberOfFrames", "IS", b"0", "number_of_frames", 1),
        ("NumberOfFrames", "IS", b"-3", "number_of_frames", 1),
        ("NumberOfFrames", "IS", b"", "number_of_frames", 1),
        ("NumberOfFrames", "IS", b"40", "number_of_frames", 40),
        ("SliceThickness", "DS", b"1.25 ", "slice_thickness", 1.25),
        ("SliceThickness", "DS", b"1,25", "slice_thickness", None),
        ("SliceThickness", "DS", b"1\\2", "slice_thickness", None),
        ("PixelSpacing", "DS", b"0.5\\0.6", "pixel_spacing", (0.5, 0.6)),
        ("PixelSpacing", "DS", b"0.5\\nan", "pixel_spacing", None),
        ("PixelSpacing", "DS", b"0.5\\\\0.6", "pixel_spacing", None),
        ("ImagePositionPatient", "DS", b"", "image_position_patient", None),
        ("PatientID", "LO", b" 00 7 ", "patient_id", "00 7"),
        ("PatientID", "LO", b"A\\B", "patient_id", "A\\B"),
        ("PatientID", "LO", b"A\0B\0", "patient_id", "AB"),
        ("PatientID", "OB", b"A1", "patient_id", ""),
        ("PatientName", "SQ", b"\xfe\xff\x00\xe0\x00\x00\x00\x00", "patient_name", ""),
        ("StudyDescription", "LO", b"neck\\thorax", "study_description", "neck\\thorax"),
        ("ImageType", "CS", b"ORIGINAL\\PRIMARY\\AXIAL ", "image_type", ("ORIGINAL", "PRIMARY", "AXIAL")),
        ("ImageType", "CS", b"LOCALIZER", "image_type", ("LOCALIZER",)),
        ("ImageType", "CS", b"", "image_type", ()),
        ("ConvolutionKernel", "SH", b"I31f\\3", "convolution_kernel", "I31f\\3"),
        ("FrameOfReferenceUID", "UI", b"1.2.9\0", "frame_of_reference_uid", "1.2.9"),
        ("FrameOfReferenceUID", "UI", b"none", "frame_of_reference_uid", ""),
        ("StudyDate", "DA", b"2026.01.02", "study_date", "2026.01.02"),
        ("EchoTime", "DS", b"2.3 ", "echo_time", 2.3),
        ("EchoTime", "DS", b"2.3\\4.6", "echo_time", None),
        ("EchoNumbers", "IS", b"2", "echo_number", 2),
        ("EchoNumbers", "IS", b"2\\1", "echo_number", 2),
        ("EchoNumbers", "IS", b"x\\1", "echo_number", None),
        ("TriggerTime", "DS", b"310", "trigger_time", 310.0),
        ("InversionTime", "DS", b"900", "inversion_time", 900.0),
        ("FlipAngle", "DS", b"12", "flip_angle", 12.0),
        ("DiffusionBValue", "FD", b"\0\0\0\0\0\x40\x8f\x40", "b_value", 1000.0),
        ("DiffusionBValue", "FD", b"\0\0", "b_value", None),
        (
            "DiffusionGradientOrientation",
            "FD",
            b"\0" * 16 + b"\0\0\0\0\0\0\xf0\x3f",
            "gradient_orientation",
            (0.0, 0.0, 1.0),
        ),
        ("TemporalPositionIdentifier", "IS", b"3", "temporal_position", 3),
        ("ComplexImageComponent", "CS", b"PHASE ", "complex_component", "PHASE"),
        ("StackID", "SH", b"1 ", "stack_id", "1"),
        ("ViewPosition", "CS", b"PA", "view_position", "PA"),
        ("ImageLaterality", "CS", b"L ", "image_laterality", "L"),
        ("AcquisitionDate", "DA", b"20260102", "acquisition_date", "20260102"),
        ("AcquisitionTime", "TM", b"101112.5", "acquisition_time", "101112.5"),
        ("AcquisitionDateTime", "DT", b"20260102101112+0100 ", "acquisition_datetime", "20260102101112+0100"),
        ("ContrastBolusAgent", "LO", b"Omnipaque ", "contrast_bolus_agent", "Omnipaque"),
    ],
)
def test_what_is_left_of_a_value(keyword: str, vr: str, value: bytes, name: str, expected: Any) -> None:  # noqa: ANN401 - a field's value has any of several types
    assert getattr(header_of(keyword, vr, value), name) == expected


@pytest.mark.parametrize(
    ("character_sets", "encoded", "name"),
    [
        (None, "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),  # undeclared, as it occurs
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 192", "Müller^Jörg".encode(), "Müller^Jörg"),
        (
            b"\\ISO 2022 IR 87",  # PS3.5 H.3.1
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
        ),  # PS3.5 I.2
    ],
)
def test_names_in_their_character_set(character_sets: bytes | None, encoded: bytes, name: str) -> None:
    stream = BytesIO()
    elements = [raw(keyword, "UI", uid.encode()) for keyword, uid in PLACING.items()]
    if character_sets is not None:
        elements.append(raw("SpecificCharacterSet", "CS", character_sets))
    elements.append(raw("PatientName", "PN", encoded))
    for element in sorted(elements, key=lambda element: element.tag):
        value = element.value or b""
        value += b" " * (len(value) % 2) if element.VR != "UI" else b"\0" * (len(value) % 2)
        stream.write(element.tag.group.to_bytes(2, "little") + element.tag.element.to_bytes(2, "little"))
        stream.write((element.VR or "UN").encode() + len(value).to_bytes(2, "little") + value)
    stream.seek(0)
    dataset = read_dataset(stream, is_implicit_VR=False, is_little_endian=True)
    header = InstanceHeader.of(dataset)
    assert header.patient_name == name
    assert InstanceHeader.from_json(json.loads(json.dumps(header.to_json()))) == header


@pytest.mark.parametrize(
    ("values", "agent"),
    [
        ({"CodeMeaning": "Iohexol", "CodeValue": "C-B0322"}, "Iohexol"),
        ({"CodeValue": "C-B0322"}, "C-B0322"),
        ({}, "coded"),
    ],
)
def test_a_contrast_agent_that_is_only_coded(values: dict[str, str], agent: str) -> None:
    coded = Dataset()
    for keyword, value in values.items():
        setattr(coded, keyword, value)
    dataset = dataset_of()
    dataset.ContrastBolusAgentSequence = [coded]
    assert InstanceHeader.of(dataset).contrast_bolus_agent == agent
    dataset.ContrastBolusAgent = "Omnipaque 350"
    assert InstanceHeader.of(dataset).contrast_bolus_agent == "Omnipaque 350"
    dataset.ContrastBolusAgent, dataset.ContrastBolusAgentSequence = "", []
    assert InstanceHeader.of(dataset).contrast_bolus_agent == ""


def test_json_of_an_earlier_version_loads() -> None:
    """What a database holds since before these fields were there."""
    stored: dict[str, Any] = {"sop_class_uid": "1.1", "sop_instance_uid": "1.2", "study_instance_uid": "1.3"}
    stored |= {"series_instance_uid": "1.4", "image_type": ["A", "B"], "number_of_frames": 7}
    header = InstanceHeader.from_json(stored)
    assert (header.image_type, header.number_of_frames) == (("A", "B"), 7)
    assert (header.frames, header.frame_number, header.echo_time, header.dimensions) == ((), None, None, ())


def test_json_holds_what_is_set_and_no_more() -> None:
    header = InstanceHeader("1.1", "1.2", "1.3", "1.4", rows=3, pixel_spacing=(0.5, 0.5), image_type=("A", "B"))
    assert header.to_json() == {
        "sop_class_uid": "1.1",
        "sop_instance_uid": "1.2",
        "study_instance_uid": "1.3",
        "series_instance_uid": "1.4",
        "rows": 3,
        "pixel_spacing": (0.5, 0.5),
        "image_type": ("A", "B"),
    }
    assert InstanceHeader.from_json(json.loads(json.dumps(header.to_json()))) == header
