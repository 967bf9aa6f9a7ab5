"""Are our top-level packages ours? Other distributions claim names such as ``scp`` and ``db``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

OUR_PACKAGES = ("study", "db", "scp", "inference", "sr_writer")


def foreign_packages() -> dict[str, str]:
    """Return where each of our top-level names is found, for those that are not found beside ``hilum``."""
    home = Path(__file__).resolve().parents[1]
    foreign = {}
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        if origin is None or Path(origin).resolve() != home / name / "__init__.py":
            foreign[name] = origin or "nowhere"
    return foreign


def complaint() -> str:
    """Return what to tell a person whose installation mixes Hilum with another distribution; empty if all is ours."""
    foreign = foreign_packages()
    if not foreign:
        return ""
    found = ", ".join(f"{name} ({where})" for name, where in foreign.items())
    return (
        f"another distribution provides packages that Hilum needs: {found}; "
        "install Hilum into a virtual environment of its own"
    )
