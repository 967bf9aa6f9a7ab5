"""In which numbers a network computes, how its weights lie, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SimpleInferer, SliceInferer, SlidingWindowInferer, SlidingWindowInfererAdapt

from inference.bundle import load_bundle
from inference.options import Precision, RunOptions
from inference.precision import compute_repeatably, precision_on
from inference.running import run_bundle
from inference.speed import compiling, is_planar, laid_out, windows_at_a_time
from inference.surroundings import surroundings_kept
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.errors import BundleInvalid
from study.imaging import Segment, SeriesVolume
from tests.support.bundles import write_bundle
from tests.support.series import axial_affine

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SEGMENTS = [Segment(1, "Part", ANATOMICAL_STRUCTURE, Code("1", "99TEST", "Part"))]
REDUCED = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


@pytest.mark.parametrize(
    ("device", "asked", "mixed", "expected"),
    [
        (CPU, None, True, "float32"),
        (CPU, "bfloat16", False, "bfloat16"),
        (CPU, "tf32", False, "float32"),
        (GPU, None, False, "float32"),
        (GPU, None, True, "float16"),
        (GPU, "float32", True, "float32"),
        (GPU, "tf32", True, "tf32"),
    ],
)
def test_the_site_has_the_last_word_and_then_the_bundle(
    device: torch.device, asked: Precision | None, mixed: bool, expected: Precision
) -> None:
    assert precision_on(device, asked, mixed=mixed) == expected


def test_a_bundle_may_say_which_type_it_mixes_with() -> None:
    assert precision_on(GPU, None, mixed=True, mixed_dtype=torch.bfloat16) == "bfloat16"


@pytest.mark.parametrize(
    ("precision", "allowed"), [("float32", False), ("float16", False), ("bfloat16", False), ("tf32", True)]
)
def test_tensorfloat_is_for_those_who_ask_for_it(precision: Precision, allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with surroundings_kept(CPU):
        compute_repeatably(precision)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


CONVOLVES = """
conv = torch.nn.functional.conv3d(image, self.threshold.reshape(1, 1, 1, 1, 1))
        kinds.append(conv.dtype)
        return conv
"""


def convolving(folder: Path, **config: Any) -> Path:  # noqa: ANN401 - parts of a configuration
    """Return a bundle that notes in which type it convolves, and halves its image: labels where it is 2."""
    bundle = write_bundle(folder, body=CONVOLVES.strip(), threshold=0.5, config=config)
    file = bundle / "scripts" / "toy.py"
    file.write_text(f"kinds = []\n{file.read_text()}")
    return bundle


@pytest.mark.parametrize("precision", [None, "float32", "float16", "bfloat16"])
def test_a_network_computes_as_asked_and_gives_float32(tmp_path: Path, precision: Precision | None) -> None:
    after = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: (x / (x.dtype == torch.float32))"}
    bundle = convolving(tmp_path / "toy", imports=["$import torch"], postprocessing=[after])
    loaded = load_bundle(bundle, CPU, RunOptions(precision=precision))
    voxels = np.zeros((3, 4, 5), dtype=np.float32)
    voxels[1] = 2.0
    found = run_bundle(loaded, SeriesVolume(voxels, axial_affine(), ("1",) * 3), SEGMENTS)
    np.testing.assert_array_equal(found.values, voxels / 2)
    kinds = next(module for name, module in loaded.modules.items() if name == "scripts.toy").kinds
    assert [REDUCED[kind] for kind in kinds] == [precision or "float32"]
    assert loaded.precision == (precision or "float32")


@pytest.mark.parametrize("amp", [True, "@mixed", "$@mixed"])
def test_mixed_precision_of_the_evaluator_is_found_and_is_for_a_gpu(tmp_path: Path, amp: object) -> None:
    evaluator = {"_target_": "NoSuchEvaluator", "amp": amp}
    assert load_bundle(convolving(tmp_path / "toy", mixed=True, evaluator=evaluator), CPU).precision == "float32"
    if torch.cuda.is_available():
        assert load_bundle(tmp_path / "toy", GPU).precision == "float16"


def test_networks_of_two_dimensions_alone_are_laid_out_by_channels() -> None:
    planar, solid = torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(4, 4, 3)
    assert is_planar(planar)
    assert not is_planar(torch.nn.Sequential(planar, solid))
    assert not is_planar(torch.nn.Linear(2, 2))
    assert laid_out(planar, CPU) == "channels_last"
    assert planar.weight.is_contiguous(memory_format=torch.channels_last)
    assert laid_out(solid, CPU) == "contiguous"
    assert solid.weight.is_contiguous()


def test_planes_go_one_at_a_time_on_the_processor_and_all_else_as_the_bundle_says() -> None:
    planar, solid = torch.nn.Conv2d(4, 4, 3).eval(), torch.nn.Conv3d(4, 4, 3).eval()
    slices = SliceInferer(roi_size=[8, 8], sw_batch_size=4)
    assert windows_at_a_time(slices, planar, CPU) == 1
    assert windows_at_a_time(slices, planar, GPU) == 4
    assert windows_at_a_time(SlidingWindowInferer([8, 8, 8], sw_batch_size=3), solid, CPU) == 3
    assert windows_at_a_time(SimpleInferer(), planar, CPU) is None
    assert windows_at_a_time(slices, planar, CPU, as_it_stands=True) == 4


class Own(torch.nn.Module):
    """A bundle's own network: each window is compared with the mean of all that go with it."""

    def __init__(self) -> None:
        super().__init__()
        self.same = torch.nn.Conv2d(1, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.same(image)
        return (found > found.mean()).float()


def planar(*more: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), *more).eval()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (planar(torch.nn.BatchNorm2d(1), torch.nn.ReLU(inplace=True)), 1),
        (planar(torch.nn.BatchNorm2d(1, track_running_stats=False)), 4),
        (planar(torch.nn.BatchNorm2d(1).train()).train(), 4),
        (Own().eval(), 4),
    ],
)
def test_the_number_of_windows_stays_where_the_result_may_depend_on_it(
    network: torch.nn.Module, expected: int, scripted: bool
) -> None:
    network = torch.jit.script(network) if scripted else network
    assert windows_at_a_time(SliceInferer(roi_size=[8, 8], sw_batch_size=4), network, CPU) == expected


def test_a_network_as_it_stands_is_not_made_quick(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy")
    options = RunOptions(precision="bfloat16", compile=True, as_it_stands=True)
    loaded = load_bundle(bundle, CPU, options)
    assert (loaded.precision, loaded.compiled, loaded.memory_format) == ("float32", False, "contiguous")


@pytest.mark.filterwarnings("error")
def test_what_libraries_tell_authors_of_bundles_is_not_shown(tmp_path: Path) -> None:
    orient = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}  # of its labels, MONAI warns
    bundle = write_bundle(tmp_path / "toy", preprocessing=[orient])
    load_bundle(bundle, CPU)


def test_an_inferer_that_adapts_itself_in_silence_is_told_where_to_work(tmp_path: Path) -> None:
    adapts = {"_target_": "SlidingWindowInfererAdapt", "roi_size": [4, 4, 4], "sw_batch_size": 3}
    loaded = load_bundle(write_bundle(tmp_path / "toy", config={"inferer": adapts}), CPU)
    assert isinstance(loaded.inferer, SlidingWindowInfererAdapt)
    assert loaded.inferer.device == CPU
    assert (loaded.windows, loaded.inferer.sw_batch_size) == (3, 3)
    fewer = loaded.at_a_time(1)
    assert fewer.inferer is not loaded.inferer
    assert (fewer.windows, loaded.windows) == (1, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_can_not_be_compiled(tmp_path: Path) -> None:
    scripted = {"imports": ["$import os", "$import torch"], "network_def": "$torch.jit.script(torch.nn.ReLU())"}
    bundle = write_bundle(tmp_path / "toy", config=scripted)
    with pytest.raises(BundleInvalid, match="compile = false"):
        load_bundle(bundle, CPU, RunOptions(compile=True))


def test_nothing_is_set_for_a_network_that_is_not_compiled() -> None:
    with compiling(is_compiled=False):
        pass


def test_a_network_that_can_not_be_compiled_says_so(tmp_path: Path) -> None:
    body = "raise type('InductorError', (RuntimeError,), {'__module__': 'torch._inductor.exc'})('no compiler')"
    loaded = load_bundle(write_bundle(tmp_path / "toy", body=body), CPU)
    with pytest.raises(BundleInvalid, match=r"can not be compiled.*no compiler.*compile = false"):
        run_bundle(loaded, SeriesVolume(np.ones((3, 4, 5), np.float32), axial_affine(), ("1",) * 3), SEGMENTS)
