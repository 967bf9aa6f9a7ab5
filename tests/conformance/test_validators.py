"""Programs that others wrote read our objects: validators find no error, readers find our mask and our numbers."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.results import write_results
from study import codes
from study.imaging import Finding, ResultSet
from tests.support.peers import environment_program, program, shared
from tests.support.results import CONTEXT, MODEL, headers_of, headers_on_disk, lungs, result_of
from tests.support.series import axial_affine

Affine = NDArray[np.float64]
Labels = NDArray[Any]

JAVA = "-Xmx6g -Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
"""Without these DicomSRValidator stops at a limit of Java 17 and still exits 0."""

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
REAL = ("ct_chest_lidc_0314", "ct_head_philips_study")
SHAPE = (10, 20, 28)


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
    if name in REAL:
        return headers_of(shared("data", name))
    return headers_on_disk(folder / "in", SHAPE, attributes=SYNTHETIC[name]), axial_affine()


@pytest.fixture(scope="module", params=[*SYNTHETIC, *REAL])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    sources, affine = _sources(request.param, folder)
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    absent = Finding("nodule", "Nodule", codes.ANATOMICAL_STRUCTURE, codes.BOTH_LUNGS, (), detected=False)
    result = result_of(lungs(shape), affine)
    result = ResultSet(result.label_map, (*result.findings, absent), result.limits)
    write_results(result, sources, MODEL, CONTEXT, folder)
    return Case(request.param, folder, sources, result)


@pytest.mark.parametrize("form", ["seg", "sr"])
def test_dciodvfy_finds_no_error(case: Case, form: str) -> None:
    dciodvfy = program("dciodvfy", package="dicom3tools")
    run = subprocess.run([dciodvfy, "-new", case.folder / f"{form}.dcm"], capture_output=True, text=True, check=False)
    said = run.stdout + run.stderr
    assert ("Segmentation" if form == "seg" else "Comprehensive3DSR") in said
    assert not [line for line in said.splitlines() if line.startswith("Error")], said


def test_dcentvfy_finds_one_patient_and_study_in_both(case: Case) -> None:
    dcentvfy = program("dcentvfy", package="dicom3tools")
    run = subprocess.run([dcentvfy, case.seg, case.sr], capture_output=True, text=True, check=False)
    assert not [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


def test_dicom_sr_validator_finds_no_error(case: Case) -> None:
    validator = program("DicomSRValidator", package="pixelmed-apps")
    environment = os.environ | {"JAVA_TOOL_OPTIONS": JAVA}
    run = subprocess.run(
        [validator, case.sr], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    said = run.stdout + run.stderr
    assert "IOD validation complete" in said, said
    assert "Found Root Template TID_1500" in said
    assert not [line for line in said.splitlines() if line.startswith("Error")], said


def test_segimage2itkimage_gives_back_the_mask_voxel_for_voxel(case: Case, tmp_path: Path) -> None:
    converter = environment_program("segimage2itkimage", package="dcmqi")
    options = ["--inputDICOM", str(case.seg), "--outputDirectory", str(tmp_path), "--outputType", "nrrd", "-p", "x"]
    subprocess.run([converter, *options], check=True, capture_output=True, timeout=300)
    assert case.result.label_map is not None
    expected = case.result.label_map
    found: Labels = np.zeros_like(expected.values)
    for number in (1, 2):
        values, affine = read_nrrd(tmp_path / f"x-{number}.nrrd")
        place(values != 0, affine, number, found, expected.affine)
    assert (found == expected.values).all()


def place(mask: NDArray[np.bool_], affine: Affine, number: int, into: Labels, grid: Affine) -> None:
    """Put each voxel of `mask` where its place in the patient says, not where its index does."""
    voxels = np.argwhere(mask)
    places = np.column_stack([voxels, np.ones(len(voxels))]) @ affine.T
    indices = places @ np.linalg.inv(grid).T
    rounded = np.rint(indices[:, :3]).astype(int)
    assert np.abs(indices[:, :3] - rounded).max() < 0.05
    into[tuple(rounded.T)] = number


def read_nrrd(path: Path) -> tuple[Labels, Affine]:
    """Read an NRRD with gzip or raw data: voxels as (k, j, i), and the affine from (k, j, i, 1) to LPS [mm]."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert fields["space"] == "left-posterior-superior"
    sizes = [int(size) for size in fields["sizes"].split()]
    dtype = {"unsigned char": "u1", "short": "<i2", "unsigned short": "<u2"}[fields["type"]]
    content = gzip.decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    voxels = np.frombuffer(content, dtype=dtype).reshape(sizes[::-1])

    def vectors(text: str) -> Affine:
        return np.array([[float(x) for x in part.strip("()").split(",")] for part in text.split()])

    affine = np.eye(4)
    affine[:3, :3] = vectors(fields["space directions"])[::-1].T
    affine[:3, 3] = vectors(fields["space origin"])[0]
    return voxels, affine


def test_tid1500reader_reads_our_measurements(case: Case, tmp_path: Path) -> None:
    reader = environment_program("tid1500reader", package="dcmqi")
    out = tmp_path / "read.json"
    subprocess.run([reader, "--inputDICOM", case.sr, "--outputMetadata", out], check=True, capture_output=True)
    read = json.loads(out.read_text())
    detected = [finding for finding in case.result.findings if finding.detected]
    assert [group["TrackingIdentifier"] for group in read["Measurements"]] == [finding.label for finding in detected]
    for group, finding in zip(read["Measurements"], detected, strict=True):
        assert group["FindingSite"]["CodeValue"] == finding.site.value
        numbers = [
            (item["quantity"]["CodeValue"], float(item["value"]), item["units"]["CodeValue"])
            for item in group["measurementItems"]
        ]
        assert numbers == [(each.name.value, each.value, each.unit.value) for each in finding.measurements]
    assert (read["CompletionFlag"], read["VerificationFlag"]) == ("COMPLETE", "UNVERIFIED")


def test_dsrdump_reads_the_tree(case: Case) -> None:
    dsrdump = program("dsrdump", package="dcmtk")
    run = subprocess.run([dsrdump, case.sr], capture_output=True, text=True, check=True, errors="replace")
    assert "Imaging Measurement Report" in run.stdout
    assert run.stdout.count("Measurement Group") == 3


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
