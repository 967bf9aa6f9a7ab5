"""Hold a result, read back from its file, against the headers of its source images; nothing of the encoder is used.

Each rule yields a `Reason` for everything that breaks it, and a failure tells them all at once. The words name
attributes and numbers, never their values: they end in logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.codes import is_private, own_codes
from sr_writer.reading.content_tree import items_named
from sr_writer.source.carrying import CharacterSet, element_bytes, items_of, tag_of
from sr_writer.source.identity import CARRIED, TYPE_2
from sr_writer.source.images import key_of, keys_of_reference
from study.codes import PRIVATE_SCHEME
from study.errors import GeometryMismatch, NonconformantObject, Reason
from study.uids import is_uid

GEOMETRY = "GeometryMismatch"
_MOST_REASONS = 20

_TAKEN_OVER_TAGS = frozenset(map(tag_of, (*CARRIED, "ReferencedRequestSequence", "RequestAttributesSequence")))
"""Sequences whose references and codes are the source's, not ours."""

_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "DeviceUID")


def read_back(path: Path) -> Dataset:
    """Return the object in a file.

    Raises
    ------
    NonconformantObject
        If it is no DICOM file in Explicit VR Little Endian, or another instance than its file meta says.
    """
    try:
        dataset = dcmread(path)
    except (InvalidDicomError, EOFError) as broken:
        raise NonconformantObject(f"{path.name} can not be read back.") from broken
    if dataset.file_meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian:
        raise NonconformantObject(f"{path.name} is not in Explicit VR Little Endian.")
    same = dataset.file_meta.get("MediaStorageSOPInstanceUID") == dataset.get("SOPInstanceUID")
    if not same or dataset.file_meta.get("MediaStorageSOPClassUID") != dataset.get("SOPClassUID"):
        raise NonconformantObject(f"{path.name} holds another instance than its file meta says.")
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
        raise GeometryMismatch(words, numbers)
    raise NonconformantObject(words, numbers)


def common_reasons(result: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield what is wrong with the parts that every result has."""
    yield from _identity(result, sources[0])
    yield from _own_uids(result, sources)
    items = list(own_items(result))
    yield from _references(items, sources)
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


def _own_uids(result: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    taken = {str(source.SOPInstanceUID) for source in sources}
    taken |= {str(sources[0].SeriesInstanceUID), str(sources[0].StudyInstanceUID)}
    own = [str(result.get(keyword, "")) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")]
    for uid in (*own, str(result.get("DeviceUID", ""))):
        if not is_uid(uid):
            yield Reason("UID", "A UID of the result is absent or no UID (PS3.5 9.1).")
    if len(set(own)) < len(own) or taken & set(own):
        yield Reason("UID", "A UID of the result is used twice, or is one of the source's.")


def _references(items: Sequence[Dataset], sources: Sequence[Dataset]) -> Iterator[Reason]:
    known = {str(source.SOPInstanceUID): str(source.SOPClassUID) for source in sources}
    frames = set(map(key_of, sources))
    unknown = contradicting = frameless = 0
    for item in items:
        if "ReferencedSOPInstanceUID" not in item:
            continue
        sop_class = known.get(str(item.ReferencedSOPInstanceUID))
        unknown += sop_class is None
        contradicting += sop_class is not None and sop_class != str(item.get("ReferencedSOPClassUID", ""))
        named = {key for key in keys_of_reference(item) if key[1] is not None}
        frameless += sop_class is not None and not named <= frames
    if unknown:
        yield Reason("Reference", f"{unknown} references lead to no source image.", {"references": unknown})
    if contradicting:
        yield Reason("Reference", f"{contradicting} references name another SOP Class than the image has.")
    if frameless:
        yield Reason("Reference", f"{frameless} references name a frame that is no source image.")
    series = {str(item.SeriesInstanceUID) for item in items if "SeriesInstanceUID" in item}
    if series - {str(sources[0].SeriesInstanceUID)}:
        yield Reason("Reference", "A reference names another series than the source's.")
    if not series:
        yield Reason("Reference", "The source series is not referenced.")


def own_items(dataset: Dataset) -> Iterator[Dataset]:
    """Yield every sequence item below `dataset` that is not taken over from the source."""
    for tag, element in list(dataset.items()):
        # Only sequences are decoded: a Segmentation has thousands of other elements
        if element.VR == "SQ" and tag not in _TAKEN_OVER_TAGS:
            for item in items_of(dataset, tag):
                yield item
                yield from own_items(item)


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
    for item in items:
        if "CodeValue" not in item:
            continue
        key = (str(item.CodeValue), str(item.get("CodingSchemeDesignator", "")))
        meaning = str(item.get("CodeMeaning", ""))
        private |= {key[1]} if is_private(key[1]) else set()
        foreign = key not in table and key[1] == PRIVATE_SCHEME
        # Sites and models bring their own codes, and write the meanings with capitals or without
        if not all((*key, meaning)) or foreign or table.get(key, meaning).casefold() != meaning.casefold():
            wrong.add("/".join(key))
    if wrong:
        yield Reason("Code", f"Codes are incomplete or mean something else here: {', '.join(sorted(wrong))}.")
    identified = {str(item.get("CodingSchemeDesignator", "")) for item in items if item.get("CodingSchemeName")}
    for scheme in sorted(private - identified):
        yield Reason("Code", f"The private scheme {scheme} is used and not identified.")
