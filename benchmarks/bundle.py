"""How long a MONAI bundle takes in the node's hands, beside its own run by MONAI, and whether both give the same mask.

    python -m benchmarks.bundle BUNDLE_DIR [STUDY_DIR] [--runs 1] [--slices N] [--json FILE]

The study is the real chest CT beside the checkout where no folder is named. Ours is everything between decoded slices
and the label map on their grid; MONAI's is `monai.bundle.run` of the bundle as it stands, in a process of its own, from
a NIfTI file that holds the same voxels to the file that it writes, less what the process needs for its imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.transforms.io.array import LoadImage
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.environment import compute_as_a_runner, plain
from benchmarks.memory import high_water, resident
from benchmarks.report import Spread, machine, print_machine, print_table, write_json
from benchmarks.studies import Study, real_chest, study_in
from inference.bundle import choose_device, load_bundle
from inference.catalog import read_card
from inference.decoding import read_series
from inference.orientation import to_monai
from inference.running import run_bundle
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import SeriesVolume

_RUN = (
    "import time, monai.bundle, monai.engines; started = time.perf_counter(); monai.bundle.run(**{overrides!r}); "
    "print('seconds', time.perf_counter() - started)"
)


@dataclass(frozen=True)
class Figures:
    """What was measured [s].

    Parameters
    ----------
    differing, held
        Voxels in which the two masks differ, and voxels that either has.
    volume_bytes
        Of the series as one float32 volume.
    at_rest, peak
        What this process holds with the bundle loaded and the volume read, and at most while ours ran [bytes].
    """

    slices: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    theirs_as_a_runner: tuple[float, ...]
    differing: int
    held: int
    volume_bytes: int
    at_rest: int
    peak: int

    @property
    def volumes_above_rest(self) -> float:
        """The peak above rest and the volume itself, in float32 volumes; the volume is counted as one."""
        return 1 + (self.peak - self.at_rest) / self.volume_bytes


def volume_of(study: Study, slices: int) -> SeriesVolume:
    """Return the middle slices of a study as a volume; all of them where `slices` is 0."""
    found = [dcmread(path, stop_before_pixels=True) for path in study.paths]
    headers = [InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID) for dataset in found]
    order = list(assess(headers, FrameOfReferencePolicy.BY_POSITION).order)
    first = (len(order) - slices) // 2 if slices else 0
    order = order[first : first + slices] if slices else order
    chosen = [headers[index] for index in order]
    geometry = assess(chosen, FrameOfReferencePolicy.BY_POSITION)
    return read_series([study.paths[index] for index in order], chosen, geometry.affine).volume


def measure(bundle: Path, volume: SeriesVolume, runs: int) -> Figures:
    """Run the bundle in turns, ours and MONAI's own, on the same voxels."""
    card = read_card("bundle", bundle)
    loaded = load_bundle(bundle, choose_device("cpu"))
    ours, theirs, prepared, differing, held, peak = [], [], [], 0, 0, 0
    at_rest = resident(os.getpid())
    for _ in range(runs):
        started = time.perf_counter()
        mask = run_bundle(loaded, volume, card.segments).values
        ours.append(time.perf_counter() - started)
        peak = peak or high_water(os.getpid())
        with tempfile.TemporaryDirectory() as folder:
            seconds, other = run_by_monai(bundle, volume, Path(folder), plain())
        theirs.append(seconds)
        with tempfile.TemporaryDirectory() as folder:
            prepared.append(run_by_monai(bundle, volume, Path(folder), os.environ)[0])
        differing = int(np.count_nonzero(mask != other))
        held = int(np.count_nonzero((mask > 0) | (other > 0)))
    spent = (tuple(ours), tuple(theirs), tuple(prepared))
    return Figures(len(volume.voxels), *spent, differing, held, volume.voxels.nbytes, at_rest, peak)


def run_by_monai(
    bundle: Path, volume: SeriesVolume, folder: Path, environment: Mapping[str, str]
) -> tuple[float, NDArray[Any]]:
    """Return the seconds that MONAI's own run takes, and its mask as (slices, rows, columns)."""
    array, affine = to_monai(volume.voxels, volume.affine)
    (folder / "data").mkdir()
    image = nibabel.nifti1.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]  # nibabel declares no types here
    image.to_filename(folder / "data" / "series.nii")
    overrides = {
        "config_file": str(next((bundle / "configs").glob("inference.*"))),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "out"),
        "device": "$torch.device('cpu')",
    }
    command = [sys.executable, "-W", "ignore", "-c", _RUN.format(overrides=overrides)]
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=True)
    seconds = float(done.stdout.rsplit("seconds ", 1)[1])
    written = LoadImage(image_only=True)(next((folder / "out").rglob("*.nii*")))
    return seconds, written.numpy().squeeze().transpose(2, 1, 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure a MONAI bundle beside its own run by MONAI.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("study", type=Path, nargs="?", default=real_chest(), help="a folder with a series that fits it")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--slices", type=int, default=0, help="the middle slices alone; 0: all")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args(arguments)
    if chosen.study is None:
        raise SystemExit("not measured: name a folder with a series that fits the bundle")
    facts = machine()
    print_machine(facts)
    figures = measure(chosen.bundle.resolve(), volume_of(study_in(chosen.study, "study"), chosen.slices), chosen.runs)
    ours, theirs, prepared = map(Spread.of, (figures.ours, figures.theirs, figures.theirs_as_a_runner))
    print_table(
        ["run by", f"seconds for {figures.slices} slices", "of MONAI"],
        [
            ["hilum", ours.words(1), f"{ours.median / theirs.median:.2f}"],
            ["monai.bundle.run", theirs.words(1), "1.00"],
            ["monai.bundle.run in our environment", prepared.words(1), f"{prepared.median / theirs.median:.2f}"],
        ],
    )
    print(f"The masks differ in {figures.differing} of {figures.held} voxels.")
    print(
        f"Memory of ours: {figures.volumes_above_rest:.2f} float32 volumes of {figures.volume_bytes / 1e6:.0f} MB, the "
        "series itself being one of them."
    )
    write_json(chosen.json, {"machine": facts, **vars(figures)})


if __name__ == "__main__":
    compute_as_a_runner()
    main()
