"""What a bundle's code does to the whole process is over when it has run, and so is what it keeps for itself."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.bundle import load_bundle
from inference.running import run_bundle
from inference.surroundings import surroundings_kept
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.errors import InferenceError
from study.imaging import LabelMap, Segment, SeriesVolume
from tests.support.bundles import write_bundle
from tests.support.series import axial_affine

CPU = torch.device("cpu")
SEGMENTS = [Segment(1, "Part", ANATOMICAL_STRUCTURE, Code("1", "99TEST", "Part"))]
HOSTILE = """
import os, random, sys, warnings
import numpy as np
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(7)
torch.set_grad_enabled(False)
torch.set_default_device("meta")
torch.set_default_device("cpu")
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
os.chdir("/")
os.environ["A_BUNDLE_WAS_HERE"] = "1"
os.environ.pop("PATH", None)
np.seterr(all="raise")
np.random.seed(1)
random.seed(1)
torch.manual_seed(1)
warnings.simplefilter("ignore")
sys.path.clear()
sys.setrecursionlimit(4000)
"""


def volume(value: float = 1.0) -> SeriesVolume:
    voxels = np.full((4, 5, 6), value, dtype=np.float32)
    return SeriesVolume(voxels, axial_affine(), tuple(f"2.25.{index}" for index in range(4)))


def state() -> dict[str, object]:
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "numpy": np.geterr(),
        "numpy's chance": np.random.get_state()[1].tolist(),  # type: ignore[index]  # numpy's gap
        "chance": random.getstate(),
        "torch's chance": torch.get_rng_state().tolist(),
        "filters": list(warnings.filters),
        "search path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
    }


def run(folder: Path, values: float = 1.0) -> LabelMap:
    return run_bundle(load_bundle(folder, CPU), volume(values), SEGMENTS)


@pytest.mark.parametrize("when", ["as it is loaded", "as it runs", "as it fails"])
def test_what_a_bundle_sets_for_the_whole_process_is_put_back(tmp_path: Path, when: str) -> None:
    bundle = write_bundle(tmp_path / "toy", body="return hostile(image)")
    file = bundle / "scripts" / "toy.py"
    acts = HOSTILE.strip().replace("\n", "\n    ")
    ends = "raise KeyError('gone')" if when == "as it fails" else "return (image > 0).float()"
    loads = HOSTILE if when == "as it is loaded" else ""
    file.write_text(
        f"{loads}\ndef hostile(image):\n    {acts if not loads else 'pass'}\n    {ends}\n{file.read_text()}"
    )
    before = state()
    if when == "as it fails":
        with pytest.raises(InferenceError, match="gone"):
            run(bundle)
    else:
        assert run(bundle).values.all()
    assert state() == before
    assert torch.empty(1).device == CPU


def test_a_default_device_does_not_outlive_its_bundle() -> None:
    with surroundings_kept(CPU):
        torch.set_default_device("meta")
    assert torch.empty(1).device == CPU


NOISY = "return (torch.rand_like(image) + float(np.random.rand()) + random.random() > 1.5).float()"


def test_chance_gives_the_same_result_twice(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", body=NOISY)
    file = bundle / "scripts" / "toy.py"
    file.write_text("import random\nimport numpy as np\n" + file.read_text())
    loaded = load_bundle(bundle, CPU)
    first, second = (run_bundle(loaded, volume(), SEGMENTS).values for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert 0 < first.mean() < 1


def test_a_random_transform_gives_the_same_result_twice(tmp_path: Path) -> None:
    noise = {"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.5, "std": 1.0}
    loaded = load_bundle(write_bundle(tmp_path / "toy", threshold=1.0, preprocessing=[noise] * 3), CPU)
    first, *others = (run_bundle(loaded, volume(), SEGMENTS).values for _ in range(3))
    for other in others:
        np.testing.assert_array_equal(first, other)


KEEPS: dict[str, Callable[[str], str]] = {
    "a buffer": lambda kept: f"self.register_buffer('kept', {kept})",
    "an attribute": lambda kept: f"self.kept = {kept}",
}
IN_PLACE: dict[str, Any] = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.sub_(1)"}


@pytest.mark.parametrize("keeps", KEEPS)
@pytest.mark.parametrize("postprocessing", [[], [IN_PLACE]])
def test_a_result_is_nothing_that_the_next_run_changes(
    tmp_path: Path, keeps: str, postprocessing: list[dict[str, Any]]
) -> None:
    """A network gives out what it keeps: it must not reach our result, nor the transforms what it keeps."""
    keep = KEEPS[keeps]("torch.zeros(1, 1, 6, 5, 4)")
    body = "self.kept.copy_(image > self.threshold); return self.kept"
    bundle = write_bundle(tmp_path / "toy", body=body, postprocessing=postprocessing)
    file = bundle / "scripts" / "toy.py"
    file.write_text(file.read_text().replace("super().__init__()", f"super().__init__(); {keep}"))
    loaded = load_bundle(bundle, CPU)
    kept: Any = loaded.network.kept
    found = run_bundle(loaded, volume(), SEGMENTS).values
    expected = 0 if postprocessing else 1
    assert (found == expected).all()
    assert kept.eq(1).all()
    kept.fill_(7)
    assert (found == expected).all()


def test_a_result_is_no_view_of_labels_that_a_bundle_keeps(tmp_path: Path) -> None:
    """Bytes, in the order of our axes: the one form that would need no copy on its way out."""
    body = "return (image > self.threshold).to(torch.uint8).permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)"
    keep = {
        "_target_": "Lambdad",
        "keys": "pred",
        "func": "$lambda x: __import__('builtins').__dict__.setdefault('kept', x)",
    }
    loaded = load_bundle(write_bundle(tmp_path / "toy", body=body, postprocessing=[keep]), CPU)
    try:
        found = run_bundle(loaded, volume(), SEGMENTS).values
        kept: Any = __import__("builtins").__dict__["kept"]
        assert found.all()
        with torch.inference_mode():
            kept.zero_()
        assert found.all()
    finally:
        __import__("builtins").__dict__.pop("kept", None)
