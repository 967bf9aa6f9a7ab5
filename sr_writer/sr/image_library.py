"""The library of the images that a report draws on, each with the descriptors that its header has (PS3.16 TID 1600)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

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
from pydicom.uid import UID

from sr_writer import codes
from sr_writer.codes import concept
from sr_writer.source.grid import has_place, slice_thickness
from sr_writer.source.images import frame_numbers

_ACQUISITION = RelationshipTypeValues.HAS_ACQ_CONTEXT
_PROJECTIONS = frozenset({"CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"})
_UNITS: Mapping[str, CodedConcept | PydicomCode] = {
    "{pixels}": CodedConcept("{pixels}", "UCUM", "Pixels"),
    "{-1:1}": CodedConcept("{-1:1}", "UCUM", "{-1:1}"),
    "mm": standard.UCUM.Millimeter,
}
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
    of_all = set(described[0]).intersection(*described[1:])
    shared = [descriptor.item() for descriptor in described[0] if descriptor in of_all]
    own = [[descriptor for descriptor in each if descriptor not in of_all] for each in described]
    return [*shared, *map(_entry, sources, own)]


def _entry(source: Dataset, own: Sequence[_Descriptor]) -> ImageContentItem:
    entry = ImageContentItem(
        concept(codes.SOURCE),
        source.SOPClassUID,
        source.SOPInstanceUID,
        referenced_frame_numbers=frame_numbers(source),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    if own:
        entry.ContentSequence = ContentSequence([descriptor.item() for descriptor in own])
    return entry


class _Descriptor(NamedTuple):
    """One thing that an image has, as a plain value: content items are slow to make and to compare.

    Parameters
    ----------
    name
        Keyword of the concept in pydicom's dictionary of DCM.
    value
        A number with its unit; a UID where there is none, else a text or a code.
    """

    name: str
    value: float | str | PydicomCode
    unit: str = ""

    def item(self) -> ContentItem:
        """Return it as a content item."""
        name = getattr(standard.DCM, self.name)
        if isinstance(self.value, PydicomCode):
            return CodeContentItem(name, self.value, _ACQUISITION)
        if isinstance(self.value, UID):
            return UIDRefContentItem(name, self.value, _ACQUISITION)
        if isinstance(self.value, str):
            return TextContentItem(name, self.value, _ACQUISITION)
        return NumContentItem(name, self.value, _UNITS[self.unit], relationship_type=_ACQUISITION)


def _descriptors(source: Dataset) -> Iterator[_Descriptor]:
    """Yield what describes an image (TID 1602); each has its own Frame of Reference, or none, as the image does."""
    modality = _modalities().get(str(source.get("Modality", "")))
    if modality is not None:
        yield _Descriptor("Modality", modality)
    if source.get("FrameOfReferenceUID"):
        yield _Descriptor("FrameOfReferenceUID", UID(source.FrameOfReferenceUID))
    yield _Descriptor("PixelDataRows", int(source.Rows), "{pixels}")
    yield _Descriptor("PixelDataColumns", int(source.Columns), "{pixels}")
    if has_place(source):
        yield from _cross_section(source)
    elif source.get("Modality") in _PROJECTIONS:
        yield from _projection(source)


def _cross_section(source: Dataset) -> Iterator[_Descriptor]:
    """Yield where an image lies in the patient (TID 1604)."""
    yield from _spacing(source.PixelSpacing)
    thickness = slice_thickness(source)
    if thickness is not None:
        yield _Descriptor("SliceThickness", thickness, "mm")
    for keyword, value in zip(_POSITION, source.ImagePositionPatient, strict=True):
        yield _Descriptor(keyword, float(value), "mm")
    for keyword, value in zip(_ORIENTATION, source.ImageOrientationPatient, strict=True):
        yield _Descriptor(keyword, float(value), "{-1:1}")


def _projection(source: Dataset) -> Iterator[_Descriptor]:
    """Yield how a projection radiograph lies, as far as it says so (TID 1603)."""
    orientation = source.get("PatientOrientation") or ()
    if len(orientation) == 2 and all(orientation):
        for keyword, value in zip(("PatientOrientationRow", "PatientOrientationColumn"), orientation, strict=True):
            yield _Descriptor(keyword, str(value))
    spacing = source.get("ImagerPixelSpacing") or ()
    if len(spacing) == 2:
        yield from _spacing(spacing)


def _spacing(spacing: Sequence[float]) -> Iterator[_Descriptor]:
    """Yield the distances of pixel centres from (between rows, between columns) [mm]."""
    yield _Descriptor("HorizontalPixelSpacing", float(spacing[1]), "mm")
    yield _Descriptor("VerticalPixelSpacing", float(spacing[0]), "mm")


@cache
def _modalities() -> dict[str, PydicomCode]:
    """Return the acquisition modalities by their defined terms, which are their code values too (CID 29)."""
    return {code.value: code for code in standard.cid29.concepts.values()}
