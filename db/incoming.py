"""Reading a received file: its header, and the digest of its data set. Its bytes are a stranger's.

What is read into memory is bounded, whatever the lengths in the file claim: parsing stops behind the last attribute
that the index keeps, a parser that wants more than a budget of bytes is stopped, and no more of a deflated data set is
inflated than that.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from study.errors import ArchiveError
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.uids import is_storable_uid

_PREAMBLE: Final = 128
_META_START: Final = _PREAMBLE + len(b"DICM")
_GROUP_LENGTH = struct.Struct("<HH2sHL")  # (0002,0000) UL: tag, VR, length 4, value (PS3.10 7.1)
_LONGEST_META = 64 * 2**10
_BUDGET = 8 * 2**20  # bytes that a header may make us read
_LONGEST_TEXT = 512  # characters; the longest value of an attribute that we keep, a PN of three groups, has 194
_CHUNK = 2**20
_MOST_VALUES = 64
# Deflated Explicit VR LE, and JPIP Referenced Deflate with and without HTJ2K (PS3.5 A.5, A.7, A.11)
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_IMPLICIT_VR = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_TRANSFER_SYNTAX_UID = BaseTag(0x00020010)
_SENDING_AE_TITLE = BaseTag(0x00020017)
_HEADER_TAGS: list[BaseTag | int] = [
    BaseTag(tag) for keyword in HEADER_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None
]
_LAST_TAG = max(_HEADER_TAGS)

# What pydicom raises over bytes that are no data set; deep nesting ends in RecursionError.
_PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    EOFError,
    RecursionError,
    LookupError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class IncomingObject:
    """What a received file says of itself.

    Parameters
    ----------
    digest
        SHA-256 of the encoded data set without file meta, hexadecimal.
    size
        Of the file [bytes].
    """

    header: InstanceHeader
    digest: str
    size: int
    calling_ae_title: str


def read_object(path: Path) -> IncomingObject:
    """Return what the DICOM file at `path` is.

    Raises
    ------
    ArchiveError
        If it can not be indexed: no DICOM file, an attribute missing that places it, a UID that is none, or a header
        beyond all measure.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        # pydicom's warnings quote values, and a stranger's header gives many; a bad value simply counts as none.
        warnings.simplefilter("ignore")
        start, meta = _read_meta(file)
        header = _read_header(file, start, _meta_text(meta, _TRANSFER_SYNTAX_UID))
        digest, size = _digest(file, start)
        return IncomingObject(header, digest, size, _meta_text(meta, _SENDING_AE_TITLE))


def _meta_text(meta: Dataset, tag: BaseTag) -> str:
    try:
        value = meta[tag].value if tag in meta else ""
    except _PARSE_ERRORS as error:
        raise ArchiveError(f"Its file meta information can not be read: {_kind(error)}.") from error
    return str(value or "").strip(" \0")


def _read_meta(file: BinaryIO) -> tuple[int, Dataset]:
    """Return where the data set starts, and the file meta information (PS3.10 7.1)."""
    head = file.read(_META_START + _GROUP_LENGTH.size)
    if len(head) < _META_START + _GROUP_LENGTH.size or head[_PREAMBLE:_META_START] != b"DICM":
        raise ArchiveError("It is no DICOM file: the prefix DICM is missing.")
    group, element, vr, length, rest = _GROUP_LENGTH.unpack_from(head, _META_START)
    if (group, element, vr, length) != (2, 0, b"UL", 4) or rest > _LONGEST_META:
        raise ArchiveError("Its file meta information does not start with a sensible group length.")
    meta = _parsed(io.BytesIO(file.read(rest)), [_TRANSFER_SYNTAX_UID, _SENDING_AE_TITLE])
    return _META_START + _GROUP_LENGTH.size + rest, meta


def _read_header(file: BinaryIO, start: int, transfer_syntax_uid: str) -> InstanceHeader:
    if not is_storable_uid(transfer_syntax_uid):
        raise ArchiveError("Its file meta information names no Transfer Syntax.")
    file.seek(start)
    source = _inflated(file) if transfer_syntax_uid in _DEFLATED else _Frugal(file)
    # Every Transfer Syntax but the two is Explicit VR LE, those to come too (PS3.5 10); pydicom notices a private one
    # that is not.
    dataset = _parsed(
        source,
        _HEADER_TAGS,
        implicit=transfer_syntax_uid == _IMPLICIT_VR,
        little=transfer_syntax_uid != _BIG_ENDIAN,
    )
    try:
        header = InstanceHeader.of(dataset, transfer_syntax_uid)
    except _PARSE_ERRORS as error:
        words = str(error) if str(error).endswith("is absent or empty") else _kind(error)
        raise ArchiveError(f"Its header can not be used: {words}.") from error
    _demand_storable(header)
    return header


def _parsed(
    source: io.BytesIO | _Frugal, tags: list[BaseTag | int], *, implicit: bool = False, little: bool = True
) -> Dataset:
    try:
        return read_dataset(cast("BinaryIO", source), implicit, little, stop_when=_is_behind, specific_tags=tags)
    except OSError as error:
        if error.errno is not None:  # the disk's trouble; pydicom's own, over broken bytes, has no number
            raise
        raise ArchiveError(f"Its header can not be read: {_kind(error)}.") from error
    except _PARSE_ERRORS as error:
        raise ArchiveError(f"Its header can not be read: {_kind(error)}.") from error


def _is_behind(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _LAST_TAG)


def _kind(error: Exception) -> str:
    """Return the kind of an error; its words may quote values."""
    return type(error).__name__


class _Frugal:
    """A file that lets only so much of itself be read."""

    def __init__(self, file: BinaryIO, budget: int = _BUDGET) -> None:
        self._file = file
        self._budget = budget
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int = -1) -> bytes:
        self._budget -= size
        if size < 0 or self._budget < 0:
            raise ArchiveError(f"Its header is longer than {_BUDGET // 2**20} MiB.")
        return self._file.read(size)


def _inflated(file: BinaryIO) -> io.BytesIO:
    """Return the beginning of a deflated data set, inflated; the rest is behind every attribute that we keep."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
    inflated = bytearray()
    try:
        while len(inflated) < _BUDGET and not inflater.eof and (chunk := file.read(_CHUNK)):
            inflated += inflater.decompress(chunk, _BUDGET - len(inflated))
    except zlib.error as error:
        raise ArchiveError("Its deflated data set can not be inflated.") from error
    return io.BytesIO(inflated)


def _digest(file: BinaryIO, start: int) -> tuple[str, int]:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    file.seek(start)
    size = start
    while count := cast("io.BufferedReader", file).readinto(buffer):
        digest.update(view[:count])
        size += count
    return digest.hexdigest(), size


def _demand_storable(header: InstanceHeader) -> None:
    for keyword in ("sop_instance_uid", "study_instance_uid", "series_instance_uid"):
        if not is_storable_uid(getattr(header, keyword)):
            raise ArchiveError(f"Its {keyword} is no UID (PS3.5 9.1).")
    for value in astuple(header):
        texts = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        characters = sum(len(text) for text in texts if isinstance(text, str))
        if characters > _LONGEST_TEXT or len(texts) > _MOST_VALUES:
            raise ArchiveError(
                f"Its header holds a value of {max(characters, len(texts))} characters or parts, more than any "
                "attribute that the index keeps may have (PS3.5 6.2)."
            )
