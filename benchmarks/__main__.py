"""All benchmarks with modest sizes, in under ten minutes, and one table of the targets.

    python -m benchmarks [--app-sdk VENV] [--json FILE]

Reception of three kinds of images, turnaround, scaling, and the analysis of the shipped model; each benchmark alone
takes more runs and larger sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import write_json
from benchmarks.targets import for_machines, print_verdicts, verdicts

PARTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "ct": ("Reception of CT images", ("ingest", "--images", "300", "--associations", "1,4,64", "--runs", "2")),
    "mr": (
        "Reception of small MR images",
        ("ingest", "--size", "mr", "--images", "3000", "--associations", "1", "--runs", "1"),
    ),
    "multiframe": (
        "Reception of one object of 1 GB",
        ("ingest", "--size", "multiframe", "--associations", "1", "--runs", "1"),
    ),
    "turnaround": ("Turnaround", ("turnaround", "--runs", "3")),
    "scaling": (
        "Scaling with slices",
        ("scaling", "--slices", "100,500,1000", "--matrix", "256", "--runs", "1", "--backlog", "0"),
    ),
    "backlog": (
        "Beside a backlog of studies",
        ("scaling", "--slices", "", "--turns", "2", "--sent-slices", "100"),
    ),
    "lung_ct": ("Analysis by lung_ct", ("lung_ct", "--runs", "3")),
}
"""What is run, in its order: a title, and a module with its arguments."""


def run(parts: Mapping[str, tuple[str, Sequence[str]]], extra: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Run each benchmark in a process of its own, which its memory is measured in; return what each wrote as JSON.

    Parameters
    ----------
    extra
        Further arguments by part.

    Returns
    -------
    dict
        By part; None where it failed.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (title, (module, *arguments)) in parts.items():
            print(f"## {title}", flush=True)
            written = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, *extra.get(name, ())]
            failed = subprocess.run([*command, "--json", str(written)], check=False).returncode
            figures[name] = None if failed else json.loads(written.read_text())
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the targets, and return how many benchmarks failed."""
    parser = argparse.ArgumentParser(description="Run all benchmarks with modest sizes.")
    parser.add_argument("--app-sdk", help="a virtual environment with monai-deploy-app-sdk, to run beside")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    figures = run(PARTS, {"turnaround": ["--app-sdk", chosen.app_sdk]} if chosen.app_sdk else {})
    found = verdicts(figures)
    print("## Targets")
    print_verdicts(found)
    seconds = time.monotonic() - started
    print(f"All took {seconds / 60:.1f} minutes.")
    write_json(chosen.json, {"seconds": round(seconds), "parts": figures, "targets": for_machines(found)})
    return sum(each is None for each in figures.values())


if __name__ == "__main__":
    sys.exit(main())
