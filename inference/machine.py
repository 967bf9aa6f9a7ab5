"""What the machine has, told without torch: the keeper asks it, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

MEGABYTE: Final = 1_000_000
"""[bytes], as settings, records and words count memory."""

_CGROUPS: Final = Path("/sys/fs/cgroup")


def machine_bytes() -> int:
    """Return how much memory this process may have [bytes]: the machine's, or less where its control group says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limit_files():
        with suppress(OSError, ValueError):  # "max" is no number, and not every group has the file
            limits.append(int(file.read_text()))
    return min(limit for limit in limits if limit > 0)


def _limit_files() -> Iterator[Path]:
    """Yield where this process's control group, and those around it, may say how much memory it may have."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        root = _CGROUPS / "memory" if "memory" in controllers.split(",") else _CGROUPS
        name = "memory.max" if not controllers else "memory.limit_in_bytes"
        place = root / group.lstrip("/")
        yield from (each / name for each in (place, *place.parents) if each.is_relative_to(root))
