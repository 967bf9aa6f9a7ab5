"""What the benchmarks have in common with any reader: the machine, Markdown tables, and JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

_LOOK_SECONDS = 1.0
_IDLE_PERCENT = 15.0  # of all processors; the node at rest takes less


@dataclass(frozen=True)
class Spread:
    """Several runs of one figure."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return median, lowest and highest of `values`, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def words(self, digits: int) -> str:
        """Return ``median (lowest-highest)``."""
        return f"{self.median:.{digits}f} ({self.lowest:.{digits}f}-{self.highest:.{digits}f})"


def machine() -> dict[str, Any]:
    """Return what the figures depend on; no name of the machine is in it."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def wait_for_idle_machine(patience: float) -> None:
    """Return once the processors are nearly idle, or after `patience` seconds: what runs beside a turn falsifies it."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and psutil.cpu_percent(_LOOK_SECONDS) > _IDLE_PERCENT:
        continue


def print_machine(facts: Mapping[str, Any]) -> None:
    """Print the machine on one line."""
    print(
        f"{facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']} {facts['architecture']}, "
        f"Python {facts['python']}; load before the start {facts['load_before']}"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, and an empty line before and after it."""
    print()
    for row in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def assignment(text: str) -> tuple[str, Any]:
    """Return a key of the configuration and its value from ``KEY=VALUE``, the value as in TOML."""
    key, _, value = text.partition("=")
    return key, tomllib.loads(f"value = {value}")["value"]


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures for machines, where a file is asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def needing_programs() -> Iterator[None]:
    """End with the reason where a program is missing that the block needs; the tests' support says it by a skip."""
    try:
        yield
    except pytest.skip.Exception as skip:
        raise SystemExit(f"not measured: {skip.msg}") from None
