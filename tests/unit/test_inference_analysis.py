from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from inference.account import Account
from inference.analysis import Analysis, Analyst
from inference.catalog import find_bundle, read_card
from inference.comparing import compare
from inference.description import ModelDescription
from inference.options import RunOptions
from inference.series import figures
from inference.timing import ForwardClock
from study.codes import Code
from study.errors import TargetNotInFieldOfView
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import Assessment, Measurement, ResultSet
from study.selection import select
from tests.support.bundles import zoo_bundle
from tests.support.phantoms import LEFT, RIGHT, Thorax, dice, grid_affine, thorax
from tests.support.series import ct_series, save_series

CARD = read_card("lung_ct", find_bundle("builtin:lung_ct"))
SHAPE = (64, 80, 96)
AFFINE = grid_affine(((0, 0, 1), (0, 1, 0), (1, 0, 0)), (5.0, 4.0, 4.0), SHAPE)


def analyse(
    phantom: Thorax, folder: Path, *, device: str = "cpu", account: Account | None = None, **attributes: str
) -> Analysis:
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
    analyst = Analyst(device, threads=2)
    chosen = [headers[header] for header in ordered]
    return analyst.analyse(CARD, chosen, ordered, selection.chosen.geometry, account=account)


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
    assert set(analysis.account.seconds) == {"load", "decode", "preprocess", "inference", "postprocess", "measure"}
    assert analysis.account.details()["versions"]["torch"]
    assert len(analysis.datasets) == SHAPE[0]
    positions = [float(dataset.ImagePositionPatient[2]) for dataset in analysis.datasets]
    assert positions == sorted(positions)


def test_a_series_without_lungs_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TargetNotInFieldOfView, match="lungs are not in the field of view") as caught:
        analyse(thorax(AFFINE, SHAPE, lungs=False), tmp_path)
    assert caught.value.reason.code == "TargetNotInFieldOfView"


def test_a_model_is_loaded_once_for_each_way_to_make_its_network() -> None:
    analyst = Analyst("cpu")
    plain, again = Account(), Account()
    loaded = analyst.load(CARD, account=plain)
    assert analyst.load(CARD, RunOptions(may_use_cpu=True, device_memory_bytes=1), again) is loaded
    assert analyst.load(CARD, RunOptions(precision="bfloat16")) is not loaded
    assert (plain.was_warm, again.was_warm) == (False, True)
    assert ("load" in plain.seconds, "load" in again.seconds) == (True, False)


def test_the_record_says_how_the_model_ran_and_what_it_found(tmp_path: Path) -> None:
    phantom = thorax(AFFINE, SHAPE)
    account = analyse(phantom, tmp_path, ConvolutionKernel="B30f", Manufacturer="SIEMENS", SliceThickness="1").account
    running = account.details()["running"]
    assert running == {
        "precision": "float32",
        "tf32": False,
        "compiled": False,
        "memory_format": "contiguous",
        "threads": 2,
        "interop_threads": torch.get_num_interop_threads(),
        "windows_at_a_time": None,
        "stitched_on_host": False,
        "seed": 0,
        "deterministic": True,
    }
    figures = {(each["finding"], each["name"]): (each["value"], each["unit"]) for each in account.measurements}
    value, unit = figures["both_lungs", "Volume"]
    assert unit == "mL"
    assert value == pytest.approx((phantom.truth > 0).sum() * phantom.volume.voxel_millilitres, rel=0.05)
    assert json.loads(json.dumps(account.details()))["measurements"] == account.measurements


PLANES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.smooth = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.smooth.weight, 1 / 9)

    def forward(self, image):
        return (self.smooth(image) > 100.0).float()
"""


def test_planes_are_told_of_once_timed_on_demand_and_give_the_same_bytes_twice(tmp_path: Path) -> None:
    bundle = zoo_bundle(tmp_path / "planes", network=PLANES, spatial_shape=["*", "*"])
    card, told = read_card("planes", bundle), list[str]()
    voxels = np.random.default_rng(3).integers(0, 200, (6, 20, 24)).astype(np.float32)
    analyst, found = Analyst("cpu"), []
    paths = save_series(ct_series(voxels), tmp_path / "series")
    headers = [InstanceHeader.of(pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    geometry = assess(headers, FrameOfReferencePolicy.STRICT)
    clock = ForwardClock()
    for forward in (None, clock):
        account = Account(lambda step, _: told.append(step), forward)
        done = analyst.analyse(card, paths, headers, geometry, account=account)
        assert done.result_set.label_map is not None
        found.append(done.result_set.label_map.values.tobytes())
        assert account.running["memory_format"] == "channels_last"
    steps = ["decode", "preprocess", "inference", "postprocess", "measure"]
    assert told == ["load", *steps, *steps]
    assert found[0] == found[1]
    assert account.running["forward_calls"] == clock.calls == 6
    assert 0 < account.running["forward_seconds"] <= account.seconds["inference"]


CLIPS = """
import torch

class Net(torch.nn.Module):
    '''Marks all, and clips three voxels of metal in the image itself.'''

    def forward(self, image):
        marked = torch.ones_like(image)
        image.clamp_(max=100.0)
        return marked
"""


def test_a_model_that_writes_into_few_voxels_does_not_change_what_is_measured(tmp_path: Path) -> None:
    voxels = np.full((8, 20, 20), 40.0)
    voxels[3, 7, 9:12] = 3000.0
    paths = save_series(ct_series(voxels), tmp_path / "series")
    headers = [InstanceHeader.of(pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    geometry = assess(headers, FrameOfReferencePolicy.STRICT)
    entry = ModelDescription(measures=("mean_attenuation",))
    card = read_card("clips", zoo_bundle(tmp_path / "clips", network=CLIPS), entry)
    found = Analyst("cpu").analyse(card, paths, headers, geometry).account.measurements
    assert [each["value"] for each in found] == pytest.approx([voxels.mean()])  # 42.77 HU; clipped, 40.06


def test_a_classifications_probabilities_are_figures_too() -> None:
    code = Code("1", "99TEST", "Yes")
    volume = Measurement(Code("118565006", "SCT", "Volume"), 2.5, Code("ml", "UCUM", "ml"))
    found = Assessment("yes", "Yes", code, probability=0.25, measurements=(volume,))
    assert figures(ResultSet(None, (), assessments=(found,))) == [
        {"finding": "yes", "name": "Probability", "value": 0.25, "unit": "1"},
        {"finding": "yes", "name": "Volume", "value": 2.5, "unit": "ml"},
    ]


@pytest.mark.gpu
def test_a_gpu_gives_what_the_processor_gives(tmp_path: Path) -> None:
    phantom = thorax(AFFINE, SHAPE)
    ours, theirs = (analyse(phantom, tmp_path / name, device=name).result_set.label_map for name in ("cpu", "cuda:0"))
    assert ours is not None
    assert theirs is not None
    assert compare(ours, theirs).share < 1e-4
