"""Programs that others wrote read our RT Structure Sets: the mask comes back, and a validator finds no error."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer.results import write_results
from study.imaging import LabelMap, ResultSet, Segment
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.peers import DCMTK_ENVIRONMENT, program, shared
from tests.support.phantoms import dice, thorax
from tests.support.results import (
    CONTEXT,
    MODEL,
    SEGMENTS,
    TUMOUR,
    headers_of,
    headers_on_disk,
    lungs,
    nested,
    philips_frames,
    result_of,
    variants_of,
)
from tests.support.series import axial_affine, ct_series, save_series
from tests.support.validators import dcentvfy_errors, dciodvfy_errors

Affine = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]

SHAPE = (6, 44, 56)
FORMS = variants_of("seg", "rtstruct")


def turned(axes: tuple[int, int, int], signs: tuple[int, int, int]) -> Affine:
    """Return an affine whose slices, rows and columns run along these patient axes."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign, step) in enumerate(zip(axes, signs, (2.0, 0.8, 0.7), strict=True)):
        affine[axis, column] = sign * step
    affine[:3, 3] = (-20, -30, -40)
    return affine


def tilted() -> Affine:
    angle = np.radians(17)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    result: Affine = turn @ axial_affine()
    return result


# Slices run along the normal, which is the cross product of the directions of columns and rows
ORIENTATIONS = {
    "axial": axial_affine(),
    "feet first": turned((2, 1, 0), (-1, 1, -1)),
    "sagittal": turned((0, 2, 1), (-1, -1, 1)),
    "sagittal with columns along the body": turned((0, 1, 2), (-1, 1, 1)),
    "coronal": turned((1, 2, 0), (1, -1, 1)),
    "oblique": tilted(),
}


def planes(*masks: Mask) -> Labels:
    """Return a label map with 1, 2, ... where each mask is, on all slices but the first and the last."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    for value, mask in enumerate(masks, 1):
        values[1:-1, mask] = value
    return values


def distance(row: int, column: int) -> NDArray[np.float64]:
    rows, columns = np.indices(SHAPE[1:])
    result: NDArray[np.float64] = np.hypot(rows - row, columns - column)
    return result


def box(rows: slice, columns: slice) -> Mask:
    mask = np.zeros(SHAPE[1:], dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def blobs() -> Labels:
    """Return two segments with holes, islands, diagonal contacts and single pixels, up to the borders."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), (0, 1, 1))
    return np.where(smooth > 0.05, 1, np.where(smooth < -0.1, 2, 0)).astype(np.uint8)


CENTRE = distance(21, 27)
REGIONS: dict[str, Labels] = {
    "a ring": planes((CENTRE < 18) & (CENTRE > 9)),
    "an island in a hole": planes((CENTRE < 18) & (CENTRE > 9) | (CENTRE < 4)),
    "a region in the hole of another": planes((CENTRE < 18) & (CENTRE > 9), CENTRE < 9),
    "3 x 3 pixels": planes(box(slice(5, 8), slice(9, 12))),
    "one pixel": planes(box(slice(5, 6), slice(9, 10))),
    "one column": planes(box(slice(5, 30), slice(9, 10))),
    "two pieces": planes((distance(12, 12) < 8) | (distance(30, 40) < 9)),
    "the whole image": planes(box(slice(None), slice(None))),
    "blobs": blobs(),
}


@dataclass(frozen=True)
class Case:
    folder: Path
    sources: list[Dataset]

    @property
    def path(self) -> Path:
        return self.folder / "rtstruct.dcm"

    def masks(self, *options: str) -> dict[str, Mask]:
        """Return bool (slices, rows, columns) for each region by its name, as plastimatch fills the contours."""
        plastimatch = program("plastimatch", package="plastimatch")
        out = self.folder / "masks"
        command: list[str | Path] = [
            plastimatch,
            "convert",
            "--input",
            self.path,
            "--referenced-ct",
            self.folder / "in",
        ]
        command += ["--output-prefix", out, "--prefix-format", "mha", *options]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return {path.stem: _read_mha(path) for path in out.glob("*.mha")}


def _read_mha(path: Path) -> Mask:
    head, _, body = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = dict(line.split(" = ", 1) for line in head.decode().splitlines() if " = " in line)
    assert (fields["ElementType"], fields["CompressedData"]) == ("MET_UCHAR", "False")
    shape = [int(size) for size in fields["DimSize"].split()][::-1]
    mask: Mask = np.frombuffer(body, dtype=np.uint8).reshape(shape) > 0
    return mask


def images(
    folder: Path, shape: Sequence[int], affine: Affine, attributes: dict[str, Any] | None = None
) -> list[Dataset]:
    paths = save_series(ct_series(np.zeros(shape), affine, attributes=attributes), folder / "in")
    return [dcmread(path, stop_before_pixels=True) for path in paths]


def written(folder: Path, result: ResultSet, sources: list[Dataset]) -> Case:
    write_results(result, sources, MODEL, CONTEXT, folder, FORMS)
    return Case(folder, sources)


def of_values(folder: Path, values: Labels, affine: Affine, segments: Sequence[Segment] = SEGMENTS) -> Case:
    return written(folder, result_of(values, affine, segments), images(folder, values.shape, affine))


@pytest.mark.parametrize("options", [(), ("--xor-contours",)], ids=["joining", "cancelling"])
@pytest.mark.parametrize("name", REGIONS)
def test_plastimatch_gives_a_region_back_pixel_for_pixel(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    values = REGIONS[name]
    masks = of_values(tmp_path, values, axial_affine()).masks(*options)
    assert len(masks) == len(np.unique(values[values > 0]))
    for segment in SEGMENTS[: len(masks)]:
        assert (masks[segment.label] == (values == segment.value)).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_plastimatch_gives_every_orientation_back(tmp_path: Path, orientation: str) -> None:
    case = of_values(tmp_path, blobs(), ORIENTATIONS[orientation])
    assert (case.masks()["Right lung"] == (blobs() == 1)).all()
    assert dciodvfy_errors(case.path, "RTStructureSet") == []


def test_plastimatch_gives_small_pieces_back_in_every_orientation(tmp_path: Path) -> None:
    values = REGIONS["3 x 3 pixels"]
    for index, affine in enumerate(ORIENTATIONS.values()):
        masks = of_values(tmp_path / str(index), values, affine).masks()
        assert (masks["Right lung"] == (values == 1)).all()


def test_plastimatch_gives_the_lungs_of_a_phantom_back(tmp_path: Path) -> None:
    shape = (20, 150, 170)
    affine = axial_affine((11.0, 1.9, 2.1), (-178.0, -142.0, -104.0))
    truth = thorax(affine, shape, noise=0.0).truth
    masks = of_values(tmp_path, truth, affine).masks()
    for segment in SEGMENTS:
        assert dice(masks[segment.label], truth == segment.value) == 1.0


def test_plastimatch_gives_segments_that_overlap_back(tmp_path: Path) -> None:
    result = nested((16, 24, 32))
    case = written(tmp_path, result, images(tmp_path, (16, 24, 32), axial_affine()))
    assert result.label_map is not None
    masks = case.masks()
    for segment, layer in zip(TUMOUR, result.label_map.layers, strict=True):
        assert (masks[segment.label] == (layer == segment.value)).all()


def test_a_real_chest_has_no_error_and_plastimatch_gives_its_regions_back(tmp_path: Path) -> None:
    folder = shared("data", "ct_chest_lidc_0314")
    sources, affine = headers_of(folder)
    values = lungs((len(sources), int(sources[0].Rows), int(sources[0].Columns)))
    (tmp_path / "in").symlink_to(folder)
    case = written(tmp_path, result_of(values, affine), sources)
    assert dciodvfy_errors(case.path, "RTStructureSet") == []
    assert dcentvfy_errors(case.path, tmp_path / "seg.dcm") == []
    masks = case.masks()
    for segment in SEGMENTS:
        assert (masks[segment.label] == (values == segment.value)).all()


SYNTHETIC: dict[str, dict[str, Any]] = {
    "cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люксембург^Роза"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "utf8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Wang^XiaoDong=王^小東"},
    "sparse": {"SliceThickness": "", "AccessionNumber": "", "ReferringPhysicianName": None, "PatientBirthDate": None},
}


def _case(name: str, folder: Path) -> Case:
    if name in SYNTHETIC:
        sources = headers_on_disk(folder / "in", SHAPE, attributes=SYNTHETIC[name])
        return written(folder, result_of(blobs()), sources)
    if name == "overlap":
        return written(folder, nested(SHAPE), headers_on_disk(folder / "in", SHAPE))
    if name == "uneven":
        return _uneven(folder)
    if name == "enhanced_mr":
        order = (3, 0, 5, 1, 4, 2)
        frames = frame_headers(enhanced_image(np.zeros(SHAPE), tilted(), order, "MR"), order, folder / "in")
        return written(folder, result_of(blobs(), tilted()), frames)
    sources, affine = philips_frames(shared("data", name, "enhanced"))
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    return written(folder, result_of(lungs(shape), affine), sources)


def _uneven(folder: Path) -> Case:
    offsets = (0.0, 1.0, 3.4, 4.0, 9.0, 11.1)
    sources = headers_on_disk(folder / "in", SHAPE)
    for source, offset in zip(sources, offsets, strict=True):
        source.ImagePositionPatient = [-20, -30, -40 + offset]
    return written(folder, ResultSet(LabelMap(blobs(), axial_affine(), SEGMENTS, offsets=offsets), ()), sources)


@pytest.mark.parametrize("name", [*SYNTHETIC, "overlap", "uneven", "enhanced_mr", "mr_philips_enhanced"])
def test_validators_and_readers_find_no_error(tmp_path: Path, name: str) -> None:
    case = _case(name, tmp_path)
    assert dciodvfy_errors(case.path, "RTStructureSet") == []
    assert dcentvfy_errors(case.path, tmp_path / "seg.dcm") == []
    # DCMTK's reader of RT Structure Sets
    drtdump = program("drtdump", package="dcmtk")
    run = subprocess.run(
        [drtdump, case.path], capture_output=True, text=True, check=True, errors="replace", env=DCMTK_ENVIRONMENT
    )
    assert "RT Structure Set object" in run.stdout
    assert run.stderr == ""
