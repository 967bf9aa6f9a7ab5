"""What is to be sent: a DICOM file, what its file meta says of it, and its bytes in another Transfer Syntax."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from study.errors import ArchiveError, NoAcceptedContext
from study.uids import is_storable_uid

UNCOMPRESSED: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_MOST_CONTEXTS = 128


@dataclass(frozen=True)
class ObjectFile:
    """A DICOM file as its File Meta Information describes it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Offer:
    """One presentation context to propose: a SOP Class in one Transfer Syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str


def describe(path: Path) -> ObjectFile:
    """Return what the file at `path` says it is.

    Raises
    ------
    ArchiveError
        If it cannot be read, or is no DICOM file with a usable File Meta Information.
    """
    try:
        meta = read_file_meta_info(path)
        uids = [
            str(meta.get(keyword, ""))
            for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        ]
    except (OSError, InvalidDicomError, ValueError, AttributeError, LookupError, NotImplementedError) as error:
        raise ArchiveError(f"{path.name} cannot be read as a DICOM file: {error}") from error
    if not all(is_storable_uid(uid) for uid in uids):
        raise ArchiveError(f"{path.name} does not say in its File Meta Information what it is.")
    return ObjectFile(path, *uids)


def offers_for(files: Iterable[ObjectFile], transfer_syntaxes: Collection[str] | None = None) -> tuple[Offer, ...]:
    """Return the contexts that let every file go: each class in Explicit and Implicit VR LE, and as the file is.

    Each Transfer Syntax has its own context, so that the peer can accept all of them and not just one (PS3.5 10.1).

    Parameters
    ----------
    transfer_syntaxes
        UIDs of those that the peer may be offered; None: all. Implicit VR Little Endian always is (PS3.5 10.1).
    """
    offers: dict[Offer, None] = {}
    for file in files:
        offers |= dict.fromkeys(_offers_of(file))
    return tuple(
        offer
        for offer in offers
        if transfer_syntaxes is None or offer.transfer_syntax_uid in {*transfer_syntaxes, str(ImplicitVRLittleEndian)}
    )


def _offers_of(file: ObjectFile) -> tuple[Offer, ...]:
    syntaxes = dict.fromkeys((*UNCOMPRESSED, file.transfer_syntax_uid))
    return tuple(Offer(file.sop_class_uid, syntax) for syntax in syntaxes)


def associations_for(files: Iterable[ObjectFile]) -> Iterator[list[ObjectFile]]:
    """Yield `files` in order, cut where an association would need more than its 128 contexts (PS3.8 9.3.2.2)."""
    group: list[ObjectFile] = []
    offers: set[Offer] = set()
    for file in files:
        wider = offers.union(_offers_of(file))
        if len(wider) > _MOST_CONTEXTS:
            yield group
            group, wider = [], set(_offers_of(file))
        offers = wider
        group.append(file)
    if group:
        yield group


def converted(file: ObjectFile, transfer_syntax_uid: str) -> Dataset:
    """Return the object in an uncompressed Transfer Syntax, with every value and pixel as it was (PS3.5 10.1).

    Raises
    ------
    NoAcceptedContext
        If it cannot be converted: no decoder for its pixel data, or big endian.
    """
    source = UID(file.transfer_syntax_uid)
    target = UID(transfer_syntax_uid)
    if not source.is_little_endian:
        raise _unconvertible(file, "it is big endian")
    try:
        dataset = dcmread(file.path)
        if source.is_encapsulated:
            dataset.decompress(as_rgb=False, generate_instance_uid=False)
        encoded = BytesIO()
        dataset.file_meta.TransferSyntaxUID = target
        dataset.save_as(encoded, implicit_vr=target.is_implicit_VR, little_endian=True, enforce_file_format=True)
    except (RuntimeError, ValueError, AttributeError, NotImplementedError, TypeError, LookupError) as error:
        raise _unconvertible(file, str(error)) from error
    encoded.seek(0)
    return dcmread(encoded)


@contextmanager
def even(path: Path) -> Iterator[Path]:
    """Hold a file of even length with the object at `path`: itself, or a copy with the NULL that it lacks at its end.

    A deflated data set of odd length is padded when it is sent (PS3.5 A.5); peers end the association where it is not.
    """
    if path.stat().st_size % 2 == 0:
        yield path
        return
    with NamedTemporaryFile(suffix=path.suffix) as copy:
        with path.open("rb") as original:
            shutil.copyfileobj(original, copy)
        copy.write(b"\0")
        copy.flush()
        yield Path(copy.name)


def _unconvertible(file: ObjectFile, why: str) -> NoAcceptedContext:
    return NoAcceptedContext(
        f"The peer does not take {UID(file.transfer_syntax_uid).name}, and the object cannot be converted: {why}",
        permanent=True,
    )
