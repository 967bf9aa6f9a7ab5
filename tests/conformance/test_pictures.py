"""Programs that others wrote take our pictures: a validator finds no error, an archive stores, readers read them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from scp.sending.sender import send_files
from sr_writer.results import write_results
from study.forms import Form, Variant
from study.imaging import ResultSet
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.orthanc import running_orthanc
from tests.support.peers import program, shared
from tests.support.pictures import pixels_of
from tests.support.results import (
    CONTEXT,
    MODEL,
    PROJECTIONS,
    assessments,
    headers_of,
    headers_on_disk,
    lungs,
    radiograph,
    result_of,
)
from tests.support.series import axial_affine
from tests.support.validators import dcentvfy_errors, dciodvfy_errors

SHAPE = (10, 40, 60)
ORDER = (3, 0, 9, 6, 1, 8, 4, 2, 7, 5)
NAMES: dict[str, dict[str, Any]] = {
    "cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люксембург^Роза"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "latin1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
    "sparse": {"SliceThickness": "", "AccessionNumber": "", "ReferringPhysicianName": None, "PatientBirthDate": None},
}
VARIANTS = (
    Variant(Form.SC, most_images=2),
    Variant(Form.SC, most_images=1, compressed=True),
    Variant(Form.PDF),
)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, 200, shape[1:]).astype(np.float32)


def written(result: ResultSet, sources: list[Dataset], folder: Path) -> list[Path]:
    pixels = noise((len(sources), int(sources[0].Rows), int(sources[0].Columns)))
    objects = write_results(result, sources, MODEL, CONTEXT, folder, VARIANTS, pixels=lambda _: pixels)
    return [folder / each.path for each in objects]


def demand_no_error(paths: list[Path]) -> None:
    for path in paths:
        assert dciodvfy_errors(path, "EncapsulatedPDF" if path.name == "pdf.dcm" else "SCImage") == []
    assert dcentvfy_errors(*paths) == []


@pytest.mark.parametrize("name", NAMES)
def test_dciodvfy_finds_no_error(name: str, tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes=NAMES[name])
    demand_no_error(written(result_of(lungs(SHAPE)), sources, tmp_path))


@pytest.mark.parametrize("modality", PROJECTIONS)
def test_pictures_of_radiographs_make_no_error(modality: str, tmp_path: Path) -> None:
    images = radiograph(tmp_path / "in", modality)
    demand_no_error(written(ResultSet(None, (), ("A limit.",), assessments=assessments()), images, tmp_path))


def test_pictures_of_frames_make_no_error(tmp_path: Path) -> None:
    multi = enhanced_image(np.zeros(SHAPE), axial_affine(), ORDER, "MR")
    sources = frame_headers(multi, ORDER, tmp_path / "in")
    demand_no_error(written(result_of(lungs(SHAPE)), sources, tmp_path))


def test_pictures_of_a_real_chest_ct_make_no_error(tmp_path: Path) -> None:
    sources, affine = headers_of(shared("data", "ct_chest_lidc_0314"))
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    demand_no_error(written(result_of(lungs(shape), affine), sources, tmp_path))


def test_dcmtk_reads_the_same_pixels(tmp_path: Path) -> None:
    converter = program("dcm2pnm", package="dcmtk")
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    paths = [path for path in written(result_of(lungs(SHAPE)), sources, tmp_path) if path.name.startswith("sc")]
    assert len(paths) == 3
    for path in paths:
        subprocess.run([converter, path, tmp_path / "read.ppm"], check=True, capture_output=True)
        with Image.open(tmp_path / "read.ppm") as image:
            assert (np.asarray(image) == pixels_of(dcmread(path))).all()


def test_poppler_reads_the_page(tmp_path: Path) -> None:
    reader, extractor = program("pdftotext", package="poppler-utils"), program("dcm2pdf", package="dcmtk")
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes=NAMES["japanese"])
    written(result_of(lungs(SHAPE)), sources, tmp_path)
    subprocess.run([extractor, tmp_path / "pdf.dcm", tmp_path / "page.pdf"], check=True, capture_output=True)
    run = subprocess.run([reader, tmp_path / "page.pdf", "-"], check=True, capture_output=True, text=True)
    assert run.stderr == ""
    for words in ("Yamada, Tarou / 山田 太郎 / やまだ たろう", "Right lung", "1700.3 mL", "NOT FOR DIAGNOSTIC USE"):
        assert words in " ".join(run.stdout.split())


def test_an_archive_takes_them_as_they_are(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    paths = written(result_of(lungs(SHAPE)), sources, tmp_path)
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        assert [sent.error for sent in send_files(orthanc.peer, "HILUM", paths)] == [None] * len(paths)
        study = str(sources[0].StudyInstanceUID)
        for path in orthanc.download(tmp_path / "back", StudyInstanceUID=study):
            back = dcmread(path)
            sent = next(dcmread(each) for each in paths if dcmread(each).SOPInstanceUID == back.SOPInstanceUID)
            content = "EncapsulatedDocument" if "EncapsulatedDocument" in sent else "PixelData"
            assert back.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
            assert back[content].value == sent[content].value
        pictures = [path for path in paths if path.name.startswith("sc")]
        for path in pictures:
            uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
            (found,) = orthanc.instances(SOPInstanceUID=str(uid))
            rendered = orthanc.get_bytes(f"/instances/{found['ID']}/preview")
            (tmp_path / "preview.png").write_bytes(rendered)
            with Image.open(tmp_path / "preview.png") as image:
                assert (np.asarray(image) == pixels_of(dcmread(path))).all()


def test_a_picture_of_a_feet_first_series_has_its_own_sides(tmp_path: Path) -> None:
    affine = axial_affine()
    affine[:3, 1] *= -1
    affine[:3, 2] *= -1
    sources = headers_on_disk(tmp_path / "in", SHAPE, affine=affine, attributes={"PatientPosition": "HFP"})
    result = result_of(lungs(SHAPE), affine)
    paths = written(replace(result, findings=result.findings[:1]), sources, tmp_path)
    demand_no_error(paths)
    assert list(dcmread(paths[0]).PatientOrientation) == ["R", "A"]
