"""A bundle's own Python code: there while it runs, and nothing of it visible after."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

_CODE_PACKAGE: Final = "scripts"


@contextmanager
def own_code(path: Path, modules: dict[str, ModuleType]) -> Iterator[None]:
    """Make a bundle's ``scripts`` importable within the block, and nothing of it visible after.

    Every bundle calls its code ``scripts``; kept in `sys.modules`, the first one's would serve for all. Compiled code
    (``__pycache__``) is neither read nor written: the digest that was approved is that of the source.
    """
    kept = sys.pycache_prefix, sys.dont_write_bytecode
    sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
    hidden = _take_out(_CODE_PACKAGE)
    before = set(sys.modules)
    sys.modules.update(modules)
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path[:] = [place for place in sys.path if place != str(path)]
        sys.pycache_prefix, sys.dont_write_bytecode = kept
        modules.update(_take_out(_CODE_PACKAGE) | _take_out_below(path, before))
        sys.modules.update(hidden)


def _take_out(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


def _take_out_below(path: Path, before: set[str]) -> dict[str, ModuleType]:
    """Take out the modules that were not there before and whose code lies in a bundle, whatever they are called."""
    root = str(path.resolve())
    names = [name for name in set(sys.modules) - before if _lies_below(sys.modules[name], root)]
    return {name: sys.modules.pop(name) for name in names}


def _lies_below(module: ModuleType, root: str) -> bool:
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
    return any(isinstance(place, str) and os.path.realpath(place).startswith(root + os.sep) for place in places)
