"""Whether the bytes of a file are one DICOM object, whole and nothing besides (PS3.10 7.1, PS3.5 7.1).

Libraries read over a good deal: a length that is a little off, bytes behind the end, a file that was cut. So the
elements are stepped through here one by one, by their lengths alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from study.errors import Reason

_PREAMBLE: Final = 128
_GROUP_LENGTH: Final = b"\x02\x00\x00\x00UL\x04\x00"
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""VRs whose length has four bytes (PS3.5 7.1.2)."""
_SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_BEYOND: Final = "An item is longer than what it stands in, or the file was cut."
_HEAD = Struct("<HH2sH")  # tag, VR, length of two bytes
_ITEM_HEAD = Struct("<HHI")
_LENGTH = Struct("<I")

Content = mmap.mmap | bytes


class _Broken(Exception):
    """The bytes are no data set from here on."""


def structure_reasons(path: Path) -> Iterator[Reason]:
    """Yield where the bytes of a file stop being one DICOM object in Explicit VR Little Endian; once at most."""
    if not path.stat().st_size:
        yield Reason("File", "The file is empty.")
        return
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _demand_whole(content)
    except RecursionError:
        yield Reason("File", "Its sequences are nested too deeply.")
    except _Broken as broken:
        yield Reason("File", f"{broken}")


def _demand_whole(content: Content) -> None:
    size = len(content)
    if content[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise _Broken("The file can not be read back: it is no DICOM file.")
    start = _PREAMBLE + 4
    if content[start : start + 8] != _GROUP_LENGTH or size < start + 12:
        raise _Broken("The file meta information does not begin with its length.")
    meta = start + 12 + _LENGTH.unpack_from(content, start + 8)[0]
    if meta > size:
        raise _Broken("The file ends within its file meta information.")
    if _elements(content, start + 12, meta, group=0x0002) != meta or meta == size:
        raise _Broken("The file meta information has another length than it says, or nothing follows it.")
    end = _elements(content, meta, size)
    if end != size:
        raise _Broken(f"{size - end} bytes follow the object.")


def _elements(content: Content, at: int, end: int, group: int | None = None, *, in_item: bool = False) -> int:
    """Step through the elements of a data set or item, and return where it ends.

    Parameters
    ----------
    end
        Where it must end, or for one of undefined length where it must have ended.
    in_item
        Whether it ends with an item delimiter.
    """
    before = -1
    while at < end:
        if at + 8 > end:
            raise _Broken("The file ends within an element.")
        high, low, vr, length = _HEAD.unpack_from(content, at)
        tag = high << 16 | low
        if in_item and tag == _ITEM_END:
            return at + 8
        if tag <= before or (group is not None and high != group):
            raise _Broken("The elements are not in ascending order of their tags.")
        before = tag
        at = _value(content, at, end, vr, length)
    if in_item:
        raise _Broken("An item has no end.")
    return at


def _value(content: Content, at: int, end: int, vr: bytes, length: int) -> int:
    """Return where an element ends that begins at `at`."""
    at += 8
    if vr in _LONG_VRS:
        if at + 4 > end:
            raise _Broken("The file ends within an element.")
        length = _LENGTH.unpack_from(content, at)[0]
        at += 4
        if length == _UNDEFINED:
            return _items(content, at, end, fragments=vr != b"SQ")
    elif vr not in _SHORT_VRS:
        raise _Broken("An element has no Value Representation.")
    if length % 2:
        raise _Broken("An element has an odd length.")
    if at + length > end:
        raise _Broken("An element is longer than what it stands in, or the file was cut.")
    if vr == b"SQ":
        _items(content, at, at + length, fragments=False, delimited=False)
    return at + length


def _items(content: Content, at: int, end: int, *, fragments: bool, delimited: bool = True) -> int:
    """Step through the items of a sequence, or the fragments of encapsulated pixel data; return where they end."""
    while at < end:
        if at + 8 > end:
            raise _Broken(_BEYOND)
        high, low, length = _ITEM_HEAD.unpack_from(content, at)
        tag = high << 16 | low
        at += 8
        if delimited and tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Broken("A sequence holds something that is no item.")
        if length == _UNDEFINED and not fragments:
            at = _elements(content, at, end, in_item=True)
            continue
        if at + length > end:
            raise _Broken(_BEYOND)
        if not fragments:
            _elements(content, at, at + length)
        at += length
    if delimited:
        raise _Broken("A sequence or the pixel data have no end.")
    return at
