"""What a result says, in the words and numbers that stand beside its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sr_writer.codes import ascii_text
from sr_writer.reading.report import MeasurementRow, Report
from sr_writer.region.areas import Areas, present_segments
from sr_writer.sr.rounding import readable, rounded
from sr_writer.sr.statements import remarks_on
from study.codes import CERTAINTY_OF_FINDING, PERCENT
from study.errors import EncodingError
from study.imaging import Assessment, Finding, Measurement, ResultSet

Colour = tuple[int, int, int]

NOT_DETECTED = "not detected"
_UNITS = {"[hnsf'U]": "HU", "1": "", "[arb'U]": "a.u.", "deg": "degrees"}


@dataclass(frozen=True)
class Statement:
    """What is said of one finding, segment or class.

    Parameters
    ----------
    said
        What stands after its name, "not detected"; "" where it is measured, and nothing more.
    numbers
        "Volume: 2379.6 mL", one each.
    remarks
        Its limits, in words.
    colours
        In which its regions are drawn; none where nothing is.
    slices
        Indices of the images that show it; none where it is about all of them.
    """

    label: str
    said: str = ""
    numbers: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    slices: frozenset[int] = frozenset()

    @property
    def head(self) -> str:
        """Return its name, and what is said of it."""
        return f"{self.label}: {self.said}" if self.said else self.label

    @property
    def line(self) -> str:
        """Return all of it that fits into one line: the name, what is said, the first number."""
        return f"{self.head}{', ' if self.said else ': '}{self.numbers[0]}" if self.numbers else self.head


def statements_of(result: ResultSet, areas: Areas | None) -> tuple[Statement, ...]:
    """Return what a result says: its findings, the segments that have none of their own, its assessments.

    Parameters
    ----------
    areas
        How many pixels of each value each slice of the label map has.
    """
    return (
        *(_of_finding(finding, result, areas) for finding in result.findings),
        *_of_segments(result, areas),
        *map(_of_assessment, result.assessments),
    )


def statements_of_report(report: Report, colours: dict[str, Colour]) -> tuple[Statement, ...]:
    """Return what a report file says.

    Parameters
    ----------
    colours
        Of the segments of the same result, by their Tracking UIDs.
    """
    return tuple(
        Statement(
            label=finding.label,
            said=_said(finding.detected, incomplete=finding.incomplete, certain=finding.certainty is not None),
            numbers=tuple(map(_row_words, finding.measurements)),
            remarks=finding.remarks,
            colours=tuple(colours[uid] for uid in (finding.tracking_uid,) if uid in colours),
        )
        for finding in report.findings
    )


def _of_finding(finding: Finding, result: ResultSet, areas: Areas | None) -> Statement:
    shown = [] if areas is None else [value for value in finding.segment_values if value < areas.shape[1]]
    colours = {} if result.label_map is None else {each.value: each.rgb for each in result.label_map.segments}
    return Statement(
        label=ascii_text(finding.label),
        said=_said(finding.detected if not finding.detected else None, incomplete=bool(finding.incomplete)),
        numbers=tuple(_number_words(each) for each in finding.measurements),
        remarks=tuple(map(ascii_text, remarks_on(finding))),
        colours=tuple(
            colours[value] for value in shown if value in colours and areas is not None and areas[:, value].any()
        ),
        slices=frozenset() if areas is None else _slices(areas, shown),
    )


def _of_segments(result: ResultSet, areas: Areas | None) -> Iterator[Statement]:
    """Yield a statement for each segment that is drawn and that no finding is about."""
    if result.label_map is None or areas is None:
        return
    told = {value for finding in result.findings for value in finding.segment_values}
    for segment in present_segments(result.label_map, areas):
        if segment.value not in told:
            yield Statement(ascii_text(segment.label), colours=(segment.rgb,), slices=_slices(areas, [segment.value]))


def _slices(areas: Areas, values: Sequence[int]) -> frozenset[int]:
    return frozenset(np.flatnonzero(areas[:, list(values)].any(axis=1)).tolist())


def _of_assessment(assessment: Assessment) -> Statement:
    probability = assessment.probability
    numbers = [_number_words(each) for each in assessment.measurements]
    if probability is not None:
        numbers.insert(0, _words("probability", "", 100 * probability, PERCENT.value))
    return Statement(
        label=ascii_text(assessment.label),
        said=_said(assessment.detected, certain=probability is not None),
        numbers=tuple(numbers),
        remarks=tuple(map(ascii_text, assessment.notes)),
        slices=frozenset(assessment.slices),
    )


def _said(detected: bool | None, *, incomplete: bool = False, certain: bool = False) -> str:
    """Return what is said of something besides its numbers.

    Parameters
    ----------
    detected
        None where nothing was decided.
    certain
        Whether a probability is given, so that it had to be decided.
    """
    if detected is False:
        return NOT_DETECTED
    if certain:
        return "detected" if detected else "not decided"
    return "incomplete" if incomplete else ""


def _number_words(measured: Measurement) -> str:
    if not math.isfinite(measured.value):
        raise EncodingError(f"The measurement {measured.name.meaning} is {measured.value}; it must be a number.")
    derivation = measured.derivation.meaning if measured.derivation else ""
    return _words(measured.name.meaning, derivation, measured.value, measured.unit.value)


def _row_words(row: MeasurementRow) -> str:
    name = "probability" if row.name == CERTAINTY_OF_FINDING.meaning else row.name
    return _words(name, row.derivation, row.value, row.unit)


def _words(name: str, derivation: str, value: float, unit: str) -> str:
    derived = f", {derivation.lower()}" if derivation else ""
    symbol = _UNITS.get(unit, unit.strip("{}"))
    return ascii_text(f"{name}{derived}: {readable(rounded(value, unit))} {symbol}".rstrip())
