"""A mistake in the configuration as one line: where it is, what is wrong, and what mends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]
Names = Mapping[tuple[str, ...], str]
"""What a source of values calls its keys: ``--set node.port``, ``HILUM_NODE__PORT``."""

_RANGE: Final = 'write [lowest, highest], "" for an open end'
_FORMS: Final = {
    **dict.fromkeys(("slices", "slice_thickness", "slice_spacing", "pixel_spacing", "echo_time", "b_value"), _RANGE),
    "range": _RANGE,
    "colour": 'write "#rrggbb", or three numbers from 0 to 255',
}
"""How the values of some keys are written."""


def explain(error: ValidationError, settings: type[BaseModel], sources: Sequence[Names], path: Path) -> str:
    """Return a line for each mistake that pydantic found.

    Parameters
    ----------
    settings
        What the values were read into.
    sources
        The names of the sources that win over the file, the winning one first.
    path
        The file.
    """
    found = error.errors(include_url=False, include_input=True)
    return "\n".join(_line(cast("dict[str, Any]", entry), settings, sources, path) for entry in found)


def nearest(key: str, known: Iterable[str]) -> str:
    """Return which of the known keys may have been meant."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"


def _line(entry: dict[str, Any], settings: type[BaseModel], sources: Sequence[Names], path: Path) -> str:
    location: Location = tuple(part for part in entry["loc"] if part != "[key]")
    if not location:  # of the whole: its words name the place
        return f"{path}: {_message(entry, location, entry['type'])}"
    kind, key = entry["type"], str(location[-1])
    if kind == "missing" and isinstance(location[-1], int):  # a part of a list, not a key of a table
        location, kind = location[:-1], "too_short"
        entry = entry | {"msg": "has too few parts"}
    name = _name(location, sources)
    if kind == "missing" and not name and len(location) > 2 and (beside := _below(location[:-1], sources)):
        # A new entry that only flags or variables speak of.
        return f"{beside[0]}: {location[0]}.{location[1]} has no {key}; is the name {location[1]} right?"
    message = _message(entry, location, kind)
    if kind == "extra_forbidden":
        name = name or next(iter(_below(location, sources)), "")
        message = f"unknown key; {nearest(key, _keys(settings, location))}"
    elif not name:  # of a table as a whole: whoever gave the key that the words speak of
        name = next((below for below in _below(location, sources) if re.split(r"[.]|__", below)[-1] in message), "")
    return f"{name or f'{path}: {_spelled(location)}'}: {message}"


def _name(location: Location, sources: Sequence[Names]) -> str:
    """Return what the source that gave the value at a place calls it; "" where the file gave it."""
    texts = tuple(str(part) for part in location)
    for length in range(len(texts), 0, -1):
        for names in sources:
            if texts[:length] in names:
                return ": ".join(filter(None, (names[texts[:length]], _spelled(location[length:]))))
    return ""


def _below(location: Location, sources: Sequence[Names]) -> list[str]:
    """Return what the sources call the values that they gave within a table."""
    texts = tuple(str(part) for part in location)
    return [name for names in sources for key, name in names.items() if key[: len(texts)] == texts]


def _spelled(location: Location) -> str:
    """Return a place as a person reads it: keys with dots between, parts of lists counted from 1."""
    spelled, joint = "", ""
    for part in location:
        if isinstance(part, int):
            spelled, joint = f"{spelled} entry {part + 1}".lstrip(), ": "
        else:
            spelled, joint = f"{spelled}{joint}{part}", "."
    return spelled


def _message(entry: dict[str, Any], location: Location, kind: str) -> str:
    message = str(entry["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return "is missing; add it"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"is a table; write its keys one by one, as {_spelled(location)}.KEY"
    if isinstance(entry["input"], dict | BaseModel) or not location:
        return message
    message = "must be a list" if kind == "tuple_type" else f"{message[:1].lower()}{message[1:]}"
    form = next((f"; {_FORMS[part]}" for part in location if isinstance(part, str) and part in _FORMS), "")
    form = "" if "; write " in message else form
    given = "" if location[:2] == ("database", "url") else f" (given: {entry['input']!r})"  # it may hold a password
    return f"{message}{form}{given}"


def _keys(settings: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that there are beside the last one of a location."""
    table: Any = settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if isinstance(table, type) and issubclass(table, BaseModel):
            table = table.model_fields[part].annotation
        elif get_origin(table) is dict:
            table = get_args(table)[1]
        table = _table_in(table)
    return [name for name in table.model_fields if name != "base_dir"]


def _table_in(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    """Return the one table, or dictionary of tables, that an annotation speaks of."""
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return annotation
    inner = (_table_in(part) for part in get_args(annotation))
    return next((found for found in inner if found is not None), None)
