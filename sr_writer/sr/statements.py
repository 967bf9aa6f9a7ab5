"""What a report says outside of measurement groups: found or not, assessed, measured, as Qualitative Evaluations.

A measurement group without a region leaves the whole viewport of OHIF blank, so what has no region is said here, each
in a CODE item with what identifies it, its numbers and its images below (PS3.16 TID 1500; the relationships are those
that PS3.3 A.35.13.3.1.2 allows below a CODE).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from highdicom.sr import (
    CodeContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.codes import ascii_text, concept
from sr_writer.context import ResultContext
from sr_writer.region.areas import evenly, slices_each
from sr_writer.source.images import frame_numbers
from study.codes import CERTAINTY_OF_FINDING, PERCENT, Code
from study.errors import EncodingError
from study.imaging import Assessment, Finding, Measurement, ModelIdentity

CERTAINTY_EXPLAINED = (
    "Certainty of Finding is the algorithm's probability that the finding is present, also where it is not detected."
)

_NOT_DETECTED = "Not detected: the algorithm looked for it and found nothing in these images."


def not_detected(finding: Finding, model: ModelIdentity, context: ResultContext) -> CodeContentItem:
    """Return the statement that a finding was looked for and not found, with its own remarks below it."""
    item = CodeContentItem(concept(codes.DETECTION), concept(codes.NOT_DETECTED), RelationshipTypeValues.CONTAINS)
    remarks = [_NOT_DETECTED, *remarks_on(finding)]
    item.ContentSequence = ContentSequence(
        [
            *TrackingIdentifier(context.tracking_uid(model, finding.key), ascii_text(finding.label)),
            *_about(finding.finding, finding.site),
            *(comment(words, RelationshipTypeValues.HAS_PROPERTIES) for words in remarks),
        ]
    )
    return item


def remarks_on(finding: Finding) -> Iterator[str]:
    """Yield what limits a finding, in words."""
    if finding.incomplete:
        yield f"Incomplete: {finding.incomplete.removeprefix('incomplete: ')}"
    for omission in finding.omissions:
        yield f"{omission.name.meaning} left out: {omission.reason}"
    yield from finding.notes


def images_of(assessments: Sequence[Assessment], images: int) -> list[tuple[int, ...]]:
    """Choose the images that each assessment refers to, by their indices; none where it is about all of them.

    Raises
    ------
    EncodingError
        If an assessment is about an image that there is not.
    """
    for assessment in assessments:
        if any(not 0 <= index < images for index in assessment.slices):
            raise EncodingError(f"{assessment.label} is about an image that the series of {images} does not have.")
    most = slices_each(sum(bool(assessment.slices) for assessment in assessments))
    return [tuple(evenly(sorted(set(assessment.slices)), most)) for assessment in assessments]


def assessed(
    assessment: Assessment,
    referenced: Sequence[int],
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
) -> CodeContentItem:
    """Return what a model says of the series or of some of its images, without a region.

    A class is Detected, Not detected, or Assessed where the model leaves the decision to the reader; its probability
    stands below it [%]. Numbers alone stand below what they measure.

    Parameters
    ----------
    referenced
        Indices of the images that the statement refers to.

    Raises
    ------
    EncodingError
        If it says nothing, or a number is none.
    """
    name, value = _said(assessment)
    item = CodeContentItem(concept(name), concept(value), RelationshipTypeValues.CONTAINS)
    remarks = list(assessment.notes)
    concerned = len(set(assessment.slices))
    if len(referenced) < concerned:
        remarks.append(f"Concerns {concerned} images, of which {len(referenced)} are referenced.")
    # A finding and an assessment may have the same key, and are tracked apart
    tracking_uid = context.tracking_uid(model, f"assessment:{assessment.key}")
    item.ContentSequence = ContentSequence(
        [
            *TrackingIdentifier(tracking_uid, ascii_text(assessment.label)),
            *_about(assessment.finding, assessment.site),
            *(_number(each) for each in _numbers(assessment)),
            *(_inferred_from(sources[index]) for index in referenced),
            *(comment(words, RelationshipTypeValues.HAS_PROPERTIES) for words in remarks),
        ]
    )
    return item


def _said(assessment: Assessment) -> tuple[Code, Code]:
    """Return name and value of the statement."""
    if assessment.detected is not None:
        return codes.DETECTION, codes.DETECTED if assessment.detected else codes.NOT_DETECTED
    if assessment.probability is not None:
        return codes.DETECTION, codes.ASSESSED
    if not assessment.measurements:
        raise EncodingError(f"{assessment.label} has neither a decision nor a probability nor a number.")
    return codes.MEASURED, assessment.finding


def _about(finding: Code, site: Code | None) -> Iterator[CodeContentItem]:
    said: Mapping[Code, Code | None] = {codes.FINDING: finding, codes.FINDING_SITE: site}
    for name, value in said.items():
        if value is not None:
            yield CodeContentItem(concept(name), concept(value), RelationshipTypeValues.HAS_CONCEPT_MOD)


def _numbers(assessment: Assessment) -> Iterator[Measurement]:
    probability = assessment.probability
    if probability is not None:
        if not 0 <= probability <= 1:
            raise EncodingError(f"The probability of {assessment.label} is {probability}; it must be from 0 to 1.")
        yield Measurement(CERTAINTY_OF_FINDING, round(100 * float(probability), 4), PERCENT)
    yield from assessment.measurements


def _number(measured: Measurement) -> NumContentItem:
    demand_finite(measured)
    item = NumContentItem(
        concept(measured.name),
        float(measured.value),
        concept(measured.unit),
        None,
        RelationshipTypeValues.HAS_PROPERTIES,
    )
    if measured.derivation is not None:
        derivation: ContentItem = CodeContentItem(
            concept(codes.DERIVATION), concept(measured.derivation), RelationshipTypeValues.HAS_CONCEPT_MOD
        )
        item.ContentSequence = ContentSequence([derivation])
    return item


def _inferred_from(source: Dataset) -> ImageContentItem:
    return ImageContentItem(
        concept(codes.SOURCE),
        source.SOPClassUID,
        source.SOPInstanceUID,
        referenced_frame_numbers=frame_numbers(source),
        relationship_type=RelationshipTypeValues.INFERRED_FROM,
    )


def demand_finite(measured: Measurement) -> None:
    """Return if a measurement is a number.

    Raises
    ------
    EncodingError
        If it is infinite, or not a number.
    """
    if not math.isfinite(measured.value):
        raise EncodingError(f"The measurement {measured.name.meaning} is {measured.value}; it must be a number.")


def comment(words: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS) -> TextContentItem:
    """Return a remark in words."""
    return TextContentItem(concept(codes.COMMENT), ascii_text(words), relationship)
