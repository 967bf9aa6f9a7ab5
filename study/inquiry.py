"""What an archive was asked of a study, and what is known of each of its series by that: values, no decisions.

The decisions are `study.completion`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from study.errors import Reason
from study.holdings import ArchivedSeries

_TIMES = ("changed_at", "equal_since", "settled_at", "listed_at", "tried_at")


class InquiryState(StrEnum):
    """Whether somebody is to be asked whether a study is complete."""

    ASKING = "ASKING"  # the archive is asked until each series that a model may want has its standing
    LISTED = "LISTED"  # there is no archive to ask; what the sender listed is a proof once nothing more came
    SETTLED = "SETTLED"  # nobody is asked (any more)


class Standing(StrEnum):
    """What is known of whether all of a series is here."""

    UNWANTED = "UNWANTED"  # no model may want it
    OPEN = "OPEN"  # nothing for certain yet
    PROVEN = "PROVEN"  # all of it is here
    LACKING = "LACKING"  # the archive holds more of it, which could not be had
    BEHIND = "BEHIND"  # the archive holds less of it than is here, and has kept to that


@dataclass(frozen=True)
class HeldSeries:
    """What is here of a series, and how its images describe it."""

    described: ArchivedSeries
    sop_instance_uids: frozenset[str]

    @property
    def digest(self) -> str:
        """Return what tells this set of instances from any other."""
        return set_digest(self.sop_instance_uids)


@dataclass(frozen=True)
class SeriesInquiry:
    """What is known of one series by the archive's last answer.

    Parameters
    ----------
    series
        Which it is, and what is known of it besides its number of instances.
    here, held
        How many instances of it were here, and which: `set_digest`; "" for none.
    archived
        How many the archive holds; None where it was not asked.
    most
        The most that it ever held.
    changed_at
        When the archive last held more than before, or something had come here since the answer before.
    equal_since
        Since when both are known to hold as many, with nothing having come here in between; None where they do not.
    proof
        What proves it: "archive", "list", or "".
    settled_at
        Since when its standing is that; None while it is open.
    listed, listed_at
        Which instances the sender listed when it asked us to commit ourselves to them, and when that was.
    missing
        Some of the instances that the archive holds and that are not here.
    tries, tried_at, trouble
        How often what is missing was asked for since something last came, when last, and why it did not come.
    """

    series: ArchivedSeries
    here: int = 0
    held: str = ""
    archived: int | None = None
    most: int = 0
    standing: Standing = Standing.OPEN
    changed_at: datetime | None = None
    equal_since: datetime | None = None
    proof: str = ""
    settled_at: datetime | None = None
    listed: str = ""
    listed_at: datetime | None = None
    missing: tuple[str, ...] = ()
    tries: int = 0
    tried_at: datetime | None = None
    trouble: str = ""

    @property
    def series_instance_uid(self) -> str:
        """Return which series it is."""
        return self.series.series_instance_uid

    @property
    def lacks(self) -> int:
        """Return how many instances the archive holds that are not here."""
        return max((self.archived or 0) - self.here, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the values as an object of JSON."""
        values: dict[str, Any] = asdict(self)
        values |= {"standing": self.standing.value, "missing": list(self.missing)}
        return values | {name: _text(values[name]) for name in _TIMES}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SeriesInquiry:
        """Return what `to_json` wrote."""
        restored: dict[str, Any] = {name: _time(values[name]) for name in _TIMES}
        restored |= {"series": ArchivedSeries(**values["series"]), "missing": tuple(values["missing"])}
        return cls(**(values | restored | {"standing": Standing(values["standing"])}))


@dataclass(frozen=True)
class Inquiry:
    """What an archive was asked of a study.

    Parameters
    ----------
    peer
        The archive's name among the peers; "" where there is none.
    generation
        Of the study, when it was asked last.
    version
        Grows with each answer that may change what is known to be complete.
    asked, failures
        How often it answered, and how often in a row it now did not.
    reason
        Why it did not answer last, or was not relied on; None otherwise.
    """

    peer: str
    state: InquiryState
    generation: int
    version: int
    asked: int
    failures: int
    next_ask_at: datetime
    series: tuple[SeriesInquiry, ...] = ()
    reason: Reason | None = None

    @property
    def is_proven(self) -> bool:
        """Tell whether all of each series that a model may want was here, when the archive answered last."""
        wanted = [each for each in self.series if each.standing is not Standing.UNWANTED]
        return bool(wanted) and all(each.standing is Standing.PROVEN for each in wanted)


def set_digest(sop_instance_uids: Iterable[str]) -> str:
    """Return what tells a set of instances from any other: SHA-256, shortened; "" for none."""
    ordered = sorted(sop_instance_uids)
    return hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:32] if ordered else ""


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
