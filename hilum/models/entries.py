"""``[[models]]`` entries in the text of a configuration file, changed so that everything else stays as it was written.

A file is taken apart at its table headers. Each part is TOML of its own, so that only the part in question is
rewritten, and what was meant is compared with what TOML reads in the result. tomlkit alone would put the tables of some
files in another order, and a new entry behind the comment that belongs to the next table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array

from study.errors import ConfigError

_KEY = "models"
_BY_HAND = "can not be changed without touching other lines; change it by hand"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def entries_of(text: str) -> list[dict[str, Any]]:
    """Return the entries of ``[[models]]`` in the text of a configuration file.

    Raises
    ------
    ConfigError
        If the text is no TOML, or has something else under this name.
    """
    try:
        entries = tomllib.loads(text).get(_KEY, [])
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not valid TOML: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{_KEY}: must be a list of tables; write [[{_KEY}]] above each entry")
    return entries


def block(entry: Mapping[str, str]) -> str:
    """Return an entry as lines of TOML."""
    table, tables = tomlkit.table(), tomlkit.aot()
    table.update(entry)
    tables.append(table)
    return tomlkit.dumps({_KEY: tables})


def with_entry(text: str, entry: Mapping[str, str]) -> str:
    """Return the text with one more entry, behind the last one and its tables.

    Raises
    ------
    ConfigError
        If that can not be done without touching something else.
    """
    entries = entries_of(text)
    parts = _parts(text)
    inline = next((place for place, part in enumerate(parts) if _is_inline(part)), None)
    if inline is not None:
        parts[inline] = _with_inline(parts[inline], entry)
    else:
        _insert(parts, block(entry))
    return _agreed(text, "".join(parts), [*entries, dict(entry)])


def with_values(text: str, name: str, values: Mapping[str, str]) -> str:
    """Return the text with other values in the entry of this name; its other keys and comments stay.

    Raises
    ------
    ConfigError
        If that can not be done without touching something else.
    """
    entries = [entry | dict(values) if entry.get("name") == name else entry for entry in entries_of(text)]
    parts = _parts(text)
    for place, part in enumerate(parts):
        if any(entry.get("name") == name for entry in _tables(part)):
            parts[place] = _with_values(part, name, values)
    return _agreed(text, "".join(parts), entries)


def _parts(text: str) -> list[str]:
    """Return the text in parts, each of which begins with a table's header; the first with what is above them all."""
    parts, current = [], ""
    for line in _LINE.findall(text):
        # A line within a list or a text may look like a header: what is before it is no whole TOML then.
        if line.lstrip().startswith("[") and _is_whole(current):
            parts.append(current)
            current = ""
        current += line
    return [*parts, current]


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _is_of_models(part: str) -> bool:
    return part.lstrip().startswith("[") and _KEY in tomllib.loads(part)


def _is_inline(part: str) -> bool:
    return not part.lstrip().startswith("[") and _KEY in tomllib.loads(part)


def _tables(part: str) -> list[dict[str, Any]]:
    found = tomllib.loads(part).get(_KEY)
    return found if isinstance(found, list) else []


def _with_inline(part: str, entry: Mapping[str, str]) -> str:
    document = _parsed(part)
    array = document[_KEY]
    if not isinstance(array, Array):  # `models.x = 1` above the tables; `entries_of` has refused it
        raise ConfigError(f"{_KEY}: must be a list of tables; write [[{_KEY}]] above each entry")
    table = tomlkit.inline_table()
    table.update(entry)
    array.append(table)
    return _as_before(part, tomlkit.dumps(document))


def _insert(parts: list[str], lines: str) -> None:
    """Put the lines of a new entry behind the last part that is of models; at the end where none is."""
    newline = _newline("".join(parts))
    last = max((place for place, part in enumerate(parts) if _is_of_models(part)), default=len(parts) - 1)
    body, rest = (parts[last], "") if last == len(parts) - 1 else _apart(parts[last])
    if body and not body.endswith("\n"):
        body += newline
    gap = newline if body.strip() else ""
    behind = newline if last < len(parts) - 1 and not rest.startswith(("\n", "\r\n")) else ""
    parts[last] = body + gap + lines.replace("\n", newline) + behind + rest


def _apart(part: str) -> tuple[str, str]:
    """Return a part without the lines at its end that belong to the next one, and those lines.

    Comments right below the last value belong to it if an empty line follows; else they are the next header's.
    """
    lines = _LINE.findall(part)
    end = max(place for place, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")) + 1
    comments = end
    while comments < len(lines) and lines[comments].strip():
        comments += 1
    cut = comments if comments < len(lines) else end
    return "".join(lines[:cut]), "".join(lines[cut:])


def _with_values(part: str, name: str, values: Mapping[str, str]) -> str:
    body, rest = _apart(part)
    if not body.endswith("\n"):
        body += _newline(part)
    document = _parsed(body)
    for entry in _entries_in(document):
        if entry.get("name") == name:
            for key, value in values.items():
                if entry.get(key) != value:
                    entry[key] = value
    return _as_before(body, tomlkit.dumps(document)) + rest


def _parsed(part: str) -> tomlkit.TOMLDocument:
    try:
        document = tomlkit.parse(part)
    except TOMLKitError:
        raise ConfigError(_BY_HAND) from None
    if tomlkit.dumps(document) != part:
        raise ConfigError(_BY_HAND)
    return document


def _entries_in(document: tomlkit.TOMLDocument) -> Iterator[Any]:
    found = document.get(_KEY)
    if isinstance(found, AoT | Array):
        yield from found


def _as_before(before: str, after: str) -> str:
    """Return `after` with the line ends of `before` in the lines that are new."""
    newline, known = _newline(before), set(_LINE.findall(before))
    return "".join(
        line if line in known or not line.endswith("\n") else line.rstrip("\r\n") + newline
        for line in _LINE.findall(after)
    )


def _newline(text: str) -> str:
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _agreed(before: str, after: str, entries: list[dict[str, Any]]) -> str:
    """Return `after` if it reads as `before` with these entries."""
    expected = tomllib.loads(before) | {_KEY: entries}
    if not _is_whole(after) or tomllib.loads(after) != expected:
        raise ConfigError(_BY_HAND)
    return after
