"""How slices lie along and across their normal: places in, the rules that they break out, with the numbers.

A gap that is a multiple of the usual one lacks slices; any other is uneven spacing, which a site may let the node
interpolate, within bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.errors import Reason

Vector = NDArray[np.float64]

SAME_POSITION_MM = 1e-3
_TILT_TOLERANCE_DEGREES = 0.2  # 1 mm of shear over a 30 cm scan
_SPACING_TOLERANCE = 0.02  # share of the slice spacing ...
_SPACING_TOLERANCE_MM = 0.02  # ... or this, whichever is more; positions rounded to 0.01 mm differ by up to 0.0173
_LARGEST_OFFSET = 0.5  # of a voxel's edge, between where a slice is and where the grid has it
# What is interpolated, in usual gaps. One slice missing among uneven ones makes a gap of about two; below a tenth, two
# acquisitions lie at nearly the same places.
_WIDEST_INTERPOLATED = 1.8
_NARROWEST_INTERPOLATED = 0.1


@dataclass(frozen=True)
class Gaps:
    """The distances between neighbouring places [mm].

    Parameters
    ----------
    usual
        The lower median: of two gaps the wider one lacks slices.
    """

    smallest: float
    usual: float
    largest: float

    @property
    def tolerance(self) -> float:
        """Return how far a gap may be off the usual one [mm]."""
        return max(_SPACING_TOLERANCE * self.usual, _SPACING_TOLERANCE_MM)

    @property
    def can_be_interpolated(self) -> bool:
        """Tell whether slices with such gaps may be interpolated."""
        return (
            self.largest <= _WIDEST_INTERPOLATED * self.usual and self.smallest >= _NARROWEST_INTERPOLATED * self.usual
        )


def distinct(along: Vector) -> Vector:
    """Return the places of slices, ascending [mm], each once."""
    return along[np.diff(along, prepend=-np.inf) >= SAME_POSITION_MM]


def gaps_of(places: Vector) -> Gaps | None:
    """Return the gaps between distinct places; None where there is but one."""
    gaps = np.sort(np.diff(places))
    return Gaps(float(gaps[0]), float(gaps[(len(gaps) - 1) // 2]), float(gaps[-1])) if len(gaps) else None


def is_even(places: Vector) -> bool:
    """Tell whether distinct places are evenly spaced: no gap stands out, and none lies far off its place."""
    gaps = gaps_of(places)
    if gaps is None:
        return True
    level = max(gaps.largest - gaps.usual, gaps.usual - gaps.smallest) <= gaps.tolerance
    drift = float(np.abs(places - np.linspace(places[0], places[-1], len(places))).max())
    return level and drift <= _LARGEST_OFFSET * gaps.usual


def even_step(places: Vector) -> float:
    """Return the step of an even grid from the first place to the last, as near to the usual gap as may be [mm]."""
    extent = float(places[-1] - places[0])
    gaps = gaps_of(places)
    return extent / max(1, round(extent / gaps.usual)) if gaps else extent


def spacing_reasons(along: Vector, *, interpolate: bool, complete: bool = True) -> list[Reason]:
    """Return what is wrong with where slices lie along their normal.

    Parameters
    ----------
    along
        Their places, ascending [mm].
    interpolate
        Whether uneven spacing is accepted where it can be interpolated.
    complete
        Whether the place of every slice is known; else nothing can be said of gaps.
    """
    return [*_duplicate_reasons(along), *(_gap_reasons(distinct(along), interpolate=interpolate) if complete else ())]


def _duplicate_reasons(along: Vector) -> list[Reason]:
    same = np.diff(along) < SAME_POSITION_MM
    if not same.any():
        return []
    where = float(along[:-1][same][0])
    positions = int(same[0]) + int((same[1:] & ~same[:-1]).sum())  # runs of equal positions
    images = int(same.sum()) + positions
    words = (
        f"{positions} slice position(s) hold {images} images, the first at {where:.2f} mm: several acquisitions, "
        "phases or reconstructions in one series. Send them as separate series."
    )
    return [
        Reason("DuplicateSlices", words, {"positions": positions, "images": images, "first_at_mm": round(where, 2)})
    ]


def _gap_reasons(places: Vector, *, interpolate: bool) -> list[Reason]:
    gaps = gaps_of(places)
    if gaps is None or is_even(places):
        return []
    multiples = np.maximum(np.round(np.diff(places) / gaps.usual), 1)
    off = np.abs(np.diff(places) - multiples * gaps.usual)
    if multiples.max() > 1 and np.all(off <= gaps.tolerance * multiples):
        return [_missing_slices(places, gaps, int((multiples - 1).sum()))]
    return [] if interpolate and gaps.can_be_interpolated else [_uneven_spacing(gaps, interpolate=interpolate)]


def _missing_slices(places: Vector, gaps: Gaps, missing: int) -> Reason:
    after = float(places[int(np.argmax(np.diff(places)))])
    words = (
        f"{missing} slice(s) are missing: the widest gap is {gaps.largest:.2f} mm, after {after:.2f} mm, where slices "
        f"are {gaps.usual:.2f} mm apart. Send the missing images."
    )
    numbers = {
        "missing": missing,
        "gap_mm": round(gaps.largest, 3),
        "spacing_mm": round(gaps.usual, 3),
        "after_mm": round(after, 2),
    }
    return Reason("MissingSlices", words, numbers)


def _uneven_spacing(gaps: Gaps, *, interpolate: bool) -> Reason:
    numbers = {
        "smallest_mm": round(gaps.smallest, 3),
        "largest_mm": round(gaps.largest, 3),
        "spacing_mm": round(gaps.usual, 3),
    }
    words = f"The slices are unevenly spaced, from {gaps.smallest:.2f} to {gaps.largest:.2f} mm apart"
    if interpolate:
        low, high = _NARROWEST_INTERPOLATED * gaps.usual, _WIDEST_INTERPOLATED * gaps.usual
        words += f"; gaps of {low:.2f} to {high:.2f} mm can be interpolated"
        numbers |= {"narrowest_interpolated_mm": round(low, 3), "widest_interpolated_mm": round(high, 3)}
    remedy = "Send an evenly spaced reconstruction."
    if not interpolate and gaps.can_be_interpolated:
        remedy = 'Send an evenly spaced reconstruction, or let the model interpolate: uneven_spacing = "resample".'
    return Reason("NonUniformSpacing", f"{words}. {remedy}", numbers)


def across_reasons(positions: NDArray[np.float64], normal: Vector, pixel_mm: float) -> list[Reason]:
    """Return what is wrong with where slices lie across their normal: a tilt, or a slice beside the others.

    Parameters
    ----------
    positions
        (slices, 3), of the first pixel of each slice, in slice order, LPS [mm].
    normal
        Of the slices, a unit vector in LPS.
    pixel_mm
        The smallest edge of a pixel.
    """
    steps = np.diff(positions, axis=0)
    steps = steps[np.linalg.norm(steps, axis=1) > SAME_POSITION_MM]
    if not len(steps):
        return []
    # The direction from the first slice to the last, and the worst sideways step, which a wobbling table shows.
    travel = positions[-1] - positions[0]
    tilt = _angle_to(travel, normal)
    shear = float(np.linalg.norm(travel - (travel @ normal) * normal))
    leans = tilt > _TILT_TOLERANCE_DEGREES and shear > _SPACING_TOLERANCE_MM  # rounding alone leans a thin stack
    if leans or shear > _LARGEST_OFFSET * pixel_mm:
        words = (
            f"The slices are tilted by {tilt:.{1 if tilt >= 1 else 2}f} degrees against the direction of the scan, "
            f"{shear:.2f} mm from the first to the last. Send a reconstruction without tilt."
        )
        return [Reason("GantryTilt", words, {"degrees": round(tilt, 2), "shear_mm": round(shear, 3)})]
    worst = float(np.linalg.norm(_sideways(steps, normal), axis=1).max())
    off = float(np.linalg.norm(_sideways(positions - positions[0], normal), axis=1).max())
    step_allowed = max(_SPACING_TOLERANCE_MM, np.tan(np.radians(1.0)) * float(np.median(steps @ normal)))
    if worst > step_allowed or off > _LARGEST_OFFSET * pixel_mm:
        words = f"The slices are shifted sideways by up to {max(worst, off):.2f} mm."
        return [Reason("ShiftedSlices", words, {"shift_mm": round(max(worst, off), 3)})]
    return []


def _sideways(vectors: NDArray[np.float64], normal: Vector) -> NDArray[np.float64]:
    """Return what of each vector (n, 3) lies across the normal."""
    across: NDArray[np.float64] = vectors - np.outer(vectors @ normal, normal)
    return across


def _angle_to(vector: Vector, normal: Vector) -> float:
    length = float(np.linalg.norm(vector))
    if length == 0.0:
        return 0.0
    sine = float(np.linalg.norm(vector - (vector @ normal) * normal)) / length
    return float(np.degrees(np.arcsin(min(sine, 1.0))))
