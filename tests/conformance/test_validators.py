"""Programs that others wrote read our objects: validators find no error, readers find our mask and our numbers."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.notices import write_notices
from sr_writer.results import write_results
from sr_writer.sr.rounding import rounded
from study import codes
from study.errors import Reason
from study.forms import REPORTS, Form, Variant
from study.imaging import Finding, LabelMap, ResultSet
from tests.support.comparisons import compared_lungs
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.peers import program, shared
from tests.support.results import (
    CONTEXT,
    MODEL,
    PROJECTIONS,
    SEGMENTS,
    assessments,
    headers_of,
    headers_on_disk,
    lungs,
    nested,
    philips_frames,
    predecessor,
    radiograph,
    result_of,
    sides,
    variants_of,
)
from tests.support.series import axial_affine
from tests.support.validators import (
    dcentvfy_errors,
    dciodvfy_errors,
    dcmqi_label_map,
    dcmqi_masks,
    dcmqi_numbers,
    dcmqi_report,
    sr_validator_errors,
)

Affine = NDArray[np.float64]

SYNTHETIC: dict[str, dict[str, Any]] = {
    "cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люксембург^Роза"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "utf8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Wang^XiaoDong=王^小東"},
    "latin1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
    "sparse": {"SliceThickness": "", "AccessionNumber": "", "ReferringPhysicianName": None, "PatientBirthDate": None},
}
REASONS = (Reason("MissingSlices", "Slice gap of 7.00 mm between the slices at 12.00 mm and 19.00 mm."),)
REAL = ("ct_chest_lidc_0314", "ct_head_philips_study")
MULTI_FRAME = ("enhanced_ct", "enhanced_mr", "mr_philips_enhanced")
SHAPE = (10, 20, 28)
ORDER = (3, 0, 9, 6, 1, 8, 4, 2, 7, 5)
"""The slice that each frame of a generated multi-frame image shows."""


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    sources: list[Dataset]
    result: ResultSet

    @property
    def seg(self) -> Path:
        return self.folder / "seg.dcm"

    @property
    def sr(self) -> Path:
        return self.folder / "sr.dcm"


def _sources(name: str, folder: Path) -> tuple[list[Dataset], Affine]:
    if name == "ct_head_philips_study":
        axial = next(
            path for path in sorted(shared("data", name).iterdir()) if path.is_dir() and len(list(path.glob("*"))) > 20
        )
        return headers_of(axial)
    if name == "mr_philips_enhanced":
        return philips_frames(shared("data", name, "enhanced"))
    if name in REAL:
        return headers_of(shared("data", name))
    if name in MULTI_FRAME:
        affine = _tilted()
        multi = enhanced_image(np.zeros(SHAPE), affine, ORDER, name[-2:].upper())
        return frame_headers(multi, ORDER, folder / "in"), affine
    return headers_on_disk(folder / "in", SHAPE, attributes=SYNTHETIC[name]), axial_affine()


def _tilted() -> Affine:
    angle = np.radians(17)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted: Affine = turn @ axial_affine()
    return tilted


@pytest.fixture(scope="module", params=[*SYNTHETIC, *REAL, *MULTI_FRAME])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    sources, affine = _sources(request.param, folder)
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    absent = Finding("nodule", "Nodule", codes.ANATOMICAL_STRUCTURE, codes.BOTH_LUNGS, (), detected=False)
    result = result_of(lungs(shape), affine)
    result = ResultSet(result.label_map, (*result.findings, absent), result.limits)
    variants = variants_of("seg", "sr", "sr_segments", "sr_comprehensive")
    before = tuple(predecessor(each.key) for each in variants if each.form in REPORTS)
    write_results(result, sources, MODEL, replace(CONTEXT, predecessors=before), folder, variants)
    write_notices(REASONS, sources, MODEL, CONTEXT, folder, [Variant(Form.REFUSAL)], failed=False)
    return Case(request.param, folder, sources, result)


@pytest.mark.parametrize(
    ("name", "iod"),
    [
        ("seg", "Segmentation"),
        ("sr", "Comprehensive3DSR"),
        ("sr-2", "Comprehensive3DSR"),
        ("sr_segments", "Comprehensive3DSR"),
        ("sr_comprehensive", "ComprehensiveSR"),
        ("sr_comprehensive-2", "ComprehensiveSR"),
        ("refusal", "BasicTextSR"),
    ],
)
def test_dciodvfy_finds_no_error(case: Case, name: str, iod: str) -> None:
    assert dciodvfy_errors(case.folder / f"{name}.dcm", iod) == []


def test_dcentvfy_finds_one_patient_and_study_in_all(case: Case) -> None:
    files = sorted(case.folder.glob("*.dcm"))
    assert len(files) == 7
    assert dcentvfy_errors(*files) == []


@pytest.mark.parametrize(
    ("case", "name", "template"),
    [
        ("japanese", "sr", "TID_1500"),
        ("cyrillic", "sr-2", ""),
        ("enhanced_mr", "sr_segments", "TID_1500"),
        ("sparse", "sr_comprehensive", "TID_1500"),
        ("utf8", "refusal", ""),
        ("ct_chest_lidc_0314", "sr", "TID_1500"),
    ],
    indirect=["case"],
)
def test_dicom_sr_validator_finds_no_error(case: Case, name: str, template: str) -> None:
    assert sr_validator_errors(case.folder / f"{name}.dcm", template) == []


def test_segimage2itkimage_gives_back_the_mask_voxel_for_voxel(case: Case, tmp_path: Path) -> None:
    assert case.result.label_map is not None
    expected = case.result.label_map
    found = dcmqi_label_map(case.seg, expected.affine, expected.values.shape, tmp_path)
    assert (found == expected.values).all()


@pytest.mark.parametrize("form", ["sr", "sr_segments", "sr_comprehensive"])
def test_tid1500reader_reads_our_measurements(case: Case, form: str, tmp_path: Path) -> None:
    read = dcmqi_report(case.folder / f"{form}.dcm", tmp_path)
    detected = [finding for finding in case.result.findings if finding.detected]
    assert [group["TrackingIdentifier"] for group in read["Measurements"]] == [finding.label for finding in detected]
    seg = dcmread(case.seg, stop_before_pixels=True).SOPInstanceUID
    for group, finding in zip(read["Measurements"], detected, strict=True):
        assert group["FindingSite"]["CodeValue"] == finding.site.value
        expected = [
            (each.name.value, rounded(each.value, each.unit.value), each.unit.value) for each in finding.measurements
        ]
        assert dcmqi_numbers(group) == expected
        if form == "sr_segments" and len(finding.segment_values) == 1:
            assert (group["ReferencedSegment"], group["segmentationSOPInstanceUID"]) == (finding.segment_values[0], seg)
    assert (read["CompletionFlag"], read["VerificationFlag"]) == ("COMPLETE", "UNVERIFIED")


def test_dsrdump_reads_the_tree(case: Case) -> None:
    dsrdump = program("dsrdump", package="dcmtk")
    run = subprocess.run([dsrdump, case.sr], capture_output=True, text=True, check=True, errors="replace")
    assert "Imaging Measurement Report" in run.stdout
    assert run.stdout.count("Measurement Group") == 3


def test_segments_that_overlap_come_back_voxel_for_voxel(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    result = nested(shape)
    sources = headers_on_disk(tmp_path / "in", shape)
    write_results(result, sources, MODEL, CONTEXT, tmp_path)
    assert dciodvfy_errors(tmp_path / "seg.dcm", "Segmentation") == []
    (tmp_path / "read").mkdir()
    masks = dcmqi_masks(tmp_path / "seg.dcm", axial_affine(), shape, tmp_path / "read")
    assert result.label_map is not None
    assert sorted(masks) == [1, 2, 3]
    for number, layer in enumerate(result.label_map.layers, 1):
        assert (masks[number] == (layer == number)).all()


def test_uneven_slices_make_no_error(tmp_path: Path) -> None:
    offsets = (0.0, 1.0, 3.4, 4.0, 9.0, 11.1, 12.0, 16.6, 18.0, 21.0)
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    for source, offset in zip(sources, offsets, strict=True):
        source.ImagePositionPatient = [-20, -30, -40 + offset]
    label_map = LabelMap(lungs(SHAPE), axial_affine(), SEGMENTS, offsets=offsets)
    result = ResultSet(label_map, result_of(lungs(SHAPE)).findings)
    write_results(result, sources, MODEL, CONTEXT, tmp_path)
    assert dciodvfy_errors(tmp_path / "seg.dcm", "Segmentation") == []
    assert dciodvfy_errors(tmp_path / "sr.dcm", "Comprehensive3DSR") == []


def _assessed(folder: Path, sources: list[Dataset]) -> tuple[Path, Path]:
    """Write what has no region, in words and as measurements."""
    result = ResultSet(None, sides(), ("A limit.",), assessments=assessments())
    write_results(result, sources, MODEL, CONTEXT, folder, variants_of("sr", "sr_segments"))
    return folder / "sr.dcm", folder / "sr_segments.dcm"


def test_reports_without_a_region_make_no_error(tmp_path: Path) -> None:
    words, measurements = _assessed(tmp_path, headers_on_disk(tmp_path / "in", SHAPE))
    for report in (words, measurements):
        assert dciodvfy_errors(report, "Comprehensive3DSR") == []
    assert sr_validator_errors(measurements) == []
    dsrdump = program("dsrdump", package="dcmtk")
    run = subprocess.run([dsrdump, measurements], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert run.stdout.count("Detection by the algorithm") == 3
    assert '<inferred from IMAGE:(,,"Source")' in run.stdout
    read = dcmqi_report(measurements, tmp_path)
    assert [group["TrackingIdentifier"] for group in read["Measurements"]] == ["Right lung", "Left lung"]


@pytest.mark.parametrize("modality", sorted(PROJECTIONS))
def test_assessments_of_a_radiograph_make_no_error(tmp_path: Path, modality: str) -> None:
    words, measurements = _assessed(tmp_path, radiograph(tmp_path / "in", modality))
    for report in (words, measurements):
        assert dciodvfy_errors(report, "Comprehensive3DSR") == []
    if modality == "DX":  # the one with the most descriptors; the validator is slow
        assert sr_validator_errors(measurements) == []


def test_a_head_without_a_birth_date_is_no_obstacle(tmp_path: Path) -> None:
    # Tilted, so no volume: only its identity is tried here, on slices that are said to be a box
    folder = shared("data", "ct_head_ge_tilted")
    real = dcmread(sorted(folder.glob("**/*.dcm"))[0], stop_before_pixels=True)
    assert "PatientBirthDate" not in real
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    for source in sources:
        for keyword in ("PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"):
            source.pop(keyword, None)
            if keyword in real:
                source[keyword] = real[keyword]
        source.pop("PatientBirthDate")
    assert len(write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path)) == 2
    assert write_notices(REASONS, sources, MODEL, CONTEXT, tmp_path, [Variant(Form.REFUSAL)], failed=True)


def test_others_read_a_comparison_without_error_and_its_numbers_of_now_alone(tmp_path: Path) -> None:
    images = compared_lungs(tmp_path / "in", (4, 12, 16))
    write_results(images.result, images.sources, MODEL, CONTEXT, tmp_path, earlier=images.earlier)
    for name in ("sr.dcm", "sr-2.dcm"):
        assert dciodvfy_errors(tmp_path / name, "Comprehensive3DSR") == []
    assert sr_validator_errors(tmp_path / "sr.dcm") == []
    right = dcmqi_report(tmp_path / "sr.dcm", tmp_path)["Measurements"][0]
    assert dcmqi_numbers(right) == [
        (codes.VOLUME.value, 1700.3, "mL"),
        (codes.ATTENUATION.value, -812.5, "[hnsf'U]"),
        (codes.LAA_950.value, 3.25, "%"),
        (codes.PERCENTILE_15.value, -921.0, "[hnsf'U]"),
    ]
