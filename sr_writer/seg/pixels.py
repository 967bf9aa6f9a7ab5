"""The pixels of a Segmentation: single bits for each segment, or a label map (PS3.3 C.8.20.2.3, PS3.5 8.1.1)."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import RLELossless

from sr_writer.seg.frames import Frame
from sr_writer.seg.objects import ObjectContent
from study.imaging import LabelMap, Labels

_MOST_IN_8_BITS = 255


def bit_frames(label_map: LabelMap, content: ObjectContent, frames: Sequence[Frame]) -> bytearray:
    """Return the frames of a BINARY object in single bits, of even length.

    Frames follow each other without padding, so one may begin within a byte.
    """
    pixels = label_map.values[0].size
    size = -(-len(frames) * pixels // 8)
    encoded = bytearray(size + size % 2)
    packed = np.frombuffer(encoded, dtype=np.uint8)
    by_slice: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, frame in enumerate(frames):
        assert frame.segment_number is not None
        by_slice[frame.slice_index].append((place * pixels, frame.segment_number))
    # Slice by slice, so that a slice is read from memory once
    for index, shown in by_slice.items():
        planes = [layer[index].ravel() for layer in label_map.layers]
        for first, number in shown:
            piece = content.pieces[number - 1]
            _put_bits(packed, first, planes[piece.layer] == piece.segment.value)
    return encoded


def _put_bits(packed: NDArray[np.uint8], first: int, mask: NDArray[np.bool_]) -> None:
    """Put bits where the bit of that index is the first; the least significant bit of a byte is its first."""
    byte, within = divmod(first, 8)
    if within:
        mask = np.concatenate([np.zeros(within, dtype=np.bool_), mask])
    bits = np.packbits(mask, bitorder="little")
    packed[byte : byte + len(bits)] |= bits


def segments_overlap(label_map: LabelMap, content: ObjectContent) -> bool:
    """Tell whether two segments of one object share a voxel."""
    if len({piece.layer for piece in content.pieces}) < 2:
        return False
    return any(_overlap_on(label_map, content, index) for index in range(len(label_map.values)))


def _overlap_on(label_map: LabelMap, content: ObjectContent, index: int) -> bool:
    covered = np.zeros(label_map.values.shape[1:], dtype=np.bool_)
    for numbers in _layers_on(label_map, content, index):
        if (covered & (numbers > 0)).any():
            return True
        covered |= numbers > 0
    return False


def bits_needed(content: ObjectContent) -> int:
    """Return how many bits a pixel of a LABELMAP object needs: 8 or 16."""
    return 8 if len(content.pieces) <= _MOST_IN_8_BITS else 16


def label_frames(label_map: LabelMap, content: ObjectContent, frames: Sequence[Frame]) -> Iterator[Labels]:
    """Yield each frame of a LABELMAP object: (rows, columns) of segment numbers, 0 is background."""
    for frame in frames:
        layers = list(_layers_on(label_map, content, frame.slice_index))
        # Layers of one object share no voxel
        yield functools.reduce(np.maximum, layers)


def _layers_on(label_map: LabelMap, content: ObjectContent, index: int) -> Iterator[Labels]:
    """Yield a slice of each layer that an object shows something of, in segment numbers of the object."""
    dtype = np.dtype("u1") if bits_needed(content) == 8 else np.dtype("<u2")
    for layer in sorted({piece.layer for piece in content.pieces}):
        values = label_map.layers[layer]
        table = np.zeros(int(np.iinfo(values.dtype).max) + 1, dtype=dtype)
        for number, piece in enumerate(content.pieces, 1):
            # What is cut belongs to another object beyond the cut
            if piece.layer == layer and piece.slices[0] <= index <= piece.slices[-1]:
                table[piece.segment.value] = number
        yield table[values[index]]


def native(frames: Iterable[Labels]) -> bytes:
    """Return label map frames one after the other, of even length."""
    content = b"".join(frame.tobytes() for frame in frames)
    return content + b"\0" * (len(content) % 2)


def run_length_encoded(frames: Iterable[Labels]) -> bytes:
    """Return label map frames in RLE Lossless, each a fragment of its own, with an offset table (PS3.5 A.4, G)."""
    return encapsulate([_run_length_encoded(frame) for frame in frames])


def _run_length_encoded(frame: Labels) -> bytes:
    rows, columns = frame.shape
    return get_encoder(RLELossless).encode(
        frame.tobytes(),
        encoding_plugin="pylibjpeg",
        rows=rows,
        columns=columns,
        samples_per_pixel=1,
        bits_allocated=frame.dtype.itemsize * 8,
        bits_stored=frame.dtype.itemsize * 8,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )
