"""Where settings come from: a configuration file, HILUM_* variables and --set flags, each a layer of values.

Lists of tables (``[[peers]]``, ``[[models]]``) are addressed by their ``name`` everywhere: ``peers.pacs.port``,
``HILUM_PEERS__PACS__PORT``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from hilum.mistakes import nearest
from study.errors import ConfigError

_PREFIX = "HILUM_"
_NAMED_LISTS = ("peers", "models", "urgent")


@dataclass(frozen=True)
class Layer:
    """One source of values, and how its keys are named to a person."""

    values: dict[str, Any]
    names: dict[tuple[str, ...], str]


class LayerSource(PydanticBaseSettingsSource):
    """Gives pydantic-settings the values of a layer."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return one top-level value."""
        del field
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the layer's values."""
        return self._layer.values


def file_text(path: Path) -> str:
    """Return the text of a configuration file, its line ends as they are.

    Raises
    ------
    ConfigError
        If it is missing, or can not be read.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(
            f"{path.resolve()}: the configuration file is missing; copy config.toml from the repository, "
            "or name one with --config FILE"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: can not be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def file_layer(path: Path) -> Layer:
    """Return the values of a configuration file; ConfigError where it can not be read."""
    text = file_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    if "base_dir" in values:
        raise ConfigError(f"{path}: base_dir: unknown key; remove it")
    for key in _NAMED_LISTS:
        if key in values:
            values[key] = _by_name(values[key], key, path)
    return Layer(values, {})


def _by_name(entries: object, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: {key}: must be a list of tables; write [[{key}]] above each entry")
    named: dict[str, Any] = {}
    for index, entry in enumerate(entries, start=1):
        name = entry.get("name")
        if not isinstance(name, str):
            raise ConfigError(f'{path}: {key}: entry {index} has no name; add name = "..."')
        if name in named:
            raise ConfigError(f"{path}: {key}.{name}: the name occurs twice; give each entry its own")
        named[name] = entry
    return named


def flag_layer(assignments: Sequence[str], below: Mapping[str, Any], sections: Collection[str]) -> Layer:
    """Return what ``--set`` flags say, above the values `below`; ConfigError where one names no key."""
    layer = Layer({}, {})
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment}: write it as --set section.key=value")
        _put(layer, key.strip().split("."), value.strip(), f"--set {key.strip()}", below, sections)
    return layer


def environment_layer(environment: Mapping[str, str], below: Mapping[str, Any], sections: Collection[str]) -> Layer:
    """Return what ``HILUM_*`` variables say, above the values `below`; ConfigError where one names no key."""
    layer = Layer({}, {})
    for variable, value in sorted(environment.items()):
        if variable.startswith(_PREFIX):
            keys = variable.removeprefix(_PREFIX).lower().split("__")
            _put(layer, keys, value, variable, below, sections)
    return layer


def _put(
    layer: Layer, keys: list[str], text: str, source: str, below: Mapping[str, Any], sections: Collection[str]
) -> None:
    if keys[0] not in sections or len(keys) < 2:
        raise ConfigError(f"{source}: unknown key; {nearest(keys[0], sections)}")
    if keys[0] in _NAMED_LISTS:
        if len(keys) < 3:
            raise ConfigError(f"{source}: write it as {keys[0]}.NAME.key")
        known = {str(name).lower(): str(name) for name in below.get(keys[0], {})}
        keys = [keys[0], known.get(keys[1].lower(), keys[1]), *keys[2:]]
    table: Any = layer.values
    for depth, key in enumerate(keys[:-1]):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{source}: {'.'.join(keys[: depth + 1])} is given as a whole too; leave out one of the two"
            )
        if keys[0] in _NAMED_LISTS and depth == 1:
            table.setdefault("name", keys[1])
    if isinstance(table.get(keys[-1]), dict):
        raise ConfigError(f"{source}: keys within {'.'.join(keys)} are given too; leave out one of the two")
    table[keys[-1]] = _value(text, source)
    layer.names[tuple(keys)] = source


def _value(text: str, source: str) -> object:
    """Read lists and quoted strings as TOML; everything else is text that pydantic turns into the key's type."""
    if not text.startswith(("[", '"', "'")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: is not a valid value: {error}") from None
