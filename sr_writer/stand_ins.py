"""What highdicom is shown in place of the source images: their geometry and references, and no identity at all.

Real headers make highdicom refuse, and it copies what it is shown. So it sees these, and the object gets the source's
identity afterwards, byte for byte. All stand-ins share one Frame of Reference: a series may be accepted by its
positions although every slice carries its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from pydicom.dataset import Dataset

from sr_writer.carrying import carry
from study.errors import EncodingError, GeometryMismatch
from study.imaging import Affine

_CARRIED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
POSITION_TOLERANCE_MM = 0.1
"""How far a voxel may lie from where its source image says; positions are often rounded to 0.01 mm or worse."""


def stand_ins(sources: Sequence[Dataset], which: Sequence[int], spacing_between_slices: float) -> dict[int, Dataset]:
    """Return stand-ins for some of the source images, by their indices.

    Parameters
    ----------
    spacing_between_slices
        How thick a voxel of the result's grid is where the source states no Slice Thickness [mm].
    """
    if not sources:
        raise EncodingError("A result needs at least one source image.")
    frame_of_reference_uid = str(sources[0].get("FrameOfReferenceUID", ""))
    if not frame_of_reference_uid:
        raise EncodingError("The source images have no Frame of Reference UID.")
    return {index: _stand_in(sources[index], frame_of_reference_uid, spacing_between_slices) for index in which}


def _stand_in(source: Dataset, frame_of_reference_uid: str, spacing_between_slices: float) -> Dataset:
    neutral = Dataset()
    neutral.update(_nobody())
    carry(source, _CARRIED, neutral)
    neutral.FrameOfReferenceUID = frame_of_reference_uid
    neutral.PositionReferenceIndicator = ""
    neutral.SliceThickness = f"{slice_thickness(source) or spacing_between_slices:.10g}"
    return neutral


@cache
def _nobody() -> Dataset:
    """Return the identity that every stand-in has: none."""
    empty = Dataset()
    for keyword in _EMPTY:
        setattr(empty, keyword, "")
    return empty


def slice_thickness(source: Dataset) -> float | None:
    """Return the Slice Thickness [mm] that a source image states; None where it states none that is usable."""
    try:
        stated = float(source.get("SliceThickness") or 0.0)
    except (ValueError, TypeError, OverflowError):  # pydicom converts malformed text only here
        return None
    return stated if np.isfinite(stated) and stated > 0 else None


def demand_grid(affine: Affine, shape: tuple[int, ...], sources: Sequence[Dataset]) -> None:
    """Return if an array with this affine and shape lies on the grid of the source images, slice by slice.

    Parameters
    ----------
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    shape
        (slices, rows, columns).

    Raises
    ------
    GeometryMismatch
        With how far it is off [mm], or with both shapes.
    """
    expected = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if shape != expected:
        raise GeometryMismatch(f"The label map is {shape}, the source series is {expected} (slices, rows, columns).")
    off = max(_distance(affine, index, source) for index, source in enumerate(sources))
    # Half a voxel is what a series may stray that is accepted as a volume: nothing lands in a neighbour.
    if off > max(POSITION_TOLERANCE_MM, 0.5 * float(np.linalg.norm(affine[:3, :3], axis=0).min())):
        raise GeometryMismatch(
            f"The label map lies up to {off:.2f} mm off its source images.", {"off_mm": round(off, 3)}
        )


def _distance(affine: Affine, index: int, source: Dataset) -> float:
    """Return how far the corners of slice `index` are from those of its source image [mm]."""
    rows, columns = int(source.Rows) - 1, int(source.Columns) - 1
    corners = np.array([[index, row, column, 1] for row in (0, rows) for column in (0, columns)], dtype=np.float64)
    mapped = corners @ affine.T
    return float(np.abs(mapped[:, :3] - corners[:, 1:3] @ plane_axes(source) - plane_origin(source)).max())


def plane_origin(source: Dataset) -> Affine:
    """Return (3,), the centre of the first pixel in LPS [mm]."""
    return np.array(source.ImagePositionPatient, dtype=np.float64)


def plane_axes(source: Dataset) -> Affine:
    """Return (2, 3), the step from one row to the next and from one column to the next in LPS [mm]."""
    cosines = np.array(source.ImageOrientationPatient, dtype=np.float64)
    row_spacing, column_spacing = (float(value) for value in source.PixelSpacing)
    return np.stack([cosines[3:] * row_spacing, cosines[:3] * column_spacing])
