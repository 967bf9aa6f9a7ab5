"""Which Transfer Syntaxes the installed decoders read, and one frame decoded by them.

pydicom's decoders do nearly all. GDCM alone reads 12-bit JPEG (Processes 2 and 4) and the retired progressive forms of
JPEG, which pydicom does not ask it for; both ask nobody to load torch, so that a series is refused before it is read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from inference.codestreams import StrangeCodeStream, demand_size
from study.errors import UnsupportedTransferSyntax

_BY_GDCM_ALONE: Final = frozenset({"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"})
_BITS_OF_BASELINE: Final = 8
_MOST_BYTES_AT_ONCE: Final = 2**30
_NATIVE: Final = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})
_SOUND_BITS: Final = frozenset((allocated, stored) for allocated in (8, 16) for stored in range(1, allocated + 1))
_FLOATING: Final = ("FloatPixelData", "DoubleFloatPixelData")
_PANIC: Final = (
    "PanicException"  # of the RLE decoder, at padding behind a segment; no Exception, and not to be imported
)


@cache
def is_decodable(transfer_syntax_uid: str) -> bool:
    """Tell whether pixel data in this Transfer Syntax can be decoded here; an unknown one ("") is found out later."""
    if not transfer_syntax_uid:
        return True
    if transfer_syntax_uid in _BY_GDCM_ALONE:
        return True
    try:
        return bool(get_decoder(_uid(transfer_syntax_uid)).is_available)
    except NotImplementedError:
        return False


def decode_frame(dataset: Dataset, path: Path, frame: int) -> NDArray[Any]:
    """Return one frame as stored, without any look-up table, (rows, columns).

    Parameters
    ----------
    dataset
        With its file meta and Pixel Data.
    path
        The file that it was read from.
    frame
        0 and up.

    Raises
    ------
    StrangeCodeStream
        If the frame asks its decoder for another size than the data set has.
    Exception
        Whatever a decoder makes of bytes that it can not decode.
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if syntax in _NATIVE and (stored := _native(dataset, frame, frames)) is not None:
        return stored
    _demand_size(dataset, syntax, frame, frames)
    baseline = syntax == JPEGExtended12Bit and int(dataset.BitsStored) <= _BITS_OF_BASELINE
    if syntax in _BY_GDCM_ALONE and not baseline:
        if _bytes_of_frame(dataset) * frames > _MOST_BYTES_AT_ONCE:  # it decodes all of them
            raise StrangeCodeStream(f"has {frames} frames, too many to be decoded at once")
        return _by_gdcm(path, frame)
    try:
        return _by_pydicom(dataset, syntax, frame)
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        return _by_pydicom(dataset, syntax, frame, "pydicom")


def _native(dataset: Dataset, frame: int, frames: int) -> NDArray[Any] | None:
    """Return one frame of native grey-scale pixels, read-only where it is not copied; None where anything is unusual.

    It is what pydicom's decoder makes of them, which asks the same and more of every slice anew. What is not just as
    the standard has it is left to that one, to refuse or to make something of.
    """
    rows, columns, allocated = dataset.get("Rows"), dataset.get("Columns"), dataset.get("BitsAllocated")
    content, sign = dataset.get("PixelData"), dataset.get("PixelRepresentation")
    usual = (
        (allocated, dataset.get("BitsStored")) in _SOUND_BITS
        and sign in (0, 1)
        and dataset.get("SamplesPerPixel") == 1
        and dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
        and isinstance(rows, int)
        and isinstance(columns, int)
        and isinstance(content, bytes)
        and not any(keyword in dataset for keyword in _FLOATING)
    )
    if not usual or not 0 <= frame < frames:
        return None
    pixels, kind = rows * columns, np.dtype(f"<{'i' if sign else 'u'}{allocated // 8}")
    size = pixels * frames * kind.itemsize
    if not pixels or len(content) != size + size % 2:  # padded to an even length (PS3.5 8.1.1)
        return None
    stored = np.frombuffer(content, kind, pixels, frame * pixels * kind.itemsize).reshape(rows, columns)
    unused = allocated - dataset.BitsStored
    # What stands in unused bits is nothing (PS3.5 8.1.1); a signed value's sign goes there
    return np.right_shift(np.left_shift(stored, unused), unused) if unused else stored


def _by_pydicom(dataset: Dataset, syntax: str, frame: int, plugin: str = "") -> NDArray[Any]:
    decoder = get_decoder(_uid(syntax))
    array: NDArray[Any] = decoder.as_array(dataset, index=frame, raw=True, decoding_plugin=plugin)[0]
    return array


def _demand_size(dataset: Dataset, syntax: str, frame: int, frames: int) -> None:
    if not _uid(syntax).is_encapsulated:
        return
    offsets = tuple(dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    stream = get_frame(
        dataset.PixelData, frame, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None
    )
    demand_size(stream, syntax, int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated) // 8)


def _bytes_of_frame(dataset: Dataset) -> int:
    return int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8


def _by_gdcm(path: Path, frame: int) -> NDArray[Any]:
    import gdcm  # noqa: PLC0415 - a large library, for the rare image that needs it

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM can not read the image")
    image = reader.GetImage()
    kind = image.GetPixelFormat()
    columns, rows, *frames = image.GetDimensions()
    if kind.GetSamplesPerPixel() != 1 or kind.GetBitsAllocated() not in (8, 16):
        raise ValueError("GDCM gives no grey-scale image")
    # GDCM hands bytes over as text, in which each byte that is no UTF-8 is a surrogate.
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    sign = "i" if kind.GetPixelRepresentation() else "u"
    pixels = np.frombuffer(content, dtype=f"{sign}{kind.GetBitsAllocated() // 8}")
    stack: NDArray[Any] = pixels.reshape(frames[0] if frames else 1, rows, columns)
    return np.asarray(stack[frame])


def demand_decoder(transfer_syntax_uid: str) -> None:
    """Return if pixel data in this Transfer Syntax can be decoded here.

    Raises
    ------
    UnsupportedTransferSyntax
        Naming it, if not.
    """
    if not is_decodable(transfer_syntax_uid):
        name = _uid(transfer_syntax_uid).name
        raise UnsupportedTransferSyntax(
            f"No installed decoder reads the Transfer Syntax {name} ({transfer_syntax_uid}).",
            {"transfer_syntax_uid": transfer_syntax_uid},
        )


def _uid(text: str) -> UID:
    # It came from the wire: looked up as it is, without pydicom's own judgement (and warning) of it.
    return UID(text, validation_mode=IGNORE)
