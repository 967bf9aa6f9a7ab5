"""Carry data elements from a source header into a result with their bytes as they are.

Text is never decoded on the way: a name in a character set that the header declares wrongly, or not at all, arrives as
it left. So the elements that are made here are raw ones; saving writes them as they are (`keep_as_encoded`), while
reading one through pydicom's attributes decodes it, which is why nobody reads them between the making and the saving.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag, Tag

_TEXT_VRS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_IMPLICIT_HEADER = 8  # bytes of tag and length before the value (PS3.5 7.1.3)

CharacterSet = str | list[str]


def carry(source: Dataset, keywords: Iterable[str], into: Dataset) -> None:
    """Give `into` every one of the named elements that `source` has, byte for byte.

    Elements that `source` lacks are left alone in `into`.
    """
    for keyword in keywords:
        tag = tag_of(keyword)
        if tag in source:
            set_element(into, carried_element(source, tag))
    keep_as_encoded(into)


def keep_as_encoded(dataset: Dataset) -> None:
    """Make pydicom write the raw elements of `dataset` itself as they stand, in Explicit VR Little Endian.

    Unless a data set is said to be encoded already as it will be, in its character set too, pydicom decodes raw
    elements and encodes them anew. In an item that declares no character set it decodes them as Latin-1, and then
    encodes what comes of that in the character set of the whole.
    """
    tag = tag_of("SpecificCharacterSet")
    declared = dataset[tag].value if tag in dataset else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown character set is the source's; pydicom must compare equal, no more
        encodings = convert_encodings(declared) if declared else default_encoding
    dataset.set_original_encoding(False, True, encodings)


def set_element(dataset: Dataset, element: DataElement | RawDataElement) -> None:
    """Put `element` into `dataset` in place of what stands there; a raw one stays raw."""
    dataset[element.tag] = element


def carried_element(
    source: Dataset, tag: BaseTag, character_set: CharacterSet = default_encoding
) -> DataElement | RawDataElement:
    """Return a copy of an element of `source`, ready for Explicit VR Little Endian.

    Parameters
    ----------
    character_set
        Specific Character Set that holds where `source` itself declares none.
    """
    vr = dictionary_VR(tag)
    if vr == "SQ":
        declared = source.get("SpecificCharacterSet", character_set)
        return DataElement(tag, vr, ItemSequence([carried_item(item, declared) for item in items_of(source, tag)]))
    value = element_bytes(source, tag, character_set)
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def carried_item(item: Dataset, character_set: CharacterSet = default_encoding) -> Dataset:
    """Return a copy of a sequence item, byte for byte.

    Private elements, group lengths and elements that the dictionary does not know stay behind.
    """
    copied = Dataset()
    for tag in list(item.keys()):
        if not tag.is_private and tag.element != 0 and _has_one_vr(tag):
            set_element(copied, carried_element(item, tag, character_set))
    keep_as_encoded(copied)
    return copied


def items_of(source: Dataset, tag: BaseTag) -> Sequence[Dataset]:
    """Return the items of a sequence; none where it is absent, empty, or no sequence at all."""
    value = source[tag].value if tag in source else None
    return value if isinstance(value, ItemSequence) else ()


def element_bytes(source: Dataset, tag: BaseTag, character_set: CharacterSet = default_encoding) -> bytes:
    """Return the encoded value of an element that is no sequence; empty where it is absent or empty.

    The length is even; numbers are in little endian, text is in the bytes that the source had.
    """
    if tag not in source:
        return b""
    element: DataElement | RawDataElement = source.get_item(tag)
    vr = dictionary_VR(tag)
    if isinstance(element, RawDataElement) and (vr in _TEXT_VRS or element.is_little_endian):
        value = bytes(element.value or b"")
        return value + (b"\0" if vr == "UI" else b" ") if len(value) % 2 else value
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, source[tag], source.get("SpecificCharacterSet", character_set))
    return buffer.getvalue()[_IMPLICIT_HEADER:]


def plain_text(source: Dataset, keyword: str) -> str:
    """Return the text of an element that is ASCII by its VR, without padding; "" where it is absent or empty."""
    return element_bytes(source, tag_of(keyword)).decode("ascii", "replace").strip(" \0")


def ascii_text_of(source: Dataset, tag: BaseTag) -> str:
    """Return the one value of an element that is ASCII by its VR, without padding, read without converting it.

    "" where it is absent or empty; several values are what pydicom makes of them, which is no text of any one.
    """
    if tag not in source.keys():  # noqa: SIM118 - `in source` converts the tag
        return ""
    element: DataElement | RawDataElement = source.get_item(tag)
    if isinstance(element, RawDataElement):
        return bytes(element.value or b"").decode("ascii", "replace").strip(" \0")
    return "" if element.value is None else str(element.value)


def decimals(source: Dataset, tag: BaseTag) -> tuple[float, ...]:
    """Return the numbers of an element of VR DS; none where it is absent or empty.

    Raises
    ------
    ValueError
        If one is no number.
    """
    if tag not in source.keys():  # noqa: SIM118 - as above
        return ()
    element: DataElement | RawDataElement = source.get_item(tag)
    if isinstance(element, RawDataElement):
        text = bytes(element.value or b"").decode("ascii", "replace").strip(" \0")
        return tuple(map(float, text.split("\\"))) if text else ()
    value = element.value
    if value is None or value == "":
        return ()
    return tuple(map(float, value)) if isinstance(value, Iterable) else (float(value),)


def tag_of(keyword: str) -> BaseTag:
    """Return the tag of a keyword of the data dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of the data dictionary")
    return Tag(tag)


def _has_one_vr(tag: BaseTag) -> bool:
    return dictionary_has_tag(tag) and len(dictionary_VR(tag)) == 2
