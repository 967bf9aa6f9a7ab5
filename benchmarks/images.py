"""Images to send, of three sizes: made once by pydicom, and repeated on the disk by their bytes, which is fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import MRImageStorage, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from tests.support.series import ct_series

_PLACE = f"2.25.31{0:034d}"  # of a SOP Instance UID in a template; as long as each of them
_Z_PLACE = "-100000.00"  # of the last coordinate of a position [mm]
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


@dataclass(frozen=True)
class Size:
    """A kind of object to send.

    Parameters
    ----------
    words
        For a reader.
    images
        How many are sent where nobody says it.
    make
        Writes so many into a folder, and returns their paths.
    """

    words: str
    images: int
    make: Callable[[Path, int], list[Path]]


def make_ct(folder: Path, count: int) -> list[Path]:
    """Write `count` CT images of 512 x 512 x 16 bit that do not compress, one series."""
    return _repeat(_single_frame(512, -1000, 1000), folder, count)


def make_mr(folder: Path, count: int) -> list[Path]:
    """Write `count` MR images of 64 x 64 x 16 bit that do not compress, one series."""
    return _repeat(_single_frame(64, 0, 1000, {"SOPClassUID": MRImageStorage, "Modality": "MR"}), folder, count)


def make_multiframe(folder: Path, count: int, frames: int = 2000) -> list[Path]:
    """Write `count` objects of so many frames of 512 x 512 x 16 bit, 1 GB with 2,000 of them."""
    changes = {
        "SOPClassUID": MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        "NumberOfFrames": frames,
        "ImagePositionPatient": None,
        "ImageOrientationPatient": None,
    }
    template = _single_frame(512, 0, 1000, changes)
    start, pixels = template[: -512 * 512 * 2], template[-512 * 512 * 2 :]
    start = start[:-4] + (len(pixels) * frames).to_bytes(4, "little")  # the length of Pixel Data is its last field
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        with path.open("wb") as file:
            file.write(start.replace(_PLACE.encode(), _numbered(number)))
            file.writelines(pixels for _ in range(frames))
    return paths


SIZES: Mapping[str, Size] = {
    "ct": Size("CT images of 512 x 512 x 16 bit", 500, make_ct),
    "mr": Size("MR images of 64 x 64 x 16 bit", 20_000, make_mr),
    "multiframe": Size("multi-frame objects of 2,000 frames of 512 x 512 x 16 bit", 1, make_multiframe),
}


def _single_frame(matrix: int, lowest: int, highest: int, changes: Mapping[str, object] | None = None) -> bytes:
    """Return the file of one image of noise, with places to be filled in."""
    noise = np.random.default_rng(7).integers(lowest, highest, (1, matrix, matrix), dtype=np.int16)
    (dataset,) = ct_series(noise, attributes={"SOPInstanceUID": _PLACE} | dict(changes or {}))
    if "ImagePositionPatient" in dataset:
        dataset.ImagePositionPatient = ["-100.00", "-100.00", _Z_PLACE]
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    return _encoded(dataset)


def _encoded(dataset: Dataset) -> bytes:
    file = DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _repeat(template: bytes, folder: Path, count: int) -> list[Path]:
    """Write the image `count` times, each with a UID and a position of its own; study and series stay."""
    folder.mkdir(parents=True, exist_ok=True)
    boundary = template.index(_PIXEL_DATA)
    head, pixels = template[:boundary], template[boundary:]
    paths = []
    for number in range(count):
        place = f"{number - 50_000:+010.2f}"
        named = head.replace(_PLACE.encode(), _numbered(number)).replace(_Z_PLACE.encode(), place.encode())
        paths.append(folder / f"{number:05d}.dcm")
        paths[-1].write_bytes(named + pixels)
    return paths


def _numbered(number: int) -> bytes:
    """Return a UID as long as the place for it; it comes again in the next run, on an empty folder."""
    return f"2.25.31{number:034d}".encode()
