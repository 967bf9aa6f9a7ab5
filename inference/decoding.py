"""The files of one series become one volume: each file is read once, and its pixels land where they stay.

Classic images and the frames of Enhanced ones are slices alike; a single image is read for itself.

Only the Modality LUT's rescale is applied (PS3.3 C.11.1): a window, a presentation state or a real-world value map
would change what a model sees. Slices are decoded side by side, since the decoders release the interpreter.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
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
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian

from inference.codestreams import StrangeCodeStream
from inference.decoders import decode_frame, demand_decoder
from study.errors import Reason, SourceUnreadable, StudyRefused, UndecodablePixelData
from study.frames import GEOMETRY_MACROS, VALUE_MACROS, flattened
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
        One per slice, in slice order, without pixel data; of a multi-frame image the header of the slice's frame
        (`study.frames.flattened`).
    """

    volume: SeriesVolume
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A single image in memory.

    Parameters
    ----------
    pixels
        float32 (rows, columns), after the Modality LUT; larger is brighter.
    inverted
        Whether the image was stored the other way round (MONOCHROME1).
    """

    pixels: NDArray[np.float32]
    dataset: Dataset
    inverted: bool


def read_series(
    paths: Sequence[Path],
    headers: Sequence[InstanceHeader],
    affine: Affine,
    threads: int = 2,
    most_bytes: int | None = None,
) -> DecodedSeries:
    """Return the volume and the headers of a series.

    The values of a CT, MR or PET are physical and stay as they are whatever the Photometric Interpretation says: it is
    about how they are shown.

    Parameters
    ----------
    paths, headers
        Of each slice, in slice order; the headers are what the series was accepted by. Slices that are frames of one
        image have its path and their own `frame_number`.
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    threads
        How many slices are decoded at a time.
    most_bytes
        How much memory the volume, or one file, may take; None: whatever there is, up to 8 GiB.

    Raises
    ------
    UnsupportedTransferSyntax
        If no installed decoder reads the pixel data; the words name the Transfer Syntax.
    UndecodablePixelData
        If a file is no longer what its header said, or its pixel data are damaged or absurdly large.
    StudyRefused
        If the images of a CT do not say how to get Hounsfield units (MissingRescale, NotHounsfield), or the series is
        too large (SeriesTooLarge).
    """
    shape = _shape(headers)
    _demand_room(paths, shape, most_bytes)
    for uid in sorted({header.transfer_syntax_uid for header in headers}):
        demand_decoder(uid)
    target = _Target(np.empty(shape, dtype=np.float32))
    multi_frame = _MultiFrameFiles(
        path for path, header in zip(paths, headers, strict=True) if header.frame_number is not None
    )
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        tasks = [
            pool.submit(_read_slice, index, path, header, target, multi_frame)
            for index, (path, header) in enumerate(zip(paths, headers, strict=True))
        ]
        try:
            datasets = tuple(task.result() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
    uids = tuple(header.sop_instance_uid for header in headers)
    return DecodedSeries(SeriesVolume(target.voxels, affine, uids, target.padding), datasets)


def read_image(
    path: Path, header: InstanceHeader, *, inverting: bool = True, most_bytes: int | None = None
) -> DecodedImage:
    """Return a single image, such as a radiograph.

    Parameters
    ----------
    inverting
        Whether MONOCHROME1 is turned round; who draws the image does that himself, after the window.
    most_bytes
        As of `read_series`.

    Raises
    ------
    UnsupportedTransferSyntax, UndecodablePixelData, StudyRefused
        As `read_series` does.
    """
    demand_decoder(header.transfer_syntax_uid)
    whole = _shape([header])
    _demand_room([path], whole, most_bytes)
    shape = whole[1:]
    dataset = _read_file(path, header)
    _demand_as_announced(dataset, header, shape)
    stored = _decode(dataset, header, path, 0)
    if stored.shape != shape:
        raise _undecodable(header, f"decodes to {stored.shape}, not to {shape}")
    inverted = inverting and header.photometric_interpretation == "MONOCHROME1"
    pixels = np.asarray(apply_modality_lut(_negative(stored, dataset) if inverted else stored, dataset))
    _drop_pixels(dataset)
    return DecodedImage(np.ascontiguousarray(pixels, dtype=np.float32), dataset, inverted)


def _negative(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Return the image with its darkest and brightest possible values exchanged (PS3.3 C.7.6.3.1.2)."""
    bits = _integer(dataset, "BitsStored") or 16
    signed = _integer(dataset, "PixelRepresentation") == 1
    highest_and_lowest = -1 if signed else (1 << bits) - 1  # their sum
    negative: NDArray[Any] = highest_and_lowest - stored.astype(np.int32)
    return negative if "ModalityLUTSequence" not in dataset else negative.astype(stored.dtype)


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


class _MultiFrameFiles:
    """Multi-frame images, each read once for all of its frames, and let go after the last one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._owed = Counter(paths)
        self._held: dict[Path, Dataset] = {}
        self._lock = Lock()

    def take(self, path: Path, header: InstanceHeader) -> Dataset:
        """Return the image in a file, for one of its frames."""
        with self._lock:
            if path not in self._held:
                self._held[path] = _read_file(path, header)
            dataset = self._held[path]
            self._owed[path] -= 1
            if not self._owed[path]:
                del self._held[path]
            return dataset


def _shape(headers: Sequence[InstanceHeader]) -> tuple[int, int, int]:
    rows, columns = headers[0].rows or 0, headers[0].columns or 0
    voxels = len(headers) * rows * columns
    if not 0 < voxels <= _MOST_VOXELS:
        raise UndecodablePixelData(
            f"The series has {len(headers)} slices of {rows}x{columns} pixels, which can not be analysed.",
            {"slices": len(headers), "rows": rows, "columns": columns},
        )
    return len(headers), rows, columns


def _demand_room(paths: Sequence[Path], shape: tuple[int, int, int], most_bytes: int | None) -> None:
    """Return if the volume, and each file as it is read, leave memory for the analysis."""
    if most_bytes is None:
        return
    volume = math.prod(shape) * np.dtype(np.float32).itemsize
    largest = max(_size(path) for path in set(paths))
    if max(volume, largest) > most_bytes:
        what = "The series" if volume > most_bytes else "An image file of the series"
        raise StudyRefused(
            [
                Reason(
                    "SeriesTooLarge",
                    f"{what} takes {max(volume, largest) / 1e6:.0f} MB of memory, more than the "
                    f"{most_bytes / 1e6:.0f} MB of the model; a larger memory_mb in its entry gives it more.",
                    {"volume_bytes": volume, "largest_file_bytes": largest, "most_bytes": most_bytes},
                )
            ]
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it is told when it is read


def _read_slice(
    index: int, path: Path, header: InstanceHeader, target: _Target, multi_frame: _MultiFrameFiles
) -> Dataset:
    image = _read_file(path, header) if header.frame_number is None else multi_frame.take(path, header)
    _demand_as_announced(image, header, target.voxels.shape[1:])
    values = image if header.frame_number is None else _frame(image, header, VALUE_MACROS)
    slope, intercept = _rescale(values, header)
    stored = _decode(image, header, path, (header.frame_number or 1) - 1)
    if stored.shape != target.voxels.shape[1:]:
        raise _undecodable(header, f"decodes to {stored.shape}, not to {target.voxels.shape[1:]}")
    plane = target.voxels[index]
    np.multiply(stored, np.float32(slope), out=plane, casting="unsafe")
    if intercept:
        plane += np.float32(intercept)
    limits = _padding_limits(image)
    if limits is not None:
        target.mark_padding(index, (stored >= limits[0]) & (stored <= limits[1]))
    if header.frame_number is not None:
        return _frame(image, header, GEOMETRY_MACROS)
    _drop_pixels(image)
    return image


def _frame(image: Dataset, header: InstanceHeader, macros: tuple[str, ...]) -> Dataset:
    try:
        return flattened(image, header.frame_number or 1, macros)
    except IndexError as error:
        raise _undecodable(header, f"has no frame {header.frame_number}") from error


def _drop_pixels(dataset: Dataset) -> None:
    for keyword in _PIXEL_KEYWORDS:
        dataset.pop(keyword, None)


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
    demand_decoder(str(syntax))
    announced = (_integer(dataset, "Rows"), _integer(dataset, "Columns"))
    if announced != shape:
        raise _undecodable(
            header, f"has {announced[0]}x{announced[1]} pixels where its header had {shape[0]}x{shape[1]}"
        )
    several = (_integer(dataset, "NumberOfFrames") or 1) != 1
    if _integer(dataset, "SamplesPerPixel") != 1 or (several and header.frame_number is None):
        raise _undecodable(header, "is no single grey-scale frame")
    if "PixelData" not in dataset:
        raise _undecodable(header, "holds no pixel data")


def _decode(dataset: Dataset, header: InstanceHeader, path: Path, frame: int) -> NDArray[Any]:
    """Return one frame as stored, (rows, columns); `frame` counts from 0."""
    try:
        return decode_frame(dataset, path, frame)
    except MemoryError as error:
        raise SourceUnreadable("An image can not be decoded: there is not enough memory.") from error
    except StrangeCodeStream as error:
        raise _undecodable(header, f"can not be decoded: its compressed frame {error}") from error
    except Exception as error:  # decoders of three libraries, on hostile bytes, raise anything at all
        raise _undecodable(header, f"can not be decoded ({type(error).__name__})") from error


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
