"""What tests need from outside the project: programs that others wrote, and the shared images. Absent: skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SHARED_DIR", REPOSITORY.parent / "shared"))

DCMTK_ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
"""Without TCP_NODELAY, DCMTK's programs wait 40 ms for each image on Nagle's algorithm."""


def program(name: str, *, package: str) -> str:
    """Return the path of a program of Debian's `package`, never the one that pynetdicom puts into the environment."""
    for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin"):
        found = shutil.which(name, path=folder)
        if found:
            return found
    pytest.skip(f"needs the program {name} (apt-get install {package})")


def environment_program(name: str, *, package: str) -> str:
    """Return the path of a program that PyPI's `package` puts beside this Python."""
    import sys

    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found:
        return found
    pytest.skip(f"needs the program {name} (pip install {package})")


def shared(*parts: str) -> Path:
    """Return a path under the shared images and models."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(('shared', *parts))} beside the checkout")
    return path
