"""The studies that are measured: a real chest CT where there is one, and a generated thorax of any number of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.misc import is_dicom
from pydicom.uid import generate_uid

from tests.support.peers import SHARED
from tests.support.phantoms import thorax
from tests.support.series import axial_affine, ct_series, save_series

SPACING = (0.6, 0.75, 0.75)
"""Of the generated thorax, along (slice, row, column) [mm]: 500 slices of 512 x 512 are 30 cm of a chest."""

_NOISE_HU = 15.0


@dataclass(frozen=True)
class Study:
    """A study of one series on disk."""

    name: str
    paths: tuple[Path, ...]
    rows: int
    columns: int

    @property
    def volume_bytes(self) -> int:
        """The size of the series as one float32 volume [bytes]."""
        return len(self.paths) * self.rows * self.columns * 4


def real_chest() -> Path | None:
    """Return the folder of the real chest CT beside the checkout, None where it is not there."""
    folder = SHARED / "data" / "ct_chest_lidc_0314"
    return folder if folder.is_dir() else None


def study_in(folder: Path, name: str) -> Study:
    """Return the study whose files lie in `folder`.

    Raises
    ------
    SystemExit
        If there is no DICOM file.
    """
    paths = tuple(path for path in sorted(folder.rglob("*")) if path.is_file() and is_dicom(path))
    if not paths:
        raise SystemExit(f"there is no DICOM file in {folder}")
    first = dcmread(paths[0], stop_before_pixels=True)
    return Study(name, paths, int(first.Rows), int(first.Columns))


def generate_thorax(folder: Path, slices: int, matrix: int = 512, spacing: tuple[float, float] | None = None) -> Study:
    """Write a thorax phantom, one plane at a time, so that its size costs no memory.

    Parameters
    ----------
    slices, matrix
        How many planes of `matrix` x `matrix` pixels.
    spacing
        Between planes, and between pixels [mm]; by default the field of view is the same for every matrix.
    """
    between, in_plane = spacing or (SPACING[0], SPACING[1] * 512 / matrix)
    corner = -(matrix - 1) / 2 * in_plane
    affine = axial_affine((between, in_plane, in_plane), (corner, corner, -(slices - 1) / 2 * between))
    noise = np.random.default_rng(7)
    study, series, frame = (str(generate_uid()) for _ in range(3))
    paths = []
    for index in range(slices):
        at_index = affine.copy()
        at_index[:, 3] = affine @ (index, 0, 0, 1)
        plane = thorax(at_index, (1, matrix, matrix), noise=0.0).volume.voxels
        plane = np.clip(plane + noise.normal(0.0, _NOISE_HU, plane.shape), -1024.0, 3071.0)
        images = ct_series(
            plane,
            at_index,
            attributes={"FrameOfReferenceUID": frame},
            study_instance_uid=study,
            series_instance_uid=series,
            instance_numbers=[index + 1],
        )
        (path,) = save_series(images, folder / "one")
        paths.append(path.rename(folder / f"{index:05d}.dcm"))
    (folder / "one").rmdir()
    return Study(f"generated thorax, {slices} slices", tuple(paths), matrix, matrix)


def copy_as_new(paths: Sequence[Path], folder: Path) -> tuple[str, list[Path]]:
    """Write the images as a study that nobody has seen: new Study, Series and SOP Instance UIDs, all else the same.

    Returns
    -------
    tuple
        The Study Instance UID, and the files.
    """
    folder.mkdir(parents=True)
    study, series = str(generate_uid()), str(generate_uid())
    copies = []
    for index, path in enumerate(paths):
        dataset = dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        copies.append(folder / f"{index:05d}.dcm")
        dataset.save_as(copies[-1], enforce_file_format=True)
    return study, copies
