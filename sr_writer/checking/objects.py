"""One place for all forms: what an object is, what it must keep by itself, and what objects must keep together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, BasicTextSRStorage

from sr_writer import codes
from sr_writer.checking.pdf import check_pdf
from sr_writer.checking.refusal import check_refusal
from sr_writer.checking.rejection import check_rejection, rejected_by
from sr_writer.checking.rtstruct import check_rtstruct
from sr_writer.checking.rules import demand_none
from sr_writer.checking.sc import check_sc
from sr_writer.checking.seg import check_seg
from sr_writer.checking.sr import check_sr
from sr_writer.checking.structure import structure_reasons
from sr_writer.equipment import DIGEST
from sr_writer.reading.content_tree import items_named, text_of
from sr_writer.reading.report import groups_of, segment_of, statements_of
from study.errors import EncodingError, NonconformantObject, Reason
from study.forms import APART, SEGMENTATIONS, SOP_CLASSES, Form
from study.implementation import IMPLEMENTATION_CLASS_UID

Segmentations = Sequence[Dataset]
"""The Segmentation of the same set, read back from its files: one object or several, or none."""

CHECKS: Final[Mapping[Form, Callable[[Path, Sequence[Dataset], Segmentations, Sequence[Dataset]], Dataset]]] = {
    Form.SEG: lambda path, sources, *_: check_seg(path, sources),
    Form.SEG_LABELMAP: lambda path, sources, *_: check_seg(path, sources),
    Form.RTSTRUCT: lambda path, sources, *_: check_rtstruct(path, sources),
    Form.SR: check_sr,
    Form.SR_SEGMENTS: check_sr,
    Form.SR_COMPREHENSIVE: check_sr,
    Form.SC: lambda path, sources, *_: check_sc(path, sources),
    Form.PDF: lambda path, sources, *_: check_pdf(path, sources),
    Form.REFUSAL: lambda path, sources, *_: check_refusal(path, sources),
    Form.REJECTION: lambda path, sources, rejected, _: check_rejection(path, sources, rejected),
}
"""What reads an object of each form back from its file, and returns it if it keeps every rule."""

_STUMBLES: Final = (AttributeError, LookupError, TypeError, ValueError, NotImplementedError, OverflowError, EOFError)
"""What reading an object raises that is not as it must be."""

_NAMES: Final[Mapping[Form, str]] = {
    Form.SEG: "Segmentation",
    Form.SEG_LABELMAP: "Label Map Segmentation",
    Form.RTSTRUCT: "RT Structure Set",
    Form.SR: "Comprehensive 3D SR",
    Form.SR_SEGMENTS: "Comprehensive 3D SR on segments",
    Form.SR_COMPREHENSIVE: "Comprehensive SR",
    Form.SC: "Secondary Capture",
    Form.PDF: "Encapsulated PDF",
    Form.REFUSAL: "refusal report",
    Form.REJECTION: "rejection by Key Object Selection",
}


def checked(
    form: Form,
    path: Path,
    sources: Sequence[Dataset],
    beside: Segmentations = (),
    earlier: Sequence[Dataset] = (),
) -> Dataset:
    """Return the object in a file, which is a whole file and keeps every rule of its form.

    Parameters
    ----------
    sources
        Headers of the source images in slice order.
    beside
        The Segmentation that a report refers to or speaks of; the results that a Key Object Selection may reject.
    earlier
        Headers of the images of earlier studies that a report compares with.

    Raises
    ------
    GeometryMismatch, NonconformantObject
        If a rule is broken; `reasons` has all that are, and `file` the name of the file.
    """
    with naming(path):
        demand_none(structure_reasons(path))
        return CHECKS[form](path, sources, beside, earlier)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make what the block finds wrong name the file; an object that a rule can not even look at breaks it.

    Raises
    ------
    NonconformantObject
        If a rule stumbles over what the object lacks.
    """
    try:
        yield
    except EncodingError as error:
        error.file = path.name
        error.reasons = error.reasons or (Reason("File", error.words),)
        raise
    except _STUMBLES as error:
        words = f"{path.name} lacks what must be there, or holds what can not be read ({type(error).__name__})."
        broken = NonconformantObject(words, reasons=[Reason("File", words)])
        broken.file = path.name
        raise broken from error


def form_of(dataset: Dataset) -> Form | None:
    """Return which form an object has; None where its SOP Class is that of none."""
    by_class = {sop_class: form for form, sop_class in SOP_CLASSES.items() if form is not Form.SR_SEGMENTS}
    form = by_class.get(str(dataset.get("SOPClassUID", "")))
    if form is Form.SR and any(segment_of(group) for group in groups_of(dataset)):
        return Form.SR_SEGMENTS
    return form


def is_ours(dataset: Dataset) -> bool:
    """Tell whether an object says anywhere that Hilum made it; one that is broken may not say so everywhere."""
    if dataset.file_meta.get("ImplementationClassUID") == IMPLEMENTATION_CLASS_UID:
        return True
    made = items_named(dataset, "ContributingEquipmentSequence")
    return any(f"{DIGEST}=" in str(item.get("ContributionDescription", "")) for item in made)


def description_of(form: Form, dataset: Dataset) -> str:
    """Return in a few words what an object holds."""

    def count(keyword: str) -> int:
        return len(items_named(dataset, keyword))

    name = _NAMES[form]
    if form in SEGMENTATIONS:
        segments = count("SegmentSequence") - (form is Form.SEG_LABELMAP)  # the background is described too
        return f"{name}, {segments} segments, {dataset.get('NumberOfFrames') or 0} frames"
    if form is Form.RTSTRUCT:
        contours = sum(len(items_named(item, "ContourSequence")) for item in dataset.get("ROIContourSequence") or ())
        return f"{name}, {count('StructureSetROISequence')} regions, {contours} contours"
    if form is Form.SC:
        return f"{name}, {dataset.get('Rows')} rows, {dataset.get('Columns')} columns"
    if form is Form.PDF:
        return f"{name}, {dataset.get('EncapsulatedDocumentLength')} bytes"
    if form in APART:
        what = f"of {len(rejected_by(dataset))} objects" if form is Form.REJECTION else UID(BasicTextSRStorage).name
        return f"{name} ({what})"
    return f"{name}, {len(groups_of(dataset))} measurement groups, {len(statements_of(dataset))} statements"


def beside_of(dataset: Dataset, others: Sequence[Dataset]) -> list[Dataset]:
    """Return which of the other objects are Segmentations of the same set as a report: same study, same device."""
    return [
        other
        for other in others
        if form_of(other) in SEGMENTATIONS
        and all(other.get(keyword) == dataset.get(keyword) for keyword in ("StudyInstanceUID", "DeviceUID"))
    ]


def segmentations_needed(dataset: Dataset) -> set[str]:
    """Return the SOP Instance UIDs of the Segmentations that a report refers to."""
    return {segment[0] for group in groups_of(dataset) if (segment := segment_of(group)) is not None}


def together_reasons(objects: Sequence[Dataset]) -> Iterator[tuple[int, Reason]]:
    """Yield what is wrong with objects beside each other, each with the index of the later one.

    Parameters
    ----------
    objects
        Of any sets, each instance once.
    """
    seen: dict[str, tuple[str, object]] = {}
    names: dict[str, str] = {}
    for index, dataset in enumerate(objects):
        series = (str(dataset.get("SOPClassUID")), str(dataset.get("StudyInstanceUID")))
        for keyword, what in (("SOPInstanceUID", index), ("SeriesInstanceUID", series), ("DeviceUID", "device")):
            uid = str(dataset.get(keyword) or "")
            if seen.setdefault(uid, (keyword, what)) != (keyword, what) and uid:
                yield index, Reason("UID", f"{keyword} is that of something else among the files.")
        for tracking_uid, name in _tracked(dataset):
            if names.setdefault(tracking_uid, name) != name:
                yield index, Reason("Tracking", "A Tracking UID has another identifier than in another file.")


def _tracked(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield Tracking UID and Tracking Identifier of all that a Segmentation or a report is about."""
    for item in items_named(dataset, "SegmentSequence"):
        if item.get("TrackingUID"):
            yield str(item.TrackingUID), str(item.get("TrackingID", ""))
    for item in (*groups_of(dataset), *statements_of(dataset)):
        yield text_of(item, codes.TRACKING_UNIQUE_IDENTIFIER), text_of(item, codes.TRACKING_IDENTIFIER)
