"""Measure as the node computes: in the environment that it gives its runners, and peers in a plain one."""

from __future__ import annotations

import os
import sys

from hilum.processes import COMPUTING


def compute_as_a_runner() -> None:
    """Start this program anew in a runner's environment, unless it is: libraries read it as they are loaded."""
    if not COMPUTING.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | COMPUTING)


def plain() -> dict[str, str]:
    """Return the environment of a program that nobody prepared."""
    return {name: value for name, value in os.environ.items() if name not in COMPUTING}
