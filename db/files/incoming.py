"""Reading a received file: its header, and the digest of its data set. Its bytes are a stranger's.

What is read into memory is bounded, whatever the lengths in the file claim: parsing stops behind the last attribute
that the index keeps, a parser that wants more than a budget is stopped, and no more of a deflated data set is inflated
than that. The frames of a multi-frame image are read one by one, and an image with more of them than can be read is
indexed without: it is stored all the same, and no model is run on it.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from db.files.frugal import Budget, Encoding, Frugal, ItemReader, TooMuch, find_sequence
from db.images.key_objects import read_rejection
from study.errors import ArchiveError
from study.frames import FUNCTIONAL_GROUPS
from study.functional_groups import GROUP_KEYWORDS
from study.headers import IMAGE_KEYWORDS, InstanceHeader
from study.implementation import FETCHED, FETCHED_CREATOR_UID
from study.rejections import KEY_OBJECT_SELECTION, RejectionNote, RejectionTitle
from study.uids import is_storable_uid

_PREAMBLE: Final = 128
_META_START: Final = _PREAMBLE + len(b"DICM")
_GROUP_LENGTH = struct.Struct("<HH2sHL")  # (0002,0000) UL: tag, VR, length 4, value (PS3.10 7.1)
_LONGEST_META = 64 * 2**10
# Of a header. An object may refer to 50 thousand others before the last attribute that the index keeps, in ten reads
# each; a hostile one gets as far as 130 thousand data sets of pydicom's, 100 MB.
_BUDGET = Budget(size=8 * 2**20, reads=2**19)
# Of one frame, and of all: a Philips MR takes 1.7 KB and 210 reads a frame, so 20 thousand frames are within it.
_FRAME_BUDGET = Budget(size=2**18, reads=2**14)
_FRAMES_BUDGET = Budget(size=64 * 2**20, reads=2**22)
_MOST_FRAMES = 20_000
_LONGEST_ELEMENT = 2**16  # bytes; what pydicom would convert of a text or of a sequence of codes
_LONGEST_TEXT = 512  # characters; the longest value of an attribute that we keep, a PN of three groups, has 194
_CHUNK = 2**20
_MOST_VALUES = 64
# Deflated Explicit VR LE, and JPIP Referenced Deflate with and without HTJ2K (PS3.5 A.5, A.7, A.11)
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_IMPLICIT_VR = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_TRANSFER_SYNTAX_UID = BaseTag(0x00020010)
_SENDING_AE_TITLE = BaseTag(0x00020017)
_PRIVATE_CREATOR_UID = BaseTag(0x00020100)
_PRIVATE = BaseTag(0x00020102)
_META_TAGS: Final[list[BaseTag | int]] = [_TRANSFER_SYNTAX_UID, _SENDING_AE_TITLE, _PRIVATE_CREATOR_UID, _PRIVATE]


def _tags(keywords: Iterable[str]) -> list[BaseTag | int]:
    return [BaseTag(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None]


_HEADER_TAGS = _tags(IMAGE_KEYWORDS)
_LAST_TAG = max(_HEADER_TAGS)
_SHARED_GROUPS, _FRAMES_GROUPS = _tags(FUNCTIONAL_GROUPS)
_FRAME_READER = ItemReader(frozenset(_tags(GROUP_KEYWORDS)), _FRAME_BUDGET)

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
    fetched
        Whether the file says that it came because we asked for it.
    rejection
        What it rejects, where it is a Key Object with the title of a rejection, or one that could not be read.
    """

    header: InstanceHeader
    digest: str
    size: int
    calling_ae_title: str
    fetched: bool = False
    rejection: RejectionNote | None = None


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
        rejection = _read_rejection(file, start, header) if header.sop_class_uid == KEY_OBJECT_SELECTION else None
        digest, size = _digest(file, start)
        return IncomingObject(header, digest, size, _meta_text(meta, _SENDING_AE_TITLE), _is_fetched(meta), rejection)


def read_start(file: BinaryIO) -> tuple[int, str]:
    """Return where the data set of a DICOM file starts, and its Transfer Syntax UID.

    Raises
    ------
    ArchiveError
        If it is no DICOM file.
    """
    start, meta = _read_meta(file)
    return start, _meta_text(meta, _TRANSFER_SYNTAX_UID)


def parse_to(file: BinaryIO, start: int, transfer_syntax_uid: str, tag: BaseTag) -> None:
    """Leave `file` at the first element of its data set that is `tag` or behind it, or at its end.

    Raises
    ------
    ArchiveError
        If what is before it can not be read, is beyond all measure, or is deflated.
    """
    if transfer_syntax_uid in _DEFLATED:
        raise ArchiveError("Its data set is deflated.")
    file.seek(start)
    frugal = cast("BinaryIO", Frugal(file, _FRAMES_BUDGET))
    implicit, little = transfer_syntax_uid == _IMPLICIT_VR, transfer_syntax_uid != _BIG_ENDIAN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_dataset(frugal, implicit, little, stop_when=lambda found, *_: found >= tag, specific_tags=[tag])
    except (OSError, *_PARSE_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ArchiveError(f"Its data set can not be read: {_kind(error)}.") from error


def _meta_text(meta: Dataset, tag: BaseTag) -> str:
    try:
        value = meta[tag].value if tag in meta else ""
    except _PARSE_ERRORS as error:
        raise ArchiveError(f"Its file meta information can not be read: {_kind(error)}.") from error
    return str(value or "").strip(" \0")


def _is_fetched(meta: Dataset) -> bool:
    if _meta_text(meta, _PRIVATE_CREATOR_UID) != FETCHED_CREATOR_UID:
        return False
    return bytes(meta[_PRIVATE].value or b"") == FETCHED if _PRIVATE in meta else False


def _read_meta(file: BinaryIO) -> tuple[int, Dataset]:
    """Return where the data set starts, and the file meta information (PS3.10 7.1)."""
    head = file.read(_META_START + _GROUP_LENGTH.size)
    if len(head) < _META_START + _GROUP_LENGTH.size or head[_PREAMBLE:_META_START] != b"DICM":
        raise ArchiveError("It is no DICOM file: the prefix DICM is missing.")
    group, element, vr, length, rest = _GROUP_LENGTH.unpack_from(head, _META_START)
    if (group, element, vr, length) != (2, 0, b"UL", 4) or rest > _LONGEST_META:
        raise ArchiveError("Its file meta information does not start with a sensible group length.")
    meta = _parsed(io.BytesIO(file.read(rest)), _META_TAGS)
    return _META_START + _GROUP_LENGTH.size + rest, meta


def _read_header(file: BinaryIO, start: int, transfer_syntax_uid: str) -> InstanceHeader:
    if not is_storable_uid(transfer_syntax_uid):
        raise ArchiveError("Its file meta information names no Transfer Syntax.")
    file.seek(start)
    source = _inflated(file) if transfer_syntax_uid in _DEFLATED else file
    # Every Transfer Syntax but the two is Explicit VR LE, those to come too (PS3.5 10); pydicom notices a private one
    # that is not.
    dataset = _parsed(
        source,
        _HEADER_TAGS,
        implicit=transfer_syntax_uid == _IMPLICIT_VR,
        little=transfer_syntax_uid != _BIG_ENDIAN,
    )
    _demand_short_elements(dataset)
    try:
        header = InstanceHeader.of(dataset, transfer_syntax_uid)
    except _PARSE_ERRORS as error:
        words = str(error) if str(error).endswith("is absent or empty") else _kind(error)
        raise ArchiveError(f"Its header can not be used: {words}.") from error
    _demand_storable(header)
    return _with_frames(header, dataset, source) if header.is_multi_frame else header


def _read_rejection(file: BinaryIO, start: int, header: InstanceHeader) -> RejectionNote | None:
    """Return what a Key Object rejects; one that can not be read is on record as such."""
    syntax = header.transfer_syntax_uid
    file.seek(start)
    try:
        source = _inflated(file) if syntax in _DEFLATED else file
        encoding = Encoding(syntax == _IMPLICIT_VR, syntax != _BIG_ENDIAN, "")
        return read_rejection(source, encoding, header.study_instance_uid)
    except OSError as error:
        if error.errno is not None:
            raise
        return RejectionNote(RejectionTitle.UNREAD, unread=f"It can not be read: {_kind(error)}.")
    except TooMuch as error:
        return RejectionNote(RejectionTitle.UNREAD, unread=error.words)
    except (ArchiveError, *_PARSE_ERRORS) as error:
        return RejectionNote(RejectionTitle.UNREAD, unread=f"It can not be read: {_kind(error)}.")


def _with_frames(header: InstanceHeader, dataset: Dataset, source: BinaryIO) -> InstanceHeader:
    """Return the header of a multi-frame image with its frames; without, where they can not be read."""
    if header.number_of_frames > _MOST_FRAMES:
        return header
    part = Frugal(source, _FRAMES_BUDGET)
    encoding = Encoding.of(dataset)
    try:
        shared = find_sequence(part, _SHARED_GROUPS, encoding)
        common = list(islice(_FRAME_READER.items(part, *shared), 2)) if shared else []  # the second ends the sequence
        frames = find_sequence(part, _FRAMES_GROUPS, encoding)
        if frames is None:
            return header
        groups = islice(_FRAME_READER.items(part, *frames), header.number_of_frames + 1)
        return header.with_frames_of(dataset, common[0] if common else None, groups)
    except OSError as error:
        if error.errno is not None:
            raise
    except (TooMuch, *_PARSE_ERRORS):
        pass
    return header


def _parsed(source: BinaryIO, tags: list[BaseTag | int], *, implicit: bool = False, little: bool = True) -> Dataset:
    frugal = cast("BinaryIO", Frugal(source, _BUDGET))
    try:
        return read_dataset(frugal, implicit, little, stop_when=_is_behind, specific_tags=tags)
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


def _inflated(file: BinaryIO) -> io.BytesIO:
    """Return the beginning of a deflated data set, inflated; the rest is behind every attribute that we keep."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
    inflated = bytearray()
    try:
        while len(inflated) < _BUDGET.size and not inflater.eof and (chunk := file.read(_CHUNK)):
            inflated += inflater.decompress(chunk, _BUDGET.size - len(inflated))
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


def _demand_short_elements(dataset: Dataset) -> None:
    """Demand that what is kept is short enough to be converted: of a wrong VR, it may become very many objects."""
    for tag in list(dataset.keys()):
        element = cast("DataElement | RawDataElement", dataset.get_item(tag))
        if isinstance(element, RawDataElement) and len(element.value or b"") > _LONGEST_ELEMENT:
            raise _too_long(f"{len(element.value or b'')} bytes")


def _too_long(measure: str) -> ArchiveError:
    return ArchiveError(
        f"Its header holds a value of {measure}, more than any attribute that the index keeps may have (PS3.5 6.2)."
    )


def _demand_storable(header: InstanceHeader) -> None:
    for keyword in ("sop_instance_uid", "study_instance_uid", "series_instance_uid"):
        if not is_storable_uid(getattr(header, keyword)):
            raise ArchiveError(f"Its {keyword} is no UID (PS3.5 9.1).")
    for value in (getattr(header, field.name) for field in fields(header)):
        texts = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        characters = sum(len(text) for text in texts if isinstance(text, str))
        if characters > _LONGEST_TEXT or len(texts) > _MOST_VALUES:
            raise _too_long(f"{max(characters, len(texts))} characters or parts")
