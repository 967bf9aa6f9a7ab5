"""What a report, read back from its file, must keep: the shape of its tree, images that are real, words that agree."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from sr_writer import codes
from sr_writer.checking.earlier import earlier_reasons
from sr_writer.checking.rules import common_reasons, demand_none, form_reasons, read_back
from sr_writer.checking.sr_groups import DECISIONS, group_words, segment_words, statement_words, tie_reasons
from sr_writer.reading.content_tree import children, code_of, descendants, is_named, items_named, text_of
from sr_writer.reading.report import (
    groups_of,
    is_of_words,
    keys_of_image,
    segment_of,
    sentences_of,
    statements_of,
)
from sr_writer.source.images import SourceKey, by_key
from study.errors import Reason

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def check_sr(
    path: Path,
    sources: Sequence[Dataset],
    segmentations: Sequence[Dataset] = (),
    earlier: Sequence[Dataset] = (),
) -> Dataset:
    """Return the report in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images.
    segmentations
        The objects of the Segmentation of the same result, read back from their files, where there is one.
    earlier
        Headers of the images of earlier studies that the report compares with.

    Raises
    ------
    NonconformantObject
        If a rule is broken; the words tell all that are.
    """
    document = read_back(path)
    demand_none(sr_reasons(document, sources, segmentations, earlier))
    return document


def sr_reasons(
    document: Dataset,
    sources: Sequence[Dataset],
    segmentations: Sequence[Dataset] = (),
    earlier: Sequence[Dataset] = (),
) -> Iterator[Reason]:
    """Yield everything that is wrong with a report."""
    groups, statements = groups_of(document), statements_of(document)
    referenced = {segment[0] for group in groups if (segment := segment_of(group)) is not None}
    beside = [each for each in segmentations if str(each.SOPInstanceUID) in referenced]
    yield from _form(document)
    yield from common_reasons(document, sources, (*beside, *earlier))
    yield from evidence_reasons(document)
    yield from earlier_reasons(document, sources[0], earlier)
    if not groups and not statements:
        yield Reason(
            "Tree", "The report has neither a measurement group nor a statement of what was found or measured."
        )
    yield from _images(document, {*by_key(sources), *by_key(earlier)}, referenced)
    if is_of_words(document):
        yield from _words(document)
    else:
        yield from _library(document, (*groups, *statements), referenced)
    tracking = [text_of(item, codes.TRACKING_UNIQUE_IDENTIFIER) for item in (*groups, *statements)]
    if len(set(tracking)) < len(tracking):
        yield Reason("Tracking", "Two measurement groups or statements have the same Tracking UID.")
    known = by_key(sources)
    for number, group in enumerate(groups, 1):
        for words in (*group_words(group, known), *segment_words(group, sources[0], segmentations)):
            yield Reason("Group", f"Measurement group {number}: {words}")
    for number, statement in enumerate(statements, 1):
        for words in statement_words(statement):
            yield Reason("Statement", f"Statement {number}: {words}")
    yield from tie_reasons(groups, segmentations)


def _form(document: Dataset) -> Iterator[Reason]:
    yield from document_reasons(document, (Comprehensive3DSRStorage, ComprehensiveSRStorage))
    template = (items_named(document, "ContentTemplateSequence") or (Dataset(),))[0].get("TemplateIdentifier")
    if not is_of_words(document):
        if not is_named(document, codes.IMAGING_MEASUREMENT_REPORT):
            yield Reason("Tree", "The root is not an Imaging Measurement Report (126000, DCM).")
        if template != "1500":
            yield Reason("Tree", "The root's template is not TID 1500.")


def document_reasons(document: Dataset, classes: Sequence[str]) -> Iterator[Reason]:
    """Yield what is wrong with the parts that every document of ours has.

    Parameters
    ----------
    classes
        SOP Classes that it may be of.
    """
    expected = {
        "Modality": "SR",
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ValueType": "CONTAINER",
    }
    if document.get("SOPClassUID") not in classes:
        yield Reason("Form", "SOPClassUID is not that of such a report.")
    yield from form_reasons(document, expected)
    if next(children(document, codes.PROCEDURE_REPORTED), None) is None:
        yield Reason("Tree", "The procedure reported is absent.")
    observer = next(children(document, codes.DEVICE_OBSERVER_UID), Dataset())
    if not observer.get("UID") or observer.get("UID") != document.get("DeviceUID"):
        yield Reason("Equipment", "The observer is not the device that made the report.")
    yield from _predecessors(document)


def _predecessors(document: Dataset) -> Iterator[Reason]:
    """Demand that the documents that this one takes the place of are others of its study (PS3.3 C.17.2)."""
    studies = items_named(document, "PredecessorDocumentsSequence")
    if any(study.get("StudyInstanceUID") != document.get("StudyInstanceUID") for study in studies):
        yield Reason("Reference", "A predecessor of the report is of another study.")
    named = [
        reference.get("ReferencedSOPInstanceUID")
        for study in studies
        for series in items_named(study, "ReferencedSeriesSequence")
        for reference in items_named(series, "ReferencedSOPSequence")
    ]
    if (studies and not all(named)) or document.get("SOPInstanceUID") in named or len(named) < len(studies):
        yield Reason("Reference", "The predecessors of the report are not named, or it names itself.")


def evidence_reasons(document: Dataset) -> Iterator[Reason]:
    """Yield what is wrong with the evidence: every instance that the tree refers to is listed, once (C.17.2.3)."""
    listed = [
        str(item.ReferencedSOPInstanceUID)
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in items_named(document, keyword)
        for series in items_named(study, "ReferencedSeriesSequence")
        for item in items_named(series, "ReferencedSOPSequence")
    ]
    missing = {uid for uid, _ in _referenced(document)} - set(listed)
    if missing:
        yield Reason("Reference", f"{len(missing)} images of the report are not listed as evidence.")
    if len(set(listed)) < len(listed):
        yield Reason("Reference", "An image is listed as evidence twice.")


def _referenced(item: Dataset) -> set[SourceKey]:
    return {key for below in descendants(item) for key in keys_of_image(below)}


def _images(document: Dataset, known: set[SourceKey], segmentations: Collection[str]) -> Iterator[Reason]:
    strange = {key for key in _referenced(document) if key[0] not in segmentations} - known
    if strange:
        yield Reason("Reference", f"{len(strange)} images of the report are no source images, or no frames of one.")


def _library(document: Dataset, referring: Sequence[Dataset], segmentations: Collection[str]) -> Iterator[Reason]:
    libraries = list(children(document, codes.IMAGE_LIBRARY))
    grouped = [group for library in libraries for group in children(library, codes.IMAGE_LIBRARY_GROUP)]
    images = {key for group in grouped for key in _referenced(group)}
    if len(libraries) != 1 or not images:
        yield Reason("Tree", "There is not one Image Library with entries in a group.")
    shown = {key for item in referring for key in _referenced(item) if key[0] not in segmentations}
    if shown - images:
        yield Reason("Reference", "Contours or statements are about images that the Image Library lacks.")


def _words(document: Dataset) -> Iterator[Reason]:
    """Demand that a report of words has no region, and that each sentence says what the codes below it say."""
    if any(item.get("ValueType") in ("SCOORD", "SCOORD3D") for item in descendants(document)) or groups_of(document):
        yield Reason("Tree", "A report of words has a measurement group or a region, which viewers do not show.")
    if not text_of(document, codes.SUMMARY):
        yield Reason("Tree", "A report of words has no summary.")
    for number, item in enumerate(sentences_of(document), 1):
        statements = list(children(item, value_type="CODE"))
        if len(statements) != 1:
            yield Reason("Statement", f"Sentence {number} has not one coded statement below it.")
        for statement in statements:
            if not _agree(str(item.get("TextValue", "")), statement):
                yield Reason("Statement", f"Sentence {number} does not say what the codes below it say.")


def _agree(sentence: str, statement: Dataset) -> bool:
    """Tell whether a sentence names what a statement tracks, its decision, and each of its numbers."""
    label = text_of(statement, codes.TRACKING_IDENTIFIER)
    said = sentence.removeprefix(f"{label}: ")
    if said == sentence:
        return False
    decision = code_of(statement, "ConceptCodeSequence")
    if is_named(statement, codes.DETECTION) and not said.startswith(DECISIONS.get(decision, "?")):
        return False
    told = {float(number) for number in _NUMBER.findall(said)}
    return all(
        float(measured.get("NumericValue") or 0) in told
        for item in descendants(statement)
        if item.get("ValueType") == "NUM"
        for measured in items_named(item, "MeasuredValueSequence")
    )
