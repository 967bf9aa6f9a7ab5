"""One series analysed, and its SEG and SR written, several times in a process of its own: what each step took, memory.

    python -m benchmarks.one_series FOLDER EVERY RUNS

Of the files of FOLDER in their order it takes each EVERY-th. It computes as a runner does and prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import dcmread

from benchmarks.environment import compute_as_a_runner
from benchmarks.memory import high_water, resident
from inference.account import Account
from inference.analysis import Analyst
from inference.catalog import find_bundle, read_card
from sr_writer.results import write_results
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from tests.support.results import CONTEXT, MODEL


@dataclass(frozen=True)
class Measured:
    """What was measured of one series.

    Parameters
    ----------
    runs
        Seconds by step, of each run.
    at_rest, peak
        Resident memory with imports made and the model loaded, and at most [bytes].
    """

    slices: int
    volume_bytes: int
    runs: tuple[dict[str, float], ...]
    at_rest: int
    peak: int


def measure(paths: list[Path], runs: int) -> Measured:
    """Analyse a series several times in this process, after a first time that is not counted."""
    analyst = Analyst("auto", 0)
    card = read_card("lung_ct", find_bundle("builtin:lung_ct"))
    analyst.load(card)
    headers = [InstanceHeader.of(dcmread(path, stop_before_pixels=True)) for path in paths]
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    files, ordered = [paths[index] for index in geometry.order], [headers[index] for index in geometry.order]
    first = dcmread(paths[0], stop_before_pixels=True)
    at_rest = resident(os.getpid())
    timings = []
    for _ in range(runs + 1):
        account = Account()
        analysis = analyst.analyse(card, files, ordered, geometry, account=account)
        with tempfile.TemporaryDirectory() as folder, account.step("encode"):
            write_results(analysis.result_set, analysis.datasets, MODEL, CONTEXT, Path(folder), pixels=analysis.pixels)
        del analysis
        timings.append(dict(account.seconds))
    size = len(paths) * int(first.Rows) * int(first.Columns) * 4
    return Measured(len(paths), size, tuple(timings[1:]), at_rest, high_water(os.getpid()))


def main() -> None:
    """Measure, and print what was measured."""
    folder, every, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    paths = sorted(path for path in folder.iterdir() if path.is_file())[::every]
    print(json.dumps(asdict(measure(paths, runs))))


if __name__ == "__main__":
    compute_as_a_runner()
    main()
