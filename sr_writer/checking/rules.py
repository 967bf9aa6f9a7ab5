"""Hold a result, read back from its file, against the headers of its source images.

Of the writers nothing is used but lists: of what is taken over from the source, of the codes with their names, and of
the transfer syntaxes.

Each rule yields a `Reason` for everything that breaks it, and a failure tells them all at once. The words name
attributes and numbers, never their values: they end in logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from sr_writer.checking.texts import text_reasons, uid_reasons
from sr_writer.codes import is_private, own_codes
from sr_writer.files import TRANSFER_SYNTAXES
from sr_writer.reading.content_tree import items_named
from sr_writer.reading.frames import FRAME_CONTENT
from sr_writer.reading.shared_items import share_items
from sr_writer.source.carrying import CharacterSet, ascii_text_of, element_bytes, items_of, tag_of
from sr_writer.source.identity import CARRIED, TYPE_2
from sr_writer.source.images import SourceImages, keys_of_reference
from study.codes import PRIVATE_SCHEME
from study.errors import GeometryMismatch, NonconformantObject, Reason

GEOMETRY = "GeometryMismatch"
_MOST_REASONS = 20

_TAKEN_OVER_TAGS = frozenset(map(tag_of, (*CARRIED, "ReferencedRequestSequence", "RequestAttributesSequence")))
"""Sequences whose references and codes are the source's, not ours."""
_NO_IMAGES = _TAKEN_OVER_TAGS | {tag_of("PredecessorDocumentsSequence")}
"""Sequences whose references are not to images of the source; those to reports are checked with the documents."""

_REFERENCED_INSTANCE, _REFERENCED_CLASS = tag_of("ReferencedSOPInstanceUID"), tag_of("ReferencedSOPClassUID")
_SERIES = tag_of("SeriesInstanceUID")

_ORDER_NUMBERS = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
)
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "DeviceUID")


def read_back(path: Path) -> Dataset:
    """Return the object in a file.

    Raises
    ------
    NonconformantObject
        If it is no DICOM file in a transfer syntax of results, or another instance than its file meta says.
    """
    try:
        dataset = dcmread(path)
    except (InvalidDicomError, EOFError) as broken:
        raise NonconformantObject(f"{path.name} can not be read back.") from broken
    if dataset.file_meta.get("TransferSyntaxUID") not in TRANSFER_SYNTAXES:
        raise NonconformantObject(f"{path.name} is neither in Explicit VR Little Endian nor in RLE Lossless.")
    same = dataset.file_meta.get("MediaStorageSOPInstanceUID") == dataset.get("SOPInstanceUID")
    if not same or dataset.file_meta.get("MediaStorageSOPClassUID") != dataset.get("SOPClassUID"):
        raise NonconformantObject(f"{path.name} holds another instance than its file meta says.")
    share_items(dataset, (FRAME_CONTENT,))
    return dataset


def demand_none(reasons: Iterable[Reason]) -> None:
    """Return if there is no reason against an object.

    Raises
    ------
    GeometryMismatch
        If a reason is about geometry.
    NonconformantObject
        If another one is.
    """
    found = list(reasons)
    if not found:
        return
    words = " ".join(reason.words for reason in found[:_MOST_REASONS])
    if len(found) > _MOST_REASONS:
        words += f" And {len(found) - _MOST_REASONS} more."
    numbers: dict[str, float | int | str] = {
        "reasons": len(found),
        "rules": ", ".join(sorted({reason.code for reason in found})),
    }
    if any(reason.code == GEOMETRY for reason in found):
        raise GeometryMismatch(words, numbers, found)
    raise NonconformantObject(words, numbers, found)


def form_reasons(result: Dataset, expected: Mapping[str, object]) -> Iterator[Reason]:
    """Yield every attribute, by its keyword, that has not the one value that a form of result gives it."""
    for keyword, value in expected.items():
        if result.get(keyword) != value:
            yield Reason("Form", f"{keyword} is not {value}.")


def common_reasons(
    result: Dataset, sources: Sequence[Dataset], beside: Sequence[Dataset] = (), *, series_named: bool = True
) -> Iterator[Reason]:
    """Yield what is wrong with the parts that every result has.

    Parameters
    ----------
    beside
        What it may refer to besides the source images: objects of the same set, images of earlier studies.
    series_named
        Whether it has a place to name the source series; an Encapsulated PDF names instances alone.
    """
    yield from text_reasons(result, sources)  # first: what is read in any other way is decoded from then on
    yield from _identity(result, sources[0])
    yield from _request(result, sources[0])
    yield from uid_reasons(result, (*sources, *beside), _TAKEN_OVER_TAGS)
    items = list(own_items(result))
    yield from _own_uids(result, items, sources)
    yield from _references(items, sources, beside, series_named=series_named)
    yield from _equipment(result)
    yield from _codes(items)


def _identity(result: Dataset, source: Dataset) -> Iterator[Reason]:
    for keyword in CARRIED:
        tag = tag_of(keyword)
        if tag in source:
            if canonical(result, tag) != canonical(source, tag):
                yield Reason("Identity", f"{keyword} is not what the source has.")
        elif keyword in TYPE_2:
            if tag not in result or canonical(result, tag):
                yield Reason("Identity", f"{keyword}, which the source lacks, is not empty.")
        elif tag in result:
            yield Reason("Identity", f"{keyword} is there although the source lacks it.")


def canonical(dataset: Dataset, tag: BaseTag, character_set: CharacterSet = "iso8859") -> object:
    """Return a value that is equal for equal elements: bytes without padding, or that of each element of each item."""
    if dictionary_VR(tag) != "SQ":
        return element_bytes(dataset, tag, character_set).rstrip(b" \0")
    declared = dataset.get("SpecificCharacterSet", character_set)
    return [
        {
            inner: canonical(item, inner, declared)
            for inner in list(item.keys())
            if inner.element and not inner.is_private and keyword_for_tag(inner)
        }
        for item in items_of(dataset, tag)
    ]


def _request(result: Dataset, source: Dataset) -> Iterator[Reason]:
    """Demand that the order is the source's: taken over by images, repeated by reports (PS3.3 C.7.3.1, C.17.2)."""
    asked, fulfilled = tag_of("RequestAttributesSequence"), tag_of("ReferencedRequestSequence")
    if asked in result and canonical(result, asked) != canonical(source, asked):
        yield Reason("Identity", "RequestAttributesSequence is not what the source has.")
    said = [source, *items_of(source, asked), *items_of(source, fulfilled)]  # the last where a report says whose it is
    for item in items_of(result, fulfilled):
        for tag in list(item.keys()):
            value = canonical(item, tag)
            if value and value not in [canonical(each, tag) for each in said]:
                yield Reason("Identity", f"{keyword_for_tag(tag)} of a request is not what the source has.")
    ordered = any(element_bytes(item, tag_of(each)).strip() for item in said[1:] for each in _ORDER_NUMBERS)
    if ordered and asked not in result and fulfilled not in result:
        yield Reason("Identity", "The source names an order, and the result does not.")


def _own_uids(result: Dataset, items: Sequence[Dataset], sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that each UID that was made for the result is there, and stands for one thing only."""
    if not all(result.get(keyword) for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "DeviceUID")):
        yield Reason("UID", "A UID of the result is absent.")
    made = [{str(result.get(keyword, ""))} for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "DeviceUID")]
    made += [
        {ascii_text_of(item, tag_of(keyword)) for item in _having(items, keyword)}
        for keyword in ("DimensionOrganizationUID", "TrackingUID")
    ]
    taken = SourceImages.of(sources).uids
    if sum(map(len, made)) > len(set().union(*made)) or taken & set().union(*made):
        yield Reason("UID", "A UID of the result is used twice, or is one of the source's.")


def _having(items: Iterable[Dataset], keyword: str) -> list[Dataset]:
    """Return the items that have an element; there are thousands, and asking one by a keyword looks up its tag."""
    tag = tag_of(keyword)
    return [item for item in items if tag in item.keys()]  # noqa: SIM118


def _references(
    items: Sequence[Dataset], sources: Sequence[Dataset], beside: Sequence[Dataset], *, series_named: bool
) -> Iterator[Reason]:
    images, others = SourceImages.of(sources), SourceImages(beside)
    known = images.classes | others.classes
    frames = {*images.keys, *others.keys}
    unknown = contradicting = frameless = 0
    for item in _having(items, "ReferencedSOPInstanceUID"):
        if "RTReferencedSeriesSequence" in item:  # that one is a study
            continue
        sop_class = known.get(ascii_text_of(item, _REFERENCED_INSTANCE))
        unknown += sop_class is None
        contradicting += sop_class is not None and sop_class != ascii_text_of(item, _REFERENCED_CLASS)
        named = {key for key in keys_of_reference(item) if key[1] is not None}
        frameless += sop_class is not None and not named <= frames
    if unknown:
        yield Reason("Reference", f"{unknown} references lead to no source image.", {"references": unknown})
    if contradicting:
        yield Reason("Reference", f"{contradicting} references name another SOP Class than the image has.")
    if frameless:
        yield Reason("Reference", f"{frameless} references name a frame that is no source image.")
    series = {ascii_text_of(item, _SERIES) for item in _having(items, "SeriesInstanceUID")}
    if series - {str(each.SeriesInstanceUID) for each in (sources[0], *beside)}:
        yield Reason("Reference", "A reference names another series than the source's.")
    if series_named and str(sources[0].SeriesInstanceUID) not in series:
        yield Reason("Reference", "The source series is not referenced.")


def own_items(dataset: Dataset, met: set[int] | None = None) -> Iterator[Dataset]:
    """Yield every sequence item below `dataset`, one that frames share once.

    Left out is what is taken over from the source, and what refers to predecessors.
    """
    met = set() if met is None else met
    for tag, element in list(dataset.items()):
        # Only sequences are decoded: a Segmentation has thousands of other elements
        if element.VR == "SQ" and tag not in _NO_IMAGES:
            for item in items_of(dataset, tag):
                if id(item) not in met:
                    met.add(id(item))
                    yield item
                    yield from own_items(item, met)


def _equipment(result: Dataset) -> Iterator[Reason]:
    ours = [item for item in items_named(result, "ContributingEquipmentSequence") if "DeviceUID" in item]
    if len(ours) != 1:
        yield Reason("Equipment", f"{len(ours)} items of Contributing Equipment name an algorithm, not one.")
        return
    for keyword in _EQUIPMENT:
        if not result.get(keyword) or result.get(keyword) != ours[0].get(keyword):
            yield Reason("Equipment", f"{keyword} is absent, or not the same in Contributing Equipment.")
    purposes = items_named(ours[0], "PurposeOfReferenceCodeSequence")
    if [str(item.CodeValue) for item in purposes] != ["109102"]:
        yield Reason("Equipment", "The algorithm is not marked as processing equipment (109102, DCM).")


def _codes(items: Sequence[Dataset]) -> Iterator[Reason]:
    table = own_codes()
    wrong, private = set(), set()
    for item in _having(items, "CodeValue"):
        key = (str(item.CodeValue), str(item.get("CodingSchemeDesignator", "")))
        meaning = str(item.get("CodeMeaning", ""))
        private |= {key[1]} if is_private(key[1]) else set()
        foreign = key not in table and key[1] == PRIVATE_SCHEME
        # Sites and models bring their own codes, and write the meanings with capitals or without
        if not all((*key, meaning)) or foreign or table.get(key, meaning).casefold() != meaning.casefold():
            wrong.add("/".join(key))
    if wrong:
        yield Reason("Code", f"Codes are incomplete or mean something else here: {', '.join(sorted(wrong))}.")
    identified = {
        str(item.get("CodingSchemeDesignator", ""))
        for item in _having(items, "CodingSchemeName")
        if item.CodingSchemeName
    }
    for scheme in sorted(private - identified):
        yield Reason("Code", f"The private scheme {scheme} is used and not identified.")
