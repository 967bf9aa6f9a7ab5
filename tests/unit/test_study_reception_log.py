"""The format of a reception log: what was not written as a whole is no record."""

from __future__ import annotations

import pytest

from study.reception_log import HEADING_BYTES, PAGE, LoggedRecord, SplitMark, next_page, read_mark, read_record

RECORD = LoggedRecord(b"12345678", 3 * PAGE, 1000, 1_790_000_000_123_456_789, 0xDEADBEEF, "0179-1f2a-000001")
MARK = SplitMark(b"12345678", 5 * PAGE)


def flipped(encoded: bytes, position: int) -> bytes:
    return encoded[:position] + bytes([encoded[position] ^ 0x10]) + encoded[position + 1 :]


def test_a_heading_is_read_as_it_was_written() -> None:
    assert read_record(RECORD.encoded() + b"what follows", 3 * PAGE) == RECORD
    assert (RECORD.content, RECORD.end) == (3 * PAGE + HEADING_BYTES, 4 * PAGE)


@pytest.mark.parametrize("position", range(0, HEADING_BYTES, 5))
def test_a_heading_with_any_byte_changed_is_none(position: int) -> None:
    assert read_record(flipped(RECORD.encoded(), position), 3 * PAGE) is None


def test_a_heading_that_is_cut_or_stands_elsewhere_is_none() -> None:
    assert read_record(RECORD.encoded()[:-1], 3 * PAGE) is None
    assert read_record(b"", 0) is None
    assert read_record(RECORD.encoded(), 4 * PAGE) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "a.dcm", "ä"])
def test_a_name_that_is_no_name_of_ours_makes_no_record(name: str) -> None:
    hostile = LoggedRecord(b"12345678", 0, 1, 1, 1, "x")
    object.__setattr__(hostile, "name", name.encode().decode("latin-1").encode("ascii", "replace").decode())
    assert read_record(hostile.encoded(), 0) is None


def test_a_mark_is_read_as_it_was_written_and_only_whole() -> None:
    assert read_mark(MARK.encoded() + b"x") == MARK
    assert read_mark(flipped(MARK.encoded(), 20)) is None
    assert read_mark(bytes(PAGE)) is None
    assert read_mark(RECORD.encoded()) is None


def test_records_start_at_pages() -> None:
    assert [next_page(offset) for offset in (0, 1, PAGE, PAGE + 1)] == [0, PAGE, PAGE, 2 * PAGE]
