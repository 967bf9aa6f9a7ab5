"""All benchmarks with modest sizes, in under ten minutes: reception, turnaround, and the analysis of the shipped model.

python -m benchmarks
"""

from __future__ import annotations

import subprocess
import sys

_TURNS = (
    ("Reception", ["benchmarks.ingest", "--images", "300", "--runs", "3"]),
    ("Turnaround", ["benchmarks.turnaround", "--runs", "3", "--slices", "300"]),
    ("Analysis by lung_ct", ["benchmarks.lung_ct", "--runs", "3"]),
)


def main() -> int:
    """Run each benchmark in a process of its own, which its memory is measured in; return how many failed."""
    failed = 0
    for title, arguments in _TURNS:
        print(f"## {title}", flush=True)
        failed += subprocess.run([sys.executable, "-m", *arguments], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
