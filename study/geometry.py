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

from study.errors import Reason, StudyRefused
from study.headers import InstanceHeader
from study.imaging import Affine
from study.spacing import Vector, across_reasons, even_step, is_even, spacing_reasons

_COSINE_TOLERANCE = 1e-3  # of a direction cosine; headers round to 6 digits, scanners wobble in the 5th
FEWEST_SLICES = 2
_LARGEST_VALUE = 1e5  # [mm]; no scanner reaches 100 m, and larger numbers overflow further on
_SMALLEST_PIXEL_MM = 1e-4
_MOST_LISTED = 5


class FrameOfReferencePolicy(StrEnum):
    """What to do with a series whose images carry several Frames of Reference."""

    STRICT = "strict"  # refuse: positions in different Frames of Reference need not be comparable (PS3.3 C.7.4.1)
    BY_POSITION = "by_position"  # trust the positions where everything else agrees; on record in the results


class UnevenSpacing(StrEnum):
    """What to do with a series whose slices are unevenly spaced."""

    REFUSE = "refuse"
    RESAMPLE = "resample"  # interpolate between neighbours, where no gap is much wider than usual; on record


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
    offsets
        Where the slices are unevenly spaced: the place of each, in `order`, along the normal from the first [mm];
        empty where they are even. The affine then is that of the even grid between the first and the last slice.
    """

    order: tuple[int, ...]
    affine: Affine
    spacing: tuple[float, float, float]
    frame_of_reference_uid: str
    notes: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()

    @property
    def slices(self) -> int:
        """Return how many slices the grid has: as many as there are headers, where these are even."""
        return round(self.offsets[-1] / self.spacing[0]) + 1 if self.offsets else len(self.order)


def assess(
    headers: Sequence[InstanceHeader],
    policy: FrameOfReferencePolicy = FrameOfReferencePolicy.STRICT,
    *,
    uneven_spacing: UnevenSpacing = UnevenSpacing.REFUSE,
) -> VolumeGeometry:
    """Return the grid that the slices of one series form.

    The grid does not depend on the order of `headers`, and has every slice within half a voxel of its place, unless
    uneven spacing is accepted: then `offsets` says where the slices are.

    Raises
    ------
    StudyRefused
        With one reason for each rule that the series breaks: TooFewSlices, MissingGeometry, MixedMatrix,
        MixedOrientation, InvalidOrientation, DuplicateSlices, MissingSlices, NonUniformSpacing, GantryTilt,
        ShiftedSlices, InconsistentFrameOfReference, MissingFrameOfReference, MixedAcquisitions.
    """
    arrival = sorted(
        range(len(headers)), key=lambda index: (headers[index].sop_instance_uid, headers[index].frame_number or 0)
    )
    ordered = [headers[index] for index in arrival]
    geometry = _assess(ordered, policy, interpolate=uneven_spacing is UnevenSpacing.RESAMPLE)
    return replace(geometry, order=tuple(arrival[index] for index in geometry.order))


def in_plane_directions(header: InstanceHeader) -> tuple[Vector, Vector] | None:
    """Return the unit vectors of increasing column and row index, in LPS; None where the header has none."""
    if not _is_usable(header.image_orientation_patient, 6):
        return None
    cosines = np.array(header.image_orientation_patient, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(cosines.reshape(2, 3), axis=1), 1e-12)
    return cosines[:3] / lengths[0], cosines[3:] / lengths[1]


def is_placed(header: InstanceHeader) -> bool:
    """Tell whether a slice says where it lies."""
    return _is_usable(header.image_position_patient, 3) and _is_usable(header.image_orientation_patient, 6)


def places_along_normal(headers: Sequence[InstanceHeader]) -> Vector:
    """Return where the slices lie along the normal of the first that has one [mm]; of those that say where they lie."""
    placed = _placed(headers)
    return _Stacked(placed).along if placed else np.zeros(0)


def _assess(headers: Sequence[InstanceHeader], policy: FrameOfReferencePolicy, *, interpolate: bool) -> VolumeGeometry:
    placed, sized = _placed(headers), [header for header in headers if _has_pixels(header)]
    reasons = [*_count_reasons(headers), *_plane_attribute_reasons(headers), *_matrix_reasons(sized)]
    frames, notes = _frame_of_reference_reasons(headers, policy)
    orientation = _orientation_reasons(placed)
    reasons += [*orientation, *frames]
    if placed and not orientation:
        pixel_mm = min((min(header.pixel_spacing or ()) for header in sized), default=np.inf)
        reasons += _Stacked(placed).reasons(pixel_mm, interpolate=interpolate, complete=len(placed) == len(headers))
    if reasons:
        raise StudyRefused(reasons)
    return _grid(_Stacked(headers), notes)


def _grid(stacked: _Stacked, notes: Sequence[str]) -> VolumeGeometry:
    first = stacked.headers[int(stacked.order[0])]
    along = stacked.along[stacked.order]
    even = is_even(along)
    # The slices' step is along the normal: what is left of it sideways is under half a pixel at the last slice.
    step = float(along[-1] - along[0]) / (len(along) - 1) if even else even_step(along)
    row_spacing, column_spacing = first.pixel_spacing or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, 0] = stacked.normal * step
    affine[:3, 1] = stacked.row_direction * row_spacing
    affine[:3, 2] = stacked.column_direction * column_spacing
    affine[:3, 3] = first.image_position_patient
    return VolumeGeometry(
        order=tuple(int(index) for index in stacked.order),
        affine=affine,
        spacing=(step, row_spacing, column_spacing),
        frame_of_reference_uid=first.frame_of_reference_uid,
        notes=(*notes, *(() if even else (_note_of_interpolation(along, step),))),
        offsets=() if even else tuple((along - along[0]).tolist()),
    )


def _note_of_interpolation(along: Vector, step: float) -> str:
    gaps = np.diff(along)
    return (
        f"The slices are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm); they were interpolated to "
        f"{step:.2f} mm for the model."
    )


class _Stacked:
    """Slices in the order in which they lie along the normal of the first.

    Parameters
    ----------
    headers
        At least one; each says where it lies.
    """

    def __init__(self, headers: Sequence[InstanceHeader]) -> None:
        self.headers = headers
        directions = in_plane_directions(headers[0])
        self.column_direction, self.row_direction = directions or (np.zeros(3), np.zeros(3))
        self.normal = np.cross(self.column_direction, self.row_direction)
        self.positions = np.array([header.image_position_patient for header in headers], dtype=np.float64)
        self.along: Vector = self.positions @ self.normal
        self.order = np.argsort(self.along, kind="stable")

    def reasons(self, pixel_mm: float, *, interpolate: bool, complete: bool) -> list[Reason]:
        """Return what is wrong with where the slices lie."""
        return [
            *spacing_reasons(self.along[self.order], interpolate=interpolate, complete=complete),
            *across_reasons(self.positions[self.order], self.normal, pixel_mm),
        ]


def _reason(code: str, words: str, **numbers: float | int | str) -> Reason:
    return Reason(code, words, numbers)


def _count_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    if len(headers) >= FEWEST_SLICES:
        return []
    words = f"The series has {len(headers)} slice(s), a volume needs {FEWEST_SLICES}."
    return [_reason("TooFewSlices", words, slices=len(headers), fewest=FEWEST_SLICES)]


def _is_usable(value: Sequence[float] | None, count: int, smallest: float = -_LARGEST_VALUE) -> bool:
    return value is not None and len(value) == count and smallest <= min(value) <= max(value) <= _LARGEST_VALUE


def _plane_attributes(header: InstanceHeader) -> dict[str, bool]:
    """Return for each attribute that places and sizes a slice whether it can be used."""
    return {
        "ImagePositionPatient": _is_usable(header.image_position_patient, 3),
        "ImageOrientationPatient": _is_usable(header.image_orientation_patient, 6),
        "PixelSpacing": _is_usable(header.pixel_spacing, 2, _SMALLEST_PIXEL_MM),
        "Rows": _is_usable((header.rows or 0,), 1, 1),
        "Columns": _is_usable((header.columns or 0,), 1, 1),
    }


def _placed(headers: Sequence[InstanceHeader]) -> list[InstanceHeader]:
    return [header for header in headers if is_placed(header)]


def _has_pixels(header: InstanceHeader) -> bool:
    usable = _plane_attributes(header)
    return usable["PixelSpacing"] and usable["Rows"] and usable["Columns"]


def _plane_attribute_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    lacking = Counter(name for header in headers for name, usable in _plane_attributes(header).items() if not usable)
    return [
        _reason(
            "MissingGeometry", f"{count} of {len(headers)} images have no usable {name}.", attribute=name, images=count
        )
        for name, count in lacking.items()
    ]


def _matrix_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    sizes = Counter((header.rows, header.columns) for header in headers)
    reasons = []
    if len(sizes) > 1:
        listed = ", ".join(f"{rows}x{columns} ({count})" for (rows, columns), count in sizes.most_common(_MOST_LISTED))
        more = ", ..." if len(sizes) > _MOST_LISTED else ""
        reasons.append(_reason("MixedMatrix", f"The images have several sizes: {listed}{more}.", sizes=len(sizes)))
    spacings = [header.pixel_spacing or (0.0, 0.0) for header in headers]
    if spacings and not np.allclose(spacings, spacings[0], rtol=1e-3, atol=1e-4):
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


def _orientation_reasons(headers: Sequence[InstanceHeader]) -> list[Reason]:
    if not headers:
        return []
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
    if len(frames) <= 1:
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
