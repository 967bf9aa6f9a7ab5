"""Two files of one image show the same in every lossless encoding; a changed value, bit or lossy form shows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from inference.showing import shown_by
from tests.support.enhanced import enhanced_image
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.series import axial_affine, ct_series


def image() -> Dataset:
    voxels = np.random.default_rng(1).integers(-1000, 3000, (1, 64, 64))
    made = ct_series(voxels, study_instance_uid="1.2.3", series_instance_uid="1.2.4")[0]
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.5")
    made.FrameOfReferenceUID = "1.2.6"
    made.add_new(0x00091010, "LO", "private")
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "One"
    made.ProcedureCodeSequence = [item]
    return made


def show(dataset: Dataset, folder: Path, syntax: str = ExplicitVRLittleEndian) -> tuple[str, str]:
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEG2000:
        dataset.compress(syntax, generate_instance_uid=False, j2k_cr=[10])
    else:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(folder / "image.dcm", enforce_file_format=True)
    return shown_by(folder / "image.dcm")


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless],
)
def test_every_lossless_encoding_shows_the_same(tmp_path: Path, syntax: str) -> None:
    assert show(image(), tmp_path, syntax) == show(image(), tmp_path)


@pytest.mark.parametrize("name", ["dcmcrle", "dcmcjpls", "dcmcjpeg"])
def test_what_other_programs_compress_shows_the_same(tmp_path: Path, name: str) -> None:
    plain = show(image(), tmp_path)
    command = [program(name, package="dcmtk"), str(tmp_path / "image.dcm"), str(tmp_path / "compressed.dcm")]
    subprocess.run(command, check=True, env=DCMTK_ENVIRONMENT, timeout=60)
    assert shown_by(tmp_path / "compressed.dcm") == plain


def test_signed_pixels_with_unused_bits_show_the_same(tmp_path: Path) -> None:
    def signed() -> Dataset:
        made = image()
        values = np.random.default_rng(2).integers(-2048, 2047, (64, 64)).astype("<i2")
        made.PixelRepresentation, made.BitsStored, made.HighBit = 1, 12, 11
        made.PixelData = values.tobytes()
        return made

    assert show(signed(), tmp_path, JPEGLSLossless) == show(signed(), tmp_path)
    bare = signed()
    bare.PixelData = (np.frombuffer(bare.PixelData, "<u2") & 0x0FFF).tobytes()
    assert show(bare, tmp_path) == show(signed(), tmp_path)


def test_frames_show_the_same(tmp_path: Path) -> None:
    def frames() -> Dataset:
        made: Dataset = enhanced_image(np.arange(3 * 64).reshape(3, 8, 8), axial_affine(), range(3))
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.7")
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "1.2.3", "1.2.4", "1.2.6"
        return made

    assert show(frames(), tmp_path, RLELossless)[1] == show(frames(), tmp_path)[1]


def rename(dataset: Dataset) -> None:
    dataset.PatientName = "Other^Name"


def recode(dataset: Dataset) -> None:
    dataset.ProcedureCodeSequence[0].CodeValue = "2"


def alter(dataset: Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]


def not_lossy(dataset: Dataset) -> None:
    dataset.LossyImageCompression = "00"


@pytest.mark.parametrize(
    ("change", "same"),
    [(rename, (False, True)), (recode, (False, True)), (alter, (True, False)), (not_lossy, (True, True))],
)
def test_a_change_shows_in_its_digest(
    tmp_path: Path, change: Callable[[Dataset], None], same: tuple[bool, bool]
) -> None:
    before, changed = show(image(), tmp_path), image()
    change(changed)
    after = show(changed, tmp_path)
    assert (after[0] == before[0], after[1] == before[1]) == same


def test_a_lossy_form_has_other_pixels(tmp_path: Path) -> None:
    assert show(image(), tmp_path, JPEG2000)[1] != show(image(), tmp_path)[1]


def test_an_object_without_pixels_has_a_header_alone(tmp_path: Path) -> None:
    bare = image()
    del bare.PixelData
    header, pixels = show(bare, tmp_path)
    assert header == show(image(), tmp_path)[0]
    assert pixels != show(image(), tmp_path)[1]
