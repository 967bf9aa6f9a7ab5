"""Commitment messages: read as another program writes them, in any form that the standard allows, and nothing else."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import decode, encode

from scp.commitments.commitment_information import (
    MOST_REFERENCES,
    TRANSFER_SYNTAXES,
    read_report,
    read_request,
    write_report,
    write_request,
)
from study.commitment import CommitmentReport, CommitmentRequest, Reference, failure_words, tally

FIRST, SECOND = Reference(CTImageStorage, "1.2.3.1"), Reference(MRImageStorage, "1.2.3.2")
REPORT = CommitmentReport("1.2.9", (FIRST,), ((SECOND, 0x0112),))


def encoded(dataset: Dataset, syntax: str, *, undefined: bool = False) -> bytes:
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    written = encode(dataset, UID(syntax).is_implicit_VR, is_little_endian=True)
    assert written is not None
    return written


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_requests_and_reports_are_read_in_every_encoding(syntax: str, undefined: bool) -> None:
    request = CommitmentRequest("1.2.9", (FIRST, SECOND))
    assert read_request(encoded(write_request(request), syntax, undefined=undefined), syntax) == request
    assert read_report(encoded(write_report(REPORT), syntax, undefined=undefined), syntax) == REPORT


def test_another_program_reads_what_is_written() -> None:
    written = encoded(write_report(REPORT), ExplicitVRLittleEndian)
    read = decode(BytesIO(written), is_implicit_vr=False, is_little_endian=True)
    assert read.TransactionUID == "1.2.9"
    assert [item.ReferencedSOPInstanceUID for item in read.ReferencedSOPSequence] == ["1.2.3.1"]
    assert [(item.ReferencedSOPClassUID, item.FailureReason) for item in read.FailedSOPSequence] == [
        (MRImageStorage, 0x0112)
    ]
    assert "FailedSOPSequence" not in write_report(CommitmentReport("1.2.9", (FIRST,)))


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_what_is_not_asked_for_is_stepped_over(syntax: str, undefined: bool) -> None:
    dataset = write_report(REPORT)
    dataset.RetrieveAETitle = "PACS"
    dataset.StorageMediaFileSetUID = "1.2.7"
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "9.9.9"
    outer = Dataset()
    outer.ReferencedSOPInstanceUID = "9.9"
    outer.ReferencedInstanceSequence = Sequence([inner])
    dataset.ReferencedPerformedProcedureStepSequence = Sequence([outer])
    dataset.ReferencedSOPSequence[0].RetrieveAETitle = "PACS"
    dataset.ReferencedSOPSequence[0].PurposeOfReferenceCodeSequence = Sequence([inner])
    assert read_report(encoded(dataset, syntax, undefined=undefined), syntax) == REPORT


def test_what_failed_counts_as_failed_though_it_is_called_committed_too() -> None:
    both = CommitmentReport("1.2.9", (FIRST, SECOND), ((SECOND, 0x0110),))
    written = encoded(write_report(both), ImplicitVRLittleEndian)
    assert read_report(written, ImplicitVRLittleEndian) == CommitmentReport("1.2.9", (FIRST,), ((SECOND, 0x0110),))


def test_an_object_that_is_named_twice_counts_once() -> None:
    written = encoded(write_request(CommitmentRequest("1.2.9", (FIRST, FIRST))), ExplicitVRLittleEndian)
    assert read_request(written, ExplicitVRLittleEndian).references == (FIRST,)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: delattr(d, "TransactionUID"), "no Transaction UID"),
        (lambda d: setattr(d, "TransactionUID", "1.2/../3"), "UID"),
        (lambda d: delattr(d.ReferencedSOPSequence[0], "ReferencedSOPInstanceUID"), "UID"),
        (lambda d: setattr(d.ReferencedSOPSequence[0], "ReferencedSOPClassUID", "nonsense"), "UID"),
        (lambda d: delattr(d, "ReferencedSOPSequence"), "no object"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_request_that_lacks_something_is_none(spoil: object, words: str) -> None:
    dataset = write_request(CommitmentRequest("1.2.9", (FIRST,)))
    assert callable(spoil)
    spoil(dataset)
    with pytest.raises(ValueError, match=words):
        read_request(encoded(dataset, ImplicitVRLittleEndian), ImplicitVRLittleEndian)


def test_a_failure_without_a_reason_is_no_report() -> None:
    dataset = write_report(REPORT)
    del dataset.FailedSOPSequence[0].FailureReason
    with pytest.raises(ValueError, match="ends within"):
        read_report(encoded(dataset, ImplicitVRLittleEndian), ImplicitVRLittleEndian)


def element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def many(count: int) -> bytes:
    item = element(0x00081150, b"1.2 ") + element(0x00081155, b"1.23")
    return element(0x00081195, b"1.29") + element(0x00081199, element(0xFFFEE000, item) * count)


def test_as_many_references_are_read_as_are_allowed() -> None:
    assert len(read_request(many(1000), ImplicitVRLittleEndian).references) == 1
    with pytest.raises(ValueError, match=f"more than {MOST_REFERENCES}"):
        read_request(many(MOST_REFERENCES + 1), ImplicitVRLittleEndian)


def test_lengths_that_lie_are_noticed() -> None:
    sequence = element(0x00081199, element(0xFFFEE000, element(0x00081150, b"1.2 ")))
    longer = struct.pack("<HHL", 8, 0x1199, 10**6) + sequence[8:]
    item_longer = element(0x00081199, struct.pack("<HHL", 0xFFFE, 0xE000, 400) + sequence[16:])
    element_longer = element(0x00081199, element(0xFFFEE000, struct.pack("<HHL", 8, 1, 100)))
    nested = struct.pack("<HHL", 8, 0x1111, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) * 100_000
    for wrong in (longer, item_longer, element_longer, nested, b"\x08\0\x95", many(1)[:-3], sequence[8:]):
        with pytest.raises(ValueError, match=r"."):
            read_report(wrong, ImplicitVRLittleEndian)


@given(st.binary(max_size=300), st.sampled_from(TRANSFER_SYNTAXES), st.integers(0, 150))
def test_any_bytes_are_a_report_or_a_value_error(noise: bytes, syntax: str, place: int) -> None:
    good = encoded(write_report(REPORT), syntax)
    for bytes_ in (noise, good[:place] + noise + good[place:]):
        try:
            report = read_report(bytes_, syntax)
        except ValueError:
            continue
        assert report.transaction_uid


def test_failures_have_words() -> None:
    assert failure_words(0x0112) == "it does not have the object (0112)"
    assert "does not name (ABCD)" in failure_words(0xABCD)
    assert tally([(FIRST, 0x0112), (SECOND, 0x0112), (FIRST, 0x0110)]) == "1 x 0110, 2 x 0112"
