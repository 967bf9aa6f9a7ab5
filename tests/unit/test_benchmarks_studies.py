"""The studies that the benchmarks send: a volume without a gap, and copies that only their UIDs tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from benchmarks.report import Spread
from benchmarks.studies import SPACING, copy_as_new, generate_thorax, study_in
from study.geometry import assess
from study.headers import InstanceHeader


def test_a_generated_thorax_is_one_volume(tmp_path: Path) -> None:
    thorax = generate_thorax(tmp_path / "thorax", slices=6, matrix=64)
    datasets = [dcmread(path) for path in thorax.paths]
    geometry = assess([InstanceHeader.of(dataset) for dataset in datasets])
    assert geometry.order == tuple(range(6))
    assert geometry.spacing == pytest.approx((SPACING[0], SPACING[1] * 8, SPACING[2] * 8))
    assert thorax.volume_bytes == 6 * 64 * 64 * 4
    middle = datasets[3].pixel_array * float(datasets[3].RescaleSlope) + float(datasets[3].RescaleIntercept)
    assert np.mean(middle < -700) > 0.2  # air and lungs
    assert np.mean(np.abs(middle - 40) < 60) > 0.1  # tissue around them
    assert study_in(tmp_path / "thorax", "again").paths == thorax.paths


def test_a_copy_is_a_new_study_of_the_same_images(tmp_path: Path) -> None:
    thorax = generate_thorax(tmp_path / "thorax", slices=3, matrix=32)
    study, paths = copy_as_new(thorax.paths, tmp_path / "copy")
    originals, copies = ([dcmread(path) for path in files] for files in (thorax.paths, paths))
    assert {copy.StudyInstanceUID for copy in copies} == {study} != {originals[0].StudyInstanceUID}
    assert len({dataset.SOPInstanceUID for dataset in [*originals, *copies]}) == 6
    for original, copy in zip(originals, copies, strict=True):
        assert copy.PixelData == original.PixelData
        assert copy.ImagePositionPatient == original.ImagePositionPatient
        assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no DICOM file"):
        study_in(tmp_path, "nothing")


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).words(1) == "2.0 (1.0-3.0)"
