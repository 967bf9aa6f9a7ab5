"""What a Secondary Capture, read back from its file, must keep: a colour picture of one source image, on its sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from sr_writer.checking.rules import common_reasons, demand_none, form_reasons, read_back
from sr_writer.reading.content_tree import items_named
from sr_writer.source.images import key_of, keys_of_reference
from study.errors import Reason

_SHORTEST = 512
_SLANTED = 0.15
_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "H": 2, "F": 2}
_SIGNS = {"L": 1, "R": -1, "P": 1, "A": -1, "H": 1, "F": -1}
_EXPECTED = {
    "SOPClassUID": SecondaryCaptureImageStorage,
    "Modality": "OT",
    "ConversionType": "SYN",
    "BurnedInAnnotation": "NO",
    "PhotometricInterpretation": "RGB",
    "SamplesPerPixel": 3,
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}


def check_sc(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the Secondary Capture in a file, which keeps every rule; its pixels are decoded and let go.

    Parameters
    ----------
    sources
        Headers of the source images.

    Raises
    ------
    NonconformantObject
        If a rule is broken; the words tell all that are.
    """
    capture = read_back(path)
    demand_none(sc_reasons(capture, sources))
    del capture.PixelData
    return capture


def sc_reasons(capture: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with a Secondary Capture."""
    yield from _form(capture)
    shown = _shown(capture, sources)
    if len(shown) != 1:
        yield Reason("Reference", "The picture is not of one source image.")
    # It has to do with that one alone; a series may have hundreds, with a picture of each
    yield from common_reasons(capture, shown or sources)
    if any(source.SOPInstanceUID == capture.get("SOPInstanceUID") for source in sources):
        yield Reason("UID", "The UID of the picture is one of the source's.")
    for source in shown:
        yield from _orientation(capture, source)
        if ("LossyImageCompression" in capture) != ("LossyImageCompression" in source):
            yield Reason("Form", "LossyImageCompression is not what the source image has.")
    yield from _pixels(capture)


def _shown(capture: Dataset, sources: Sequence[Dataset]) -> list[Dataset]:
    """Return the source images that a picture says it is of."""
    named = [key for item in items_named(capture, "SourceImageSequence") for key in keys_of_reference(item)]
    uids = {uid for uid, _ in named}
    return [source for source in sources if source.SOPInstanceUID in uids and key_of(source) in named]


def _form(capture: Dataset) -> Iterator[Reason]:
    yield from form_reasons(capture, _EXPECTED)
    if list(capture.get("ImageType") or ()) != ["DERIVED", "SECONDARY"]:
        yield Reason("Form", "ImageType is not DERIVED, SECONDARY.")
    if int(capture.get("InstanceNumber") or 0) < 1:
        yield Reason("Form", "InstanceNumber is not 1 or more.")


def _orientation(capture: Dataset, shown: Dataset) -> Iterator[Reason]:
    """Demand that each letter is true of the direction, the first of what it runs along most (PS3.3 C.7.6.1.1.1)."""
    stated = capture.get("PatientOrientation") or ()
    sides = [] if isinstance(stated, str) else [str(side) for side in stated]
    cosines = shown.get("ImageOrientationPatient")
    if cosines:
        directions = np.array(cosines, dtype=np.float64).reshape(2, 3)
        true = len(sides) == 2 and all(map(_runs_along, sides, directions))
    else:
        true = sides == [str(side) for side in shown.get("PatientOrientation") or () if side]
    if not true:
        yield Reason("Orientation", "PatientOrientation is not that of the source image.")


def _runs_along(side: str, direction: NDArray[np.float64]) -> bool:
    """Tell whether the letters of a side say where a direction in LPS leads."""
    shares = [float(direction[_AXES[letter]]) * _SIGNS[letter] for letter in side if letter in _AXES]
    return len(shares) == len(side) > 0 and min(shares) > _SLANTED and shares[0] >= np.abs(direction).max() - 1e-6


def _pixels(capture: Dataset) -> Iterator[Reason]:
    rows, columns = int(capture.get("Rows") or 0), int(capture.get("Columns") or 0)
    if min(rows, columns) < _SHORTEST:
        yield Reason("Pixels", f"The picture of {rows} x {columns} pixels is smaller than text can be read on.")
    try:
        pixels = capture.pixel_array
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises, the pixels can not be shown
        yield Reason("Pixels", f"The pixels can not be decoded ({type(error).__name__}).")
        return
    if pixels.shape != (rows, columns, 3):
        yield Reason("Pixels", f"The pixels are {pixels.shape}, not {rows} rows of {columns} in 3 colours.")
    elif pixels.min() == pixels.max():
        yield Reason("Pixels", "The picture shows nothing.")
