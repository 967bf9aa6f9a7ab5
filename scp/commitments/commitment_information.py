"""What travels in a storage commitment message: Action Information and Event Information (PS3.4 J.3.2, J.3.3).

They come from the wire, so they are read here without building a general data set: steps over whatever is not needed,
no recursion, and as many references as are allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from study.commitment import CommitmentReport, CommitmentRequest, Reference
from study.uids import is_storable_uid

TRANSFER_SYNTAXES: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""The Transfer Syntaxes in which these messages are taken and sent, the one that the node likes best first."""

LONGEST_INFORMATION: Final = 4 * 2**20
"""A longer data set is no request or report that the node takes [bytes]."""

MOST_REFERENCES: Final = 20_000
"""As many objects may a request or a report name."""

_FAILED_SOP_SEQUENCE = 0x00081198
_REFERENCED_SOP_SEQUENCE = 0x00081199
_TRANSACTION_UID = 0x00081195
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_FAILURE_REASON = 0x00081197
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_LONGEST_VALUE = 128
_TAG, _SHORT, _LONG = struct.Struct("<HH"), struct.Struct("<H"), struct.Struct("<L")


def read_request(encoded: bytes | bytearray, transfer_syntax_uid: str) -> CommitmentRequest:
    """Return the request that Action Information holds.

    Raises
    ------
    ValueError
        If it holds none: no Transaction UID, no object, more than `MOST_REFERENCES`, or bytes that are no data set.
    """
    found = _read(encoded, transfer_syntax_uid)
    if not found.referenced:
        raise ValueError("it names no object")
    return CommitmentRequest(found.transaction_uid, tuple(dict.fromkeys(found.referenced)))


def read_report(encoded: bytes | bytearray, transfer_syntax_uid: str) -> CommitmentReport:
    """Return the report that Event Information holds; an object that it names as failed counts as that alone.

    Raises
    ------
    ValueError
        If it holds none (see `read_request`).
    """
    found = _read(encoded, transfer_syntax_uid)
    failed = dict(found.failed)
    committed = dict.fromkeys(each for each in found.referenced if each not in failed)
    return CommitmentReport(found.transaction_uid, tuple(committed), tuple(failed.items()))


def write_request(request: CommitmentRequest) -> Dataset:
    """Return the Action Information of `request`."""
    dataset = Dataset()
    dataset.TransactionUID = request.transaction_uid
    dataset.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    return dataset


def write_report(report: CommitmentReport) -> Dataset:
    """Return the Event Information of `report`; a sequence without items is left out (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        dataset.FailedSOPSequence = [_failed_item(reference, reason) for reference, reason in report.failed]
    return dataset


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _failed_item(reference: Reference, reason: int) -> Dataset:
    item = _item(reference)
    item.FailureReason = reason
    return item


@dataclass
class _Found:
    transaction_uid: str = ""
    referenced: list[Reference] = field(default_factory=list)
    failed: list[tuple[Reference, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.referenced) + len(self.failed)


def _read(encoded: bytes | bytearray, transfer_syntax_uid: str) -> _Found:
    reader = _Reader(bytes(encoded), implicit_vr=transfer_syntax_uid == ImplicitVRLittleEndian)
    found = _Found()
    try:
        for tag, length in reader.elements(len(encoded)):
            if tag == _TRANSACTION_UID:
                found.transaction_uid = _uid(reader.value(length))
            elif tag in (_REFERENCED_SOP_SEQUENCE, _FAILED_SOP_SEQUENCE):
                _add_items(found, reader, length, has_failed=tag == _FAILED_SOP_SEQUENCE)
            else:
                reader.skip(length)
    except struct.error:
        raise ValueError("it ends within an element") from None
    if not found.transaction_uid:
        raise ValueError("it has no Transaction UID")
    return found


def _add_items(found: _Found, reader: _Reader, length: int, *, has_failed: bool) -> None:
    for item_length in reader.items(length):
        values = dict(_values_of_item(reader, item_length))
        reference = Reference(
            _uid(values.get(_REFERENCED_SOP_CLASS_UID, b"")), _uid(values.get(_REFERENCED_SOP_INSTANCE_UID, b""))
        )
        if has_failed:
            found.failed.append((reference, _SHORT.unpack(values.get(_FAILURE_REASON, b""))[0]))
        else:
            found.referenced.append(reference)
        if found.count > MOST_REFERENCES:
            raise ValueError(f"it names more than {MOST_REFERENCES} objects")


def _values_of_item(reader: _Reader, length: int) -> Iterator[tuple[int, bytes]]:
    for tag, value_length in reader.elements(length):
        if tag in (_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID, _FAILURE_REASON):
            yield tag, reader.value(value_length)
        else:
            reader.skip(value_length)


class _Reader:
    """Steps over the elements of an encoded data set; `struct.error` means that the bytes ended."""

    def __init__(self, encoded: bytes, *, implicit_vr: bool) -> None:
        self._encoded = encoded
        self._implicit_vr = implicit_vr
        self._offset = 0

    def elements(self, length: int) -> Iterator[tuple[int, int]]:
        """Give (tag, length of its value) of each element of a data set; its value has to be taken or skipped.

        Parameters
        ----------
        length
            Of the data set; undefined where an Item Delimitation Item ends it.
        """
        end = self._end_of(length)
        while end is None or self._offset < end:
            tag, value_length = self._header()
            if tag == _ITEM_END and end is None:
                return
            if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
                raise ValueError("an item stands where no item may")
            yield tag, value_length
        if self._offset > end:
            raise ValueError("an element is longer than what holds it")

    def items(self, length: int) -> Iterator[int]:
        """Give the length of each item of a sequence, to whose elements it has stepped."""
        end = self._end_of(length)
        while end is None or self._offset < end:
            tag, item_length = self._header()
            if tag == _SEQUENCE_END and end is None:
                return
            if tag != _ITEM:
                raise ValueError("a sequence holds what is no item")
            yield item_length
        if self._offset > end:
            raise ValueError("an item is longer than its sequence")

    def value(self, length: int) -> bytes:
        """Return a value of which no more is read than a UID can have."""
        if length > _LONGEST_VALUE or self._offset + length > len(self._encoded):
            raise ValueError("a value in it is too long")
        start, self._offset = self._offset, self._offset + length
        return self._encoded[start : self._offset]

    def skip(self, length: int) -> None:
        """Step over a value, a sequence of undefined length with all that is nested in it included."""
        if length != _UNDEFINED:
            self._offset += length
            return
        depth = 1
        while depth:
            tag, inner = self._header()
            if tag in (_SEQUENCE_END, _ITEM_END):
                depth -= 1
            elif inner == _UNDEFINED:
                depth += 1
            elif tag != _ITEM:
                self._offset += inner

    def _end_of(self, length: int) -> int | None:
        if length == _UNDEFINED:
            return None
        end = self._offset + length
        if end > len(self._encoded):
            raise ValueError("a length in it is beyond its end")
        return end

    def _header(self) -> tuple[int, int]:
        """Return the tag of the next element and the length of its value, and step to the value."""
        group, element = _TAG.unpack_from(self._encoded, self._offset)
        tag = group << 16 | element
        if self._implicit_vr or group == 0xFFFE:
            size, length = 8, _LONG.unpack_from(self._encoded, self._offset + 4)[0]
        else:
            size, length = self._explicit_length()
        self._offset += size
        return tag, length

    def _explicit_length(self) -> tuple[int, int]:
        vr = self._encoded[self._offset + 4 : self._offset + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise ValueError("it is not in the Transfer Syntax agreed")
        if vr in _LONG_VRS:
            return 12, _LONG.unpack_from(self._encoded, self._offset + 8)[0]
        return 8, _SHORT.unpack_from(self._encoded, self._offset + 6)[0]


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("ascii", errors="replace")
    if not is_storable_uid(text):
        raise ValueError("a UID in it is none")
    return text
