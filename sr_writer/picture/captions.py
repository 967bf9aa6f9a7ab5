"""What a result says, in the words and numbers that stand beside its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from sr_writer import codes
from sr_writer.reading.report import ChangeRow, MeasurementRow, Report, ReportedFinding
from sr_writer.region.areas import Areas, present_segments
from sr_writer.sr.changes import Change, change_words, said_of
from sr_writer.sr.content import content_of
from sr_writer.sr.rounding import readable, rounded, unit_words
from sr_writer.sr.statements import Statement, assessed, for_reading, remarks_on
from sr_writer.texts import ascii_text
from study.codes import CERTAINTY_OF_FINDING
from study.errors import EncodingError
from study.imaging import Finding, Measurement, ResultSet
from study.priors import day_of

Colour = tuple[int, int, int]

DETECTED, NOT_DETECTED, NOT_DECIDED, INCOMPLETE = "detected", "not detected", "not decided", "incomplete"
_DECISIONS = {codes.DETECTED: DETECTED, codes.NOT_DETECTED: NOT_DETECTED, codes.ASSESSED: NOT_DECIDED}
_PROBABILITY = "probability"


@dataclass(frozen=True)
class Caption:
    """What is said of one finding, segment or class.

    Parameters
    ----------
    said
        What stands after its name, "not detected"; "" where it is measured, and nothing more.
    numbers
        "Volume: 2379.6 mL", one each.
    changes
        What is said behind each of the numbers of earlier studies; "" where it is compared with none. Pictures leave
        it out: it has dates, and a line that is cut must not end in a number of then.
    remarks
        Its limits, in words.
    earlier
        What is said of it beside earlier studies; pictures leave it out, since it has dates.
    colours
        In which its regions are drawn; none where nothing is.
    slices
        Indices of the images that show it; none where it is about all of them.
    """

    label: str
    said: str = ""
    numbers: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    slices: frozenset[int] = frozenset()

    @property
    def head(self) -> str:
        """Return its name, and what is said of it."""
        return f"{self.label}: {self.said}" if self.said else self.label

    @property
    def numbers_compared(self) -> tuple[str, ...]:
        """Return each number with what is said of earlier studies."""
        return tuple(map("".join, zip_longest(self.numbers, self.changes, fillvalue="")))

    @property
    def line(self) -> str:
        """Return all of it that fits into one line: the name, what is said, the first number."""
        return f"{self.head}{', ' if self.said else ': '}{self.numbers[0]}" if self.numbers else self.head


def captions_of(result: ResultSet, areas: Areas | None, images: int) -> tuple[Caption, ...]:
    """Return what a result says, which is what its report says, and the segments that no finding is about.

    Parameters
    ----------
    areas
        How many pixels of each value each slice of the label map has.
    images
        How many source images there are.

    Raises
    ------
    EncodingError
        As `sr_writer.sr.content.content_of` does, but for a result of nothing but regions.
    """
    regions = tuple(_of_segments(result, areas))
    if regions and len(regions) == len(result.label_map.segments if result.label_map else ()):
        return (*regions, *(_of_said(each) for each in assessed(result.assessments, images)))
    content = content_of(result, areas, images, groups_without_region=True)
    return (
        *(_of_finding(finding, result, areas) for finding, _ in content.groups),
        *regions,
        *map(_of_said, content.statements),
    )


def captions_of_report(report: Report, colours: dict[str, Colour]) -> tuple[Caption, ...]:
    """Return what a report file says.

    Parameters
    ----------
    colours
        Of the segments of the same result, by their Tracking UIDs.
    """
    return tuple(
        Caption(
            label=finding.label,
            said=_said_in_file(finding),
            numbers=tuple(map(_row_words, finding.measurements)),
            changes=tuple(
                "".join(f", {_change_words(each, row.unit)}" for each in row.changes) for row in finding.measurements
            ),
            remarks=finding.remarks,
            colours=tuple(colours[uid] for uid in (finding.tracking_uid,) if uid in colours),
        )
        for finding in report.findings
    )


def _of_finding(finding: Finding, result: ResultSet, areas: Areas | None) -> Caption:
    """Return what is said of a finding that was detected."""
    shown = [] if areas is None else [value for value in finding.segment_values if value < areas.shape[1]]
    colours = {} if result.label_map is None else {each.value: each.rgb for each in result.label_map.segments}
    return Caption(
        label=ascii_text(finding.label),
        said=INCOMPLETE if finding.incomplete else "" if finding.measurements else DETECTED,
        numbers=tuple(_number_words(for_reading(each)) for each in finding.measurements),
        changes=tuple(change_words(for_reading(each)) for each in finding.measurements),
        remarks=tuple(map(ascii_text, remarks_on(finding))),
        earlier=tuple(map(ascii_text, finding.earlier_notes)),
        colours=tuple(colours[value] for value in shown if areas is not None and areas[:, value].any()),
        slices=frozenset() if areas is None else _slices(areas, shown),
    )


def _of_said(said: Statement) -> Caption:
    """Return what is said without a region."""
    return Caption(
        label=ascii_text(said.label),
        said=_DECISIONS.get(said.value, "") if said.name == codes.DETECTION else "",
        numbers=tuple(map(_number_words, said.numbers)),
        changes=tuple(map(change_words, said.numbers)),
        remarks=tuple(map(ascii_text, said.remarks)),
        earlier=tuple(map(ascii_text, said.earlier)),
        slices=frozenset(said.images),
    )


def _of_segments(result: ResultSet, areas: Areas | None) -> Iterator[Caption]:
    """Yield a caption for each segment that is drawn and that no finding is about."""
    if result.label_map is None or areas is None:
        return
    told = {value for finding in result.findings for value in finding.segment_values}
    for segment in present_segments(result.label_map, areas):
        if segment.value not in told:
            yield Caption(ascii_text(segment.label), colours=(segment.rgb,), slices=_slices(areas, [segment.value]))


def _slices(areas: Areas, values: Sequence[int]) -> frozenset[int]:
    return frozenset(np.flatnonzero(areas[:, list(values)].any(axis=1)).tolist())


def _said_in_file(finding: ReportedFinding) -> str:
    """Return what a report file says of a finding besides its numbers."""
    if finding.detected is False:
        return NOT_DETECTED
    if finding.certainty is not None:
        return DETECTED if finding.detected else NOT_DECIDED
    return INCOMPLETE if finding.incomplete else "" if finding.measurements else DETECTED


def _number_words(measured: Measurement) -> str:
    derivation = measured.derivation.meaning if measured.derivation else ""
    name = _PROBABILITY if measured.name == CERTAINTY_OF_FINDING else measured.name.meaning
    return _words(name, derivation, measured.value, measured.unit.value)


def _row_words(row: MeasurementRow) -> str:
    name = _PROBABILITY if row.name == CERTAINTY_OF_FINDING.meaning else row.name
    return _words(name, row.derivation, row.value, row.unit)


def _change_words(row: ChangeRow, unit: str) -> str:
    day = day_of(row.study_date)
    if day is None:
        raise EncodingError("A report compares with an earlier study and does not say its date.")
    return said_of(Change(row.study_instance_uid, day, row.earlier, row.absolute, row.percent), unit)


def _words(name: str, derivation: str, value: float, unit: str) -> str:
    derived = f", {derivation.lower()}" if derivation else ""
    return ascii_text(f"{name}{derived}: {readable(rounded(value, unit))} {unit_words(unit)}".rstrip())
