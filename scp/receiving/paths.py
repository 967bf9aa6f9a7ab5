"""Whether the fast way of serving associations can be taken with the pynetdicom that is installed."""

from __future__ import annotations

from typing import Final

import pynetdicom

VERIFIED_PYNETDICOM: Final = frozenset({"3.0.1", "3.0.3", "3.0.4"})
"""The versions with which the tests of both ways passed; the fast way counts on what they do inside."""


def why_not_fast(version: str = pynetdicom.__version__) -> str:
    """Return why associations can only be served the plain way, with the remedy; "" where the fast way is open."""
    if version in VERIFIED_PYNETDICOM:
        return ""
    verified = ", ".join(sorted(VERIFIED_PYNETDICOM))
    return (
        f"reception is slow: pynetdicom {version} is installed, and the fast way was verified with {verified} only; "
        "install Hilum with its constraints.txt"
    )
