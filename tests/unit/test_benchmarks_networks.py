"""The benchmark of large networks, with one as small as it goes: its bundle runs as the node runs any, and is held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.network_runs import by_precision, difference, end_to_end, forward_share, within
from benchmarks.networks import SIZES, print_limited
from benchmarks.wholebody import Case, Size, make_case, random_network

CPU = torch.device("cpu")
SMALL = Size(slices=12, pixels=24, segments=4, window=16, batch=2, filters=8)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("networks"), SMALL)


def test_every_step_and_object_is_counted(case: Case, tmp_path: Path) -> None:
    whole = end_to_end(case, CPU, 1, tmp_path)
    (record,) = whole.records
    assert list(record["seconds"]) == ["decode", "preprocess", "inference", "postprocess", "measure", "encode"]
    assert record["model_was_warm"]
    assert [each.form for each in whole.written][:2] == ["seg", "seg_labelmap"]
    assert whole.written[0].frames >= whole.segments_found > 0
    assert whole.peak("host_peak") is not None
    assert whole.peak("device_peak") is None


def test_the_forward_is_a_part_of_the_inference(case: Case) -> None:
    share = forward_share(case, CPU)
    assert 0 < share.forward < share.inference
    assert share.calls == 1


def test_each_precision_is_held_against_float32(case: Case) -> None:
    plain, reduced = by_precision(case, CPU, 1)
    assert (plain.precision, reduced.precision) == ("float32", "bfloat16")
    assert plain.differing == 0 < plain.held
    assert len(reduced.seconds) == 1


def test_the_network_is_as_large_as_the_zoos_and_the_same_each_time() -> None:
    assert 18e6 < sum(each.numel() for each in random_network(SIZES["cuda"]).parameters()) < 19e6
    one, other = random_network(SMALL).state_dict(), random_network(SMALL).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_difference_counts_voxels() -> None:
    one, other = np.array([[[0, 1], [2, 2]]]), np.array([[[0, 0], [2, 3]]])
    assert difference(one, other) == (2, 3)


def test_without_a_gpu_it_is_said_that_the_ladder_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    print_limited(None)
    assert "not measured" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_limit_that_is_too_small_says_so(case: Case) -> None:
    limited = within(case, torch.device("cuda:0"), 1)
    assert "does not suffice" in limited.failed
    assert limited.record["memory_steps"]
