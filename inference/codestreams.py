"""What a compressed frame says of its own size, read before a decoder takes memory for it.

Decoders believe the code stream, not the data set around it: 30 bytes can ask them for gigabytes. Sizes are read where
the standards put them, and nothing is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

_START: Final = 0xD8
_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # F7: JPEG-LS (ISO/IEC 14495-1 C.1)
_JPEG_FRAME = struct.Struct(">BHHB")  # precision, lines, samples per line, components (ISO/IEC 10918-1 B.2.2)
_JPEG2000_START: Final = b"\xff\x4f\xff\x51"
_JPEG2000_FILE: Final = b"\x00\x00\x00\x0cjP  "
_SIZ = struct.Struct(">HH8LH")  # ISO/IEC 15444-1 A.5.1
_MOST_TILES: Final = 4096  # decoders keep some kilobytes for each
_RLE_HEADER = struct.Struct("<16L")  # PS3.5 G.5
_LONGEST_RUN: Final = 64  # bytes that one byte of a segment becomes at most
_LITTLE: Final = 2**26  # what a segment may become without being looked at [bytes]
_PADDING: Final = 64  # what encoders may put behind a segment [bytes]
_PROGRESSIVE: Final = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")  # retired, and still met


class StrangeCodeStream(ValueError):
    """A compressed frame is not of the size that its data set says."""


def demand_size(stream: bytes, transfer_syntax_uid: str, rows: int, columns: int, bytes_allocated: int) -> None:
    """Return if a frame, of one sample per pixel, does not ask for another size than the data set's.

    Parameters
    ----------
    rows, columns
        Of the data set.
    bytes_allocated
        Of one pixel [bytes].

    Raises
    ------
    StrangeCodeStream
        If it does, in words.
    """
    if transfer_syntax_uid == RLELossless:
        _demand_runs(stream, rows * columns, bytes_allocated)
        return
    read = _READERS.get(transfer_syntax_uid)
    if read is None:
        return
    try:
        found = read(stream)
    except (struct.error, IndexError):
        raise StrangeCodeStream("ends within its header") from None
    if found != (rows, columns, 1):
        raise StrangeCodeStream(f"announces {found[0]}x{found[1]} pixels of {found[2]} samples")


def _jpeg_size(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components by the one frame header of a JPEG or JPEG-LS stream."""
    if stream[:2] != bytes((0xFF, _START)):
        raise StrangeCodeStream("is no JPEG")
    sizes, at = [], 2
    while True:
        if stream[at] != 0xFF:
            raise StrangeCodeStream("has no frame header")
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (_START_OF_SCAN, _END):
            break
        if marker in _FRAME_HEADERS:
            _, lines, samples, components = _JPEG_FRAME.unpack_from(stream, at + 4)
            sizes.append((lines, samples, components))
        at += 2 + max(2, int.from_bytes(stream[at + 2 : at + 4], "big"))
    if len(sizes) != 1:
        raise StrangeCodeStream(f"has {len(sizes)} frame headers")
    return sizes[0]


def _jpeg2000_size(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG 2000 code stream, also of one in a JP2 file."""
    start = stream.find(_JPEG2000_START) if stream.startswith(_JPEG2000_FILE) else 0
    if start < 0 or stream[start : start + 4] != _JPEG2000_START:
        raise StrangeCodeStream("is no JPEG 2000")
    _, _, right, bottom, left, top, width, height, tiles_left, tiles_top, components = _SIZ.unpack_from(
        stream, start + 4
    )
    _, across, down = stream[start + 4 + _SIZ.size : start + 4 + _SIZ.size + 3]
    if not (across == down == 1 and width and height and tiles_left <= left < right and tiles_top <= top < bottom):
        raise StrangeCodeStream("has a grid that makes no sense")
    if -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height) > _MOST_TILES:
        raise StrangeCodeStream("has too many tiles")
    return bottom - top, right - left, components


def _demand_runs(stream: bytes, pixels: int, bytes_allocated: int) -> None:
    """Return if no segment becomes much more than the frame's pixels (PS3.5 G.3)."""
    if len(stream) < _RLE_HEADER.size:
        raise StrangeCodeStream("ends within its header")
    count, *offsets = _RLE_HEADER.unpack_from(stream)
    if count != bytes_allocated:
        raise StrangeCodeStream(f"has {count} RLE segments where {bytes_allocated} make a pixel")
    bounds = [*offsets[:count], len(stream)]
    if bounds[0] < _RLE_HEADER.size or sorted(bounds) != bounds:
        raise StrangeCodeStream("has RLE segments that are not one after the other")
    most = 2 * pixels + _PADDING  # the worst encoder spends two bytes on one
    for start, end in pairwise(bounds):
        # Looking at each run takes longer than decoding: only where it could matter
        matters = (end - start) * _LONGEST_RUN > max(_LITTLE, most)
        if end - start > most or (matters and _runs_to(stream, start, end, most) > most):
            raise StrangeCodeStream("expands beyond the frame")


def _runs_to(stream: bytes, start: int, end: int, most: int) -> int:
    """Return what an RLE segment becomes [bytes]; once that is above `most`, any number above it."""
    total = 0
    while start < end and total <= most:
        head = stream[start]
        if head > 128:  # one byte, so many times
            start, total = start + 2, total + 257 - head
        elif head < 128:  # so many bytes, as they are
            start, total = start + head + 2, total + head + 1
        else:
            start += 1
    return total


_READERS: Final[dict[str, Callable[[bytes], tuple[int, int, int]]]] = {
    **dict.fromkeys(map(str, (*JPEGTransferSyntaxes, *_PROGRESSIVE, *JPEGLSTransferSyntaxes)), _jpeg_size),
    **dict.fromkeys(map(str, JPEG2000TransferSyntaxes), _jpeg2000_size),
}
