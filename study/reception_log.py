"""The format of a reception log: a file that a receiver writes objects into, over and over again from its beginning.

A log starts with the mark of who splits it: how far its records are files of their own already. Behind the mark stands
one record after the other, each at a multiple of `PAGE`: its heading, then the bytes of a DICOM file. A receiver that
finds everything split begins again at the front, with another generation: what stands behind the last record of this
generation is of an earlier one, and was split long ago.

A heading is written after the bytes that it speaks of, and holds their checksum: a record torn by a power cut is none.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

PAGE: Final = 4096
"""Records start at multiples of it [bytes]; the first page holds the mark."""

SUFFIX: Final = ".log"
TORN_SUFFIX: Final = ".torn"

LONGEST_NAME: Final = 64
"""Of a record [bytes]."""

_RECORD: Final = struct.Struct("<8s8sQQQL64s")  # magic, generation, offset, length, received at, checksum, name
_MARK: Final = struct.Struct("<8s8sQ")
_SUM: Final = struct.Struct("<L")
_RECORD_MAGIC, _MARK_MAGIC = b"HILUMREC", b"HILUMEND"

HEADING_BYTES: Final = _RECORD.size + _SUM.size
MARK_BYTES: Final = _MARK.size + _SUM.size
GENERATION_BYTES: Final = 8


@dataclass(frozen=True)
class LoggedRecord:
    """What a heading says.

    Parameters
    ----------
    generation
        Of all records that were written since the log was begun at its front.
    offset
        Where the heading stands [bytes].
    length
        Of what follows the heading [bytes].
    received_at
        When it was complete [ns since 1970, UTC].
    checksum
        CRC-32 of what follows the heading.
    name
        Of the file that it becomes, without a suffix: ASCII.
    """

    generation: bytes
    offset: int
    length: int
    received_at: int
    checksum: int
    name: str

    @property
    def content(self) -> int:
        """Where the bytes of the file start [bytes]."""
        return self.offset + HEADING_BYTES

    @property
    def end(self) -> int:
        """Where the next record may start [bytes]."""
        return next_page(self.content + self.length)

    def encoded(self) -> bytes:
        """Return the heading as it stands in the log."""
        body = _RECORD.pack(
            _RECORD_MAGIC,
            self.generation,
            self.offset,
            self.length,
            self.received_at,
            self.checksum,
            self.name.encode("ascii"),
        )
        return body + _SUM.pack(zlib.crc32(body))


@dataclass(frozen=True)
class SplitMark:
    """How far a log is split: all records of this generation before `offset`, and all of earlier ones."""

    generation: bytes
    offset: int

    def encoded(self) -> bytes:
        """Return the mark as it stands at the front of the log."""
        body = _MARK.pack(_MARK_MAGIC, self.generation, self.offset)
        return body + _SUM.pack(zlib.crc32(body))


def next_page(offset: int) -> int:
    """Return the first multiple of `PAGE` that is not below `offset` [bytes]."""
    return -(-offset // PAGE) * PAGE


def read_record(encoded: bytes, offset: int) -> LoggedRecord | None:
    """Return the record whose heading is in `encoded`, read at `offset`; None where none was written there."""
    if not _is_sound(encoded, HEADING_BYTES):
        return None
    magic, generation, where, length, received_at, checksum, name = _RECORD.unpack_from(encoded)
    text = name.rstrip(b"\0")
    if magic != _RECORD_MAGIC or where != offset or not text.replace(b"-", b"").isalnum():
        return None
    return LoggedRecord(generation, offset, length, received_at, checksum, text.decode("ascii"))


def read_mark(encoded: bytes) -> SplitMark | None:
    """Return the mark at the front of a log; None where nothing of it was split yet."""
    if not _is_sound(encoded, MARK_BYTES):
        return None
    magic, generation, offset = _MARK.unpack_from(encoded)
    return SplitMark(generation, offset) if magic == _MARK_MAGIC else None


def _is_sound(encoded: bytes, size: int) -> bool:
    if len(encoded) < size:
        return False
    (checksum,) = _SUM.unpack_from(encoded, size - _SUM.size)
    return bool(checksum == zlib.crc32(encoded[: size - _SUM.size]))
