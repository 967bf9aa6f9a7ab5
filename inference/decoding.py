"""The files of one series become one volume: each file is read once, and its pixels land where they stay.

Only the Modality LUT's rescale is applied (PS3.3 C.11.1): a window, a presentation state or a real-world value map
would change what a model sees. Slices are decoded side by side, since the decoders release the interpreter.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from study.errors import Reason, SourceUnreadable, StudyRefused, UndecodablePixelData, UnsupportedTransferSyntax
from study.headers import InstanceHeader
from study.imaging import Affine, SeriesVolume

_MOST_VOXELS: Final = 2**31  # 8 GiB of float32
_MOST_BYTES_PER_FILE: Final = 2**30
_PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_HOUNSFIELD: Final = {"", "HU", "US"}  # US is "unspecified", which is what older scanners write


@dataclass(frozen=True, eq=False)
class DecodedSeries:
    """A series in memory.

    Parameters
    ----------
    datasets
        One per slice, in slice order, without pixel data.
    """

    volume: SeriesVolume
    datasets: tuple[Dataset, ...]


def read_series(
    paths: Sequence[Path], headers: Sequence[InstanceHeader], affine: Affine, threads: int = 2
) -> DecodedSeries:
    """Return the volume and the headers of a classic (single-frame) series.

    Parameters
    ----------
    paths, headers
        Of each slice, in slice order; the headers are what the series was accepted by.
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    threads
        How many slices are decoded at a time.

    Raises
    ------
    UnsupportedTransferSyntax
        If no installed decoder reads the pixel data; the words name the Transfer Syntax.
    UndecodablePixelData
        If a file is no longer what its header said, or its pixel data are damaged or absurdly large.
    StudyRefused
        If the images of a CT do not say how to get Hounsfield units (MissingRescale, NotHounsfield).
    """
    shape = _shape(headers)
    _demand_decoders(headers)
    target = _Target(np.empty(shape, dtype=np.float32))
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        tasks = [
            pool.submit(_read_slice, index, path, header, target)
            for index, (path, header) in enumerate(zip(paths, headers, strict=True))
        ]
        try:
            datasets = tuple(task.result() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
    uids = tuple(header.sop_instance_uid for header in headers)
    return DecodedSeries(SeriesVolume(target.voxels, affine, uids, target.padding), datasets)


class _Target:
    """The volume that the slices are written into, and its padding mask, which exists only once there is padding."""

    def __init__(self, voxels: NDArray[np.float32]) -> None:
        self.voxels = voxels
        self.padding: NDArray[np.bool_] | None = None
        self._lock = Lock()

    def mark_padding(self, index: int, mask: NDArray[np.bool_]) -> None:
        if not mask.any():
            return
        with self._lock:
            if self.padding is None:
                self.padding = np.zeros(self.voxels.shape, dtype=np.bool_)
        self.padding[index] = mask


def _shape(headers: Sequence[InstanceHeader]) -> tuple[int, int, int]:
    rows, columns = headers[0].rows or 0, headers[0].columns or 0
    voxels = len(headers) * rows * columns
    if not 0 < voxels <= _MOST_VOXELS:
        raise UndecodablePixelData(
            f"The series has {len(headers)} slices of {rows}x{columns} pixels, which can not be analysed.",
            {"slices": len(headers), "rows": rows, "columns": columns},
        )
    return len(headers), rows, columns


def _demand_decoders(headers: Sequence[InstanceHeader]) -> None:
    for uid in sorted({header.transfer_syntax_uid for header in headers} - {""}):
        _demand_decoder(UID(uid))


def _demand_decoder(uid: UID) -> None:
    try:
        available = get_decoder(uid).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnsupportedTransferSyntax(
            f"No installed decoder reads the Transfer Syntax {uid.name} ({uid}).", {"transfer_syntax_uid": str(uid)}
        )


def _read_slice(index: int, path: Path, header: InstanceHeader, target: _Target) -> Dataset:
    dataset = _read_file(path, header)
    _demand_as_announced(dataset, header, target.voxels.shape[1:])
    slope, intercept = _rescale(dataset, header)
    stored = _decode(dataset, header)
    if stored.shape != target.voxels.shape[1:]:
        raise _undecodable(header, f"decodes to {stored.shape}, not to {target.voxels.shape[1:]}")
    plane = target.voxels[index]
    np.multiply(stored, np.float32(slope), out=plane, casting="unsafe")
    if intercept:
        plane += np.float32(intercept)
    limits = _padding_limits(dataset)
    if limits is not None:
        target.mark_padding(index, (stored >= limits[0]) & (stored <= limits[1]))
    for keyword in _PIXEL_KEYWORDS:
        dataset.pop(keyword, None)
    return dataset


def _read_file(path: Path, header: InstanceHeader) -> Dataset:
    try:
        if header.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            _demand_bounded_inflation(path, header)
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID  # noqa: B018 - a truncated header shows here, not later
    except (InvalidDicomError, AttributeError, ValueError, EOFError, zlib.error) as error:
        raise _undecodable(header, f"can not be read ({type(error).__name__})") from error
    except (OSError, MemoryError) as error:
        raise SourceUnreadable(f"An image can not be read: {type(error).__name__}.") from error
    if dataset.SOPInstanceUID != header.sop_instance_uid:
        raise _undecodable(header, "is another object than the one that was indexed")
    return dataset


def _demand_bounded_inflation(path: Path, header: InstanceHeader) -> None:
    """Refuse a deflated file that would fill the memory: a few kilobytes can hold gigabytes."""
    meta = pydicom.filereader.read_file_meta_info(path)
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        # Preamble (128), prefix (4) and the group length element itself (12) come before what it counts (PS3.10 7.1).
        stream.seek(144 + int(meta.FileMetaInformationGroupLength))
        pending = stream.read(2**16)
        while pending and not inflater.eof:
            inflated += len(inflater.decompress(pending, 2**20))
            if inflated > _MOST_BYTES_PER_FILE:
                raise _undecodable(header, f"inflates to more than {_MOST_BYTES_PER_FILE} bytes")
            pending = inflater.unconsumed_tail or stream.read(2**16)


def _demand_as_announced(dataset: Dataset, header: InstanceHeader, shape: tuple[int, ...]) -> None:
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if not syntax:
        raise _undecodable(header, "does not say its Transfer Syntax")
    _demand_decoder(UID(syntax))
    announced = (_integer(dataset, "Rows"), _integer(dataset, "Columns"))
    if announced != shape:
        raise _undecodable(
            header, f"has {announced[0]}x{announced[1]} pixels where its header had {shape[0]}x{shape[1]}"
        )
    if _integer(dataset, "SamplesPerPixel") != 1 or (_integer(dataset, "NumberOfFrames") or 1) != 1:
        raise _undecodable(header, "is no single grey-scale frame")
    if "PixelData" not in dataset:
        raise _undecodable(header, "holds no pixel data")


def _decode(dataset: Dataset, header: InstanceHeader) -> NDArray[Any]:
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    try:
        array, _ = decoder.as_array(dataset, index=0, raw=True)
    except MemoryError as error:
        raise SourceUnreadable("An image can not be decoded: there is not enough memory.") from error
    except Exception as error:  # decoders of three libraries, on hostile bytes, raise anything at all
        raise _undecodable(header, f"can not be decoded ({type(error).__name__})") from error
    decoded: NDArray[Any] = array
    return decoded


def _rescale(dataset: Dataset, header: InstanceHeader) -> tuple[float, float]:
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None and intercept is None and header.modality != "CT":
        return 1.0, 0.0  # no Modality LUT: stored values are the modality's (PS3.3 C.11.1)
    if slope is None or intercept is None or slope == 0.0:
        raise StudyRefused(
            [Reason("MissingRescale", "The images have no usable Rescale Slope and Intercept, so no Hounsfield units.")]
        )
    kind = str(dataset.get("RescaleType", "") or "").strip()
    if header.modality == "CT" and kind not in _HOUNSFIELD:
        raise StudyRefused([Reason("NotHounsfield", f'The images are in "{kind[:16]}", not in Hounsfield units.')])
    return slope, intercept


def _padding_limits(dataset: Dataset) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that is padding (PS3.3 C.7.5.1.1.2), None where none is declared."""
    value = _integer(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _integer(dataset, "PixelPaddingRangeLimit")
    bounds = [_as_stored(bound, dataset) for bound in (value, value if limit is None else limit)]
    return min(bounds), max(bounds)


def _as_stored(value: int, dataset: Dataset) -> int:
    """Return a padding value in the signedness of the pixels: it is often encoded in the other one."""
    bits = _integer(dataset, "BitsAllocated") or 16
    signed = _integer(dataset, "PixelRepresentation") == 1
    value %= 1 << bits
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _integer(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        value = dataset.get(keyword)
        number = None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and np.isfinite(number) else None


def _undecodable(header: InstanceHeader, what: str) -> UndecodablePixelData:
    return UndecodablePixelData(
        f"Image {header.instance_number if header.instance_number is not None else '?'} of the series {what}.",
        {"sop_instance_uid": header.sop_instance_uid},
    )
