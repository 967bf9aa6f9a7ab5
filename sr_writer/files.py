"""Put an object on disk so that it stays there: Part 10 file, synced, and its folder too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from study.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


def encoded(dataset: Dataset) -> bytes:
    """Return `dataset` as a Part 10 file in Explicit VR Little Endian (PS3.10 7.1)."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def save(dataset: Dataset, path: Path) -> tuple[str, int]:
    """Write `dataset` to `path`, durable once this returns; give its SHA-256 and size [bytes].

    The file appears under its name only when it is whole, in place of an older one.
    """
    content = encoded(dataset)
    keep(path, lambda unfinished: unfinished.write_bytes(content))
    return hashlib.sha256(content).hexdigest(), len(content)


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, and put it at `path` durably: file synced, renamed, folder synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    _sync(unfinished, os.O_RDONLY)
    unfinished.replace(path)
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
