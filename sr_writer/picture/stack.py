"""Source slices in their places, and what a plane through all of them shows.

Nothing is flipped or turned: a picture across the slices asks for each of its own pixels where in the patient it is,
and looks there. So slices at uneven distances, oblique ones and those of any orientation come out alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer.picture.directions import letters_at, letters_of
from sr_writer.source.grid import has_place, plane_axes, plane_origin

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Vector = NDArray[np.float64]
SliceOf = Callable[[int], Plane]
MaskOf = Callable[[int], Mask]

ANATOMICAL: Final[Mapping[str, tuple[int, int]]] = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
"""Which LPS axes run to the right and down in a picture of each plane; the third is shown from the head down."""
_AS_LARGE: Final = 0.99
"""Sections of that share of the largest are as large; the middle one of them is taken."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A plane through the patient, as it is shown.

    Parameters
    ----------
    corner
        The centre of its first pixel in LPS [mm].
    right, down
        The step from one pixel to the next in LPS [mm].
    shape
        (rows, columns).
    """

    corner: Vector
    right: Vector
    down: Vector
    shape: tuple[int, int]

    @property
    def letters(self) -> dict[str, str]:
        """Return the sides of the patient at its edges."""
        return letters_at(letters_of(self.right), letters_of(self.down))

    def along(self, direction: Vector) -> Vector:
        """Return (rows, columns), how far each pixel is along a direction [mm]."""
        rows, columns = self.shape
        start = float(self.corner @ direction)
        steps: Vector = np.arange(rows)[:, None] * (self.down @ direction) + np.arange(columns) * (
            self.right @ direction
        )
        return start + steps


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel source slices, each in its place, at whatever distances.

    Parameters
    ----------
    origins
        (slices, 3), the centre of the first pixel of each in LPS [mm].
    axes
        (2, 3), the step from one row to the next and from one column to the next in LPS [mm].
    shape
        (rows, columns).
    """

    origins: Vector
    axes: Vector
    shape: tuple[int, int]

    @classmethod
    def of(cls, sources: Sequence[Dataset]) -> Stack | None:
        """Return the slices as a stack; None for one image alone, or images that have no place in the patient."""
        if len(sources) < 2 or not all(map(has_place, sources)):
            return None
        origins = np.stack([plane_origin(source) for source in sources])
        return cls(origins, plane_axes(sources[0]), (int(sources[0].Rows), int(sources[0].Columns)))

    @cached_property
    def spacing(self) -> Vector:
        """Return (2,), the distance of rows and of columns [mm]."""
        lengths: Vector = np.linalg.norm(self.axes, axis=1)
        return lengths

    @cached_property
    def normal(self) -> Vector:
        """Return the unit vector across the slices."""
        across = np.cross(self.axes[1], self.axes[0])
        unit: Vector = across / np.linalg.norm(across)
        return unit

    @cached_property
    def depths(self) -> Vector:
        """Return (slices,), the place of each along the normal [mm]."""
        places: Vector = self.origins @ self.normal
        return places

    @cached_property
    def gaps(self) -> Vector:
        """Return (slices,), how thick a part of the patient each stands for [mm], in the order of the slices."""
        order = np.argsort(self.depths, kind="stable")
        widths = np.empty(len(order))
        widths[order] = np.abs(np.gradient(self.depths[order])) if len(order) > 1 else 1.0
        return widths

    @property
    def plane(self) -> str:
        """Return the name of the anatomical plane that the slices are nearest to."""
        axis = int(np.abs(self.normal).argmax())
        return {0: "sagittal", 1: "coronal", 2: "axial"}[axis]

    def box(self) -> tuple[Vector, Vector]:
        """Return the lowest and the highest corner in LPS [mm] of the centres of all pixels."""
        rows, columns = self.shape
        offsets = np.array([[0, 0], [rows - 1, 0], [0, columns - 1], [rows - 1, columns - 1]]) @ self.axes
        corners = (self.origins[:, None] + offsets).reshape(-1, 3)
        return corners.min(axis=0), corners.max(axis=0)

    def cut(self, plane: str, place: float, step: float) -> Cut:
        """Return an anatomical plane through all slices, as radiologists look at it: right on the left, head up.

        Parameters
        ----------
        plane
            "axial", "coronal" or "sagittal".
        place
            Where it lies along the third axis, in LPS [mm].
        step
            The size of its pixels [mm].
        """
        low, high = self.box()
        right, down = ANATOMICAL[plane]
        turn = np.ones(3)
        turn[2] = -1  # from the head down
        corner = np.where(turn > 0, low, high)
        corner[({0, 1, 2} - {right, down}).pop()] = place
        extent = np.ceil((high - low) / step - 1e-6).astype(int) + 1
        unit = np.eye(3) * turn[:, None] * step
        return Cut(corner, unit[right], unit[down], (int(extent[down]), int(extent[right])))

    def pixels_on(self, cuts: Sequence[Cut], slice_of: SliceOf) -> list[Plane]:
        """Return what each of some planes shows, interpolated linearly between the pixels around it.

        Every slice is asked for once. NaN outside of the slices.
        """
        shown = [np.where(self._between(cut)[0] < 0, np.nan, 0).astype(np.float32).ravel() for cut in cuts]
        in_plane = [self._in_plane(cut) for cut in cuts]
        for index, asking in self._sharing(cuts).items():
            pixels = slice_of(index)
            for number, where, weights in asking:
                places = in_plane[number][:, where] - self._start(index)
                values = ndimage.map_coordinates(pixels, places, order=1, mode="nearest", output=np.float32)
                values[~self._inside(places)] = np.nan
                shown[number][where] += weights * values
        return [plane.reshape(cut.shape) for plane, cut in zip(shown, cuts, strict=True)]

    def _sharing(self, cuts: Sequence[Cut]) -> dict[int, list[tuple[int, NDArray[np.intp], Plane]]]:
        """Return for each slice which planes it has a share in: their number, the flat indices, the shares."""
        found: dict[int, list[tuple[int, NDArray[np.intp], Plane]]] = {}
        for number, cut in enumerate(cuts):
            below, share = self._between(cut)
            for offset, weight in ((0, 1 - share), (1, share)):
                weights = weight.ravel().astype(np.float32)
                for index, where in self._asked(np.where((below >= 0) & (weight > 0), below + offset, -1)):
                    found.setdefault(index, []).append((number, where, weights[where]))
        return found

    def nearest_on(self, cut: Cut) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
        """Yield which pixel of the slices is nearest to each pixel of a plane, slice after slice.

        Yields
        ------
        int, three arrays (pixels,)
            The index of a slice; flat indices of pixels of the plane; the row and the column of each in the slice.
        """
        below, share = self._between(cut)
        in_plane = self._in_plane(cut)
        for index, where in self._asked(np.where(below < 0, -1, below + (share >= 0.5))):
            places = in_plane[:, where] - self._start(index)
            inside = self._inside(places)
            rows, columns = np.floor(places[:, inside] + 0.5).astype(np.intp)
            yield index, where[inside], rows, columns

    def fullest(self, axis: int, mask_of: MaskOf, occupied: NDArray[np.bool_]) -> float | None:
        """Return where along an LPS axis a region has its largest section [mm]; None where it has no pixel."""
        low, high = self.box()
        # As fine as the pixels lie along the axis, so that every section has its share of them
        step = float(max(*np.abs(self.axes[:, axis]), abs(self.normal[axis]) * np.median(self.gaps)))
        sums = np.zeros(int((high[axis] - low[axis]) / step) + 2)
        for index in np.flatnonzero(occupied):
            rows, columns = np.nonzero(mask_of(int(index)))
            places = self.origins[index, axis] + rows * self.axes[0, axis] + columns * self.axes[1, axis]
            bins = np.rint((places - low[axis]) / step).astype(np.intp)
            sums += self.gaps[index] * np.bincount(bins, minlength=len(sums))
        if not sums.any():
            return None
        alike = np.flatnonzero(sums >= _AS_LARGE * sums.max())
        return float(low[axis] + step * alike[len(alike) // 2])

    def _between(self, cut: Cut) -> tuple[NDArray[np.intp], Vector]:
        """Return the rank along the normal of the slice below each pixel, -1 outside, and the share of the next."""
        depths = np.sort(self.depths)
        along = cut.along(self.normal)
        half = (depths[1] - depths[0]) / 2, (depths[-1] - depths[-2]) / 2
        outside = (along < depths[0] - half[0]) | (along > depths[-1] + half[1])
        places = np.interp(along, depths, np.arange(len(depths), dtype=np.float64))
        below = np.minimum(np.floor(places).astype(np.intp), len(depths) - 2)
        return np.where(outside, -1, below), places - below

    def _in_plane(self, cut: Cut) -> Vector:
        """Return (2, pixels), how far each pixel of a plane is along the rows' and the columns' order, in pixels."""
        steps = self.axes / self.spacing[:, None] ** 2
        return np.stack([cut.along(step).ravel() for step in steps])

    def _start(self, index: int) -> Vector:
        """Return (2, 1), where the first pixel of a slice is by the same count."""
        start: Vector = (self.axes / self.spacing[:, None] ** 2) @ self.origins[index]
        return start[:, None]

    def _inside(self, places: Vector) -> Mask:
        """Return (pixels,), which of the (row, column) in `places` lie within a slice."""
        sizes = np.array(self.shape)[:, None]
        return np.asarray(((places >= -0.5) & (places < sizes - 0.5)).all(axis=0))

    def _asked(self, ranks: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield each slice and the flat indices of the pixels that ask for it; those of rank -1 ask for none."""
        flat = ranks.ravel()
        sorted_by_rank = np.argsort(flat, kind="stable")
        order = np.argsort(self.depths, kind="stable")
        edges = np.searchsorted(flat[sorted_by_rank], np.arange(len(order) + 1))
        for rank, (start, stop) in enumerate(pairwise(edges)):
            if stop > start:
                yield int(order[rank]), sorted_by_rank[start:stop]
