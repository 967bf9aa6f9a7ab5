"""What is measured of a large network on a device: end to end, the bare forward's share, precisions, memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.memory import resident
from benchmarks.wholebody import Case
from inference.account import Account
from inference.analysis import Analysis, Analyst
from inference.options import Precision, RunOptions
from inference.timing import ForwardClock
from sr_writer.results import write_results
from study.errors import DeviceOutOfMemory
from study.forms import Form, Variant
from tests.support.results import CONTEXT, MODEL

MEGABYTE: Final = 1_000_000
PRECISIONS: Final[Mapping[str, tuple[Precision, ...]]] = {
    "cuda": ("float32", "tf32", "float16"),
    "cpu": ("float32", "bfloat16"),
}
"""Of each kind of device; the others are held against the first."""

_VARIANTS: Final = (Variant(Form.SEG), Variant(Form.SEG_LABELMAP), Variant(Form.SR, segmentation=Form.SEG))
_AS_IT_COMES: Final = RunOptions()

Labels = NDArray[Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """The result objects of one form: how many, their frames, their size [bytes]."""

    form: str
    objects: int
    frames: int
    size: int


@dataclass(frozen=True)
class EndToEnd:
    """The way from images on disk to results on disk.

    Parameters
    ----------
    records
        Of each run (docs/json.md).
    written
        The objects of the last run.
    segments_found
        How many segments have a voxel.
    at_rest
        What the process held before the first run, with the model loaded [bytes].
    """

    records: tuple[Record, ...]
    written: tuple[Written, ...]
    segments_found: int
    at_rest: int

    def peak(self, of: str) -> int | None:
        """Return the most that a run held of "host_peak" or "device_peak" [MB]; None where it is not known."""
        held = [record["memory_mb"][of] for record in self.records]
        return max((each for each in held if each is not None), default=None)


@dataclass(frozen=True)
class Share:
    """The seconds of the bare network's forward, of the inference step around it, and how often it was called."""

    forward: float
    inference: float
    calls: int


@dataclass(frozen=True)
class Precise:
    """A precision: the seconds of its inference steps, and the voxels of its mask that differ from the first one's.

    Parameters
    ----------
    held
        Voxels that have a label in either mask.
    """

    precision: str
    seconds: tuple[float, ...]
    differing: int
    held: int


@dataclass(frozen=True)
class Limited:
    """An analysis that might take only so much of a GPU's memory, held against one without a limit.

    Parameters
    ----------
    failed
        Why there is no result; "" where there is one.
    """

    limit_mb: int
    record: Record
    differing: int = 0
    held: int = 0
    failed: str = ""


def end_to_end(case: Case, device: torch.device, runs: int, folder: Path) -> EndToEnd:
    """Analyse the case and write the results several times."""
    analyst = _warm(case, device)
    at_rest = resident(os.getpid())
    records, written, found = [], [], 0
    for run in range(runs):
        account = Account()
        analysis = _analyse(case, analyst, account)
        with account.step("encode"):
            written = _write(analysis, folder / f"results{run}")
        found = int(np.count_nonzero(np.unique(_labels(analysis))))
        records.append(account.details())
    return EndToEnd(tuple(records), tuple(written), found, at_rest)


def forward_share(case: Case, device: torch.device) -> Share:
    """Measure a run that waits for each forward to end."""
    clock = ForwardClock()
    account = Account(forward=clock)
    _analyse(case, _warm(case, device), account)
    return Share(clock.seconds, account.seconds["inference"], clock.calls)


def by_precision(case: Case, device: torch.device, runs: int) -> list[Precise]:
    """Run the case several times in each precision of the device."""
    found: list[Precise] = []
    plain: Labels | None = None
    for precision in PRECISIONS[device.type]:
        options = RunOptions(precision=precision)
        analyst = _warm(case, device, options)
        accounts = [Account() for _ in range(runs)]
        labels = [_labels(_analyse(case, analyst, account, options)) for account in accounts][-1]
        plain = labels if plain is None else plain
        seconds = tuple(account.seconds["inference"] for account in accounts)
        found.append(Precise(precision, seconds, *difference(labels, plain)))
    return found


def within(case: Case, device: torch.device, limit_mb: int) -> Limited:
    """Run the case with so much of the GPU's memory and no more."""
    analyst, account = _warm(case, device), Account()
    whole = _labels(_analyse(case, analyst, Account()))
    try:
        analysis = _analyse(case, analyst, account, RunOptions(device_memory_bytes=limit_mb * MEGABYTE))
    except DeviceOutOfMemory as error:
        return Limited(limit_mb, account.details(), failed=str(error))
    return Limited(limit_mb, account.details(), *difference(_labels(analysis), whole))


def difference(labels: Labels, other: Labels) -> tuple[int, int]:
    """Return in how many voxels two masks differ, and how many either holds; a plane at a time."""
    pairs = list(zip(labels, other, strict=True))
    differing = sum(int(np.count_nonzero(one != two)) for one, two in pairs)
    return differing, sum(int(np.count_nonzero((one > 0) | (two > 0))) for one, two in pairs)


def _warm(case: Case, device: torch.device, options: RunOptions = _AS_IT_COMES) -> Analyst:
    """Return what runs models on the device, with the case's loaded and nothing else."""
    analyst = Analyst(str(device))
    analyst.load(case.card, options)
    return analyst


def _analyse(case: Case, analyst: Analyst, account: Account, options: RunOptions = _AS_IT_COMES) -> Analysis:
    return analyst.analyse(case.card, case.paths, case.headers, case.geometry, options=options, account=account)


def _labels(analysis: Analysis) -> Labels:
    assert analysis.result_set.label_map is not None
    return analysis.result_set.label_map.values


def _write(analysis: Analysis, folder: Path) -> list[Written]:
    """Write the results as the node does, and return what was written of each form."""
    objects = write_results(
        analysis.result_set, analysis.datasets, MODEL, CONTEXT, folder, variants=_VARIANTS, pixels=analysis.pixels
    )
    found: dict[str, Written] = {}
    for each in objects:
        header = dcmread(folder / each.path, stop_before_pixels=True)
        before = found.get(each.form, Written(each.form, 0, 0, 0))
        frames = before.frames + int(header.get("NumberOfFrames", 0))
        found[each.form] = Written(each.form, before.objects + 1, frames, before.size + each.size)
    return list(found.values())
