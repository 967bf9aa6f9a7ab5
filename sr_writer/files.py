"""Put an object on disk so that it stays there: Part 10 file, synced, and its folder too."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from sr_writer.source.carrying import set_element, tag_of
from study.errors import EncodingError
from study.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

TRANSFER_SYNTAXES: Final = (ExplicitVRLittleEndian, RLELossless)
"""What results are written in."""

_PIXEL_DATA = tag_of("PixelData")
_BITS_OF_A_BYTE = 8
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"  # (FFFE,E0DD) of length 0


def encoded(dataset: Dataset) -> bytes:
    """Return `dataset` as a Part 10 file (PS3.10 7.1); see `write`."""
    buffer = BytesIO()
    write(dataset, buffer)
    return buffer.getvalue()


def write(dataset: Dataset, stream: BinaryIO) -> None:
    """Write `dataset` as a Part 10 file, in Explicit VR Little Endian, or in RLE Lossless where its file meta says so.

    Raises
    ------
    EncodingError
        If its pixels are compressed otherwise.
    """
    syntax = _transfer_syntax(dataset)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    pixels: DataElement | RawDataElement | None = dataset.pop(_PIXEL_DATA, None)
    try:
        dataset.save_as(stream, enforce_file_format=True)
        if pixels is not None:
            _append_pixels(dataset, pixels, stream)
    finally:
        if pixels is not None:
            set_element(dataset, pixels)


def _transfer_syntax(dataset: Dataset) -> UID:
    meta: Dataset = getattr(dataset, "file_meta", Dataset())
    stated = UID(str(meta.get("TransferSyntaxUID", "")))
    if stated in TRANSFER_SYNTAXES:
        return stated
    if stated.is_transfer_syntax and stated.is_encapsulated:
        raise EncodingError(f"A result is compressed in a way that results are not ({stated}).")
    return ExplicitVRLittleEndian


def _append_pixels(dataset: Dataset, pixels: DataElement | RawDataElement, stream: BinaryIO) -> None:
    """Write Pixel Data after all else: they are hundreds of megabytes, and pydicom would copy them twice (PS3.5 7.1).

    Raises
    ------
    EncodingError
        If an element comes after them.
    """
    if any(tag > _PIXEL_DATA for tag in list(dataset.keys())):
        raise EncodingError("A result has an element after its Pixel Data.")
    content = cast(bytes, pixels.value)
    encapsulated = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    vr = "OB" if encapsulated or pixels.VR == "OB" or dataset.BitsAllocated <= _BITS_OF_A_BYTE else "OW"
    padding = b"\0" * (len(content) % 2)
    length = _UNDEFINED if encapsulated else len(content) + len(padding)
    stream.write(struct.pack("<2H2s2xI", _PIXEL_DATA.group, _PIXEL_DATA.element, vr.encode(), length))
    stream.write(content)
    stream.write(padding)
    if encapsulated:
        stream.write(_SEQUENCE_DELIMITER)


def save(dataset: Dataset, path: Path) -> tuple[str, int]:
    """Write `dataset` to `path`, durable once this returns; give its SHA-256 and size [bytes].

    The file appears under its name only when it is whole, in place of an older one.
    """

    def to_file(unfinished: Path) -> None:
        with unfinished.open("wb") as stream:
            write(dataset, stream)

    keep(path, to_file)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, and put it at `path` durably: file synced, renamed, folder synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write(unfinished)
        _sync(unfinished, os.O_RDONLY)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
