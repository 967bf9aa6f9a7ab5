"""What lies in a bundle's folder, and what its configuration imports and calls: read as text, none of it run.

This helps a person to read a bundle; it proves nothing. A program that wants to hide what it does can.
"""

from __future__ import annotations

import ast
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from study.errors import BundleInvalid

_CONFIG_ENDINGS: Final = (".json", ".yaml", ".yml")
_WEIGHT_ENDINGS: Final = (
    ".pt", ".pth", ".ts", ".onnx", ".engine", ".plan", ".trt", ".safetensors", ".ckpt", ".bin", ".npz", ".npy", ".pkl",
    ".h5",
)  # fmt: skip
_COMPILED_ENDINGS: Final = (".pyc", ".pyd", ".so")
_CACHE: Final = "__pycache__"  # the node neither reads it nor counts it into the digest
_LICENCE: Final = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
_LARGEST_TEXT: Final = 16 * 2**20  # bytes of a file that is read as text; configurations and scripts have kilobytes
_LIBRARIES: Final = ("monai", "torch")
_FAR: Final = re.compile(
    r"\b(?:import|exec|open|compile|breakpoint|getattr|globals|builtins|importlib|ctypes|pickle|subprocess|shutil"
    r"|socket|urllib|requests|cpp_extension|load_library|download\w*)\b"
    r"|(?<!\.)\beval\b(?!['\"])|\bos\.[\w.]+|\bsys\.[\w.]+|\b(?:\w+\.)*(?:load|hub)\b|__\w*"
)
"""What makes an expression more than arithmetic: it runs text, reads files, starts programs or reaches the network.

Not the ``eval`` of ``network.eval()`` and ``'/eval'``, which nearly every bundle has.
"""
_OF_ANOTHER_FILE: Final = re.compile(r"%.*\.(json|ya?ml)(::|#|$)", re.IGNORECASE)
_FAR_MODULES: Final = frozenset(
    (
        *("builtins", "code", "importlib", "marshal", "pickle", "runpy", "sys"),
        *("ctypes", "multiprocessing", "os", "pty", "shutil", "signal", "subprocess", "threading"),
        *("ftplib", "http", "requests", "socket", "urllib"),
    )
)
_FAR_CALLS: Final = frozenset({"__import__", "compile", "eval", "exec", "open"})


@dataclass(frozen=True)
class Saying:
    """One text of a configuration file that makes something happen.

    Parameters
    ----------
    place
        Its keys from the top, joined by "::".
    marks
        What in it a reader should look at twice; empty where nothing is.
    """

    file: str
    place: str
    text: str
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """A Python file: what it imports, and what of it a reader should look at twice."""

    file: str
    imports: tuple[str, ...]
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What a look at a bundle's folder found.

    Parameters
    ----------
    files, size
        How many files there are, and their size [bytes].
    licences
        The names of files with a licence, and the first line of each.
    sayings
        Imports, components that are not the libraries' own, and expressions, of every configuration file.
    weights
        Names and sizes [bytes].
    compiled
        Code that can not be read here.
    unread
        Files that could not be looked at, and why.
    """

    files: int = 0
    size: int = 0
    licences: list[tuple[str, str]] = field(default_factory=list)
    sayings: list[Saying] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    weights: list[tuple[str, int]] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)


def look_at(bundle: Path) -> Look:
    """Return what lies in a bundle's folder.

    Raises
    ------
    BundleInvalid
        If a link in it leads out of it: what lies elsewhere is no part of the bundle, and not of its digest.
    """
    files = list(_files(bundle))
    look = Look(files=len(files), size=sum(file.stat().st_size for file in files))
    for file in files:
        _sort_in(look, bundle, file)
    look.sayings.sort(key=lambda saying: (Path(saying.file).stem != "inference", saying.file))
    return look


def _files(bundle: Path) -> Iterator[Path]:
    root = bundle.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - {_CACHE})
        for name in (*folders, *names):
            path = Path(folder, name)
            target = Path(os.path.realpath(path))  # a link to itself is one to nowhere, where `resolve` gives up
            if path.is_symlink() and not target.is_relative_to(root):
                raise BundleInvalid(
                    f"{path.relative_to(root)} is a link out of the bundle, to {target}; put a copy in its place."
                )
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def _sort_in(look: Look, bundle: Path, file: Path) -> None:
    name, ending = file.relative_to(bundle.resolve()).as_posix(), file.suffix.lower()
    try:
        if ending in _COMPILED_ENDINGS:
            look.compiled.append(name)
        elif ending in _CONFIG_ENDINGS:
            look.sayings.extend(_sayings(name, _content(file, ending)))
        elif ending == ".py":
            look.scripts.append(_script(name, _text(file)))
        elif ending in _WEIGHT_ENDINGS or name.startswith("models/"):
            look.weights.append((name, file.stat().st_size))
        elif _LICENCE.match(file.name):
            look.licences.append((name, _first_line(file)))
    except _Unreadable as error:
        look.unread.append((name, str(error)))
    except OSError as error:
        look.unread.append((name, error.strerror or type(error).__name__))


class _Unreadable(Exception):
    """Why a file could not be looked at."""


def _text(file: Path) -> str:
    if file.stat().st_size > _LARGEST_TEXT:
        raise _Unreadable(f"larger than {_LARGEST_TEXT // 2**20} MiB")
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Unreadable("is no UTF-8 text") from None


def _first_line(file: Path) -> str:
    lines = (line.strip() for line in _text(file).splitlines())
    return next((line for line in lines if line), "")[:80]


def _content(file: Path, ending: str) -> object:
    text = _text(file)
    try:
        return json.loads(text) if ending == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _Unreadable(f"is no {'JSON' if ending == '.json' else 'YAML'}: {type(error).__name__}") from None


def _sayings(file: str, content: object) -> Iterator[Saying]:
    for place, text in _texts(content):
        makes = place[-1:] == ("_target_",) and not _is_of_a_library(text)
        if makes or text.startswith("$") or _OF_ANOTHER_FILE.match(text):
            yield Saying(file, "::".join(place), text, _marks(text))


def _texts(content: object) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give every text with its place; what YAML refers to several times, or to itself, is gone through once."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        place, found = waiting.pop()
        if isinstance(found, str):
            yield place, found
        elif isinstance(found, dict | list) and id(found) not in seen:
            seen.add(id(found))
            items = found.items() if isinstance(found, dict) else enumerate(found)
            waiting.extend(reversed([((*place, str(key)), value) for key, value in items]))


def _is_of_a_library(target: str) -> bool:
    """Tell whether a component is MONAI's or torch's own and makes no more than an object."""
    return ("." not in target or target.split(".", maxsplit=1)[0] in _LIBRARIES) and not _marks(target)


def _marks(text: str) -> tuple[str, ...]:
    # Python reads letters of other shapes, full-width ones for instance, as the plain ones (PEP 3131).
    plain = unicodedata.normalize("NFKC", text)
    found = dict.fromkeys(match.group() for match in _FAR.finditer(plain))
    outside = ("another file",) if _OF_ANOTHER_FILE.match(plain) else ()
    return (*found, *outside)


def _script(name: str, text: str) -> Script:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the stranger's code, not of ours
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Unreadable(f"is no Python that can be read: {type(error).__name__}") from None
    imports: dict[str, None] = {}
    calls: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports["." * node.level + (node.module or "")] = None
        elif isinstance(node, ast.Name) and node.id in _FAR_CALLS:
            calls[node.id] = None
    far = [module for module in sorted(imports) if module.split(".")[0] in _FAR_MODULES]
    return Script(name, tuple(sorted(imports)), (*far, *sorted(calls)))
