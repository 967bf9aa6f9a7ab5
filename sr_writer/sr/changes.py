"""A number beside the same one of earlier studies: as content items, and in words.

A change stands below the number that it is of, beside the value of then, and whose that is: its study and date.
All three have names of their own: whoever gathers volumes from a report finds that of the present images alone. A
change is the difference of the two numbers as they are written, so that a reader finds it correct to the last figure.
The relative change is given of volumes only, since a percentage of Hounsfield units, or of a percentage, means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal

from highdicom.sr import (
    ContentItem,
    ContentSequence,
    DateContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)

from sr_writer import codes
from sr_writer.codes import concept
from sr_writer.sr.rounding import readable, unit_words
from study.codes import PERCENT, Code
from study.errors import EncodingError
from study.imaging import EarlierValue, Measurement
from study.priors import day_of

VOLUMES = frozenset({"mL", "L", "uL", "cm3", "mm3", "dm3"})
"""Units of volumes in UCUM."""
_TENTH = Decimal("0.1")  # of a per cent: what is behind it is noise of scanner and model


@dataclass(frozen=True)
class Change:
    """How a number differs from the same one of an earlier study, as it is written.

    Parameters
    ----------
    earlier
        The number of then.
    absolute
        What is more now, in the unit of both.
    percent
        The same relative to then [%]; None where that means nothing.
    """

    study_instance_uid: str
    day: date
    earlier: float
    absolute: float
    percent: float | None


def changes_of(measured: Measurement) -> tuple[Change, ...]:
    """Return how a number, rounded for reading, differs from each earlier one.

    Raises
    ------
    EncodingError
        If an earlier study has no date.
    """
    return tuple(_change(measured, each) for each in measured.earlier)


def _change(measured: Measurement, then: EarlierValue) -> Change:
    day = day_of(then.series.study_date)
    if day is None:
        raise EncodingError("An earlier study that is compared with has no date.")
    absolute, percent = difference(measured.value, then.value, measured.unit.value)
    return Change(then.series.study_instance_uid, day, then.value, absolute, percent)


def difference(now: float, then: float, unit: str) -> tuple[float, float | None]:
    """Return what is more now, and of a volume by what part of then [%], of two numbers as they are written."""
    absolute = Decimal(repr(now)) - Decimal(repr(then))
    if unit not in VOLUMES or not then:
        return float(absolute), None
    percent = 100 * absolute / Decimal(repr(then))
    return float(absolute), float(percent.quantize(_TENTH, ROUND_HALF_UP)) + 0.0  # without the minus of a zero


def change_items(measured: Measurement) -> Iterator[TextContentItem]:
    """Yield what stands below a number, rounded for reading, of each earlier one: words, and the numbers below them.

    Directly below a number TID 300 takes a number only as what it was inferred from, which a change is not.
    """
    for change in changes_of(measured):
        words = said_of(change, measured.unit.value)
        item = TextContentItem(concept(codes.COMPARISON), words, RelationshipTypeValues.HAS_PROPERTIES)
        earlier = _number(codes.EARLIER_VALUE, change.earlier, measured.unit)
        earlier.ContentSequence = ContentSequence(context_of(change.study_instance_uid, change.day))
        below = [_number(codes.CHANGE, change.absolute, measured.unit), earlier]
        if change.percent is not None:
            below.insert(1, _number(codes.RELATIVE_CHANGE, change.percent, PERCENT))
        item.ContentSequence = ContentSequence(below)
        yield item


def context_of(study_instance_uid: str, day: date) -> list[ContentItem]:
    """Return that something is said of another study: its UID and its date (TID 1005)."""
    context = RelationshipTypeValues.HAS_OBS_CONTEXT
    return [
        UIDRefContentItem(concept(codes.STUDY), study_instance_uid, context),
        DateContentItem(concept(codes.STUDY_DATE), day, context),
    ]


def _number(name: Code, value: float, unit: Code) -> NumContentItem:
    return NumContentItem(concept(name), value, concept(unit), None, RelationshipTypeValues.HAS_PROPERTIES)


def change_words(measured: Measurement, today: str = "") -> str:
    """Return what is said behind a number, rounded for reading; "" where it is compared with none.

    " on 2024-02-03, 3010.4 mL on 2023-05-11 (change -120.3 mL, -4.0 %)"

    Parameters
    ----------
    today
        The date of the present study; left out where it is "".
    """
    said = [said_of(change, measured.unit.value) for change in changes_of(measured)]
    now = f" on {today}" if today and said else ""
    return now + "".join(f", {words}" for words in said)


def said_of(change: Change, unit: str) -> str:
    """Return a change in words: "3010.4 mL on 2023-05-11 (change -120.3 mL, -4.0 %)"; `unit` as UCUM writes it."""
    then = f"{readable(change.earlier)} {unit_words(unit)}".rstrip()
    absolute = f"{_signed(change.absolute)} {_points(unit)}".rstrip()
    percent = "" if change.percent is None else f", {f'{change.percent:+.1f}' if change.percent else '0.0'} %"
    return f"{then} on {change.day.isoformat()} (change {absolute}{percent})"


def _points(unit: str) -> str:
    """Return the unit of a difference: between two percentages it is no percentage of either."""
    return "percentage points" if unit == PERCENT.value else unit_words(unit)


def _signed(value: float) -> str:
    return f"+{readable(value)}" if value > 0 else readable(value)
