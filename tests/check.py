"""Check everything: format, lint, types, layers, tests. Exit 0 only if all of it holds.

``python tests/check.py`` runs all; ``python tests/check.py tests`` the tests alone; further arguments go to pytest
(``--cov`` for their coverage, which takes half as long again; ``-n 0`` for one process, as a debugger needs it).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON_FOLDER = Path(sys.executable).parent

STATIC = (
    ("format", (sys.executable, "-m", "ruff", "format", "--check", "--quiet", ".")),
    ("lint", (sys.executable, "-m", "ruff", "check", ".")),
    ("types", (sys.executable, "-m", "mypy")),
    ("layers", (str(PYTHON_FOLDER / "lint-imports"),)),
)
TESTS = (
    *(sys.executable, "-m", "pytest", "--durations=25"),
    # Modules as wholes, for what their tests share, begun in the order that tests/conftest.py gives.
    *("-n", "2", "--dist", "loadscope", "--no-loadscope-reorder"),
)


def main(arguments: list[str]) -> int:
    """Run the checks in turn; return 1 if one failed, after all have run."""
    only_tests = arguments[:1] == ["tests"]
    rest = arguments[1:] if only_tests else arguments
    steps = () if only_tests else STATIC
    failed = [name for name, command in (*steps, ("tests", (*TESTS, *rest))) if not _passes(name, command)]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed", flush=True)
    return 1 if failed else 0


def _passes(name: str, command: tuple[str, ...]) -> bool:
    started = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(
        f"== {name}: {'ok' if status == 0 else f'failed ({status})'} in {time.monotonic() - started:.0f} s", flush=True
    )
    return status == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
