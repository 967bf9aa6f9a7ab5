"""What is tried when a device's memory does not suffice: in which order, on record, and from the untouched images.

"cpu:0" stands in for a GPU: for the node it is another device than the host ("cpu"), and bundles that run out of memory
on it alone go down every rung there is, through the code that a GPU would take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch

from inference.account import Account
from inference.analysis import Analysis, Analyst
from inference.catalog import ModelCard, read_card
from inference.ladder import Foothold, Footholds, Ladder
from inference.memory import OutOfDeviceMemory, PerhapsOutOfDeviceMemory
from inference.options import RunOptions
from study.errors import BundleInvalid, DeviceOutOfMemory, InferenceError
from study.geometry import FrameOfReferencePolicy, VolumeGeometry, assess
from study.headers import InstanceHeader
from tests.support.bundles import zoo_bundle
from tests.support.series import ct_series, save_series

DEVICE = "cpu:0"
SHAPE = (8, 20, 20)
NET = """
import pathlib
import torch

class Net(torch.nn.Module):
    '''Finds what is bright, on a device with little memory.'''

    def __init__(self, place, log, most=9, short=(), loads=True):
        super().__init__()
        with pathlib.Path(log).open("a") as file:
            file.write(place + "\\n")
        if place == "cpu:0" and not loads:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.place, self.most, self.short = place, most, short
        self.register_buffer("level", torch.zeros(1000) + 100.0)

    def forward(self, image):
        if self.place in self.short or (self.place == "cpu:0" and len(image) > self.most):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return (image > self.level[0]).float()

class Heavy:
    '''A transform that needs the device's memory, once it has written into its image.'''

    def __init__(self, place, fits):
        self.place, self.fits = place, fits

    def __call__(self, sample):
        sample["image"] += 60.0
        if self.place == "cpu:0" and not self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sample["image"] -= 60.0
        return sample
"""


@dataclass(frozen=True)
class Bench:
    """A series on disk, and models with little memory."""

    folder: Path
    paths: tuple[Path, ...]
    headers: tuple[InstanceHeader, ...]
    geometry: VolumeGeometry
    truth: np.ndarray[Any, np.dtype[np.bool_]]
    told: list[tuple[str, bool]] = field(default_factory=list)

    def model(self, name: str = "short", *, fits: bool = True, **network: Any) -> ModelCard:  # noqa: ANN401
        place = {"place": "$str(@device)"}
        log = str(self.folder / f"{name}.log")
        config: Mapping[str, Any] = {"network_def": {"_target_": "scripts.net.Net", **place, "log": log, **network}}
        bundle = zoo_bundle(
            self.folder / name,
            network=NET,
            preprocessing=[{"_target_": "scripts.net.Heavy", **place, "fits": fits}],
            inferer={"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "sw_batch_size": 8, "overlap": 0.5},
            config=config,
        )
        return read_card(name, bundle)

    def loads(self, name: str = "short") -> list[str]:
        return (self.folder / f"{name}.log").read_text().split()

    def analyse(self, analyst: Analyst, card: ModelCard, account: Account | None = None, **options: Any) -> Analysis:  # noqa: ANN401
        account = account or Account(lambda step, on_cpu: self.told.append((step, on_cpu)))
        return analyst.analyse(
            card, self.paths, self.headers, self.geometry, options=RunOptions(**options), account=account
        )

    def check(self, analysis: Analysis) -> list[str]:
        """Demand the right labels; return the steps that were taken."""
        assert analysis.result_set.label_map is not None
        np.testing.assert_array_equal(analysis.result_set.label_map.values == 1, self.truth)
        return [step["step"] for step in analysis.account.memory_steps]


def bench(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Bench:
    voxels = np.random.default_rng(1).integers(0, 200, shape).astype(np.float32)
    paths = save_series(ct_series(voxels), folder / "series")
    headers = [InstanceHeader.of(pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    geometry = assess(headers, FrameOfReferencePolicy.STRICT)
    order = geometry.order
    ordered = tuple(paths[index] for index in order), tuple(headers[index] for index in order)
    return Bench(folder, *ordered, geometry, voxels > 100)


def test_the_rungs_in_their_order() -> None:
    rungs, foothold = [], Foothold(8).next(on_host_already=False, may_use_cpu=True)
    while foothold is not None:
        rungs.append((foothold.place, foothold.windows))
        foothold = foothold.next(on_host_already=False, may_use_cpu=True)
    assert rungs == [("device", 4), ("device", 2), ("device", 1), ("host", 1), ("cpu", None)]


@pytest.mark.parametrize(
    ("foothold", "on_host", "may_use_cpu", "expected"),
    [
        (Foothold(1), False, False, Foothold(1, "host")),
        (Foothold(1, "host"), False, False, None),
        (Foothold(None), False, True, Foothold(None, "host")),
        (Foothold(3), True, False, Foothold(1)),
        (Foothold(1), True, True, None),
        (Foothold(None, "cpu"), False, True, None),
    ],
)
def test_where_the_rungs_end(foothold: Foothold, on_host: bool, may_use_cpu: bool, expected: Foothold | None) -> None:
    assert foothold.next(on_host_already=on_host, may_use_cpu=may_use_cpu) == expected


def test_where_a_transform_lacks_memory_fewer_windows_are_not_tried() -> None:
    rungs, foothold = [], Foothold(8).next(on_host_already=False, may_use_cpu=True, in_transforms=True)
    while foothold is not None:
        rungs.append((foothold.place, foothold.windows))
        foothold = foothold.next(on_host_already=False, may_use_cpu=True, in_transforms=True)
    assert rungs == [("host", 8), ("cpu", None)]
    assert Foothold(8).next(on_host_already=True, may_use_cpu=False, in_transforms=True) is None


def test_what_may_be_a_lack_of_memory_is_tried_once_more_and_no_oftener() -> None:
    def climb(fails: int) -> Foothold:
        attempts = iter([PerhapsOutOfDeviceMemory("CUDNN_STATUS_INTERNAL_ERROR.")] * fails)

        def attempt(foothold: Foothold) -> str:
            for error in attempts:
                raise error
            return "done"

        return Ladder(account, torch.device(DEVICE), None, may_use_cpu=True, let_go=list).climb(Foothold(8), attempt)[1]

    account = Account()
    assert climb(1) == Foothold(4)
    assert [step["step"] for step in account.memory_steps] == ["suspected", "smaller_batch"]
    with pytest.raises(InferenceError, match="CUDNN_STATUS_INTERNAL_ERROR"):
        climb(2)


@pytest.mark.parametrize(("alone", "words"), [(True, ""), (False, "may differ")])
def test_smaller_batches_are_on_record_with_what_they_may_change(alone: bool, words: str) -> None:
    account, device = Account(), torch.device(DEVICE)
    ladder = Ladder(account, device, None, may_use_cpu=False, let_go=list, takes_each_alone=alone)
    attempts = iter([OutOfDeviceMemory("short")])

    def attempt(foothold: Foothold) -> str:
        for error in attempts:
            raise error
        return "done"

    ladder.climb(Foothold(2), attempt)
    said = account.memory_steps[-1]["words"]
    assert (words in said, "may differ" in said) == (True, not alone)


def test_a_small_series_is_not_held_back_by_what_a_large_one_needed() -> None:
    footholds = Footholds()
    footholds.note("model", 1000, Foothold(2))
    footholds.note("model", 5000, Foothold(None, "cpu"))
    assert footholds.of("model", 999) is None
    assert footholds.of("model", 4999) == Foothold(2)
    assert footholds.of("model", 9000) == Foothold(None, "cpu")
    assert footholds.of("another", 9000) is None


def test_what_was_needed_is_forgotten_after_an_hour_or_many_series() -> None:
    now = [0.0]
    footholds = Footholds(clock=lambda: now[0])
    footholds.note("model", 1000, Foothold(2))
    now[0] = 3599.0
    assert footholds.of("model", 1000) == Foothold(2)
    now[0] = 3600.0
    assert footholds.of("model", 1000) is None
    footholds.note("model", 1000, Foothold(1))
    assert [footholds.of("model", 2000) for _ in range(51)] == [Foothold(1)] * 50 + [None]


def test_a_smaller_batch_is_enough_and_is_remembered_for_a_while(tmp_path: Path) -> None:
    now = [0.0]
    at, analyst = bench(tmp_path), Analyst(DEVICE, clock=lambda: now[0])
    card = at.model(most=2)
    first = at.analyse(analyst, card)
    assert at.check(first) == ["smaller_batch", "smaller_batch"]
    assert [(step["before"], step["windows"]) for step in first.account.memory_steps] == [(8, 4), (4, 2)]
    assert "8 windows at a time; went on with" in first.account.memory_steps[0]["words"]
    assert first.account.running["windows_at_a_time"] == 2
    now[0] = 3000.0
    again = at.analyse(analyst, card)
    assert at.check(again) == ["begun_with"]
    now[0] = 4000.0  # that it was enough again makes it no younger
    assert at.check(at.analyse(analyst, card)) == ["smaller_batch", "smaller_batch"]
    assert (first.account.was_warm, again.account.was_warm) == (False, True)
    assert at.loads() == [DEVICE]


def test_the_host_takes_volume_and_transforms(tmp_path: Path) -> None:
    """The transform wrote into the image before it failed: the next attempt has the images again, as they were."""
    at = bench(tmp_path)
    done = at.analyse(Analyst(DEVICE), at.model(fits=False))
    assert at.check(done) == ["stitch_on_host"]
    assert (done.account.running["stitched_on_host"], done.account.running["windows_at_a_time"]) == (True, 8)
    assert str(done.account.device) == DEVICE
    assert not any(on_cpu for _, on_cpu in at.told)


def test_the_processor_takes_over_where_the_site_allows_it_and_is_told_of_before(tmp_path: Path) -> None:
    at, analyst = bench(tmp_path), Analyst(DEVICE)
    card = at.model(short=[DEVICE])
    done = at.analyse(analyst, card, may_use_cpu=True)
    assert at.check(done) == ["smaller_batch"] * 3 + ["stitch_on_host", "cpu"]
    assert done.account.details()["device"] == "cpu"
    begun = at.told.index(next(news for news in at.told if news[1]))
    assert all(on_cpu for _, on_cpu in at.told[begun:])
    assert [step for step, _ in at.told[begun:]] == ["decode", "preprocess", "inference", "postprocess", "measure"]
    at.told.clear()
    assert at.check(at.analyse(analyst, card, may_use_cpu=True)) == ["begun_with"]
    assert all(on_cpu for step, on_cpu in at.told)
    assert at.loads() == [DEVICE, "cpu"]


def test_where_nothing_is_left_it_is_said_what_was_tried_and_what_helps(tmp_path: Path) -> None:
    at = bench(tmp_path)
    account = Account()
    with pytest.raises(DeviceOutOfMemory, match=r"1 window at a time.*cpu_deadline_seconds") as caught:
        at.analyse(Analyst(DEVICE), at.model(short=[DEVICE]), account)
    assert caught.value.reason.code == "DeviceOutOfMemory"
    assert [step["step"] for step in account.memory_steps] == ["smaller_batch"] * 3 + ["stitch_on_host"]
    assert account.running["windows_at_a_time"] == 1


def test_other_models_leave_before_anything_else_changes(tmp_path: Path) -> None:
    at, analyst = bench(tmp_path), Analyst(DEVICE)
    others = [at.model("first"), at.model("second")]
    for card in others:
        analyst.load(card)
    done = at.analyse(analyst, at.model(most=4))
    assert at.check(done) == ["let_go", "smaller_batch"]
    assert done.account.memory_steps[0]["models"] == ["first", "second"]
    analyst.load(others[0])
    assert at.loads("first") == [DEVICE, DEVICE]


def test_a_model_that_does_not_fit_itself_runs_on_the_processor_or_says_what_helps(tmp_path: Path) -> None:
    at, analyst = bench(tmp_path), Analyst(DEVICE)
    card = at.model(loads=False)
    done = at.analyse(analyst, card, may_use_cpu=True)
    assert at.check(done) == ["cpu"]
    with pytest.raises(DeviceOutOfMemory, match=r"does not suffice for this model.*cpu_deadline_seconds"):
        at.analyse(analyst, card)


def test_the_least_recently_used_model_leaves_when_the_shelf_is_full(tmp_path: Path) -> None:
    at = bench(tmp_path)
    analyst = Analyst("cpu", warm_bytes=8500)  # two networks of 4000 bytes
    one, two, three = (at.model(name) for name in ("one", "two", "three"))
    for card in (one, two, one):
        analyst.load(card)
    account = Account()
    analyst.load(three, account=account)
    assert [step["models"] for step in account.memory_steps] == [["two"]]
    analyst.load(one)
    assert [len(at.loads(name)) for name in ("one", "two", "three")] == [1, 1, 1]
    analyst.load(two)
    assert len(at.loads("two")) == 2


def test_a_bundle_that_changed_is_not_loaded_for_the_processor_either(tmp_path: Path) -> None:
    at, analyst = bench(tmp_path), Analyst(DEVICE)
    card = at.model(short=[DEVICE])
    analyst.load(card)
    (card.path / "scripts" / "net.py").write_text(NET + "\n")
    with pytest.raises(BundleInvalid, match="changed while the node ran"):
        at.analyse(analyst, card, may_use_cpu=True)


def test_the_machines_own_memory_is_told_apart(tmp_path: Path) -> None:
    at = bench(tmp_path)
    card = at.model()
    net = card.path / "scripts" / "net.py"
    net.write_text(NET.replace('torch.OutOfMemoryError("CUDA out of memory. Tried to', 'MemoryError("'))
    card = read_card("short", card.path)
    config = card.path / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"scripts.net.Net", ', '"scripts.net.Net", "most": 1, '))
    account = Account()
    with pytest.raises(DeviceOutOfMemory, match="machine's own memory"):
        at.analyse(Analyst(DEVICE), read_card("short", card.path), account)
    assert account.memory_steps == []


def test_any_other_error_is_no_rung(tmp_path: Path) -> None:
    at = bench(tmp_path)
    card = at.model(most="none")
    account = Account()
    with pytest.raises(InferenceError, match="TypeError"):
        at.analyse(Analyst(DEVICE), card, account)
    assert account.memory_steps == []


@pytest.mark.gpu
def test_a_forced_small_limit_on_a_gpu(tmp_path: Path) -> None:
    """32 MB hold one window of the network's features, and neither eight of them nor what else is on the device."""
    at = bench(tmp_path, (64, 96, 96))
    wide = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Conv3d(1, 64, 1, bias=False)
        torch.nn.init.ones_(self.wide.weight)

    def forward(self, image):
        return (self.wide(image).mean(dim=1, keepdim=True) > 100.0).float()
"""
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 16, "overlap": 0.5}
    card = read_card("wide", zoo_bundle(tmp_path / "wide", network=wide, inferer=inferer))
    analyst = Analyst("cuda:0")
    whole = at.analyse(analyst, card)
    assert at.check(whole) == []
    small = at.analyse(analyst, card, device_memory_bytes=torch.cuda.memory_reserved() + 32_000_000)
    assert "smaller_batch" in at.check(small)
    assert small.account.details()["memory_mb"]["device_peak"] < whole.account.details()["memory_mb"]["device_peak"]
    assert torch.cuda.get_per_process_memory_fraction() == 1.0
