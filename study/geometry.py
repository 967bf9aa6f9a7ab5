"""Is a series a volume? Headers in, the grid or a refusal with its numbers out.

A model reads a series as a box: parallel slices of one size, at equal distances along their common normal. Whatever is
not such a box is refused with every rule that it breaks, since a model that is fed a bent box gives wrong numbers
without noticing. Positions, not InstanceNumber or file names, decide the order (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from study.errors import Reason, StudyRefused
from study.headers import InstanceHeader
from study.imaging import Affine

Vector = NDArray[np.float64]

_COSINE_TOLERANCE = 1e-3  # of a direction cosine; headers round to 6 digits, scanners wobble in the 5th
_TILT_TOLERANCE_DEGREES = 0.2  # 1 mm of shear over a 30 cm scan
_SPACING_TOLERANCE = 0.02  # share of the slice spacing ...
_SPACING_TOLERANCE_MM = 0.02  # ... or this, whichever is more; positions rounded to 0.01 mm differ by up to 0.0173
_LARGEST_OFFSET = 0.5  # of a voxel's edge, between where a slice is and where the grid has it
_SAME_POSITION_MM = 1e-3
_FEWEST_SLICES = 2
_LARGEST_VALUE = 1e5  # [mm]; no scanner reaches 100 m, and larger numbers overflow further on
_SMALLEST_PIXEL_MM = 1e-4


class FrameOfReferencePolicy(StrEnum):
    """What to do with a series whose images carry several Frames of Reference."""

    STRICT = "strict"  # refuse: positions in different Frames of Reference need not be comparable (PS3.3 C.7.4.1)
    BY_POSITION = "by_position"  # trust the positions where everything else agrees; on record in the results


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """The grid of a series.

    Parameters
    ----------
    order
        Indices into the given headers, in the direction of the slices' normal.
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    spacing
        Along (slice, row, column) [mm].
    frame_of_reference_uid
        Of the results; the first slice's, where the policy accepted several.
    notes
        What a reader of the results must know of the geometry, in words.
    """

    order: tuple[int, ...]
    affine: Affine
    spacing: tuple[float, float, float]
    frame_of_reference_uid: str
    notes: tuple[str, ...] = ()


def assess(
    headers: Sequence[InstanceHeader], policy: FrameOfReferencePolicy = FrameOfReferencePolicy.STRICT
) -> VolumeGeometry:
    """Return the grid that the slices of one series form.

    The grid does not depend on the order of `headers`, and has every slice within half a voxel of its place.

    Raises
    ------
    StudyRefused
        With one reason for each rule that the series breaks: TooFewSlices, MissingGeometry, MixedMatrix,
        MixedOrientation, InvalidOrientation, DuplicateSlices, GantryTilt, ShiftedSlices, MissingSlices,
        NonUniformSpacing, InconsistentFrameOfReference, MissingFrameOfReference, MixedAcquisitions.
    """
    arrival = sorted(range(len(headers)), key=lambda index: headers[index].sop_instance_uid)
    geometry = _assess([headers[index] for index in arrival], policy)
    return replace(geometry, order=tuple(arrival[index] for index in geometry.order))


def _assess(headers: Sequence[InstanceHeader], policy: FrameOfReferencePolicy) -> VolumeGeometry:
    if len(headers) < _FEWEST_SLICES:
        raise StudyRefused(
            [
                _reason(
                    "TooFewSlices",
                    f"The series has {len(headers)} slice(s), a volume needs {_FEWEST_SLICES}.",
                    slices=len(headers),
                    fewest=_FEWEST_SLICES,
                )
            ]
        )
    _demand_plane_attributes(headers)
    reasons = [*_matrix_reasons(headers), *_orientation_reasons(headers)]
    frames, notes = _frame_of_reference_reasons(headers, policy)
    reasons += frames
    column_direction, row_direction = _in_plane_directions(headers[0])
    normal = np.cross(column_direction, row_direction)
    positions = np.array([header.image_position_patient for header in headers], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    if not any(reason.code in {"MixedOrientation", "InvalidOrientation"} for reason in reasons):
        reasons += _spacing_reasons(along[order])
        reasons += _tilt_reasons(positions[order], normal, min(headers[0].pixel_spacing or (0.0,)))
    if reasons:
        raise StudyRefused(reasons)
    step = (positions[order[-1]] - positions[order[0]]) / (len(headers) - 1)
    # The slices' step is projected on the normal: what is left of it sideways is under half a pixel at the last slice.
    slice_spacing = float(step @ normal)
    row_spacing, column_spacing = headers[0].pixel_spacing or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, 0] = normal * slice_spacing
    affine[:3, 1] = row_direction * row_spacing
    affine[:3, 2] = column_direction * column_spacing
    affine[:3, 3] = positions[order[0]]
    return VolumeGeometry(
        order=tuple(int(index) for index in order),
        affine=affine,
        spacing=(slice_spacing, row_spacing, column_spacing),
        frame_of_reference_uid=headers[int(order[0])].frame_of_reference_uid,
        notes=tuple(notes),
    )


def _reason(code: str, words: str, **numbers: float | int | str) -> Reason:
    return Reason(code, words, numbers)


def _demand_plane_attributes(headers: Sequence[InstanceHeader]) -> None:
    lacking = Counter(
        name
        for header in headers
        for name, value, count, smallest in (
            ("ImagePositionPatient", header.image_position_patient, 3, -_LARGEST_VALUE),
            ("ImageOrientationPatient", header.image_orientation_patient, 6, -_LARGEST_VALUE),
            ("PixelSpacing", header.pixel_spacing, 2, _SMALLEST_PIXEL_MM),
            ("Rows", None if header.rows is None else (header.rows,), 1, 1),
            ("Columns", None if header.columns is None else (header.columns,), 1, 1),
        )
        if value is None or len(value) != count or not smallest <= min(value) <= max(value) <= _LARGEST_VALUE
    )
    if lacking:
        raise StudyRefused(
            [
                _reason(
                    "MissingGeometry",
                    f"{count} of {len(headers)} images have no usable {name}.",
                    attribute=name,
                    images=count,
                )
                for name, count in lacking.items()
            ]
        )


def _matrix_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    sizes = Counter((header.rows, header.columns) for header in headers)
    reference = headers[0].pixel_spacing or (0.0, 0.0)
    reasons = []
    if len(sizes) > 1:
        listed = ", ".join(f"{rows}x{columns} ({count})" for (rows, columns), count in sizes.most_common())
        reasons.append(_reason("MixedMatrix", f"The images have several sizes: {listed}.", sizes=len(sizes)))
    spacings = [header.pixel_spacing or (0.0, 0.0) for header in headers]
    if not np.allclose(spacings, reference, rtol=1e-3, atol=1e-4):
        low, high = float(np.min(spacings)), float(np.max(spacings))
        reasons.append(
            _reason(
                "MixedMatrix",
                f"The images have several pixel spacings, from {low:.3f} to {high:.3f} mm.",
                smallest_mm=round(low, 4),
                largest_mm=round(high, 4),
            )
        )
    return reasons


def _in_plane_directions(header: InstanceHeader) -> tuple[Vector, Vector]:
    cosines = np.array(header.image_orientation_patient, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(cosines.reshape(2, 3), axis=1), 1e-12)
    return cosines[:3] / lengths[0], cosines[3:] / lengths[1]


def _orientation_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    orientations = np.array([header.image_orientation_patient for header in headers], dtype=np.float64)
    reasons = []
    rows, columns = orientations[:, :3], orientations[:, 3:]
    skew = float(np.abs(np.einsum("ij,ij->i", rows, columns)).max())
    stretch = float(np.abs(np.linalg.norm(np.stack([rows, columns]), axis=2) - 1).max())
    if max(skew, stretch) > _COSINE_TOLERANCE * 10:
        reasons.append(
            _reason(
                "InvalidOrientation",
                f"ImageOrientationPatient is not two orthogonal unit vectors (off by {max(skew, stretch):.3f}).",
                off_by=round(max(skew, stretch), 4),
            )
        )
    apart = np.abs(orientations - orientations[0]).max(axis=1)
    if apart.max() > _COSINE_TOLERANCE:
        # The angle of the rotation that takes one orientation to the other, one within the plane included: half its
        # trace less a half is the cosine (the axes are the row's, the column's and their normal).
        axes = np.stack([rows, columns, np.cross(rows, columns)], axis=1)
        traces = np.einsum("nij,ij->n", axes, axes[0])
        angle = float(np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)).max()))
        count = len({tuple(np.round(orientation, 2)) for orientation in orientations})
        reasons.append(
            _reason(
                "MixedOrientation",
                f"The images have {max(count, 2)} orientations, up to {angle:.1f} degrees apart.",
                orientations=max(count, 2),
                degrees=round(angle, 2),
            )
        )
    return reasons


def _spacing_reasons(along: Vector) -> list[Reason]:
    gaps = np.diff(along)
    same = gaps < _SAME_POSITION_MM
    even = np.linspace(along[0], along[-1], len(along))
    drift = 0.0 if same.any() else float(np.abs(along - even).max())  # where images share a place, none is even
    return [*_duplicate_reasons(along, same), *_gap_reasons(gaps[~same], along[:-1][~same], drift)]


def _duplicate_reasons(along: Vector, same: NDArray[np.bool_]) -> list[Reason]:
    if not same.any():
        return []
    where = float(along[:-1][same][0])
    positions = int(same[0]) + int((same[1:] & ~same[:-1]).sum())  # runs of equal positions
    images = int(same.sum()) + positions
    return [
        _reason(
            "DuplicateSlices",
            f"{positions} slice position(s) hold {images} images, the first at {where:.2f} mm: several acquisitions, "
            "phases or reconstructions in one series. Send them as separate series.",
            positions=positions,
            images=images,
            first_at_mm=round(where, 2),
        )
    ]


def _gap_reasons(gaps: Vector, starts: Vector, drift: float) -> list[Reason]:
    """Judge the distances between slices; `drift` is the farthest that one lies from its even place [mm]."""
    if not len(gaps):
        return []
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: of two gaps the wider one lacks slices
    tolerance = max(_SPACING_TOLERANCE * usual, _SPACING_TOLERANCE_MM)
    if np.all(np.abs(gaps - usual) <= tolerance) and drift <= _LARGEST_OFFSET * usual:
        return []
    multiples = np.maximum(np.round(gaps / usual), 1)
    if multiples.max() > 1 and np.all(np.abs(gaps - multiples * usual) <= tolerance * multiples):
        widest = int(np.argmax(gaps))
        missing = int((multiples - 1).sum())
        return [
            _reason(
                "MissingSlices",
                f"{missing} slice(s) are missing: the widest gap is {gaps[widest]:.2f} mm, after "
                f"{starts[widest]:.2f} mm, where slices are {usual:.2f} mm apart. Send the missing images.",
                missing=missing,
                gap_mm=round(float(gaps[widest]), 3),
                spacing_mm=round(usual, 3),
                after_mm=round(float(starts[widest]), 2),
            )
        ]
    low, high = float(gaps.min()), float(gaps.max())
    return [
        _reason(
            "NonUniformSpacing",
            f"The slices are unevenly spaced, from {low:.2f} to {high:.2f} mm apart. "
            "Send an evenly spaced reconstruction.",
            smallest_mm=round(low, 3),
            largest_mm=round(high, 3),
            spacing_mm=round(usual, 3),
        )
    ]


def _tilt_reasons(positions: NDArray[np.float64], normal: Vector, pixel_mm: float) -> list[Reason]:
    steps = np.diff(positions, axis=0)
    steps = steps[np.linalg.norm(steps, axis=1) > _SAME_POSITION_MM]
    if not len(steps):
        return []
    # The direction from the first slice to the last, and the worst sideways step, which a wobbling table shows.
    travel = positions[-1] - positions[0]
    tilt = _angle_to(travel, normal)
    shear = float(np.linalg.norm(travel - (travel @ normal) * normal))
    leans = tilt > _TILT_TOLERANCE_DEGREES and shear > _SPACING_TOLERANCE_MM  # rounding alone leans a thin stack
    if leans or shear > _LARGEST_OFFSET * pixel_mm:
        return [
            _reason(
                "GantryTilt",
                f"The slices are tilted by {tilt:.{1 if tilt >= 1 else 2}f} degrees against the direction of the scan, "
                f"{shear:.2f} mm from the first to the last. Send a reconstruction without tilt.",
                degrees=round(tilt, 2),
                shear_mm=round(shear, 3),
            )
        ]
    worst = float(np.linalg.norm(_sideways(steps, normal), axis=1).max())
    off = float(np.linalg.norm(_sideways(positions - positions[0], normal), axis=1).max())
    step_allowed = max(_SPACING_TOLERANCE_MM, np.tan(np.radians(1.0)) * float(np.median(steps @ normal)))
    if worst > step_allowed or off > _LARGEST_OFFSET * pixel_mm:
        return [
            _reason(
                "ShiftedSlices",
                f"The slices are shifted sideways by up to {max(worst, off):.2f} mm.",
                shift_mm=round(max(worst, off), 3),
            )
        ]
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


def _frame_of_reference_reasons(
    headers: Sequence[InstanceHeader], policy: FrameOfReferencePolicy
) -> tuple[list[Reason], list[str]]:
    frames = {header.frame_of_reference_uid for header in headers}
    if "" in frames:
        lacking = sum(not header.frame_of_reference_uid for header in headers)
        return [
            _reason(
                "MissingFrameOfReference",
                f"{lacking} of {len(headers)} images have no Frame of Reference UID.",
                images=lacking,
            )
        ], []
    if len(frames) == 1:
        return [], []
    if policy is FrameOfReferencePolicy.STRICT:
        return [
            _reason(
                "InconsistentFrameOfReference",
                f"The {len(headers)} images of the series carry {len(frames)} "
                "Frames of Reference, so their positions need not agree; geometry.frame_of_reference = "
                '"by_position" accepts such a series.',
                frames_of_reference=len(frames),
                images=len(headers),
            )
        ], []
    acquisitions = {header.acquisition_number for header in headers}
    if len(acquisitions) > 1:
        return [
            _reason(
                "MixedAcquisitions",
                f"The images carry {len(frames)} Frames of Reference and {len(acquisitions)} "
                "acquisitions, so their positions need not agree.",
                frames_of_reference=len(frames),
                acquisitions=len(acquisitions),
            )
        ], []
    note = (
        f"The {len(headers)} source images carry {len(frames)} Frames of Reference. They were taken as one volume by "
        "their positions, and the results carry the Frame of Reference of the first slice."
    )
    return [], [note]
