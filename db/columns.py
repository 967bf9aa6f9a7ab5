"""Column types that keep what arrives from the wire storable: times in UTC, text and JSON without NUL or surrogates."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

JSONValue = dict[str, Any] | list[dict[str, Any]]


class UTCDateTime(TypeDecorator[datetime]):
    """A time with its zone, always UTC; SQLite, which knows no zones, keeps it as text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` in UTC; a naive time is a ValueError, since nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs its zone")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - signature given by SQLAlchemy
        """Return the stored time, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Text without NUL and lone surrogates: headers hold them, and PostgreSQL refuses them."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - signature given by SQLAlchemy
        """Return `value` as every database can keep it."""
        return None if value is None else storable_text(value)


class SafeJSON(TypeDecorator[JSONValue]):
    """An object of JSON or a list of such, texts made storable as `SafeText` does; JSONB in PostgreSQL."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:  # noqa: ANN401 - SQLAlchemy's types have no common parameter
        """Return JSONB where there is one."""
        return dialect.type_descriptor(JSONB() if dialect.name == "postgresql" else JSON())


def storable_text(text: str) -> str:
    """Return `text` without NUL, each lone surrogate replaced by a question mark."""
    if text.isascii():
        return text.replace("\0", "") if "\0" in text else text
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def encode_json(value: Any) -> str:  # noqa: ANN401 - any value of JSON
    """Return `value` as JSON that every database can keep.

    Raises
    ------
    ValueError
        If it holds NaN or an infinity, which JSON has no way to write.
    """
    encoded = json.dumps(value, allow_nan=False, separators=(",", ":"))
    if "\\u0000" in encoded or "\\ud" in encoded:
        return json.dumps(_storable(value), allow_nan=False, separators=(",", ":"))
    return encoded


def _storable(value: Any) -> Any:  # noqa: ANN401 - any value of JSON
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return {storable_text(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value
