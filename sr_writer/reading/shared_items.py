"""Sequences of a result decoded with each that stands there more than once made once, at every depth.

A Segmentation has thousands of frames, and says much the same of each: how it was derived, what its source image is to
it. pydicom makes items anew wherever they stand. Here sequences of equal bytes are one object, so that they cost their
decoding once, and a check that knows an item by its identity looks at it once.
"""

from __future__ import annotations

from collections.abc import Collection, MutableSequence
from struct import Struct, error
from typing import Final, cast

from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from sr_writer.source.carrying import set_element

_ITEM: Final = 0xFFFEE000
_CHARACTER_SET: Final = 0x00080005
_UNDEFINED: Final = 0xFFFFFFFF
_DEEPEST: Final = 40
"""How deep a sequence may stand in others: each level is copied once, and no result of ours comes near it."""
_ITEM_HEAD: Final = Struct("<HHI")
_HEAD: Final = Struct("<HH2sH")  # tag, VR, length of two bytes
_LENGTH: Final = Struct("<I")
_LONG: Final = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_SHORT: Final = {vr.encode(): str(vr) for vr in STANDARD_VR - EXPLICIT_VR_LENGTH_32}

CharacterSet = str | MutableSequence[str]


class _Unusual(Exception):
    """It is encoded in another way than results are; pydicom may read it."""


def share_items(dataset: Dataset, left_encoded: Collection[BaseTag] = ()) -> None:
    """Decode the sequences of an object that was read from a file; those that can not be shared stay as they are.

    Parameters
    ----------
    left_encoded
        Tags of sequences, at any depth, that stay bytes, since no two are alike.
    """
    shared = SharedItems(dataset.original_character_set, left_encoded)
    for element in list(dataset.values()):
        if isinstance(element, RawDataElement) and element.VR == "SQ" and element.tag not in left_encoded:
            decoded = shared.decoded(element)
            if decoded is not None:
                set_element(dataset, decoded)


class SharedItems:
    """Decodes sequences of one object.

    Parameters
    ----------
    character_set
        Of the object, as pydicom calls it.
    left_encoded
        See `share_items`.
    """

    def __init__(self, character_set: CharacterSet, left_encoded: Collection[BaseTag] = ()) -> None:
        self._character_set = character_set
        self._left_encoded = frozenset(left_encoded)
        self._elements: dict[tuple[BaseTag, bytes], DataElement] = {}
        self._items: dict[bytes, Dataset] = {}

    def decoded(self, element: RawDataElement) -> DataElement | None:
        """Return a sequence with its items, down to the last; None where it is not in Explicit VR Little Endian.

        Nor where a length is undefined or goes beyond what it stands in, an item has a character set of its own, or
        sequences stand in each other very deep.
        """
        if element.is_implicit_VR or not element.is_little_endian or element.length == _UNDEFINED:
            return None
        try:
            return self._sequence(element.tag, bytes(element.value or b""), 0)
        except (_Unusual, error):
            return None

    def _sequence(self, tag: BaseTag, content: bytes, depth: int) -> DataElement:
        if depth > _DEEPEST:
            raise _Unusual
        known = self._elements.get((tag, content))
        if known is None:
            items, at = [], 0
            while at < len(content):
                high, low, length = _ITEM_HEAD.unpack_from(content, at)
                at += _ITEM_HEAD.size
                if (high << 16 | low) != _ITEM or at + length > len(content):  # an undefined length is beyond it too
                    raise _Unusual
                items.append(self._item_of(content[at : at + length], depth))
                at += length
            known = DataElement(tag, "SQ", ItemSequence(items), already_converted=True)
            self._elements[tag, content] = known
        return known

    def _item_of(self, content: bytes, depth: int) -> Dataset:
        item = self._items.get(content)
        if item is None:
            item = self._items[content] = self._item(content, depth)
        return item

    def _item(self, content: bytes, depth: int) -> Dataset:
        elements: dict[BaseTag, DataElement | RawDataElement] = {}
        at = 0
        while at < len(content):
            high, low, encoded_vr, length = _HEAD.unpack_from(content, at)
            tag = BaseTag(high << 16 | low)
            at += _HEAD.size
            vr = _SHORT.get(encoded_vr)
            if vr is None:
                vr = _LONG.get(encoded_vr)
                (length,) = _LENGTH.unpack_from(content, at)
                at += _LENGTH.size
            if vr is None or tag == _CHARACTER_SET or at + length > len(content):
                raise _Unusual
            value = content[at : at + length] if length else cast(bytes | None, empty_value_for_VR(vr, raw=True))
            at += length
            if vr == "SQ" and tag not in self._left_encoded:
                elements[tag] = self._sequence(tag, content[at - length : at], depth + 1)
            else:
                elements[tag] = RawDataElement(tag, vr, length, value, 0, False, True)
        item = Dataset(elements, parent_encoding=self._character_set)
        item.set_original_encoding(False, True, self._character_set)
        return item
