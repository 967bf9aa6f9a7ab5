"""What every result object is made of: what a model says, about which images, by whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.context import ResultContext
from sr_writer.region.areas import Areas, areas_by_slice
from study.errors import EncodingError
from study.imaging import ModelIdentity, ResultSet

Pixels = Callable[[int], NDArray[np.float32]]
"""Gives the pixels of the source image of that index, float32 (rows, columns), in the modality's units (HU for CT).

Those of MONOCHROME1 too are as they are: who draws them shows low values bright, after the window (PS3.3 C.11.6).
"""


@dataclass(frozen=True, eq=False)
class Material:
    """One result, for every form of it.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    pixels
        Of the source images; None where nobody has them, and then no pictures can be made.
    earlier
        Headers of the images of each of the earlier series that the result names, in slice order.
    """

    result_set: ResultSet
    sources: Sequence[Dataset]
    model: ModelIdentity
    context: ResultContext
    pixels: Pixels | None = None
    earlier: Sequence[Sequence[Dataset]] = ()

    @cached_property
    def areas(self) -> Areas | None:
        """Return how many pixels of each value each slice of the label map has; None where there is none.

        Raises
        ------
        EncodingError
            If the label map holds a value that none of its segments declares.
        """
        return None if self.result_set.label_map is None else areas_by_slice(self.result_set.label_map)

    @property
    def has_voxels(self) -> bool:
        """Tell whether any segment has a voxel."""
        return self.areas is not None and bool(self.areas[:, 1:].any())

    def demand_pixels(self) -> Pixels:
        """Return what gives the pixels of the source images.

        Raises
        ------
        EncodingError
            If nothing does.
        """
        if self.pixels is None:
            raise EncodingError("A picture was asked for, and the pixels of the source images are not at hand.")
        return self.pixels
