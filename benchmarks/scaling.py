"""What an analysis costs by its number of slices, and what a backlog of studies costs those that come after it.

    python -m benchmarks.scaling [--slices 100,200,500,1000,2000] [--matrix 512] [--runs 3]
                                 [--backlog 10000] [--turns 3] [--json FILE]

Slices: one generated thorax, of which each row takes every so many-th plane, so that all see one body.
Each number has a process of its own; the first analysis in it is not counted. Counted is everything from files to
results on disk: decoding, `builtin:lung_ct`, measuring, SEG and SR written and checked. Backlog: `benchmarks.backlog`;
``--backlog 0`` leaves it out, ``--slices ""`` the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import backlog
from benchmarks.report import Spread, machine, needing_programs, print_machine, print_table, write_json
from benchmarks.studies import generate_thorax

SLICES: Final = (100, 200, 500, 1000, 2000)
_BODY_MM: Final = 300.0
_PIXELS_MM: Final = 384.0


@dataclass(frozen=True)
class Cost:
    """What one number of slices costs [s], [bytes].

    Parameters
    ----------
    whole, model
        Seconds of everything from files to results, and of the inference alone, of each run.
    above_rest
        The peak above what the process holds at rest.
    """

    slices: int
    volume_bytes: int
    whole: tuple[float, ...]
    model: tuple[float, ...]
    above_rest: int

    @property
    def milliseconds(self) -> Spread:
        """For each slice, the model's time aside."""
        pairs = zip(self.whole, self.model, strict=True)
        return Spread.of([1000 * (whole - model) / self.slices for whole, model in pairs])

    @property
    def whole_milliseconds(self) -> Spread:
        """For each slice."""
        return Spread.of([1000 * whole / self.slices for whole in self.whole])

    def for_machines(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "slices": self.slices,
            "milliseconds_a_slice_model_aside": round(self.milliseconds.median, 3),
            "milliseconds_a_slice": round(self.whole_milliseconds.median, 3),
            "volumes_above_rest": round(self.above_rest / self.volume_bytes, 3),
            "above_rest_mb": round(self.above_rest / 1e6, 1),
        }


def costs(slices: Sequence[int], matrix: int, runs: int, folder: Path) -> list[Cost]:
    """Return what each number of slices costs; each divides the greatest of them."""
    most = max(slices)
    generate_thorax(folder, most, matrix, (_BODY_MM / most, _PIXELS_MM / matrix))
    return [_cost(folder, most // count, runs) for count in sorted(slices)]


def _cost(folder: Path, every: int, runs: int) -> Cost:
    command = [sys.executable, "-m", "benchmarks.one_series", str(folder), str(every), str(runs)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(answer.stdout.splitlines()[-1])
    return Cost(
        measured["slices"],
        measured["volume_bytes"],
        tuple(sum(run.values()) for run in measured["runs"]),
        tuple(run["inference"] for run in measured["runs"]),
        measured["peak"] - measured["at_rest"],
    )


def print_costs(found: Sequence[Cost], matrix: int) -> None:
    """Print what each number of slices costs."""
    print(f"One analysis with SEG and SR, {matrix} x {matrix} pixels; milliseconds a slice, median (range)")
    columns = ("slices", "all [ms a slice]", "without the model [ms a slice]", "memory above rest [MB]", "in volumes")
    print_table(
        columns,
        [
            (
                str(cost.slices),
                cost.whole_milliseconds.words(2),
                cost.milliseconds.words(2),
                f"{cost.above_rest / 1e6:.0f}",
                f"{cost.above_rest / cost.volume_bytes:.2f}",
            )
            for cost in found
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure what slices cost, and what a backlog costs.")
    parser.add_argument("--slices", default=",".join(map(str, SLICES)), help="each divides the greatest; empty: none")
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3, help="of each number of slices")
    parser.add_argument("--backlog", type=int, default=10_000, help="studies that are in the index already; 0: none")
    parser.add_argument("--turns", type=int, default=3, help="of the node with and without a backlog")
    parser.add_argument("--sent-slices", type=int, default=200, help="of each study that is sent beside the backlog")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to work")
    chosen = parser.parse_args(arguments)
    facts = machine()
    print_machine(facts)
    written: dict[str, Any] = {"machine": facts, "matrix": chosen.matrix}
    with needing_programs(), tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        if chosen.slices:
            written |= _slices(chosen, folder / "thorax")
        if chosen.backlog:
            written |= _backlog(chosen, folder / "backlog")
    write_json(chosen.json, written)


def _slices(chosen: argparse.Namespace, folder: Path) -> Mapping[str, Any]:
    counts = [int(each) for each in chosen.slices.split(",")]
    odd = [each for each in counts if max(counts) % each]
    if odd:
        raise SystemExit(f"--slices: {odd[0]} does not divide {max(counts)}, the greatest")
    found = costs(counts, chosen.matrix, chosen.runs, folder)
    print_costs(found, chosen.matrix)
    return {"costs": [cost.for_machines() for cost in found]}


def _backlog(chosen: argparse.Namespace, folder: Path) -> Mapping[str, Any]:
    sides = backlog.measure(chosen.backlog, chosen.turns, chosen.sent_slices, folder)
    backlog.print_sides(sides, chosen.backlog)
    return {"backlog": chosen.backlog, "sides": backlog.for_machines(sides)}


if __name__ == "__main__":
    main()
