"""A bundle runs where the node says, whatever its own parts name. "cuda:7" and "meta" stand in for another's GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer

from inference.bundle import load_bundle
from inference.placing import demand_place, place_on
from inference.running import run_bundle
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.errors import BundleInvalid
from study.imaging import LabelMap, Segment, SeriesVolume
from tests.support.bundles import write_bundle
from tests.support.series import axial_affine

CPU, OURS = torch.device("cpu"), torch.device("cpu:0")
SEGMENT = Segment(1, "Part", ANATOMICAL_STRUCTURE, Code("1", "99TEST", "Part"))
VOXELS = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def run(folder: Path) -> LabelMap:
    volume = SeriesVolume(VOXELS.copy(), axial_affine((2.0, 0.8, 0.8)), tuple(f"2.25.{index}" for index in range(5)))
    return run_bundle(load_bundle(folder, CPU), volume, [SEGMENT])


def windows(device: str) -> dict[str, Any]:
    return {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [4, 4, 4], "device": device}}


@pytest.mark.parametrize("device", ["cuda:7", "$torch.device('cuda:7')", "meta"])
def test_an_inferer_that_names_a_device_works_on_ours(tmp_path: Path, device: str) -> None:
    bundle = write_bundle(tmp_path / "toy", config={"imports": ["$import os", "$import torch"]} | windows(device))
    np.testing.assert_array_equal(run(bundle).values, VOXELS > 0)


@pytest.mark.parametrize(("device", "placed"), [("meta", OURS), ("cuda:7", OURS), ("cpu", CPU)])
def test_at_whatever_demand_an_inferer_stays_on_ours_or_on_the_host(tmp_path: Path, device: str, placed: Any) -> None:  # noqa: ANN401
    loaded = load_bundle(write_bundle(tmp_path / "toy", config=windows(device)), OURS)
    twin = load_bundle(tmp_path / "toy", CPU)
    for each, expected in (
        (loaded, placed),
        (loaded.at_a_time(None), placed),
        (loaded.at_a_time(1), placed),
        (loaded.with_volume_on_host(twin).at_a_time(1), CPU),
        (twin.at_a_time(None), CPU),
    ):
        assert isinstance(each.inferer, SlidingWindowInferer)
        assert str(each.inferer.device) == str(expected)  # torch takes cpu:0 and cpu for equal in some places
        assert str(each.inferer.sw_device) == str(each.device)


@pytest.mark.parametrize(
    "transform",
    [
        {"_target_": "EnsureTyped", "keys": "image", "device": "cuda:7"},
        {"_target_": "ToDeviced", "keys": "image", "device": "meta"},
        {
            "_target_": "Compose",
            "transforms": [{"_target_": "EnsureTyped", "keys": "image", "device": "$torch.device('meta')"}],
        },
    ],
)
def test_a_transform_before_the_network_works_on_ours(tmp_path: Path, transform: dict[str, Any]) -> None:
    imports = {"imports": ["$import os", "$import torch"]}
    bundle = write_bundle(tmp_path / "toy", preprocessing=[transform], config=imports)
    np.testing.assert_array_equal(run(bundle).values, VOXELS > 0)


@pytest.mark.parametrize(
    "transform",
    [
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "device": "meta"},
        {"_target_": "ToDeviced", "keys": "pred", "device": "cuda:7"},
    ],
)
def test_a_transform_behind_the_network_works_on_ours(tmp_path: Path, transform: dict[str, Any]) -> None:
    turned = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}
    bundle = write_bundle(tmp_path / "toy", preprocessing=[turned], postprocessing=[transform])
    np.testing.assert_array_equal(run(bundle).values, VOXELS > 0)


@pytest.mark.parametrize(
    ("chains", "words"),
    [
        ({"preprocessing": [{"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x.to('meta')"}]}, "preproc"),
        ({"postprocessing": [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.to('meta')"}]}, "postproc"),
    ],
)
def test_code_that_moves_images_elsewhere_is_answered_in_words(
    tmp_path: Path, chains: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleInvalid, match=f"{words}essing puts its images on meta.*@device"):
        run(write_bundle(tmp_path / "toy", **chains))


def test_what_is_no_device_stays() -> None:
    part = SimpleNamespace(device="the scanner", sw_device=None, place="cuda:7")
    place_on(CPU, part)
    assert vars(part) == {"device": "the scanner", "sw_device": None, "place": "cuda:7"}


def test_ours_and_the_host_are_in_place() -> None:
    for device in (torch.device("meta"), CPU):
        demand_place(torch.empty(1), device, "preprocessing")
    demand_place(torch.empty(1, device="meta"), torch.device("meta"), "preprocessing")
    demand_place(None, CPU, "preprocessing")
