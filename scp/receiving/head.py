"""Read what an object is and where it belongs from the first bytes of its encoded data set, whatever those bytes are.

Only a bounded head is read before a C-STORE is answered: it shows whether the data set is one, in the Transfer Syntax
agreed, and the object that the command announced. The elements before (0008,0018) are few and short; nothing is
decoded but the UIDs that are wanted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from study.errors import ReceiveError
from study.uids import is_storable_uid

HEAD_BYTES: Final = 65536
"""As many bytes of the encoded data set are looked at, and as many are inflated [bytes]."""

PLACE_BYTES: Final = 2**22
"""As many where the object's place is wanted: it may stand behind references to thousands of others [bytes]."""

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_DELIMITERS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_DEFLATED = frozenset(
    {
        DeflatedExplicitVRLittleEndian,
        UID("1.2.840.10008.1.2.4.95"),  # JPIP Referenced Deflate
        UID("1.2.840.10008.1.2.4.205"),  # JPIP HTJ2K Referenced Deflate
    }
)
_IMPLICIT = frozenset({ImplicitVRLittleEndian, UID("1.2.840.10008.1.20")})  # the other: Papyrus 3


def check_head(head: bytes | bytearray, *, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Make sure that the data set starting with `head` is the object that the C-STORE command announced.

    Parameters
    ----------
    head
        The first `HEAD_BYTES` of the encoded data set, or all of it where it is shorter.

    Raises
    ------
    ReceiveError
        A900 where SOP Class or Instance UID differ from the command's; C000 where they cannot be read (PS3.4 B.2.3).
    """
    found = read_head(head, transfer_syntax_uid)
    if found.sop_class_uid != sop_class_uid:
        raise ReceiveError(0xA900, "SOP Class UID differs between command and data set.")
    if found.sop_instance_uid != sop_instance_uid:
        raise ReceiveError(0xA900, "SOP Instance UID differs between command and data set.")


@dataclass(frozen=True)
class Head:
    """The two UIDs that say what an object is."""

    sop_class_uid: str
    sop_instance_uid: str


def read_head(head: bytes | bytearray, transfer_syntax_uid: str) -> Head:
    """Return the UIDs that the data set starting with `head` carries.

    Raises
    ------
    ReceiveError
        C000 where they cannot be read.
    """
    values = _values(head[:HEAD_BYTES], transfer_syntax_uid, (_SOP_CLASS_UID, _SOP_INSTANCE_UID), HEAD_BYTES)
    return Head(
        sop_class_uid=_uid(values, _SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(values, _SOP_INSTANCE_UID, "SOP Instance UID"),
    )


@dataclass(frozen=True)
class Place:
    """The study and series of an object."""

    study_instance_uid: str
    series_instance_uid: str


def read_place(encoded: bytes, transfer_syntax_uid: str) -> Place:
    """Return the study and series that the data set starting with `encoded` says it is of.

    Parameters
    ----------
    encoded
        Its first `PLACE_BYTES`, or all of it where it is shorter.

    Raises
    ------
    ReceiveError
        C000 where they cannot be read.
    """
    values = _values(
        encoded[:PLACE_BYTES], transfer_syntax_uid, (_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID), PLACE_BYTES
    )
    return Place(
        study_instance_uid=_uid(values, _STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(values, _SERIES_INSTANCE_UID, "Series Instance UID"),
    )


def _values(
    head: bytes | bytearray, transfer_syntax_uid: str, wanted: Collection[int], most_bytes: int
) -> dict[int, bytes]:
    """Return the values of the `wanted` tags; those that are not there are left out."""
    encoded = bytes(head)
    if transfer_syntax_uid in _DEFLATED:
        encoded = _inflated(encoded, most_bytes)
    reader = _Reader(
        encoded,
        big_endian=transfer_syntax_uid == ExplicitVRBigEndian,
        implicit_vr=transfer_syntax_uid in _IMPLICIT,
    )
    values: dict[int, bytes] = {}
    try:
        while reader.offset < len(encoded) and len(values) < len(wanted):
            tag, start, length = reader.next_element()
            if tag > max(wanted):
                break
            if length == _UNDEFINED_LENGTH:
                reader.skip_sequence()
                continue
            if tag in wanted:
                values[tag] = reader.value(start, length)
            reader.skip_value(length)
    except struct.error:
        raise _unreadable("it ends within its first elements") from None
    return values


class _Reader:
    """Steps over the elements of one encoded data set; `struct.error` means that the bytes ended."""

    def __init__(self, encoded: bytes, *, big_endian: bool, implicit_vr: bool) -> None:
        order = ">" if big_endian else "<"
        self._encoded = encoded
        self._implicit_vr = implicit_vr
        self._two_shorts = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")
        self.offset = 0

    def next_element(self) -> tuple[int, int, int]:
        """Return (tag, where its value starts, its length) and step to the value."""
        group, element = self._two_shorts.unpack_from(self._encoded, self.offset)
        tag = group << 16 | element
        if self._implicit_vr or tag in _DELIMITERS:
            header, length = 8, self._long.unpack_from(self._encoded, self.offset + 4)[0]
        else:
            header, length = self._explicit_length()
        self.offset += header
        return tag, self.offset, length

    def _explicit_length(self) -> tuple[int, int]:
        vr = self._encoded[self.offset + 4 : self.offset + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise _unreadable("it is not in the Transfer Syntax agreed")
        if vr in _LONG_VRS:
            return 12, self._long.unpack_from(self._encoded, self.offset + 8)[0]
        return 8, self._short.unpack_from(self._encoded, self.offset + 6)[0]

    def value(self, start: int, length: int) -> bytes:
        """Return a value of which no more is read than a UID can have."""
        if length > 128 or start + length > len(self._encoded):
            raise _unreadable("a UID in it is too long")
        return self._encoded[start : start + length]

    def skip_value(self, length: int) -> None:
        """Step over a value of defined length; past the end of the head, the next read says so."""
        self.offset += length

    def skip_sequence(self) -> None:
        """Step over a sequence of undefined length, nested ones included, without recursion."""
        depth = 1
        while depth:
            tag, _, length = self.next_element()
            if tag in (_SEQUENCE_END, _ITEM_END):
                depth -= 1
            elif length == _UNDEFINED_LENGTH:
                depth += 1
            elif tag != _ITEM:
                self.skip_value(length)


def _inflated(encoded: bytes, most_bytes: int) -> bytes:
    # A data set is deflated without a zlib header (PS3.5 A.5); the bound holds against a bomb.
    try:
        return zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(encoded, most_bytes)
    except zlib.error:
        raise _unreadable("it is not deflated as agreed") from None


def _uid(values: dict[int, bytes], tag: int, name: str) -> str:
    text = values.get(tag, b"").rstrip(b"\0 ").decode("ascii", errors="replace")
    if not is_storable_uid(text):
        raise _unreadable(f"it has no valid {name}")
    return text


def _unreadable(why: str) -> ReceiveError:
    return ReceiveError(0xC000, f"Data set not understood: {why}.")
