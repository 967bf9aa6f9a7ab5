"""What a Key Object Selection that rejects results, read back from its file, must keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from sr_writer import codes
from sr_writer.checking.rules import common_reasons, demand_none, form_reasons, read_back
from sr_writer.reading.content_tree import children, is_named, items_named, text_of
from study.errors import Reason

_TITLES = (codes.REJECTED_FOR_QUALITY, codes.REJECTED_FOR_SAFETY)
_REFERENCES = ("IMAGE", "COMPOSITE")


def check_rejection(path: Path, sources: Sequence[Dataset], rejected: Sequence[Dataset]) -> Dataset:
    """Return the Key Object Selection in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images of what it rejects, or of an object of that: they say whose it is.
    rejected
        Headers of the objects that it may reject, and of no others.

    Raises
    ------
    NonconformantObject
        If a rule is broken; the words tell all that are.
    """
    document = read_back(path)
    demand_none(rejection_reasons(document, sources, rejected))
    return document


def rejection_reasons(document: Dataset, sources: Sequence[Dataset], rejected: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with a Key Object Selection that rejects results."""
    expected = {"SOPClassUID": KeyObjectSelectionDocumentStorage, "Modality": "KO", "ValueType": "CONTAINER"}
    yield from form_reasons(document, expected)
    yield from common_reasons(document, sources, rejected, series_named=False)
    yield from _words(document)
    yield from _references(document, rejected)


def rejected_by(document: Dataset) -> list[str]:
    """Return the SOP Instance UIDs of what a Key Object Selection refers to in its content."""
    return [
        str(reference.get("ReferencedSOPInstanceUID", ""))
        for item in children(document)
        if item.get("ValueType") in _REFERENCES
        for reference in items_named(item, "ReferencedSOPSequence")
    ]


def _words(document: Dataset) -> Iterator[Reason]:
    """Demand a title that archives act on, and a reason in words."""
    title = next((title for title in _TITLES if is_named(document, title)), None)
    template = (items_named(document, "ContentTemplateSequence") or (Dataset(),))[0].get("TemplateIdentifier")
    if title is None or template != "2010":
        yield Reason("Tree", "It is no rejection by TID 2010.")
    if not text_of(document, codes.KEY_OBJECT_DESCRIPTION).strip():
        yield Reason("Words", "It does not say in words why it rejects what it refers to.")
    observer = next(children(document, codes.DEVICE_OBSERVER_UID), Dataset())
    if not observer.get("UID") or observer.get("UID") != document.get("DeviceUID"):
        yield Reason("Equipment", "The observer is not the device that made the document.")


def _references(document: Dataset, rejected: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that it refers to results alone, each once in its content and once as evidence: what it names is lost."""
    known = {str(each.SOPInstanceUID): each for each in rejected}
    named = rejected_by(document)
    if not named or len(set(named)) < len(named):
        yield Reason("Reference", "It refers to nothing, or to an object twice.")
    if set(named) - set(known):
        yield Reason("Reference", f"It rejects {len(set(named) - set(known))} objects that are none of those results.")
    listed = [
        (str(study.get("StudyInstanceUID", "")), str(series.get("SeriesInstanceUID", "")), str(uid))
        for study in items_named(document, "CurrentRequestedProcedureEvidenceSequence")
        for series in items_named(study, "ReferencedSeriesSequence")
        for uid in (item.get("ReferencedSOPInstanceUID", "") for item in items_named(series, "ReferencedSOPSequence"))
    ]
    placed = [
        (str(known[uid].StudyInstanceUID), str(known[uid].SeriesInstanceUID), uid) for uid in named if uid in known
    ]
    if sorted(listed) != sorted(placed):
        yield Reason("Reference", "What it lists as evidence is not what it rejects.")
    kinds = {"IMAGE": True, "COMPOSITE": False}
    for item in children(document):
        for reference in items_named(item, "ReferencedSOPSequence"):
            each = known.get(str(reference.get("ReferencedSOPInstanceUID", "")))
            if each is not None and kinds.get(str(item.get("ValueType"))) is not ("Rows" in each):
                yield Reason("Tree", "A reference to an image is no IMAGE, or one to another object is no COMPOSITE.")
