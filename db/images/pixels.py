"""Whether two versions of an image show the same: their pixel data, as the files have them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.tag import BaseTag

from db.files.incoming import parse_to, read_start

_FIRST: Final = BaseTag(0x7FE00008)  # Float, Double Float and Pixel Data; nothing but padding and signatures follows
_UNDEFINED: Final = 0xFFFFFFFF
_CHUNK: Final = 2**20
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_NATIVE: Final = "native"
_IMPLICIT_HEAD = struct.Struct("<HHL")
_EXPLICIT_HEAD = struct.Struct("<HH2sHL")


@dataclass(frozen=True)
class StoredPixels:
    """Pixel data as a file has them.

    Parameters
    ----------
    encoding
        What can be compared with each other: "native" for both little endian syntaxes, else the Transfer Syntax UID.
    digest
        SHA-256 of the value, hexadecimal; "" where there is none.
    """

    encoding: str
    digest: str

    @property
    def is_native(self) -> bool:
        """Tell whether they are stored as they are, without compression."""
        return self.encoding == _NATIVE

    def are_those_of(self, other: StoredPixels) -> bool | None:
        """Tell whether they are those of another file; None where that can not be said without decoding them."""
        return self.digest == other.digest if self.encoding == other.encoding else None


def pixels_of(path: Path) -> StoredPixels:
    """Return the pixel data of a DICOM file.

    Raises
    ------
    ArchiveError
        If what is before them can not be read, is beyond all measure, or is deflated.
    OSError
        If the file can not be read.
    """
    with path.open("rb") as file:
        start, syntax = read_start(file)
        parse_to(file, start, syntax, _FIRST)
        return StoredPixels(_NATIVE if syntax in (_IMPLICIT, _EXPLICIT) else syntax, _digest(file, syntax))


def _digest(file: BinaryIO, transfer_syntax_uid: str) -> str:
    head = _IMPLICIT_HEAD if transfer_syntax_uid == _IMPLICIT else _EXPLICIT_HEAD
    found = file.read(head.size)
    if len(found) < head.size:
        return ""
    length = head.unpack(found)[-1]
    left = None if length == _UNDEFINED else length
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    return digest.hexdigest()
