"""What changed since an earlier study: each measurement of a result beside the same one of then.

The same is what has the same key, name, derivation and unit. What is cut by the edge of the images now or then, was
left out then or was not found then has no counterpart, and the result says so.
"""

from __future__ import annotations

from dataclasses import replace

from study.imaging import (
    Assessment,
    EarlierSeries,
    EarlierValue,
    Finding,
    Measurement,
    ResultSet,
)
from study.priors import day_words


def compared(now: ResultSet, then: ResultSet, series: EarlierSeries) -> ResultSet:
    """Return a result with the numbers of an earlier one beside its own, which it keeps.

    Parameters
    ----------
    then
        What the same model says of the earlier series.
    """
    findings = {each.key: each for each in then.findings}
    assessments = {each.key: each for each in then.assessments}
    return replace(
        now,
        findings=tuple(_finding(each, findings.get(each.key), series) for each in now.findings),
        assessments=tuple(_assessment(each, assessments.get(each.key), series) for each in now.assessments),
        earlier=(*now.earlier, series),
    )


def _finding(now: Finding, then: Finding | None, series: EarlierSeries) -> Finding:
    """Return a finding with its numbers of then, or with a note on why there are none."""
    why = _why_not(now, then, day_words(series.study_date))
    if why or then is None:
        return replace(now, earlier_notes=tuple(dict.fromkeys([*now.earlier_notes, *([why] if why else [])])))
    measured, notes = _measured(now, then, series)
    return replace(now, measurements=measured, earlier_notes=(*now.earlier_notes, *notes))


def _why_not(now: Finding, then: Finding | None, day: str) -> str:
    """Return why a whole finding is not compared; "" where it is, or where there is nothing to say."""
    if then is None or (not now.detected and not then.detected):
        return ""
    if now.detected != then.detected:
        return f"It was {'' if then.detected else 'not '}detected in the study of {day}."
    if not now.measurements:
        return ""
    if now.incomplete:
        return "Not compared with earlier studies: it is not whole in the present images."
    if then.incomplete:
        part = then.incomplete.removeprefix("incomplete: ")
        return f"Not compared with the study of {day}: it is not whole in the images of then ({part})."
    return ""


def _measured(now: Finding, then: Finding, series: EarlierSeries) -> tuple[tuple[Measurement, ...], list[str]]:
    known = {_kind(each): each for each in then.measurements}
    omitted = {(each.name.value, each.name.scheme): each.reason for each in then.omissions}
    measured, notes = [], []
    for each in now.measurements:
        counterpart = known.get(_kind(each))
        if counterpart is not None:
            measured.append(_beside(each, counterpart, series))
            continue
        measured.append(each)
        reason = omitted.get((each.name.value, each.name.scheme), "it was not measured there")
        day = day_words(series.study_date)
        notes.append(f"{each.name.meaning} is not compared with the study of {day}: {reason} (in the images of then).")
    return tuple(measured), notes


def _assessment(now: Assessment, then: Assessment | None, series: EarlierSeries) -> Assessment:
    if then is None:
        return now
    known = {_kind(each): each for each in then.measurements}
    measured = (
        _beside(each, known[_kind(each)], series) if _kind(each) in known else each for each in now.measurements
    )
    return replace(now, measurements=tuple(measured))


def _beside(now: Measurement, then: Measurement, series: EarlierSeries) -> Measurement:
    return replace(now, earlier=(*now.earlier, EarlierValue(series, then.value)))


def _kind(measurement: Measurement) -> tuple[str, ...]:
    """Return what makes two measurements the same; the meanings of codes are only for reading."""
    codes = (measurement.name, measurement.unit, *([measurement.derivation] if measurement.derivation else []))
    return tuple(part for code in codes for part in (code.value, code.scheme))
