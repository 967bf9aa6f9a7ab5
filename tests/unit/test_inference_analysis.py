from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from inference.analysis import Analysis, Analyst
from inference.catalog import find_bundle, read_card
from study.errors import TargetNotInFieldOfView
from study.geometry import FrameOfReferencePolicy
from study.headers import InstanceHeader
from study.selection import select
from tests.support.phantoms import LEFT, RIGHT, Thorax, dice, grid_affine, thorax
from tests.support.series import ct_series, save_series

CARD = read_card("lung_ct", find_bundle("builtin:lung_ct"))
SHAPE = (64, 80, 96)
AFFINE = grid_affine(((0, 0, 1), (0, 1, 0), (1, 0, 0)), (5.0, 4.0, 4.0), SHAPE)


def analyse(phantom: Thorax, folder: Path, **attributes: str) -> Analysis:
    datasets = ct_series(phantom.volume.voxels, AFFINE, attributes=attributes)
    paths = save_series(datasets[::2] + datasets[1::2], folder)  # file names are not in slice order
    headers = {}
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        headers[InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID)] = path
    selection = select({"series": list(headers)}, CARD.rule, FrameOfReferencePolicy.STRICT)
    assert selection.chosen is not None
    assert selection.chosen.geometry is not None
    ordered = selection.chosen.headers
    analyst = Analyst("cpu", threads=2)
    return analyst.analyse(CARD, [headers[header] for header in ordered], ordered, selection.chosen.geometry)


def test_a_series_on_disk_becomes_findings(tmp_path: Path) -> None:
    phantom = thorax(AFFINE, SHAPE)
    analysis = analyse(phantom, tmp_path, ConvolutionKernel="B30f", Manufacturer="SIEMENS", SliceThickness="1")
    label_map = analysis.result_set.label_map
    assert label_map is not None
    assert dice(label_map.values == RIGHT, phantom.truth == RIGHT) > 0.93
    assert dice(label_map.values == LEFT, phantom.truth == LEFT) > 0.93
    findings = {finding.key: finding for finding in analysis.result_set.findings}
    right, left, both = (
        {measurement.name.value: measurement.value for measurement in findings[key].measurements}
        for key in ("right_lung", "left_lung", "both_lungs")
    )
    truth = float((phantom.truth > 0).sum()) * phantom.volume.voxel_millilitres
    assert both["118565006"] == pytest.approx(truth, rel=0.05)
    assert both["118565006"] == pytest.approx(right["118565006"] + left["118565006"])
    assert right["112031"] == pytest.approx(-840, abs=25)
    assert {"LAA950", "PERC15"} <= set(both)
    assert set(analysis.timings) == {"decode", "preprocess", "inference", "postprocess", "measure"}
    assert analysis.versions["torch"]
    assert len(analysis.datasets) == SHAPE[0]
    positions = [float(dataset.ImagePositionPatient[2]) for dataset in analysis.datasets]
    assert positions == sorted(positions)


def test_a_series_without_lungs_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TargetNotInFieldOfView, match="lungs are not in the field of view") as caught:
        analyse(thorax(AFFINE, SHAPE, lungs=False), tmp_path)
    assert caught.value.reason.code == "TargetNotInFieldOfView"


def test_a_model_is_loaded_once() -> None:
    analyst = Analyst("cpu")
    assert analyst.load(CARD) is analyst.load(CARD)
