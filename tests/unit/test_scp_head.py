from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from scp.receiving.head import HEAD_BYTES, PLACE_BYTES, Place, check_head, read_head, read_place
from study.errors import ReceiveError

INSTANCE = "1.2.3.4"
STUDY, SERIES = "1.2.3.5", "1.2.3.6"
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
)


def data_set() -> Dataset:
    language = Dataset()
    language.CodeValue = "en"
    nested = Dataset()
    nested.CodeMeaning = "English"
    language.EquivalentCodeSequence = [nested]
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.LanguageCodeSequence = [language]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = INSTANCE
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
    dataset.PixelData = b"\1\2" * 100_000
    dataset["PixelData"].VR = "OW"
    return dataset


def encoded(dataset: Dataset, syntax: str, *, undefined_lengths: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    if undefined_lengths:
        dataset["LanguageCodeSequence"].is_undefined_length = True
        for item in dataset.LanguageCodeSequence:
            item.is_undefined_length_sequence_item = True
            item["EquivalentCodeSequence"].is_undefined_length = True
    write_dataset(buffer, dataset)
    plain = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(plain) + deflater.flush()
    return plain


def status_of(head: bytes, syntax: str) -> int:
    try:
        read_head(head, syntax)
    except ReceiveError as error:
        return error.status
    return 0


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_two_uids_are_read_in_every_encoding(syntax: str, undefined_lengths: bool) -> None:
    head = read_head(encoded(data_set(), syntax, undefined_lengths=undefined_lengths), syntax)
    assert (head.sop_class_uid, head.sop_instance_uid) == (CTImageStorage, INSTANCE)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_place_is_read_behind_references_to_thousands_of_others(syntax: str) -> None:
    dataset = data_set()
    other = Dataset()
    other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = CTImageStorage, f"{INSTANCE}.5"
    dataset.ReferencedImageSequence = [other] * 2000
    whole = encoded(dataset, syntax)
    assert read_place(whole, syntax) == Place(STUDY, SERIES)
    if syntax != DeflatedExplicitVRLittleEndian:
        assert whole.index(STUDY.encode()) > HEAD_BYTES


def test_a_place_that_is_not_told_is_c000() -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        dataset = data_set()
        del dataset[keyword]
        with pytest.raises(ReceiveError) as caught:
            read_place(encoded(dataset, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
        assert caught.value.status == 0xC000


@pytest.mark.no_cover  # what is timed is the reading, not the tracing
def test_the_place_of_a_hostile_data_set_is_not_looked_for_long() -> None:
    empty = struct.pack("<HHL", 8, 6, 0) * (PLACE_BYTES // 4)
    started = time.process_time()
    with pytest.raises(ReceiveError):
        read_place(empty, ImplicitVRLittleEndian)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    ("sop_class_uid", "sop_instance_uid"), [("1.2.840.10008.5.1.4.1.1.4", INSTANCE), (CTImageStorage, "1.2.3.5")]
)
def test_contradiction_with_the_command_is_a900(sop_class_uid: str, sop_instance_uid: str) -> None:
    with pytest.raises(ReceiveError) as caught:
        check_head(
            encoded(data_set(), ExplicitVRLittleEndian),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
        )
    assert caught.value.status == 0xA900


@pytest.mark.parametrize(
    ("head", "syntax"),
    [
        (b"", ExplicitVRLittleEndian),
        (b"\x08", ExplicitVRLittleEndian),
        (b"GET / HTTP/1.1\r\n\r\n", ExplicitVRLittleEndian),
        (encoded(data_set(), ImplicitVRLittleEndian), ExplicitVRLittleEndian),
        (encoded(data_set(), ExplicitVRLittleEndian), ImplicitVRLittleEndian),
        (encoded(data_set(), ExplicitVRLittleEndian), ExplicitVRBigEndian),
        (encoded(data_set(), ExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian),
        (encoded(data_set(), ExplicitVRLittleEndian)[:60], ExplicitVRLittleEndian),
        (struct.pack("<HH2sH", 8, 0x16, b"UI", 40000) + b"1" * 40000, ExplicitVRLittleEndian),
        (struct.pack("<HHL", 8, 6, 0xFFFFFFFF) * 8000, ImplicitVRLittleEndian),
    ],
)
def test_unreadable_heads_are_c000(head: bytes, syntax: str) -> None:
    with pytest.raises(ReceiveError) as caught:
        read_head(head, syntax)
    assert caught.value.status == 0xC000


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2.3/4", "1" * 65, "1.2.\u00b2"])
def test_what_is_no_uid_is_c000(uid: str) -> None:
    value = uid.encode("latin-1")
    value += b"\0" * (len(value) % 2)
    class_value = b"1.2.840.10008.5.1.4.1.1.2\0"
    head = struct.pack("<HH2sH", 8, 0x16, b"UI", len(class_value)) + class_value
    head += struct.pack("<HH2sH", 8, 0x18, b"UI", len(value)) + value
    with pytest.raises(ReceiveError) as caught:
        read_head(head, ExplicitVRLittleEndian)
    assert caught.value.status == 0xC000


def test_a_bomb_is_inflated_no_further_than_the_head() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * 2**27) + deflater.flush()
    tracemalloc.start()
    with pytest.raises(ReceiveError):
        read_head(bomb[:HEAD_BYTES], DeflatedExplicitVRLittleEndian)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_uids_or_c000(head: bytes, syntax: str) -> None:
    assert status_of(head, syntax) in (0, 0xC000)


_PLAIN = encoded(data_set(), ExplicitVRLittleEndian, undefined_lengths=True)[:300]


@given(st.integers(0, len(_PLAIN) - 1), st.binary(min_size=1, max_size=8), st.integers(0, len(_PLAIN)))
@settings(max_examples=300, deadline=None)
def test_damaged_heads_give_uids_or_c000(position: int, damage: bytes, length: int) -> None:
    damaged = (_PLAIN[:position] + damage + _PLAIN[position + len(damage) :])[:length]
    assert status_of(damaged, ExplicitVRLittleEndian) in (0, 0xC000)


@pytest.mark.no_cover  # what is timed is the reading, not the tracing
def test_hostile_nesting_ends_quickly() -> None:
    nested = struct.pack("<HHL", 8, 6, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) * 8191
    started = time.process_time()
    with pytest.raises(ReceiveError):
        read_head(BytesIO(nested).getvalue(), ImplicitVRLittleEndian)
    assert time.process_time() - started < 1.0
