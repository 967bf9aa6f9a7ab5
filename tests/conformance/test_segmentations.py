"""Programs that others wrote read every kind of Segmentation: label maps, compressed ones, parts of a large one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.results import write_results
from study.forms import Form, Variant
from study.imaging import ResultSet
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, nested, result_of
from tests.support.series import axial_affine
from tests.support.validators import dcentvfy_errors, dciodvfy_errors, dcmqi_masks

SHAPE = (10, 21, 29)
PLAIN = Variant(Form.SEG_LABELMAP)
COMPRESSED = Variant(Form.SEG_LABELMAP, compressed=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def written(folder: Path, result: ResultSet, sources: Sequence[Dataset], variant: Variant) -> list[Path]:
    return [folder / each.path for each in write_results(result, sources, MODEL, CONTEXT, folder, (variant,))]


def masks_by_tracking(paths: Sequence[Path], shape: tuple[int, ...], folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return where dcmqi finds each segment, all objects together."""
    found: dict[str, NDArray[np.bool_]] = {}
    for path in paths:
        (folder / path.stem).mkdir()
        tracking = {int(item.SegmentNumber): str(item.get("TrackingUID")) for item in dcmread(path).SegmentSequence}
        for number, mask in dcmqi_masks(path, axial_affine(), shape, folder / path.stem).items():
            earlier = found.setdefault(tracking[number], np.zeros(shape, dtype=np.bool_))
            assert not (earlier & mask).any()
            earlier |= mask
    return found


@pytest.mark.parametrize("gap", [False, True], ids=["whole", "with a gap"])
@pytest.mark.parametrize("variant", [PLAIN, COMPRESSED], ids=["plain", "compressed"])
def test_segimage2itkimage_reads_a_label_map(
    tmp_path: Path, sources: list[Dataset], variant: Variant, gap: bool
) -> None:
    values = lungs(SHAPE)
    if gap:
        values[4:6] = 0
    (path,) = written(tmp_path, result_of(values), sources, variant)
    masks = dcmqi_masks(path, axial_affine(), SHAPE, tmp_path)
    assert sorted(masks) == [1, 2]
    for number, mask in masks.items():
        assert (mask == (values == number)).all()
    (described,) = json.loads(next(tmp_path.glob("*.json")).read_text())["segmentAttributes"]
    # No background among them, and each label with its own number
    assert [(item["labelID"], item["SegmentLabel"]) for item in described] == [(1, "Right lung"), (2, "Left lung")]


def test_segimage2itkimage_reads_the_layers_of_a_label_map(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    sources = headers_on_disk(tmp_path / "in", shape)
    result = nested(shape)
    paths = written(tmp_path, result, sources, COMPRESSED)
    masks = masks_by_tracking(paths, shape, tmp_path)
    assert result.label_map is not None
    for number, layer in enumerate(result.label_map.layers, 1):
        assert (masks[CONTEXT.tracking_uid(MODEL, f"part{number}")] == (layer == number)).all()


@pytest.mark.parametrize("form", [Form.SEG, Form.SEG_LABELMAP])
def test_segimage2itkimage_reads_the_parts(tmp_path: Path, sources: list[Dataset], form: Form) -> None:
    paths = written(tmp_path, result_of(lungs(SHAPE)), sources, Variant(form, most_frames=6))
    assert len(paths) > 1
    masks = masks_by_tracking(paths, SHAPE, tmp_path)
    for number, key in enumerate(("right_lung", "left_lung"), 1):
        assert (masks[CONTEXT.tracking_uid(MODEL, key)] == (lungs(SHAPE) == number)).all()


def test_dciodvfy_finds_no_error_in_parts(tmp_path: Path, sources: list[Dataset]) -> None:
    paths = written(tmp_path, result_of(lungs(SHAPE)), sources, Variant(Form.SEG, most_frames=6))
    for path in paths:
        assert dciodvfy_errors(path, "Segmentation") == []
    assert dcentvfy_errors(*paths) == []


def test_dciodvfy_finds_in_a_label_map_only_what_it_does_not_know(tmp_path: Path, sources: list[Dataset]) -> None:
    (path,) = written(tmp_path, result_of(lungs(SHAPE)), sources, PLAIN)
    unknown = ("Information Object Not found", "SegmentNumber not monotonically increasing")
    errors = dciodvfy_errors(path, "")
    assert [error for error in errors if not any(words in error for words in unknown)] == []
