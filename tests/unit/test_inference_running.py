from __future__ import annotations

import os
import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.bundle import choose_device, load_bundle
from inference.running import run_bundle
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.errors import BundleInvalid, InferenceError, ModelOutputInvalid
from study.imaging import LabelMap, Segment, SeriesVolume
from tests.support.bundles import write_bundle
from tests.support.series import axial_affine

CPU = torch.device("cpu")
SHAPE = (6, 9, 8)
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
PREPROCESSINGS: dict[str, list[dict[str, Any]]] = {
    "as it is": [],
    "turned": [{"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}],
    "turned and padded": [
        {"_target_": "Orientationd", "keys": "image", "axcodes": "PIL", "labels": None},
        {"_target_": "DivisiblePadd", "keys": "image", "k": 16},
    ],
    "cropped": [{"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 1}],
    "transposed": [{"_target_": "Transposed", "keys": "image", "indices": [0, 3, 1, 2]}],
    "scaled": [{"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0}],
}


def segment(value: int) -> Segment:
    return Segment(value, f"Part {value}", ANATOMICAL_STRUCTURE, Code(str(value), "99TEST", f"Part {value}"))


def asymmetric() -> SeriesVolume:
    """Return a volume in which an odd shape of ones lies off the middle, on oblique slices."""
    voxels = np.full(SHAPE, -1.0, dtype=np.float32)
    voxels[1:4, 2:5, 3:7] = 1.0
    voxels[4, 6, 1] = 1.0
    affine = axial_affine((2.0, 0.8, 0.8))
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    return SeriesVolume(voxels, turn @ affine, tuple(f"2.25.{index}" for index in range(SHAPE[0])))


def run(folder: Path, *values: int) -> LabelMap:
    return run_bundle(load_bundle(folder, CPU), asymmetric(), [segment(value) for value in values or (1,)])


@pytest.mark.parametrize(
    ("name", "inverts"),
    [*((name, False) for name in PREPROCESSINGS), ("turned", True), ("turned and padded", True), ("cropped", True)],
)
def test_every_voxel_comes_back_where_it_was(tmp_path: Path, name: str, inverts: bool) -> None:
    bundle = write_bundle(
        tmp_path / "toy", preprocessing=PREPROCESSINGS[name], postprocessing=[INVERT] if inverts else []
    )
    volume = asymmetric()
    found = run(bundle)
    np.testing.assert_array_equal(found.values, volume.voxels > 0)
    np.testing.assert_array_equal(found.affine, volume.affine)
    assert found.values.dtype == np.uint8


def test_a_resampled_output_is_brought_back(tmp_path: Path) -> None:
    finer = [{"_target_": "Spacingd", "keys": "image", "pixdim": [0.4, 0.4, 1.0], "mode": "nearest"}]
    np.testing.assert_array_equal(
        run(write_bundle(tmp_path / "toy", preprocessing=finer)).values, asymmetric().voxels > 0
    )


def test_a_loader_that_puts_channels_first_is_stood_in_for(tmp_path: Path) -> None:
    preprocessing = {
        "_target_": "Compose",
        "transforms": [{"_target_": "monai.transforms.LoadImaged", "keys": "image", "ensure_channel_first": True}],
    }
    bundle = write_bundle(tmp_path / "toy", config={"preprocessing": preprocessing})
    np.testing.assert_array_equal(run(bundle).values, asymmetric().voxels > 0)


def test_a_yaml_configuration_is_read(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy")
    config = bundle / "configs" / "inference.json"
    config.rename(config.with_suffix(".yaml"))  # every JSON text is YAML
    np.testing.assert_array_equal(run(bundle).values, asymmetric().voxels > 0)


@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_are_loaded_from_a_state_dict(tmp_path: Path, wrapped: bool) -> None:
    bundle = write_bundle(tmp_path / "toy", threshold=5.0)
    assert not run(bundle).values.any()
    weights = {"threshold": torch.tensor(0.0)}
    (bundle / "models").mkdir()
    torch.save({"model": weights} if wrapped else weights, bundle / "models" / "model.pt")
    np.testing.assert_array_equal(run(bundle).values, asymmetric().voxels > 0)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pickle_was_run",)


def test_weights_that_are_a_program_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = write_bundle(tmp_path / "toy")
    (bundle / "models").mkdir()
    torch.save({"threshold": Hostile()}, bundle / "models" / "model.pt")
    with pytest.raises(BundleInvalid, match="more than weights"):
        load_bundle(bundle, CPU)
    assert not (tmp_path / "pickle_was_run").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy")
    (bundle / "models").mkdir()
    torch.save({"other": torch.zeros(3)}, bundle / "models" / "model.pt")
    with pytest.raises(BundleInvalid, match="other"):
        load_bundle(bundle, CPU)


def test_two_bundles_keep_their_code_apart(tmp_path: Path) -> None:
    late_import = "from scripts.late import LIMIT; return (image > LIMIT).float()"
    first = write_bundle(tmp_path / "first", body=late_import)
    second = write_bundle(tmp_path / "second", body=late_import)
    (first / "scripts" / "late.py").write_text("LIMIT = 0.0")
    (second / "scripts" / "late.py").write_text("LIMIT = 7.0")
    path = list(sys.path)
    loaded = [load_bundle(folder, CPU) for folder in (first, second)]
    outcomes = [run_bundle(bundle, asymmetric(), [segment(1)]).values.any() for bundle in loaded * 2]
    assert outcomes == [True, False, True, False]
    assert sys.path == path
    assert not [name for name in sys.modules if name.split(".")[0] == "scripts"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return image.clone().fill_(float('nan'))", "not finite"),
        ("return image.clone().fill_(float('-inf'))", "not finite"),
        ("return image[..., :-1].clone()", "shape"),
        ("return image[:, :0]", "shape"),
        ("return image[0]", "shape"),
        ("return torch.cat([image] * 2)", "shape"),
        ("return {'pred': image}", "dict"),
        ("return [image, image]", "list"),
        ("return None", "NoneType"),
        ("return image.numpy()", "ndarray"),
        ("return torch.complex(image, image)", "complex"),
        ("return (image > self.threshold).long() * 2**40", "1099511627776, not declared"),
        ("return (image > self.threshold).float() * 2", "not declared"),
        ("return (image > self.threshold).float() * 0.5", "no labels"),
        ("return -(image > self.threshold).float()", "-1"),
        ("return torch.cat([image] * 3, 1).sign()", "3 channels"),
    ],
)
def test_an_output_that_can_not_be_used_is_refused(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(ModelOutputInvalid, match=words):
        run(write_bundle(tmp_path / "toy", body=body))


@pytest.mark.parametrize(
    ("func", "words"),
    [
        ("x * 0.3", "no labels"),
        ("x * float('nan')", "no labels"),
        ("x - 1.0", "-1, not declared"),
        ("x.cpu().numpy()", "where its labels would lie"),
        ("None", 'nothing under "pred"'),
    ],
)
def test_a_postprocessing_that_spoils_its_labels_is_refused(tmp_path: Path, func: str, words: str) -> None:
    spoil = {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: {func}", "track_meta": False}
    with pytest.raises(ModelOutputInvalid, match=words):
        run(write_bundle(tmp_path / "toy", postprocessing=[spoil]))


def test_a_postprocessing_without_a_prediction_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", postprocessing=[{"_target_": "DeleteItemsd", "keys": "pred"}])
    with pytest.raises(ModelOutputInvalid, match='nothing under "pred"'):
        run(bundle)


def test_truth_values_are_labels(tmp_path: Path) -> None:
    found = run(write_bundle(tmp_path / "toy", body="return image > self.threshold"))
    np.testing.assert_array_equal(found.values, asymmetric().voxels > 0)


def test_a_label_between_the_declared_ones_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", body="return (image > self.threshold).float() * 2")
    with pytest.raises(ModelOutputInvalid, match=r"\[2\]"):
        run(bundle, 1, 3)


def test_values_over_255_need_two_bytes(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", body="return (image > self.threshold).float() * 300")
    found = run(bundle, 300)
    assert found.values.dtype == np.uint16
    np.testing.assert_array_equal(found.values == 300, asymmetric().voxels > 0)


def test_channels_become_one_label_map(tmp_path: Path) -> None:
    body = "a = image > self.threshold; return torch.cat([~a, a & (image < 9), a & (image > 9)], 1).float()"
    found = run(write_bundle(tmp_path / "toy", body=body), 4, 5)
    np.testing.assert_array_equal(found.values == 4, asymmetric().voxels > 0)
    assert found.further_layers == ()


def test_channels_that_overlap_become_as_few_layers_as_it_takes(tmp_path: Path) -> None:
    body = "a = (image > self.threshold).float(); return torch.cat([a, 1 - a, a], 1)"
    found = run(write_bundle(tmp_path / "toy", body=body), 1, 2, 3)
    first, second = found.layers
    np.testing.assert_array_equal(first, np.where(asymmetric().voxels > 0, 1, 2))
    np.testing.assert_array_equal(second, np.where(asymmetric().voxels > 0, 3, 0))
    np.testing.assert_array_equal(found.mask(2, [3]), found.mask(2, [1]))


def test_code_that_fails_is_told_from_a_bad_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", body="raise KeyError('gone')")
    with pytest.raises(InferenceError, match="KeyError: 'gone'"):
        run(bundle)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"network_def": {"_target_": "scripts.nothing.Toy"}}, "scripts.nothing"),
        ({"network_def": "$3"}, "no torch module"),
        ({"inferer": {"_target_": "NoSuchInferer"}}, "NoSuchInferer"),
    ],
)
def test_a_bundle_that_can_not_be_loaded_is_named(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleInvalid, match=words):
        load_bundle(write_bundle(tmp_path / "toy", config=config), CPU)


def test_a_bundle_without_a_configuration_is_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy")
    (bundle / "configs" / "inference.json").unlink()
    with pytest.raises(BundleInvalid, match=r"inference\.json"):
        load_bundle(bundle, CPU)


def test_a_device_is_found_or_named() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(BundleInvalid, match="toaster"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(BundleInvalid, match="cuda:0"):
            choose_device("cuda:0")


@pytest.mark.filterwarnings("ignore:`data_array` is not of type:UserWarning")  # MONAI goes on with a made-up affine
@pytest.mark.parametrize("later", [[], PREPROCESSINGS["turned"]])
def test_an_image_that_lost_its_place_gives_no_labels(tmp_path: Path, later: list[dict[str, Any]]) -> None:
    forgetful = [{"_target_": "EnsureTyped", "keys": "image", "track_meta": False}, *later]
    with pytest.raises(ModelOutputInvalid, match="without an affine"):
        run(write_bundle(tmp_path / "toy", preprocessing=forgetful))


def test_compiled_code_that_nobody_approved_is_not_run(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy")
    source = bundle / "scripts" / "toy.py"
    approved, planted = source.read_text(), source.read_text().replace("return ", "return 0 * ")
    source.write_text(planted)
    py_compile.compile(str(source), cfile=cache_from_source(str(source)), doraise=True)
    held = source.stat()
    source.write_text(approved + "#" * (len(planted) - len(approved)))  # the same size and time: the cache looks fresh
    os.utime(source, ns=(held.st_atime_ns, held.st_mtime_ns))
    np.testing.assert_array_equal(run(bundle).values, asymmetric().voxels > 0)
