"""What a report says outside of measurement groups: found or not, assessed, measured; as plain values.

A measurement group without a region leaves the whole viewport of OHIF blank, so what has no region is said here.
`sr_writer.sr.stating` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sr_writer import codes
from sr_writer.region.areas import evenly, slices_each
from sr_writer.sr.rounding import rounded
from study.codes import CERTAINTY_OF_FINDING, PERCENT, Code
from study.errors import EncodingError
from study.imaging import Assessment, Finding, Measurement, Segment

NOTHING_FOUND = "The algorithm looked for it and found nothing in these images."


@dataclass(frozen=True)
class Statement:
    """One thing that a report says without a region.

    Parameters
    ----------
    key
        What its Tracking UID derives from.
    label
        As a radiologist reads it; also the Tracking Identifier.
    name, value
        What is said: about a detection whether something was found, or of what something was measured.
    finding, site, laterality
        What it is about, and where.
    numbers
        Rounded for reading.
    images
        Indices of the images that it refers to; empty: it is about all of them.
    remarks
        What limits it, in words.
    earlier
        What is to be said of it beside earlier studies, in words.
    """

    key: str
    label: str
    name: Code
    value: Code
    finding: Code
    site: Code | None = None
    laterality: Code | None = None
    numbers: tuple[Measurement, ...] = ()
    images: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


def not_detected(finding: Finding) -> Statement:
    """Return the statement that a finding was looked for and not found, with its own remarks."""
    remarks = (NOTHING_FOUND, *remarks_on(finding))
    return replace(_about(finding), name=codes.DETECTION, value=codes.NOT_DETECTED, numbers=(), remarks=remarks)


def segment_not_detected(segment: Segment, key: str, label: str) -> Statement:
    """Return the statement that a segment of the label map has no voxel.

    Parameters
    ----------
    key, label
        What the segment is tracked by.
    """
    site = segment.region or segment.property_type
    return not_detected(
        Finding(key, label, segment.property_type, site, (segment.value,), laterality=segment.laterality)
    )


def without_region(finding: Finding) -> Statement:
    """Return what is said of a finding that was detected, or measured, and has no region.

    Raises
    ------
    EncodingError
        If a number is none.
    """
    about = _about(finding)
    return about if about.numbers else replace(about, name=codes.DETECTION, value=codes.DETECTED)


def _about(finding: Finding) -> Statement:
    return Statement(
        key=finding.key,
        label=finding.label,
        name=codes.MEASURED,
        value=finding.finding,
        finding=finding.finding,
        site=finding.site,
        laterality=finding.laterality,
        numbers=tuple(map(for_reading, finding.measurements)),
        remarks=tuple(remarks_on(finding)),
        earlier=finding.earlier_notes,
    )


def remarks_on(finding: Finding) -> Iterator[str]:
    """Yield what limits a finding, in words."""
    if finding.incomplete:
        yield finding.incomplete_words
    for omission in finding.omissions:
        yield f"{omission.name.meaning} left out: {omission.reason}"
    yield from finding.notes


def assessed(assessments: Sequence[Assessment], images: int) -> list[Statement]:
    """Return what a model says of the series or of some of its images, without a region.

    A class is Detected, Not detected, or Assessed where the model leaves the decision to the reader; its probability
    stands below it [%]. Numbers alone stand below what they measure.

    Parameters
    ----------
    images
        How many there are.

    Raises
    ------
    EncodingError
        If one says nothing, is about an image that there is not, or a number is none.
    """
    for assessment in assessments:
        if any(not 0 <= index < images for index in assessment.slices):
            raise EncodingError(f"{assessment.label} is about an image that the series of {images} does not have.")
    most = slices_each(sum(bool(assessment.slices) for assessment in assessments))
    return [_assessed(assessment, most) for assessment in assessments]


def _assessed(assessment: Assessment, most: int) -> Statement:
    name, value = _said(assessment)
    concerned = sorted(set(assessment.slices))
    referenced = evenly(concerned, most)
    remarks = list(assessment.notes)
    if len(referenced) < len(concerned):
        remarks.append(f"Concerns {len(concerned)} images, of which {len(referenced)} are referenced.")
    return Statement(
        key=f"assessment:{assessment.key}",  # a finding and an assessment may have the same key, and are tracked apart
        label=assessment.label,
        name=name,
        value=value,
        finding=assessment.finding,
        site=assessment.site,
        numbers=tuple(map(for_reading, _numbers(assessment))),
        images=tuple(referenced),
        remarks=tuple(remarks),
    )


def _said(assessment: Assessment) -> tuple[Code, Code]:
    """Return name and value of the statement."""
    if assessment.detected is not None:
        return codes.DETECTION, codes.DETECTED if assessment.detected else codes.NOT_DETECTED
    if assessment.probability is not None:
        return codes.DETECTION, codes.ASSESSED
    if not assessment.measurements:
        raise EncodingError(f"{assessment.label} has neither a decision nor a probability nor a number.")
    return codes.MEASURED, assessment.finding


def _numbers(assessment: Assessment) -> Iterator[Measurement]:
    probability = assessment.probability
    if probability is not None:
        if not 0 <= probability <= 1:
            raise EncodingError(f"The probability of {assessment.label} is {probability}; it must be from 0 to 1.")
        yield Measurement(CERTAINTY_OF_FINDING, 100 * float(probability), PERCENT)
    yield from assessment.measurements


def for_reading(measured: Measurement) -> Measurement:
    """Return a measurement as it is written into a report, rounded for reading.

    Raises
    ------
    EncodingError
        If it is infinite, or not a number.
    """
    if not all(map(math.isfinite, (measured.value, *(each.value for each in measured.earlier)))):
        raise EncodingError(f"The measurement {measured.name.meaning} is {measured.value}; it must be a number.")
    unit = measured.unit.value
    earlier = tuple(replace(each, value=rounded(each.value, unit)) for each in measured.earlier)
    return replace(measured, value=rounded(measured.value, unit), earlier=earlier)
