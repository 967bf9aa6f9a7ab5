"""The peers of the turnaround, as programs of their own: a hand-written script, and the MONAI Deploy App SDK."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from benchmarks.environment import plain

_APP_SDK_PROGRAM: Final = Path(__file__).with_name("app_sdk_peer.py")
_APP_SDK_RUNS: Final = 3  # the first is cold
_LONGEST_WAIT: Final = 600.0  # [s]
_WITH_LARGE_STACK: Final = 'ulimit -s 65536 && exec "$@"'
"""Holoscan ends with a segmentation fault on the usual 8 MB."""


def run_script(images: Path, output: Path) -> dict[str, float]:
    """Return the seconds of the hand-written script on a folder, by step and as a process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.script_peer", str(images), str(output)]
    steps = _last_line(command)
    process = time.perf_counter() - started
    return {**steps, "warm": steps["read"] + steps["threshold"] + steps["seg"], "process": process}


def run_app_sdk(environment: Path, images: Path, output: Path) -> dict[str, float]:
    """Return the seconds of the App SDK on a folder of one series with one Frame of Reference UID.

    Parameters
    ----------
    environment
        The virtual environment that it is installed in: monai-deploy-app-sdk, monai, torch, highdicom.

    Returns
    -------
    dict
        "imports", "first", "warm" (the median of later runs in the same process), and "process": from start to end, had
        it done one study.

    Raises
    ------
    SystemExit
        If it does not run.
    """
    program = [str(environment / "bin" / "python"), str(_APP_SDK_PROGRAM), str(images), str(output), str(_APP_SDK_RUNS)]
    started = time.perf_counter()
    said = _last_line(["bash", "-c", _WITH_LARGE_STACK, "app_sdk", *program])
    whole = time.perf_counter() - started
    first, *later = said["runs"]
    return {
        "imports": said["imports"],
        "first": first,
        "warm": sorted(later)[len(later) // 2],
        "process": whole - sum(later),
    }


def with_one_frame_of_reference(paths: Sequence[Path], folder: Path) -> Path:
    """Copy a series so that highdicom takes it: public chest CTs carry another Frame of Reference UID in each slice."""
    folder.mkdir(parents=True)
    frame = dcmread(paths[0], stop_before_pixels=True).FrameOfReferenceUID
    for path in paths:
        dataset = dcmread(path)
        dataset.FrameOfReferenceUID = frame
        dataset.save_as(folder / path.name, enforce_file_format=True)
    return folder


def _last_line(command: Sequence[str]) -> dict[str, Any]:
    """Return the JSON on the last line that a program prints."""
    answer = subprocess.run(command, capture_output=True, text=True, env=plain(), timeout=_LONGEST_WAIT, check=False)
    if answer.returncode:
        raise SystemExit(f"a peer ended with {answer.returncode}: no figure is given\n{answer.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found
