"""Whether a label map lies where its source images are, slice by slice (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.source.images import Planes, SourceImages
from study.errors import EncodingError, GeometryMismatch
from study.imaging import LabelMap

Vectors = NDArray[np.float64]

POSITION_TOLERANCE_MM = 0.1
"""How far a voxel may lie from where its source image says; positions are often rounded to 0.01 mm or worse."""

_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def has_place(source: Dataset) -> bool:
    """Tell whether an image has a plane in the patient; a radiograph has none."""
    return not _lacking(source)


def _lacking(source: Dataset) -> set[str]:
    return {keyword for keyword in _PLANE if not source.get(keyword)}


def demand_place(sources: Sequence[Dataset]) -> None:
    """Return if every source image has a place in the patient, in a Frame of Reference.

    Raises
    ------
    EncodingError
        If an image lacks what says so, in words.
    """
    if not sources:
        raise EncodingError("A result needs at least one source image.")
    lacking = sorted(frozenset[str]().union(*SourceImages.of(sources).lacking))
    if lacking:
        raise EncodingError(
            f"The source images have no place in the patient (no {', '.join(lacking)}), so no region can be written."
        )
    if not sources[0].get("FrameOfReferenceUID"):
        raise EncodingError("The source images have no Frame of Reference UID.")


def demand_grid(label_map: LabelMap, sources: Sequence[Dataset]) -> None:
    """Return if a label map lies on the grid of the source images, slice by slice.

    Raises
    ------
    GeometryMismatch
        With how far it is off [mm], or with both shapes.
    EncodingError
        If the source images have no place in the patient.
    """
    sources = SourceImages.of(sources)
    demand_place(sources)
    expected = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    for layer in label_map.layers:
        if layer.shape != expected:
            raise GeometryMismatch(
                f"The label map is {layer.shape}, the source series is {expected} (slices, rows, columns)."
            )
    if label_map.offsets and len(label_map.offsets) != len(sources):
        raise GeometryMismatch(
            f"The label map has {len(label_map.offsets)} places of slices for {len(sources)} images."
        )
    origins, axes = slice_origins(label_map), label_map.affine[:3, 1:3].T
    off = float(np.max(_distances(origins, axes, sources.planes)))
    # Half a voxel is what a series may stray that is accepted as a volume: nothing lands in a neighbour
    smallest = min(slice_step(label_map), *np.linalg.norm(axes, axis=1))
    # ... and what is no number is off too
    if not off <= max(POSITION_TOLERANCE_MM, 0.5 * float(smallest)):
        raise GeometryMismatch(
            f"The label map lies up to {off:.2f} mm off its source images.", {"off_mm": round(off, 3)}
        )


def slice_origins(label_map: LabelMap) -> Vectors:
    """Return (slices, 3), the centre of the first voxel of each slice in LPS [mm]."""
    step = label_map.affine[:3, 0]
    steps: Vectors = np.arange(len(label_map.values))[:, None] * step
    if label_map.offsets:
        steps = np.array(label_map.offsets)[:, None] * (step / np.linalg.norm(step))
    origins: Vectors = label_map.affine[:3, 3] + steps
    return origins


def slice_step(label_map: LabelMap) -> float:
    """Return the smallest distance from one slice to the next [mm]."""
    if len(label_map.offsets) > 1:
        return float(np.abs(np.diff(label_map.offsets)).min())
    return float(np.linalg.norm(label_map.affine[:3, 0]))


def _distances(origins: Vectors, axes: Vectors, planes: Planes) -> Vectors:
    """Return how far the corners of each slice are from those of its source image [mm]."""
    rows, columns = (planes.shapes - 1).T.astype(np.float64)
    none = np.zeros_like(rows)
    corners = np.stack([[none, none], [none, columns], [rows, none], [rows, columns]]).transpose(2, 0, 1)
    along = np.stack(
        [planes.cosines[:, 3:] * planes.spacings[:, :1], planes.cosines[:, :3] * planes.spacings[:, 1:]], 1
    )
    away = (origins - planes.origins)[:, None] + corners @ axes - corners @ along
    distances: Vectors = np.abs(away).max(axis=(1, 2))
    return distances


def plane_origin(source: Dataset) -> Vectors:
    """Return (3,), the centre of the first pixel in LPS [mm]."""
    return np.array(source.ImagePositionPatient, dtype=np.float64)


def plane_axes(source: Dataset) -> Vectors:
    """Return (2, 3), the step from one row to the next and from one column to the next in LPS [mm]."""
    cosines = np.array(source.ImageOrientationPatient, dtype=np.float64)
    row_spacing, column_spacing = (float(value) for value in source.PixelSpacing)
    return np.stack([cosines[3:] * row_spacing, cosines[:3] * column_spacing])


def slice_thickness(source: Dataset) -> float | None:
    """Return the Slice Thickness [mm] that a source image states; None where it states none that is usable."""
    try:
        stated = float(source.get("SliceThickness") or 0.0)
    except (ValueError, TypeError, OverflowError):  # pydicom converts malformed text only here
        return None
    return stated if np.isfinite(stated) and stated > 0 else None
