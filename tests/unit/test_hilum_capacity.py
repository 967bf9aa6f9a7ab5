"""Which devices there are, what each worker gets, and what runs side by side."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.working.capacity import Budgets, Running, device_of, seen_by, threads_of, with_devices
from inference.machine import machine_bytes

GB = 1_000_000_000


def settings(*devices: str, threads: int = 0, memory_mb: int = 10_000, **models: dict[str, Any]) -> Settings:
    entries = {
        name: ModelSettings.model_validate({"name": name, "bundle": "builtin:lung_ct"} | keys)
        for name, keys in models.items()
    }
    inference = {"devices": devices, "threads": threads, "memory_mb": memory_mb}
    return Settings.model_validate({"inference": inference, "models": entries})


def test_auto_becomes_a_list_that_travels_to_the_roles() -> None:
    resolved = with_devices(Settings())
    assert isinstance(resolved.inference.devices, tuple)
    assert resolved.inference.devices
    again = Settings.model_validate_json(resolved.to_json())
    assert again.inference.devices == resolved.inference.devices
    assert with_devices(again) is again


def test_a_list_is_left_as_it_is() -> None:
    given = settings("cuda:1", "cpu", "cpu")
    assert with_devices(given) is given
    assert [device_of(given, index) for index in range(4)] == ["cuda:1", "cpu", "cpu", ""]


def test_workers_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert threads_of(settings("cpu")) == 0
    assert threads_of(settings("cpu", "cpu")) == 4
    assert threads_of(settings("cpu", "cpu", threads=3)) == 3
    assert threads_of(settings(*["cpu"] * 64)) == 1


def test_the_machine_has_memory() -> None:
    assert 10**8 < machine_bytes() < 10**15
    assert 0 < Budgets(Settings()).total_bytes < machine_bytes()


def test_a_model_that_says_nothing_counts_as_an_equal_share() -> None:
    budgets = Budgets(settings("cpu", "cpu", "cpu", "cpu", small={"memory_mb": 500}, plain={}))
    assert budgets.of("small") == GB // 2
    assert budgets.of("plain") == budgets.of("of no entry") == 10 * GB // 4


@pytest.mark.parametrize(
    ("running", "fits"),
    [
        ([], True),
        (["small"], True),
        (["small", "small"], True),
        (["large"], False),
        (["small", "small", "small"], False),
    ],
)
def test_memory_decides_what_runs_side_by_side(running: list[str], fits: bool) -> None:
    budgets = Budgets(settings("cpu", "cpu", "cpu", "cpu", small={"memory_mb": 2000}, large={"memory_mb": 6000}))
    assert budgets.fits("large", "cpu", None, [Running(name, "cpu") for name in running]) is fits


def test_what_is_larger_than_the_machine_runs_alone() -> None:
    budgets = Budgets(settings("cpu", "cpu", huge={"memory_mb": 50_000}, small={"memory_mb": 1}))
    assert budgets.fits("huge", "cpu", None, [])
    assert not budgets.fits("huge", "cpu", None, [Running("small", "cpu")])
    assert not budgets.fits("small", "cpu", None, [Running("huge", "cpu")])


def test_two_workers_of_one_gpu_share_its_memory() -> None:
    third, most = {"device_memory_mb": 3000}, {"device_memory_mb": 8000}
    budgets = Budgets(settings("cuda:0", "cuda:0", "cuda:1", third=third, most=most, plain={}))

    def fits(model: str, beside: str, device: str = "cuda:0") -> bool:
        return budgets.fits(model, "cuda:0", 10 * GB, [Running(beside, device)])

    assert fits("third", "third")
    assert not fits("third", "most")
    assert fits("third", "most", "cuda:1")
    assert fits("plain", "plain")
    assert not fits("plain", "most")
    assert budgets.on_device("plain", "cuda:0", 10 * GB) == 5 * GB
    assert budgets.on_device("plain", "cuda:1", 10 * GB) is None
    assert budgets.on_device("third", "cuda:1", 10 * GB) == 3 * GB


@pytest.mark.parametrize(
    ("there", "seen"), [(None, ["", "1", "0"]), ("4,7", ["", "7", "4"]), ("4", ["", "", "4"]), ("", ["", "1", "0"])]
)
def test_a_worker_sees_its_own_gpu_alone(there: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if there is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    given = settings("cpu", "cuda:1", "cuda:0")
    assert [seen_by(given, index)["CUDA_VISIBLE_DEVICES"] for index in range(3)] == seen
    assert seen_by(Settings(), 0) == {}
