"""Carry data elements from a source header into a result with their bytes as they are.

Text is never decoded on the way: a name in a character set that the header declares wrongly, or not at all, arrives as
it left. So the elements that are made here are raw ones; saving writes them as they are, while reading one through
pydicom's attributes decodes it, which is why nobody reads them between the making and the saving.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag, Tag

_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"})
_EXPLICIT_HEADER = {2: 8, 4: 12}  # bytes of tag, VR and length before the value, by the width of the length
_LONG_LENGTH_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})


def carry(source: Dataset, keywords: Iterable[str], into: Dataset) -> None:
    """Give `into` every one of the named elements that `source` has, byte for byte.

    Elements that `source` lacks are left alone in `into`.
    """
    for keyword in keywords:
        tag = tag_of(keyword)
        if tag in source:
            set_element(into, carried_element(source, tag))


def set_element(dataset: Dataset, element: DataElement | RawDataElement) -> None:
    """Put `element` into `dataset` in place of what stands there; a raw one stays raw."""
    dataset[element.tag] = element


def carried_element(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement:
    """Return a copy of an element of `source`, ready for Explicit VR Little Endian."""
    vr = value_representation(source, tag)
    if vr == "SQ":
        return DataElement(tag, "SQ", ItemSequence([carried_item(item) for item in source[tag].value or ()]))
    if vr not in _TEXT_VRS:
        return DataElement(tag, vr, source[tag].value)
    value = element_bytes(source, tag)
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def carried_item(item: Dataset) -> Dataset:
    """Return a copy of a sequence item, byte for byte; private elements and group lengths stay behind."""
    copied = Dataset()
    for tag in item.keys():  # noqa: SIM118 - iterating over the data set itself would decode its elements
        if not tag.is_private and tag.element != 0:
            set_element(copied, carried_element(item, tag))
    return copied


def element_bytes(source: Dataset, tag: BaseTag) -> bytes:
    """Return the encoded value of an element that is no sequence, of even length; empty where it is absent or empty.

    Numbers are in little endian, text is in the bytes that the source had.
    """
    element = source.get_item(tag)
    if element is None:
        return b""
    vr = value_representation(source, tag)
    if isinstance(element, RawDataElement) and (vr in _TEXT_VRS or element.is_little_endian):
        value = bytes(element.value or b"")
        return value + (b"\0" if vr == "UI" else b" ") if len(value) % 2 else value
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, source[tag], list(source._character_set_of_writing()))
    header = _EXPLICIT_HEADER[4 if vr in _LONG_LENGTH_VRS else 2]
    return buffer.getvalue()[header:]


def value_representation(source: Dataset, tag: BaseTag) -> str:
    """Return the VR of an element: the one it was read with, else the dictionary's."""
    element = source.get_item(tag)
    vr = element.VR if element is not None else None
    return str(vr) if vr and vr != "UN" else dictionary_VR(tag)


def tag_of(keyword: str) -> BaseTag:
    """Return the tag of a keyword of the data dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of the data dictionary")
    return Tag(tag)
