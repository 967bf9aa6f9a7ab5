"""Bundles as the Model Zoo has them run on series of every orientation, and give what MONAI's own run of them gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.transforms.io.array import LoadImage
from numpy.typing import NDArray

from inference.bundle import load_bundle
from inference.catalog import read_card
from inference.decoding import read_series
from inference.description import ModelDescription
from inference.options import RunOptions
from inference.orientation import to_monai
from inference.running import run_bundle
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.errors import BundleInvalid, ModelOutputInvalid
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import LabelMap, Segment, SeriesVolume
from tests.support.blocks import LIVER, ORIENTATIONS, SPLEEN, blocks_volume
from tests.support.bundles import INVERT, blocks_bundle, overlapping_bundle, zoo_bundle
from tests.support.peers import shared
from tests.support.phantoms import dice

# What torch and MONAI have to say of the bundles of others: weights as TorchScript, and a default that one relies on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:monai.transforms.spatial.dictionary Orientationd:FutureWarning"),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),  # MONAI's loader tries every reader
    pytest.mark.filterwarnings("ignore:inverse has been called:UserWarning"),  # where nothing needs inverting
]

CPU = torch.device("cpu")
SLICES = slice(150, 158)
SCALE: dict[str, Any] = {
    "_target_": "ScaleIntensityRanged",
    "keys": "image",
    "a_min": 0,
    "a_max": 400,
    "b_min": 0,
    "b_max": 1,
    "clip": True,
}


def segment(value: int) -> Segment:
    return Segment(value, f"Part {value}", ANATOMICAL_STRUCTURE, Code(str(value), "99TEST", f"Part {value}"))


def run(bundle: Path, volume: SeriesVolume, segments: int = 2) -> LabelMap:
    return run_bundle(load_bundle(bundle, CPU), volume, [segment(value + 1) for value in range(segments)])


def run_by_monai(bundle: Path, volume: SeriesVolume, folder: Path) -> NDArray[Any]:
    """Return what ``monai.bundle run`` writes for the volume, on its axes (slice, row, column)."""
    array, affine = to_monai(volume.voxels, volume.affine)
    (folder / "data").mkdir(parents=True)
    image = nibabel.nifti1.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]  # nibabel declares no types here
    image.to_filename(folder / "data" / "series.nii")
    overrides = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "out"),
        "device": "$torch.device('cpu')",
    }
    # A process of its own, in the bundle's folder, as a person would run it
    command = [sys.executable, "-c", f"import monai; monai.bundle.run(**{overrides!r})"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    written = next((folder / "out").rglob("*.nii*"))
    found: NDArray[Any] = LoadImage(image_only=True, ensure_channel_first=True)(written).numpy()
    return found.transpose(0, 3, 2, 1)


@pytest.fixture(scope="module")
def chest() -> SeriesVolume:
    paths = sorted(shared("data", "ct_chest_lidc_0314").glob("*.dcm"))
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    headers = [InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID) for dataset in found]
    order = assess(headers, FrameOfReferencePolicy.BY_POSITION).order[SLICES]
    headers = [headers[index] for index in order]
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    return read_series([paths[index] for index in order], headers, geometry.affine).volume


def test_a_trained_bundle_gives_what_monai_gives(chest: SeriesVolume, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(shared("bundles", "lung_ct_unet"), tmp_path / "bundle"))
    ours = run(bundle, chest, segments=1)
    assert ours.values.shape == (8, 512, 512)
    assert 0.1 < ours.values.mean() < 0.5
    np.testing.assert_array_equal(ours.values, run_by_monai(bundle, chest, tmp_path)[0])
    np.testing.assert_array_equal(ours.affine, chest.affine)


def test_the_side_of_a_finding_does_not_depend_on_the_order_of_the_axes(chest: SeriesVolume) -> None:
    bundle = load_bundle(shared("bundles", "lung_ct_unet"), CPU)
    part = SeriesVolume(chest.voxels[:3], chest.affine, chest.sop_instance_uids[:3])
    mirrored = part.affine.copy()
    mirrored[:3, 3] += mirrored[:3, 2] * (part.voxels.shape[2] - 1)
    mirrored[:3, 2] *= -1
    turned = SeriesVolume(np.ascontiguousarray(part.voxels[:, :, ::-1]), mirrored, part.sop_instance_uids)
    straight = run_bundle(bundle, part, [segment(1)]).values
    np.testing.assert_array_equal(run_bundle(bundle, turned, [segment(1)]).values[:, :, ::-1], straight)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_bundle_that_resamples_finds_each_block_in_its_place(orientation: str, tmp_path: Path) -> None:
    volume, truth = blocks_volume(orientation)
    found = run(blocks_bundle(tmp_path / "blocks"), volume)
    np.testing.assert_array_equal(found.affine, volume.affine)
    for value in (LIVER, SPLEEN):
        mask = found.values == value
        assert dice(mask, truth == value) > 0.93
        for axis in range(3):  # no axis is right by luck
            assert dice(np.flip(mask, axis), truth == value) < 0.5


@pytest.mark.parametrize("orientation", ["axial, feet first, supine", "sagittal"])
def test_a_bundle_that_resamples_gives_what_monai_gives(orientation: str, tmp_path: Path) -> None:
    volume, _ = blocks_volume(orientation)
    bundle = blocks_bundle(tmp_path / "blocks")
    np.testing.assert_array_equal(run(bundle, volume).values, run_by_monai(bundle, volume, tmp_path)[0])


def test_a_bundle_that_does_not_invert_is_inverted_for_it(tmp_path: Path) -> None:
    volume, truth = blocks_volume("coronal")
    decided = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    found = run(blocks_bundle(tmp_path / "blocks", postprocessing=decided), volume)
    for value in (LIVER, SPLEEN):
        assert dice(found.values == value, truth == value) > 0.85


def test_labels_are_not_interpolated_on_the_way_back(tmp_path: Path) -> None:
    """Half-way between nothing and the spleen (2) lies the liver (1)."""
    volume, truth = blocks_volume("axial, head first, supine")
    decided = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, INVERT]
    finer = [{"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 1.5], "mode": "nearest"}, SCALE]
    bundle = load_bundle(blocks_bundle(tmp_path / "blocks", preprocessing=finer, postprocessing=decided), CPU)
    found = run_bundle(bundle, volume, [segment(1), segment(2)]).values
    assert dice(found == SPLEEN, truth == SPLEEN) > 0.85
    near_spleen = np.zeros(truth.shape, dtype=bool)
    rows = np.flatnonzero((truth == SPLEEN).any(axis=(0, 2)))
    near_spleen[:, rows[0] - 2 :, :] = truth[:, rows[0] - 2 :, :] != LIVER
    assert not (found[near_spleen] == LIVER).any()
    assert any("nearest" in note for note in bundle.notes)


def test_overlapping_channels_keep_their_overlap(tmp_path: Path) -> None:
    volume, truth = blocks_volume("sagittal")
    bundle = overlapping_bundle(tmp_path / "overlapping")
    card = read_card("overlapping", bundle)
    assert [(each.value, each.label) for each in card.segments] == [(1, "bright"), (2, "brightest")]
    found = run(bundle, volume)
    whole, part = (np.stack([found.mask(index, [value]) for index in range(len(truth))]) for value in (1, 2))
    assert dice(whole, truth > 0) > 0.9
    assert dice(part, truth == SPLEEN) > 0.9
    assert not (part & ~whole).any()
    theirs = run_by_monai(bundle, volume, tmp_path)
    np.testing.assert_array_equal(whole, theirs[0] == 1)
    np.testing.assert_array_equal(part, theirs[1] == 1)


PLANAR = """
import torch

class Net(torch.nn.Module):
    '''A network of two dimensions that looks at its surroundings.'''

    def __init__(self):
        super().__init__()
        self.smooth = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)

    def forward(self, image):
        return self.smooth(image) - 0.25
"""
MEAN_OF_NINE = {"smooth.weight": torch.full((1, 1, 3, 3), 1 / 9)}


@pytest.mark.parametrize("orientation", ["axial, feet first, prone", "coronal"])
@pytest.mark.parametrize("inferer", ["SliceInferer", "SimpleInferer", "SlidingWindowInferer"])
def test_a_bundle_in_two_dimensions_goes_through_the_slices(orientation: str, inferer: str, tmp_path: Path) -> None:
    volume, truth = blocks_volume(orientation)
    how: dict[str, dict[str, Any]] = {
        "SliceInferer": {"roi_size": [96, 96], "spatial_dim": 2},
        "SimpleInferer": {},
        "SlidingWindowInferer": {"roi_size": [48, 48]},
    }
    resized = [] if inferer == "SliceInferer" else [{"_target_": "Resized", "keys": "image", "spatial_size": [96, 80]}]
    bundle = zoo_bundle(
        tmp_path / "planar",
        network=PLANAR,
        weights=MEAN_OF_NINE,
        spatial_shape=["8*n", "8*n"],
        preprocessing=[*resized, SCALE],
        inferer={"_target_": inferer, **how[inferer]},
        postprocessing=[
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            INVERT,
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        ],
    )
    found = run(bundle, volume, segments=1)
    assert dice(found.values == 1, truth > 0) > 0.9
    for axis in range(3):
        assert dice(np.flip(found.values == 1, axis), truth > 0) < 0.6


def test_weights_that_were_not_downloaded_are_asked_for(tmp_path: Path) -> None:
    bundle = blocks_bundle(tmp_path / "blocks")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(BundleInvalid, match=r"weights are missing.*download"):
        load_bundle(bundle, CPU)


def test_a_network_of_a_library_never_runs_with_random_weights(tmp_path: Path) -> None:
    unet = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    }
    bundle = zoo_bundle(tmp_path / "unet", network="", config={"network_def": unet})
    with pytest.raises(BundleInvalid, match="random"):
        load_bundle(bundle, CPU)


def test_weights_outside_of_the_bundle_are_not_loaded(tmp_path: Path) -> None:
    bundle = blocks_bundle(tmp_path / "blocks")
    shutil.move(bundle / "models" / "model.pt", tmp_path / "model.pt")
    config = bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace("/models/model.pt", "/../model.pt"))
    with pytest.raises(BundleInvalid, match="outside"):
        load_bundle(bundle, CPU)


def test_torchscript_stands_in_where_there_is_no_state_dict(tmp_path: Path) -> None:
    volume, truth = blocks_volume("axial, head first, supine")
    bundle = blocks_bundle(tmp_path / "blocks", weights=None)

    class Traced(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([-20.0 * (image - level).abs() for level in (0.0, 0.5, 1.0)], dim=1)

    traced = torch.jit.trace(Traced(), torch.zeros(1, 1, 4, 4, 4))  # type: ignore[no-untyped-call]  # torch's gap
    torch.jit.save(traced, str(bundle / "models" / "model.ts"))
    assert dice(run(bundle, volume).values == SPLEEN, truth == SPLEEN) > 0.93


def test_transforms_that_an_expression_puts_together_lose_their_loader_too(tmp_path: Path) -> None:
    volume, truth = blocks_volume("axial, head first, supine")
    bundle = blocks_bundle(tmp_path / "blocks")
    config = bundle / "configs" / "inference.json"
    graph = json.loads(config.read_text())
    graph["before"] = graph["preprocessing"]["transforms"]
    graph["preprocessing"]["transforms"] = "$@before"
    graph["after"] = graph["postprocessing"]["transforms"]
    graph["postprocessing"] = {"_target_": "Compose", "transforms": "$@after"}
    config.write_text(json.dumps(graph))
    assert dice(run(bundle, volume).values == LIVER, truth == LIVER) > 0.93


def test_probabilities_are_no_labels(tmp_path: Path) -> None:
    volume, _ = blocks_volume("axial, head first, supine")
    undecided = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}, INVERT]
    with pytest.raises(ModelOutputInvalid, match="AsDiscreted"):
        run(blocks_bundle(tmp_path / "blocks", postprocessing=undecided), volume)


def test_names_without_a_background_number_no_labels(tmp_path: Path) -> None:
    """The labels 1 and 2 of an argmax would otherwise get the names of 0 and 1."""
    volume, _ = blocks_volume("axial, head first, supine")
    names = {"0": "elsewhere", "1": "liver", "2": "spleen"}
    bundle = blocks_bundle(tmp_path / "b", output={"type": "image", "format": "segmentation", "channel_def": names})
    card = read_card("b", bundle)
    with pytest.raises(ModelOutputInvalid, match="which label is which"):
        run_bundle(load_bundle(bundle, CPU), volume, card.segments, card.background_first)
    said = [{"value": 1, "label": "Liver"}, {"value": 2, "label": "Spleen"}, {"value": 3, "label": "Nothing"}]
    card = read_card("b", bundle, ModelDescription.model_validate({"segments": said}))
    assert card.background_first is None


@pytest.mark.parametrize("where", [-1, 2])
def test_labels_that_lost_their_place_are_no_result(where: int, tmp_path: Path) -> None:
    volume, _ = blocks_volume("coronal")
    bundle = blocks_bundle(tmp_path / "b")
    config = bundle / "configs" / "inference.json"
    graph = json.loads(config.read_text())
    graph["postprocessing"]["transforms"].insert(
        where, {"_target_": "EnsureTyped", "keys": "pred", "track_meta": False}
    )
    config.write_text(json.dumps(graph))
    with pytest.raises(ModelOutputInvalid, match="where its labels would lie"):
        run(bundle, volume)


def test_each_bundle_runs_its_own_code_whatever_its_package_is_called(tmp_path: Path) -> None:
    volume, truth = blocks_volume("coronal")
    results = []
    for name, levels in (("first", "0.5, 1.0"), ("second", "1.0, 0.5")):
        bundle = blocks_bundle(tmp_path / name, config={"network_def": {"_target_": "mynet.net.Net"}}, weights=None)
        (bundle / "scripts").rename(bundle / "mynet")
        net = bundle / "mynet" / "net.py"
        net.write_text(net.read_text().replace("torch.zeros(3)", f"torch.tensor([0.0, {levels}])"))
        results.append(run(bundle, volume).values == 1)
    assert dice(results[0], truth == LIVER) > 0.9
    assert dice(results[1], truth == SPLEEN) > 0.9


def test_a_disabled_checkpoint_is_not_loaded_and_an_unnamed_one_is_asked_about(tmp_path: Path) -> None:
    volume, truth = blocks_volume("coronal")
    bundle = blocks_bundle(tmp_path / "b")
    config = bundle / "configs" / "inference.json"
    graph = json.loads(config.read_text())
    other = {"_target_": "CheckpointLoader", "load_path": "nowhere.pt", "load_dict": {}, "_disabled_": True}
    config.write_text(json.dumps({"a_first_loader": other, **graph}))
    assert dice(run(bundle, volume).values == SPLEEN, truth == SPLEEN) > 0.93
    graph.pop("checkpointloader")
    graph["initialize"] = []
    config.write_text(json.dumps(graph))
    (bundle / "models" / "model.pt").rename(bundle / "models" / "best.pt")
    with pytest.raises(BundleInvalid, match=r"best\.pt"):
        load_bundle(bundle, CPU)


def test_what_a_chain_says_of_labels_in_training_is_forgiven(tmp_path: Path) -> None:
    volume, truth = blocks_volume("coronal")
    bundle = blocks_bundle(tmp_path / "b")
    config = bundle / "configs" / "inference.json"
    graph = json.loads(config.read_text())
    graph["postprocessing"]["transforms"][2] |= {"keys": ["pred", "label"], "argmax": [True, False]}
    config.write_text(json.dumps(graph))
    assert dice(run(bundle, volume).values == SPLEEN, truth == SPLEEN) > 0.93


SMOOTH_NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.smooth = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False)

    def forward(self, image):
        return (self.smooth(image) > 100.0).float()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_gives_what_it_gives_as_it_stands(tmp_path: Path) -> None:
    """For one shape after another: it is compiled once for all."""
    weights = {"smooth.weight": torch.full((1, 1, 3, 3, 3), 1 / 27)}
    bundle = zoo_bundle(tmp_path / "smooth", network=SMOOTH_NET, weights=weights)
    plain, compiled = (load_bundle(bundle, CPU, RunOptions(compile=each)) for each in (False, True))
    assert compiled.compiled
    for orientation in ("coronal", "axial, head first, supine"):
        volume, _ = blocks_volume(orientation)
        ours, theirs = (run_bundle(each, volume, [segment(1)]).values for each in (compiled, plain))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.any()
