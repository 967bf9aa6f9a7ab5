"""Whether every text and every UID of a result can be read by whoever gets it (PS3.5 6.1.2, 6.2, 9.1).

The elements are looked at as they stand in the file: text that was decoded once no longer says how it was written.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from sr_writer.source.carrying import element_bytes, items_of, tag_of
from study.errors import Reason
from study.uids import is_uid

Element = DataElement | RawDataElement
CharacterSets = tuple[str, ...]
"""The terms of Specific Character Set; none where it is absent or empty."""
Written = tuple[BaseTag, bytes, CharacterSets]
"""A text as it stands in a file, and the character sets that it is read in."""

_TEXTUAL = frozenset(
    {"LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
)
"""Text in a character set that is declared (PS3.5 6.1.2.3), and text in the default repertoire always."""
_DEFAULT_REPERTOIRE = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_CHARACTER_SET = tag_of("SpecificCharacterSet")
_ESCAPE = "\x1b"
_UID_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def text_reasons(result: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield which texts of a result are neither plain ASCII nor the source's, byte for byte in the same character set.

    What Hilum writes itself is ASCII, so it reads the same in any character set. A text of the source that its own
    character set does not decode is no fault of the result (see `undecodable`).
    """
    strange = Counter(_not_plain(result))
    for source in sources:
        if not strange:
            return
        for written in _not_plain(source):
            strange.pop(written, None)
    for (tag, value, declared), count in strange.items():
        fault = "has characters outside ASCII and is not the source's text"
        if not decodes(value, declared):
            fault = "can not be decoded in the declared character set"
        yield Reason("Characters", f"{keyword_for_tag(tag) or 'An element'} {fault}.", {"elements": count})


def undecodable(dataset: Dataset) -> list[str]:
    """Return the keywords of the texts that the declared character set does not decode, in order."""
    found = (keyword_for_tag(tag) for tag, value, declared in _not_plain(dataset) if not decodes(value, declared))
    return list(dict.fromkeys(found))


def uid_reasons(result: Dataset, sources: Sequence[Dataset], left_out: Collection[BaseTag]) -> Iterator[Reason]:
    """Yield which UIDs of a result are no UIDs by the letter, unless the source has such ones itself.

    Parameters
    ----------
    left_out
        Tags of what is taken over from the source.
    """
    wrong = Counter(
        (tag, uid)
        for tag, element, _ in elements(result, left_out=left_out)
        if _vr(element) == "UI"
        for uid in _uids(element)
        if not is_uid(uid)
    )
    known = _uids_of(sources) if wrong else set()
    for keyword, count in Counter(keyword_for_tag(tag) for tag, uid in wrong if uid not in known).items():
        yield Reason("UID", f"{count} values of {keyword} are no UIDs (PS3.5 9.1).", {"values": count})


def elements(
    dataset: Dataset,
    declared: CharacterSets = (),
    left_out: Collection[BaseTag] = (),
    met: set[int] | None = None,
) -> Iterator[tuple[BaseTag, Element, CharacterSets]]:
    """Yield every element of `dataset` and of its items that is no sequence, with the character sets it is read in.

    Parameters
    ----------
    declared
        The character sets where `dataset` itself declares none.
    left_out
        Tags at the top that are passed over.
    met
        Items to pass over, by identity: one that several frames share is looked at once.
    """
    met = set() if met is None else met
    if _CHARACTER_SET in dataset.keys():  # noqa: SIM118 - quicker
        declared = character_sets(dataset) or declared
    for tag, element in list(dataset.items()):  # as they stand, none of them converted
        if tag in left_out:
            continue
        if _vr(element) != "SQ":
            yield tag, element, declared
            continue
        for item in element.value if isinstance(element.value, ItemSequence) else items_of(dataset, tag):
            if id(item) not in met:
                met.add(id(item))
                yield from elements(item, declared, met=met)


def character_sets(dataset: Dataset) -> CharacterSets:
    """Return the terms of Specific Character Set that `dataset` itself declares."""
    if _CHARACTER_SET not in dataset:
        return ()
    terms = element_bytes(dataset, _CHARACTER_SET).decode("ascii", "replace").split("\\")
    stripped = tuple(term.strip(" \0") for term in terms)
    return stripped if any(stripped) else ()


def decodes(value: bytes, declared: CharacterSets) -> bool:
    """Tell whether text is encoded in the character sets that are declared for it."""
    first = declared[0] if declared else ""
    if value.isascii() and _ESCAPE.encode() not in value:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom replaces what it can not decode, with a warning
        try:
            encodings = convert_encodings(list(declared))
            if first in _DEFAULT_REPERTOIRE:
                encodings[0] = "ascii"
            decode_bytes(value, encodings, PN_DELIMS | TEXT_VR_DELIMS)
        except (UnicodeError, LookupError, ValueError, UserWarning):
            return False
    return True


def _not_plain(dataset: Dataset) -> Iterator[Written]:
    """Yield each text that does not read the same in every character set."""
    for tag, element, declared in elements(dataset):
        if _vr(element) not in _TEXTUAL:
            continue
        if isinstance(element, RawDataElement):
            value = element.value or b""
            if not value.isascii() or b"\x1b" in value:
                yield tag, value.rstrip(b" \0"), declared
        elif not _is_plain(str(element.value)):
            yield tag, _encoded(element, declared), declared


def _is_plain(text: str) -> bool:
    return text.isascii() and _ESCAPE not in text


def _encoded(element: DataElement, declared: CharacterSets) -> bytes:
    """Return the bytes of a text that was decoded before."""
    holder = Dataset()
    holder[element.tag] = element
    return element_bytes(holder, element.tag, list(declared) or "iso8859").rstrip(b" \0")


def _vr(element: Element) -> str:
    """Return the VR of an element; files in Implicit VR do not say it."""
    if element.VR and element.VR != "UN":
        return str(element.VR)
    return dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN"


def _uids(element: Element) -> list[str]:
    """Return the values of a UI element."""
    value = element.value
    if isinstance(element, RawDataElement):
        value = bytes(value or b"").decode("ascii", "replace").split("\\")
    several = value if isinstance(value, list | MultiValue) else [value]
    return [str(uid).strip(" \0") for uid in several if uid]


def _uids_of(sources: Sequence[Dataset]) -> set[str]:
    return {
        element_bytes(source, tag_of(keyword)).decode("ascii", "replace").rstrip(" \0")
        for source in sources
        for keyword in _UID_KEYWORDS
    }
