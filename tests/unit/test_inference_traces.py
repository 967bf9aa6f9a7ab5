"""What a bundle leaves in the process for good is noticed, and the process takes no further job."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer

from inference.account import Account
from inference.analysis import Analyst
from inference.catalog import read_card
from inference.surroundings import surroundings_kept
from inference.traces import Traces
from study.errors import BundleInvalid
from tests.support.bundles import zoo_bundle

CPU = torch.device("cpu")
MKLDNN: Any = torch.backends.mkldnn
BFLOAT16: Any = torch.autocast("cpu", dtype=torch.bfloat16)


def test_nothing_is_left_where_nothing_was_done() -> None:
    before = Traces.found()
    ended = threading.Thread(target=lambda: None)
    ended.start()
    torch.zeros(3).relu()
    assert before.left() == []


@pytest.mark.parametrize(
    ("space", "name", "words"),
    [
        (torch.Tensor, "relu", "torch.Tensor.relu replaced"),
        (torch, "isfinite", "torch.isfinite replaced"),
        (torch.nn.Conv3d, "forward", "torch.nn.modules.conv.Conv3d.forward replaced"),
        (SlidingWindowInferer, "__call__", "monai.inferers.inferer.SlidingWindowInferer.__call__ replaced"),
    ],
)
def test_a_function_in_the_place_of_a_librarys_is_noticed(
    monkeypatch: pytest.MonkeyPatch, space: object, name: str, words: str
) -> None:
    before = Traces.found()
    monkeypatch.setattr(space, name, lambda *_: None)
    assert words in before.left()
    monkeypatch.undo()


def test_a_function_with_another_ones_code_is_noticed() -> None:
    before, function, code = Traces.found(), torch.nn.functional.relu, torch.nn.functional.relu.__code__
    try:
        function.__code__ = torch.nn.functional.relu6.__code__
        assert before.left() == ["torch.nn.functional.relu rewritten"]
    finally:
        function.__code__ = code


def test_a_thread_that_still_runs_is_noticed() -> None:
    before, end = Traces.found(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert before.left() == ["threads that still run: 1"]
    finally:
        end.set()
        thread.join()
    assert before.left() == []


def test_a_process_that_still_runs_is_noticed() -> None:
    before = Traces.found()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert before.left() == ["processes that still run: 1"]
        process.communicate()
    assert before.left() == []


def test_a_folder_that_is_gone_is_noticed_and_nothing_raises(tmp_path: Path) -> None:
    home, gone = Path.cwd(), tmp_path / "gone"
    gone.mkdir()
    try:
        os.chdir(gone)
        before = Traces.found()
        with surroundings_kept(CPU):
            gone.rmdir()
        with surroundings_kept(CPU):
            os.chdir(home)
        assert before.left() == ["another working folder"]
    finally:
        os.chdir(home)


KEEPS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "a hook": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda _module, _args, output: output * 0),
        lambda: float(torch.nn.Identity()(torch.ones(1))),
    ),
    "a mode": (lambda: torch.device("meta").__enter__(), lambda: str(torch.empty(1).device)),
    "autocast": (
        BFLOAT16.__enter__,
        lambda: (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
    ),
    "precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "rounding": (
        lambda: setattr(MKLDNN.conv, "fp32_precision", "bf16"),
        lambda: MKLDNN.conv.fp32_precision,
    ),
    "small numbers": (lambda: torch.set_flush_denormal(True), lambda: float(torch.tensor([1e-40]) * 0.5)),
}


@pytest.mark.parametrize("what", KEEPS)
def test_what_torch_keeps_for_all_is_put_back(what: str) -> None:
    act, read = KEEPS[what]
    before = read()
    with surroundings_kept(CPU):
        act()
        assert read() != before
    assert read() == before


@contextmanager
def relu_put_back() -> Iterator[None]:
    try:
        yield
    finally:
        if "relu" in vars(torch.Tensor):
            del torch.Tensor.relu


def test_an_analyst_whose_process_was_changed_takes_no_more(tmp_path: Path) -> None:
    net = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, image):\n        return image\n"
    harmless = read_card("harmless", zoo_bundle(tmp_path / "harmless", network=net))
    patching = read_card(
        "patching", zoo_bundle(tmp_path / "p", network=f"{net}\ntorch.Tensor.relu = torch.Tensor.tanh")
    )
    analyst, account = Analyst("cpu"), Account()
    analyst.load(harmless, account=account)
    assert analyst.is_usable
    assert "left_behind" not in account.running
    with relu_put_back():
        analyst.load(patching, account=account)
        assert [analyst.is_usable] == [False]  # in a list, since mypy takes it for what it was above
        assert any("relu" in words for words in account.running["left_behind"])


def test_a_model_that_can_not_be_loaded_was_not_loaded_for_the_job(tmp_path: Path) -> None:
    broken = read_card("broken", zoo_bundle(tmp_path / "broken", network="raise KeyError('no')"))
    account = Account()
    with pytest.raises(BundleInvalid):
        Analyst("cpu").load(broken, account=account)
    assert account.was_warm is None
