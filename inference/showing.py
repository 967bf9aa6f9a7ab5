"""What an image file shows: a digest of its header and one of its pixels, whatever the Transfer Syntax is.

Two files of one image in different encodings have equal digests; where a value was changed, or written another way,
they differ. What can not be told apart with certainty counts as different. Who calls this bounds memory and time: the
bytes are a stranger's.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from inference.decoders import decode_frame

_PIXEL_GROUP: Final = 0x7FE0
_LOSSY: Final = BaseTag(0x00282110)
_NOT_LOSSY: Final = b"00"
_NO_PART: Final = frozenset(
    {
        BaseTag(0x00082111),  # Derivation Description: some compressors tell of themselves there
        BaseTag(0x00089215),  # Derivation Code Sequence
        BaseTag(0xFFFCFFFC),  # Data Set Trailing Padding (PS3.10 7.2)
    }
)
_BITS: Final = {1: "u1", 8: "u1", 16: "u2", 32: "u4", 64: "u8"}


def shown_by(path: Path) -> tuple[str, str]:
    """Return the digests of the header and of the decoded pixels of a DICOM file, SHA-256, hexadecimal.

    The file meta information, group lengths, padding, what is said of how the image was derived, and a Lossy Image
    Compression of "00", which is what its absence means (PS3.3 C.7.6.1.1.5), are no part of the header.

    Raises
    ------
    Exception
        Whatever comes of bytes that can not be read or decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, and may be a patient's
        dataset = dcmread(path)
        header = hashlib.sha256()
        for part in _parts(dataset):
            header.update(len(part).to_bytes(8, "big") + part)
        pixels = hashlib.sha256()
        for frame in _frames(dataset, path):
            pixels.update(frame.tobytes())
        return header.hexdigest(), pixels.hexdigest()


def _parts(dataset: Dataset) -> Iterator[bytes]:
    """Yield what the digest of a header is of: tag and value of each element, sequences taken apart."""
    for tag in sorted(dataset.keys()):
        if tag.group == _PIXEL_GROUP or tag.element == 0 or tag in _NO_PART:
            continue
        element = dataset.get_item(tag)
        if _is_sequence(element):
            yield from (tag.to_bytes(4, "big"), b"SQ")
            for item in dataset[tag].value or ():
                yield b"item"
                yield from _parts(item)
            yield b"end"
            continue
        value = _bytes(element)
        if tag != _LOSSY or value != _NOT_LOSSY:
            yield from (tag.to_bytes(4, "big"), value)


def _is_sequence(element: Any) -> bool:  # noqa: ANN401 - one of pydicom's kinds of elements
    if element.VR != "UN" and element.VR is not None:
        return bool(element.VR == "SQ")
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:  # a private one
        return False


def _bytes(element: Any) -> bytes:  # noqa: ANN401 - one of pydicom's kinds of elements
    """Return a value as it is written, without the byte that makes its length even."""
    if isinstance(element, RawDataElement):
        return (element.value or b"").rstrip(b" \0")
    if isinstance(element, DataElement) and isinstance(element.value, bytes):
        return element.value.rstrip(b" \0")
    return str(element.value).encode("utf-8", "replace")


def _frames(dataset: Dataset, path: Path) -> Iterator[NDArray[Any]]:
    """Yield each frame as it is stored, its unused bits as the sign has them."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    allocated = int(dataset.get("BitsAllocated", 16))
    unused = allocated - int(dataset.get("BitsStored", allocated))
    for number in range(int(dataset.get("NumberOfFrames", 1) or 1)):
        frame = decode_frame(dataset, path, number)
        if frame.dtype.kind == "f":
            yield frame.astype(frame.dtype.newbyteorder("<"))
            continue
        kind = "i" if int(dataset.get("PixelRepresentation", 0)) else "u"
        stored = frame.astype(np.dtype(f"<{kind}{_BITS[allocated][1:]}"))
        yield (stored << unused) >> unused if 0 < unused < allocated else stored
