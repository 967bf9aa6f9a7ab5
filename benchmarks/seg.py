"""How long a Segmentation of many segments takes, and how much memory, beside highdicom's call on the same label map.

    python -m benchmarks.seg [--segments 100] [--slices 500] [--matrix 512] [--runs 3] [--json FILE]

Each run is a process of its own, which has made a small object before, in turns: highdicom's `Segmentation(...)` as a
person would write it, and ours as BINARY, LABELMAP and LABELMAP in RLE. The label map is generated: ellipsoids in
columns beside each other, none empty.
"Made" is until the object is there; "encoded" until its bytes are written; "saved" is the same again, until the file is
durable and its digest known; "checked" until it was read back and held against the source headers, frame by frame, and
against the label map, voxel for voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary

from benchmarks.memory import high_water
from benchmarks.report import Spread, machine, print_machine, print_table, write_json
from sr_writer.checking.seg import check_seg
from sr_writer.checking.seg_set import check_set
from sr_writer.files import save, write
from sr_writer.material import Material
from sr_writer.seg.writing import write_seg
from study import codes
from study.forms import Form, Variant
from study.imaging import LabelMap, ResultSet, Segment
from tests.support.results import CONTEXT, MODEL
from tests.support.series import axial_affine, ct_series

HIGHDICOM = "highdicom, BINARY"
OURS = {
    "BINARY": Variant(Form.SEG),
    "LABELMAP": Variant(Form.SEG_LABELMAP),
    "LABELMAP, RLE": Variant(Form.SEG_LABELMAP, compressed=True),
}
T = TypeVar("T")
_STEPS = ("made", "encoded", "saved", "checked")
_COLUMNS = (
    "writer",
    *(f"{step} [s]" for step in _STEPS),
    "made / highdicom's call (CPU)",
    "made and encoded / highdicom's call (CPU)",
    "peak memory [MB]",
    "file [MB]",
)


@dataclass(frozen=True)
class Case:
    """A label map, and the headers of the images that it lies on."""

    result: ResultSet
    sources: list[Dataset]

    @property
    def values(self) -> NDArray[Any]:
        """Return the voxels of the label map."""
        assert self.result.label_map is not None
        return self.result.label_map.values


def generate(segments: int, slices: int, matrix: int) -> Case:
    """Return a label map with so many ellipsoids, each on a fifth to a third of the slices, and headers for it."""
    random = np.random.default_rng(1)
    columns = int(np.ceil(np.sqrt(segments)))
    cell = matrix // columns
    radius = cell * 0.45
    rows, cols = np.mgrid[:cell, :cell] - (cell - 1) / 2
    values = np.zeros((slices, matrix, matrix), dtype=np.uint8 if segments < 256 else np.uint16)
    for number in range(segments):
        half = random.uniform(slices / 10, slices / 6)
        centre = random.uniform(half, slices - half)
        top, left = (place * cell for place in divmod(number, columns))
        for index in range(int(np.ceil(centre - half)), int(centre + half) + 1):
            here = radius**2 * max(0.0, 1 - ((index - centre) / half) ** 2)
            values[index, top : top + cell, left : left + cell][rows**2 + cols**2 <= max(here, 1.0)] = number + 1
    described = tuple(
        Segment(value, f"Structure {value}", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG)
        for value in range(1, segments + 1)
    )
    headers = ct_series(np.zeros((slices, 1, 1)), axial_affine())
    for header in headers:
        header.Rows = header.Columns = matrix
        del header.PixelData
    return Case(ResultSet(LabelMap(values, axial_affine(), described), ()), headers)


def by_highdicom(case: Case) -> Segmentation:
    """Return what highdicom makes of the label map in one call."""
    label_map = case.result.label_map
    assert label_map is not None
    return Segmentation(
        source_images=case.sources,
        pixel_array=label_map.values,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            SegmentDescription(
                segment.value,
                segment.label,
                dictionary.SCT.AnatomicalStructure,
                dictionary.SCT.Lung,
                SegmentAlgorithmTypeValues.MANUAL,
            )
            for segment in label_map.segments
        ],
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="M",
        manufacturer_model_name="N",
        software_versions="1",
        device_serial_number="1",
    )


def measure(what: str, case: Case) -> dict[str, float]:
    """Return the figures of one run: seconds and processor seconds of each step, bytes of file and memory.

    A small one is made before: highdicom reads its tables of the standard when it makes its first object.
    """
    small = generate(2, 6, 16)
    if what == HIGHDICOM:
        by_highdicom(small)
    else:
        write_seg(small.result, small.sources, MODEL, CONTEXT, variant=OURS[what])
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.dcm"
        if what == HIGHDICOM:
            theirs = _timed(figures, "made", lambda: by_highdicom(case))
            _timed(figures, "encoded", lambda: theirs.save_as(path))
        else:
            _ours(figures, case, OURS[what], path)
        figures["file_bytes"] = path.stat().st_size
    figures["peak_bytes"] = high_water(os.getpid())
    return figures


def _ours(figures: dict[str, float], case: Case, variant: Variant, path: Path) -> None:
    made = _timed(figures, "made", lambda: write_seg(case.result, case.sources, MODEL, CONTEXT, variant=variant))
    figures["frames"] = float(made[0].NumberOfFrames)
    _timed(figures, "encoded", lambda: _encode(made[0], path.with_name("encoded.dcm")))
    _timed(figures, "saved", lambda: save(made.pop(), path))
    material = Material(case.result, case.sources, MODEL, CONTEXT)
    _timed(figures, "checked", lambda: check_set([check_seg(path, case.sources)], material, variant))


def _encode(seg: Dataset, path: Path) -> None:
    with path.open("wb") as stream:
        write(seg, stream)


def _timed(figures: dict[str, float], step: str, work: Callable[[], T]) -> T:
    started, used = time.perf_counter(), time.process_time()
    done = work()
    figures[step] = time.perf_counter() - started
    figures[f"{step}_cpu"] = time.process_time() - used
    return done


def in_its_own_process(what: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one run in a new process."""
    sizes = ["--segments", chosen.segments, "--slices", chosen.slices, "--matrix", chosen.matrix]
    command = [sys.executable, "-m", "benchmarks.seg", "--only", what, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def print_figures(runs: dict[str, list[dict[str, float]]]) -> None:
    """Print medians and ranges, and how each compares with highdicom's call."""

    def median(what: str, *keys: str) -> Spread:
        return Spread.of([sum(run.get(key, 0.0) for key in keys) for run in runs[what]])

    call, call_cpu = median(HIGHDICOM, "made").median, median(HIGHDICOM, "made_cpu").median
    rows = []
    for what in runs:
        steps = [median(what, step).words(2) if step in runs[what][0] else "" for step in _STEPS]
        through, through_cpu = median(what, "made", "encoded").median, median(what, "made_cpu", "encoded_cpu").median
        ratios = [
            f"{median(what, 'made').median / call:.2f} ({median(what, 'made_cpu').median / call_cpu:.2f})",
            f"{through / call:.2f} ({through_cpu / call_cpu:.2f})",
        ]
        sizes = [f"{median(what, key).median / 1e6:.1f}" for key in ("peak_bytes", "file_bytes")]
        rows.append([what, *steps, *ratios, *sizes])
    print_table(_COLUMNS, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turns, print, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure Segmentations of many segments beside highdicom's own call.")
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--matrix", type=int, default=512, help="rows and columns")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", choices=[HIGHDICOM, *OURS], help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.only:
        print(json.dumps(measure(chosen.only, generate(chosen.segments, chosen.slices, chosen.matrix))))
        return
    facts = machine()
    print_machine(facts)
    turns = [what for _ in range(chosen.runs) for what in (HIGHDICOM, *OURS)]
    runs: dict[str, list[dict[str, float]]] = {}
    for what in turns:
        runs.setdefault(what, []).append(in_its_own_process(what, chosen))
    print(f"{chosen.segments} segments, {chosen.slices} x {chosen.matrix} x {chosen.matrix}; ", end="")
    print(f"BINARY {runs['BINARY'][0]['frames']:.0f} frames, LABELMAP {runs['LABELMAP'][0]['frames']:.0f}")
    print_figures(runs)
    write_json(chosen.json, {"machine": facts, "runs": runs})


if __name__ == "__main__":
    main()
