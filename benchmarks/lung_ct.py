"""How long the analysis of the model that ships takes for each slice, and how much memory: no node, no network.

    python -m benchmarks.lung_ct [STUDY_DIR] [--runs 3] [--json FILE]

Without a folder, the real chest CT beside the checkout, or a generated thorax of 300 slices. Analysis is everything
between files and measurements: reading and decoding, the model, measuring; SEG and SR are the turnaround's. The memory
is what the process holds at its peak above what it holds with its imports made and the model loaded.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import dcmread

from benchmarks.environment import compute_as_a_runner
from benchmarks.memory import high_water, resident
from benchmarks.report import Spread, machine, print_machine, print_table, write_json
from benchmarks.studies import Study, generate_thorax, real_chest, study_in
from inference.analysis import Analyst
from inference.catalog import find_bundle, read_card
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader

_STEPS = ("decode", "preprocess", "inference", "postprocess", "measure")
_GENERATED_SLICES = 300


@dataclass(frozen=True)
class Figures:
    """What was measured of one series [s], [bytes].

    Parameters
    ----------
    runs
        Seconds by step, of each run.
    """

    study: str
    slices: int
    volume_bytes: int
    runs: tuple[dict[str, float], ...]
    at_rest: int
    peak: int

    @property
    def volumes_above_rest(self) -> float:
        """The peak above what the process holds at rest, in float32 volumes of the series."""
        return (self.peak - self.at_rest) / self.volume_bytes

    def per_slice(self, *steps: str) -> Spread:
        """Return the milliseconds that `steps` take together for each slice."""
        return Spread.of([1000 * sum(run[step] for step in steps) / self.slices for run in self.runs])


def measure(study: Study, runs: int) -> Figures:
    """Analyse a series several times in this process."""
    analyst = Analyst("auto", 0)
    card = read_card("lung_ct", find_bundle("builtin:lung_ct"))
    analyst.load(card)
    headers = [InstanceHeader.of(dcmread(path, stop_before_pixels=True)) for path in study.paths]
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    paths = [study.paths[index] for index in geometry.order]
    ordered = [headers[index] for index in geometry.order]
    at_rest = resident(os.getpid())
    timings = tuple(analyst.analyse(card, paths, ordered, geometry).account.seconds for _ in range(runs))
    return Figures(study.name, len(paths), study.volume_bytes, timings, at_rest, high_water(os.getpid()))


def print_figures(figures: Figures) -> None:
    """Print milliseconds per slice by step, and the memory."""
    print(f"{figures.study}: {figures.slices} slices, {len(figures.runs)} runs; milliseconds a slice")
    rows = [[step, figures.per_slice(step).words(2)] for step in _STEPS]
    rows.append(["**model: inference with its pre- and postprocessing**", figures.per_slice(*_STEPS[1:4]).words(2)])
    rows.append(["**all**", figures.per_slice(*_STEPS).words(2)])
    print_table(["step", "median (range)"], rows)
    print(
        f"Memory: {figures.at_rest / 1e6:.0f} MB at rest, {figures.peak / 1e6:.0f} MB at the peak: "
        f"{figures.volumes_above_rest:.2f} float32 volumes of {figures.volume_bytes / 1e6:.0f} MB more."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure the analysis by the model that ships.")
    parser.add_argument("study", type=Path, nargs="?", default=real_chest(), help="a folder with a chest CT")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args(arguments)
    facts = machine()
    print_machine(facts)
    with tempfile.TemporaryDirectory() as folder:
        study = (
            generate_thorax(Path(folder), _GENERATED_SLICES)
            if chosen.study is None
            else study_in(chosen.study, "chest CT")
        )
        figures = measure(study, chosen.runs)
    print_figures(figures)
    write_json(
        chosen.json,
        {"machine": facts, **asdict(figures), "volumes_above_rest": round(figures.volumes_above_rest, 3)},
    )


if __name__ == "__main__":
    compute_as_a_runner()
    main()
