from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from inference.bundle import LoadedBundle
from inference.machine import MEGABYTE, machine_bytes
from inference.memory import (
    HOST,
    OutOfDeviceMemory,
    PerhapsOutOfDeviceMemory,
    answers,
    at_most,
    device_bytes,
    give_back,
    look_at_all,
    memory_error,
    set_aside,
    weight_bytes,
)
from inference.shelf import Shelf
from study.errors import DeviceOutOfMemory


def wrapped(cause: Exception) -> Exception:
    """Return an error as MONAI raises it from another one."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("applying transform <Activationsd>") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory."
        ),
        torch.jit.Error("RuntimeError: CUDA out of memory."),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_device_says_in_many_ways_that_its_memory_does_not_suffice(error: Exception) -> None:
    for each in (error, wrapped(error), wrapped(wrapped(error))):
        assert isinstance(memory_error(each, torch.device("cuda:0"), "this series"), OutOfDeviceMemory)


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_what_may_be_a_lack_of_memory_is_told_from_what_is(words: str) -> None:
    device = torch.device("cuda:0")
    assert isinstance(memory_error(RuntimeError(words), device, "this series"), PerhapsOutOfDeviceMemory)
    certain = memory_error(RuntimeError(f"{words}: CUDA out of memory"), device, "this series")
    assert not isinstance(certain, PerhapsOutOfDeviceMemory)


def test_an_error_that_was_raised_while_another_was_handled_is_looked_through() -> None:
    with pytest.raises(ValueError, match="on the way") as caught:  # noqa: PT012 - how it is raised is the case
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError:
            raise ValueError("on the way")  # noqa: B904 - see above
    assert isinstance(memory_error(caught.value, HOST, "this series"), OutOfDeviceMemory)


def test_the_machines_memory_is_no_devices() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    for error in (MemoryError(), caught.value):
        found = memory_error(error, torch.device("cuda:0"), "this series")
        assert isinstance(found, DeviceOutOfMemory)
        assert not isinstance(found, OutOfDeviceMemory)
        assert "machine's own memory" in found.words


def test_other_errors_say_nothing_of_memory() -> None:
    assert memory_error(RuntimeError("CUDA error: an illegal memory access was encountered"), HOST, "x") is None
    assert memory_error(ValueError("CUDA out of memory"), HOST, "x") is None


def test_the_machine_has_the_memory_that_linux_says_or_less() -> None:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 64 * MEGABYTE < machine_bytes() <= int(line.split()[1]) * 1024
    assert device_bytes(HOST) == machine_bytes()


def test_a_network_holds_its_parameters_and_buffers() -> None:
    network = torch.nn.BatchNorm1d(5)  # two parameters, two buffers of 5, and a counter of 8 bytes
    assert weight_bytes(network) == 4 * 5 * 4 + 8


def test_nothing_is_limited_or_given_back_but_on_a_gpu() -> None:
    with at_most(HOST, 1):
        assert torch.zeros(1000).sum() == 0
    give_back(HOST)
    assert answers(HOST)


@pytest.mark.gpu
def test_a_limit_on_a_gpu_holds_within_its_block() -> None:
    device = torch.device("cuda:0")
    with at_most(device, 64 * MEGABYTE), pytest.raises(torch.OutOfMemoryError):
        torch.empty(128 * MEGABYTE, dtype=torch.uint8, device=device)
    assert torch.empty(128 * MEGABYTE, dtype=torch.uint8, device=device).numel() == 128 * MEGABYTE


class Round:
    """Something that goes round in a circle, and is let go by the garbage collector alone."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_set_aside_is_let_go_once_all_is_looked_at_again() -> None:
    one = Round()
    here = weakref.ref(one)
    try:
        set_aside()
        del one
        give_back(HOST)
        assert here() is not None, "the collector went over what was set aside"
        look_at_all()
        give_back(HOST)
        assert here() is None
    finally:
        look_at_all()


def test_a_model_that_left_its_shelf_is_let_go_although_it_was_set_aside() -> None:
    network = torch.nn.Linear(2, 2)
    network.round = [network]  # type: ignore[assignment]
    here, shelf = weakref.ref(network), Shelf(limit=1)
    try:
        shelf.put("one", "one", holding(network))
        set_aside()
        del network
        assert shelf.put("two", "two", holding(torch.nn.Linear(2, 2))) == ["one"]
        give_back(HOST)
        assert here() is None
    finally:
        look_at_all()


def holding(network: torch.nn.Module) -> LoadedBundle:
    return cast(LoadedBundle, SimpleNamespace(network=network))  # all that a shelf asks of a bundle
