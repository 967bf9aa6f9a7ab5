"""What a report must keep that compares with earlier studies: they are the same patient's, earlier, and listed whole.

Its changes must be the differences of the numbers beside them, and none a percentage of what is no volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.reading.content_tree import children, code_of, descendants, is_named, items_named
from study.codes import PERCENT
from study.errors import Reason
from study.headers import InstanceHeader
from study.priors import why_another_patient, why_not_earlier

_ANY_AGE: Final = 10**6
_VOLUMES: Final = frozenset({"mL", "L", "uL", "cm3", "mm3", "dm3"})
_ROUNDED: Final = Decimal("0.051")  # [%]; a tenth is written
Listed = tuple[str, str, str, str]
"""Study, series, SOP Class and SOP Instance UID."""


def earlier_reasons(document: Dataset, source: Dataset, earlier: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield what is wrong with what a report says of earlier studies.

    Parameters
    ----------
    source
        Header of an image of the present study.
    earlier
        Headers of the images of the earlier series.
    """
    yield from _evidence(document, earlier)
    yield from _patient(source, earlier)
    days = {str(each.StudyInstanceUID): _digits(each.get("StudyDate")) for each in earlier}
    contexts = [item for item in descendants(document) if is_named(item, codes.STUDY)]
    if any(str(item.get("UID", "")) not in days for item in contexts):
        yield Reason("Reference", "A number or a sentence is about a study that is none of the earlier ones.")
    for item in descendants(document):
        for comparison in children(item, codes.COMPARISON):
            yield from (Reason("Change", words) for words in _of(item, comparison))
        if is_named(item, codes.EARLIER_VALUE) or is_named(item, codes.COMPARED_WITH):
            yield from _dated(item, days)


def _evidence(document: Dataset, earlier: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that the earlier images are listed, all of them and no others, each under its own study (C.17.2)."""
    listed = [
        (str(study.StudyInstanceUID), str(series.SeriesInstanceUID), *_reference(item))
        for study in items_named(document, "PertinentOtherEvidenceSequence")
        for series in items_named(study, "ReferencedSeriesSequence")
        for item in items_named(series, "ReferencedSOPSequence")
    ]
    known = {
        (str(each.StudyInstanceUID), str(each.SeriesInstanceUID), str(each.SOPClassUID), str(each.SOPInstanceUID))
        for each in earlier
    }
    if set(listed) != known or len(listed) > len(known):
        yield Reason("Reference", "The images of the earlier studies are not listed, each once and no others.")
    if any(study == str(document.get("StudyInstanceUID", "")) for study, *_ in listed):
        yield Reason("Reference", "The study itself is listed as an earlier one.")


def _reference(item: Dataset) -> tuple[str, str]:
    return str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))


def _patient(source: Dataset, earlier: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that the earlier images are of the same patient, and of an earlier day or hour."""
    if not earlier:
        return
    now = InstanceHeader.of(source)
    then = [InstanceHeader.of(each) for each in earlier]
    found = [why_another_patient([now], then)]
    found += [
        why_not_earlier(now, each, _ANY_AGE) for each in {each.study_instance_uid: each for each in then}.values()
    ]
    for reason in found:
        if reason is not None:
            yield Reason("Earlier", f"An earlier study must not be compared with ({reason.code}).")


def _digits(study_date: object) -> str:
    return str(study_date or "").replace(".", "").replace("-", "").strip()


def _dated(item: Dataset, days: dict[str, str]) -> Iterator[Reason]:
    """Demand that what is said of an earlier study names the study and its date."""
    studies = [str(each.get("UID", "")) for each in children(item, codes.STUDY, "UIDREF")]
    dates = [_digits(each.get("Date")) for each in children(item, codes.STUDY_DATE, "DATE")]
    if len(studies) != 1 or dates != [days.get(studies[0])]:
        yield Reason("Change", "What is said of an earlier study does not name the study and its date.")


def _of(number: Dataset, comparison: Dataset) -> Iterator[str]:
    """Yield what is wrong with a comparison that stands below a number."""
    then = list(children(comparison, codes.EARLIER_VALUE, "NUM"))
    change = list(children(comparison, codes.CHANGE, "NUM"))
    relative = list(children(comparison, codes.RELATIVE_CHANGE, "NUM"))
    unit = _unit(number)
    if len(then) != 1 or len(change) != 1 or len(relative) > 1:
        yield "a comparison has not one number of then and one change."
        return
    now, before, more = _value(number), _value(then[0]), _value(change[0])
    if now is None or before is None or more is None:
        yield "a comparison is without numbers."
        return
    if unit is None or unit != _unit(change[0]) or unit != _unit(then[0]):
        yield "a change is in another unit than what it is of."
    if now - before != more:
        yield "a change is not the difference of the numbers."
    for item in relative:
        yield from _relative(item, unit, before, more)


def _relative(item: Dataset, unit: str | None, before: Decimal, more: Decimal) -> Iterator[str]:
    if unit not in _VOLUMES or _unit(item) != PERCENT.value:
        yield "a relative change is of no volume, or not in percent."
        return
    percent = _value(item)
    exact = 100 * more / before if before else None
    if percent is None or exact is None or abs(percent - exact) > _ROUNDED:
        yield "a relative change is not that of the numbers."


def _value(item: Dataset) -> Decimal | None:
    measured = items_named(item, "MeasuredValueSequence")
    try:
        return Decimal(str(measured[0].NumericValue)) if len(measured) == 1 else None
    except (InvalidOperation, AttributeError):
        return None


def _unit(item: Dataset) -> str | None:
    measured = items_named(item, "MeasuredValueSequence")
    unit = code_of(measured[0], "MeasurementUnitsCodeSequence") if measured else None
    return None if unit is None else unit.value
