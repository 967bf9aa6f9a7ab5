"""A network as large as a whole-body segmentation's, from images on disk to results, on whatever device is there.

    python -m benchmarks.networks [--device auto|cpu|cuda:0] [--slices N] [--size PIXELS] [--segments 104]
                                  [--window VOXELS] [--batch 2] [--runs 2] [--limit-mb MB] [--json FILE]

The bundle is made up (`benchmarks.wholebody`): network, transforms and windows of the Model Zoo's whole-body CT
segmentation, with random weights, which serve for time and memory and say nothing of any patient. Measured are: every
step from decoding to results that are written and checked; the share of the inference that is the bare network's
forward; the precisions that the device has, with the voxels in which their masks differ from plain float32's; and, on a
GPU, what happens when its memory is limited, to half of what the runs took unless `--limit-mb` says otherwise. Where no
sizes are given, a GPU gets 512 slices of 512 x 512 pixels, the processor what two cores do in about two minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.environment import compute_as_a_runner
from benchmarks.network_runs import (
    MEGABYTE,
    EndToEnd,
    Limited,
    Precise,
    Share,
    by_precision,
    end_to_end,
    forward_share,
    within,
)
from benchmarks.report import Spread, machine, print_machine, print_table, write_json
from benchmarks.wholebody import Case, Size, make_case
from inference.bundle import choose_device
from study.errors import BundleInvalid

SIZES: Final[Mapping[str, Size]] = {
    "cuda": Size(slices=512, pixels=512, segments=104, window=96, batch=2),
    "cpu": Size(slices=96, pixels=160, segments=104, window=48, batch=2),
}
"""By kind of device, where nobody says otherwise."""


def measure(case: Case, device: torch.device, runs: int, limit_mb: int | None, folder: Path) -> dict[str, Any]:
    """Measure and print each part in turn, and return all figures for machines."""
    whole = end_to_end(case, device, runs, folder)
    print_end_to_end(case, whole)
    share = forward_share(case, device)
    print_share(share)
    precise = by_precision(case, device, runs)
    print_precisions(precise)
    limit_mb = limit_mb or (whole.peak("device_peak") or 0) // 2
    limited = within(case, device, limit_mb) if device.type == "cuda" else None
    print_limited(limited)
    return {
        "end_to_end": asdict(whole),
        "forward": asdict(share),
        "precisions": [asdict(each) for each in precise],
        "limited": None if limited is None else asdict(limited),
    }


def print_end_to_end(case: Case, whole: EndToEnd) -> None:
    """Print the seconds by step, the memory, and the objects."""
    first = whole.records[0]
    times = {step: [record["seconds"][step] for record in whole.records] for step in first["seconds"]}
    times["**all**"] = [sum(record["seconds"].values()) for record in whole.records]
    print_table(
        [f"step, in {first['running']['precision']}", f"seconds, median (range), runs: {len(whole.records)}"],
        [[step, Spread.of(values).words(2)] for step, values in times.items()],
    )
    on_device = whole.peak("device_peak")
    print(
        f"Memory at the peak: {whole.peak('host_peak')} MB of the host, of them {whole.at_rest // MEGABYTE} MB before "
        f"the first run with the model loaded; {'no GPU' if on_device is None else f'{on_device} MB of the GPU'}."
    )
    print(f"Segments found: {whole.segments_found} of {case.size.segments}.")
    rows = [[each.form, str(each.objects), str(each.frames), f"{each.size / 1e6:.2f}"] for each in whole.written]
    print_table(["form", "objects", "frames", "MB"], rows)


def print_share(share: Share) -> None:
    """Print which part of the inference is the network's own."""
    print(
        f"The bare network's forward: {share.forward:.2f} s in {share.calls} calls, "
        f"{100 * share.forward / share.inference:.1f} % of the inference step of {share.inference:.2f} s.",
        flush=True,
    )


def print_precisions(found: Sequence[Precise]) -> None:
    """Print the seconds of each precision, and how far its mask is from the first one's."""
    plain = Spread.of(found[0].seconds).median
    rows = [
        [
            each.precision,
            Spread.of(each.seconds).words(2),
            f"{Spread.of(each.seconds).median / plain:.2f}",
            f"{each.differing} of {each.held} ({100 * each.differing / max(1, each.held):.3f} %)",
        ]
        for each in found
    ]
    print_table(["precision", "inference [s]", f"of {found[0].precision}", "voxels with another label"], rows)


def print_limited(limited: Limited | None) -> None:
    """Print in words what was done since memory was short, and what became of the analysis; None: on the processor."""
    if limited is None:
        print(
            "Memory ladder: not measured. The processor's memory can not be limited so; on it, "
            "tests/unit/test_inference_ladder.py takes every rung, by networks that say that memory is short."
        )
        return
    print(f"With {limited.limit_mb} MB of the GPU's memory:")
    for step in limited.record["memory_steps"] or [{"words": "It sufficed."}]:
        print(f"- {step['words']}")
    if limited.failed:
        print(f"- No result: {limited.failed}")
        return
    print(
        f"- {sum(limited.record['seconds'].values()):.2f} s, all attempts included, with "
        f"{limited.record['memory_mb']['device_peak']} MB of the GPU at the peak; {limited.differing} of "
        f"{limited.held} voxels have another label than without a limit."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the figures for machines where asked."""
    chosen = _arguments(arguments)
    try:
        device = choose_device(chosen.device)
    except BundleInvalid as error:
        raise SystemExit(f"not measured: {error}") from None
    size = _size(chosen, SIZES[device.type])
    facts = machine() | _device_facts(device)
    print_machine(facts)
    print(f"Device: {facts['device']}; torch {facts['torch']}, {facts['threads']} threads of the processor")
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), size)
        print(f"{size.words}; {case.parameters / 1e6:.1f} million parameters, random", flush=True)
        figures = measure(case, device, chosen.runs, chosen.limit_mb, Path(folder))
    write_json(chosen.json, {"machine": facts, "size": asdict(size), **figures})


def _device_facts(device: torch.device) -> dict[str, Any]:
    facts = {"device": "the processor", "torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return facts
    found = torch.cuda.get_device_properties(device)
    return facts | {"device": f"{found.name}, {found.total_memory / 2**30:.0f} GiB", "cuda": torch.version.cuda}


def _size(chosen: argparse.Namespace, default: Size) -> Size:
    names = ("slices", "pixels", "segments", "window", "batch")
    return replace(default, **{name: value for name in names if (value := getattr(chosen, name)) is not None})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a network as large as a whole-body segmentation's.")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda:0"')
    parser.add_argument("--slices", type=int, help="of the generated CT, 1 mm apart")
    parser.add_argument("--size", type=int, dest="pixels", help="of each slice, in pixels of 0.7 mm along each side")
    parser.add_argument("--segments", type=int, help="104 by default")
    parser.add_argument("--window", type=_multiple_of_8, help="its edge, in voxels of 1.5 mm; a multiple of 8")
    parser.add_argument("--batch", type=int, help="windows that go through the network at a time; 2 by default")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--limit-mb", type=int, help="of the GPU's memory, for the last part")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(arguments)


def _multiple_of_8(text: str) -> int:
    """Return the edge of a window; the network halves it three times."""
    edge = int(text)
    if edge <= 0 or edge % 8:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of 8")
    return edge


if __name__ == "__main__":
    compute_as_a_runner()
    main()
