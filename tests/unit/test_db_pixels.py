from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from db.images.pixels import pixels_of
from study.errors import ArchiveError
from tests.support.enhanced import enhanced_image
from tests.support.series import axial_affine, ct_series, save_series


@pytest.fixture
def image(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(1).integers(-1000, 1000, (1, 16, 16))
    (path,) = save_series(ct_series(voxels), tmp_path / "image")
    return path


def show_the_same(first: Path, second: Path) -> bool | None:
    return pixels_of(first).are_those_of(pixels_of(second))


def changed(path: Path, change: Callable[[Dataset], object], syntax: str = "") -> Path:
    """Return a file like that at `path`, after `change`, in another Transfer Syntax where one is given."""
    dataset = dcmread(path)
    change(dataset)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    target = path.with_name(f"changed-{syntax}.dcm")
    dataset.save_as(target)
    return target


def correct(dataset: Dataset) -> None:
    dataset.PatientName, dataset.StudyDescription = "Another^Name", "corrected"


def alter(dataset: Dataset) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[7] ^= 1
    dataset.PixelData = bytes(pixels)


@pytest.mark.parametrize("syntax", ["", ImplicitVRLittleEndian], ids=["as it was", "implicit"])
def test_a_corrected_header_shows_the_same_and_one_bit_does_not(image: Path, syntax: str) -> None:
    assert dcmread(image).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert show_the_same(image, changed(image, correct, syntax)) is True
    assert show_the_same(image, changed(image, alter, syntax)) is False


def test_compressed_pixels_are_compared_with_their_like_alone(image: Path) -> None:
    compressed = changed(image, correct, RLELossless).rename(image.with_name("first.dcm"))
    assert show_the_same(image, compressed) is None
    assert show_the_same(compressed, changed(image, lambda _: None, RLELossless)) is True
    assert show_the_same(compressed, changed(image, alter, RLELossless)) is False


def test_what_would_have_to_be_inflated_or_is_no_image_file_is_not_compared(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        pixels_of(changed(image, correct, DeflatedExplicitVRLittleEndian))
    (tmp_path / "none.dcm").write_bytes(bytes(1000))
    with pytest.raises(ArchiveError):
        pixels_of(tmp_path / "none.dcm")


def test_objects_without_pixels_show_nothing_else(image: Path) -> None:
    def strip(dataset: Dataset) -> None:
        del dataset.PixelData

    bare = changed(image, strip).rename(image.with_name("bare.dcm"))
    assert show_the_same(bare, changed(bare, correct)) is True
    assert show_the_same(bare, image) is False


def test_pixels_behind_many_functional_groups_are_found(tmp_path: Path) -> None:
    one = enhanced_image(np.zeros((40, 8, 8)), axial_affine(), range(40))
    one.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    assert show_the_same(tmp_path / "one.dcm", changed(tmp_path / "one.dcm", correct)) is True
    assert show_the_same(tmp_path / "one.dcm", changed(tmp_path / "one.dcm", alter)) is False
