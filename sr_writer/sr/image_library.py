"""The library of the images that a report draws on, each with the descriptors that its header has (PS3.16 TID 1600)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code as PydicomCode

from sr_writer import codes
from sr_writer.codes import concept
from sr_writer.source.grid import has_place, slice_thickness
from sr_writer.source.images import frame_numbers

_ACQUISITION = RelationshipTypeValues.HAS_ACQ_CONTEXT
_PROJECTIONS = frozenset({"CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"})
_PIXELS = CodedConcept("{pixels}", "UCUM", "Pixels")
_COSINE = CodedConcept("{-1:1}", "UCUM", "{-1:1}")
_POSITION = ("ImagePositionPatientX", "ImagePositionPatientY", "ImagePositionPatientZ")
_ORIENTATION = tuple(f"ImageOrientationPatient{line}{axis}" for line in ("Row", "Column") for axis in "XYZ")


def library_group(sources: Sequence[Dataset]) -> list[ContentItem]:
    """Return the content of the group of a library: what is true of all its images, and an entry for each.

    What they share stands once (TID 1600, Row 3), and what an image has for itself in its entry: validators slow down,
    or run out of memory, with the number of content items.

    Parameters
    ----------
    sources
        Headers of the images, or of frames of multi-frame images.
    """
    described = [list(_descriptors(source)) for source in sources]
    shared = [item for item in described[0] if all(item in others for others in described[1:])]
    entries = [_entry(source, items, shared) for source, items in zip(sources, described, strict=True)]
    return [*shared, *entries]


def _entry(source: Dataset, described: Sequence[ContentItem], shared: Sequence[ContentItem]) -> ImageContentItem:
    entry = ImageContentItem(
        concept(codes.SOURCE),
        source.SOPClassUID,
        source.SOPInstanceUID,
        referenced_frame_numbers=frame_numbers(source),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    own = [item for item in described if item not in shared]
    if own:
        entry.ContentSequence = ContentSequence(own)
    return entry


def _descriptors(source: Dataset) -> Iterator[ContentItem]:
    """Yield what describes an image (TID 1602); each has its own Frame of Reference, or none, as the image does."""
    modality = _modalities().get(str(source.get("Modality", "")))
    if modality is not None:
        yield CodeContentItem(standard.DCM.Modality, modality, _ACQUISITION)
    if source.get("FrameOfReferenceUID"):
        yield UIDRefContentItem(standard.DCM.FrameOfReferenceUID, source.FrameOfReferenceUID, _ACQUISITION)
    yield _number("PixelDataRows", int(source.Rows), _PIXELS)
    yield _number("PixelDataColumns", int(source.Columns), _PIXELS)
    if has_place(source):
        yield from _cross_section(source)
    elif source.get("Modality") in _PROJECTIONS:
        yield from _projection(source)


def _cross_section(source: Dataset) -> Iterator[ContentItem]:
    """Yield where an image lies in the patient (TID 1604)."""
    yield from _spacing(source.PixelSpacing)
    thickness = slice_thickness(source)
    if thickness is not None:
        yield _number("SliceThickness", thickness)
    for keyword, value in zip(_POSITION, source.ImagePositionPatient, strict=True):
        yield _number(keyword, float(value))
    for keyword, value in zip(_ORIENTATION, source.ImageOrientationPatient, strict=True):
        yield _number(keyword, float(value), _COSINE)


def _projection(source: Dataset) -> Iterator[ContentItem]:
    """Yield how a projection radiograph lies, as far as it says so (TID 1603)."""
    orientation = source.get("PatientOrientation") or ()
    if len(orientation) == 2 and all(orientation):
        for keyword, value in zip(("PatientOrientationRow", "PatientOrientationColumn"), orientation, strict=True):
            yield TextContentItem(getattr(standard.DCM, keyword), str(value), _ACQUISITION)
    spacing = source.get("ImagerPixelSpacing") or ()
    if len(spacing) == 2:
        yield from _spacing(spacing)


def _spacing(spacing: Sequence[float]) -> Iterator[ContentItem]:
    """Yield the distances of pixel centres from (between rows, between columns) [mm]."""
    yield _number("HorizontalPixelSpacing", float(spacing[1]))
    yield _number("VerticalPixelSpacing", float(spacing[0]))


def _number(keyword: str, value: float, unit: CodedConcept | PydicomCode = standard.UCUM.Millimeter) -> NumContentItem:
    return NumContentItem(getattr(standard.DCM, keyword), value, unit, relationship_type=_ACQUISITION)


@cache
def _modalities() -> dict[str, PydicomCode]:
    """Return the acquisition modalities by their defined terms, which are their code values too (CID 29)."""
    return {code.value: code for code in standard.cid29.concepts.values()}
