"""Pixels of single slices for those who draw them, read again when they are asked for.

By then the volume may be gone, or have been resampled or written into by a bundle: what is drawn is the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.decoding import read_image, read_series
from study.headers import InstanceHeader

Pixels = Callable[[int], NDArray[np.float32]]
"""Gives the pixels of the slice or image of that index, float32 (rows, columns), in the modality's units."""


def pixels_of_slices(paths: Sequence[Path], headers: Sequence[InstanceHeader], threads: int = 2) -> Pixels:
    """Return what reads the slices of a series; frames of multi-frame images are all read at the first call."""
    everything: list[NDArray[np.float32]] = []

    def read(chosen: Sequence[int]) -> NDArray[np.float32]:
        some_paths, some_headers = [paths[index] for index in chosen], [headers[index] for index in chosen]
        return read_series(some_paths, some_headers, np.eye(4), threads).volume.voxels

    def pixels(index: int) -> NDArray[np.float32]:
        if headers[index].frame_number is None:
            plane: NDArray[np.float32] = read([index])[0]
        else:
            everything[:] = everything or [read(range(len(paths)))]
            plane = everything[0][index]
        return plane

    return pixels


def pixels_of_images(paths: Sequence[Path], headers: Sequence[InstanceHeader]) -> Pixels:
    """Return what reads images that stand alone; MONOCHROME1 is left as it is, as the header's window is for that."""
    return lambda index: read_image(paths[index], headers[index], inverting=False).pixels
