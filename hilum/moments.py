"""Times, as programs and as persons read them."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo


def moment(time: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    return None if time is None else time.isoformat(timespec="milliseconds")


def local(time: datetime | None) -> str:
    """Return a time as a person at this machine reads it, to the millisecond."""
    return "" if time is None else time.astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def zone_at(name: str, time: datetime) -> tzinfo:
    """Return the zone of an IANA name; for "" the offset that this machine keeps at that time."""
    return ZoneInfo(name) if name else time.astimezone().tzinfo or UTC
