"""A stranger's file of which only so much is read, and a multi-frame image of which one frame at a time is.

A parser makes objects of what it reads, so that a small file of very many small elements fills the memory where a large
one of few does not. A budget therefore counts reads as well as bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, cast

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag

from study.errors import ArchiveError

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_DELIMITING: Final = 0xFFFE  # the group of items and delimiters, which have no VR (PS3.5 7.5)
_DELIMITERS: Final = frozenset({0xFFFEE00D, 0xFFFEE0DD})
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)


class TooMuch(ArchiveError):
    """A header would need more memory or time than it is worth."""


@dataclass(frozen=True)
class Budget:
    """How much may be read: in bytes, and in how many reads (three an element, four an item of a sequence)."""

    size: int
    reads: int


class Frugal:
    """A file that lets only so much of itself be read, and nothing behind `end`.

    Parameters
    ----------
    end
        Where reading ends, as if the file did; None for the file's own end.
    whole
        What this is a part of; what is read of a part is read of the whole.
    """

    def __init__(self, file: BinaryIO, budget: Budget, end: int | None = None, whole: Frugal | None = None) -> None:
        self._file = file
        self._budget = budget
        self._size, self._reads = budget.size, budget.reads
        self._end = end
        self._whole = whole
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises
        ------
        TooMuch
            If the budget does not allow it, or it is not said how many.
        """
        if self._end is not None:
            size = min(size, max(0, self._end - self.tell()))
        self._spend(size)
        return self._file.read(size)

    def part(self, budget: Budget, end: int | None) -> Frugal:
        """Return the same file up to `end`, with a budget of its own within this one's."""
        return Frugal(self._file, budget, end, self)

    def _spend(self, size: int) -> None:
        self._size -= size
        self._reads -= 1
        if size < 0 or self._size < 0 or self._reads < 0:
            raise TooMuch(f"Its header is longer than {self._budget.size / 2**20:g} MiB, or of too many parts.")
        if self._whole is not None:
            self._whole._spend(size)


@dataclass(frozen=True)
class Encoding:
    """How a data set is written.

    Parameters
    ----------
    character_sets
        As pydicom names them.
    """

    implicit: bool
    little: bool
    character_sets: str | MutableSequence[str]

    @classmethod
    def of(cls, dataset: Dataset) -> Encoding:
        """Return how a data set that was read is written."""
        implicit, little = dataset.original_encoding
        return cls(bool(implicit), little is not False, dataset.original_character_set)

    def head(self, source: Frugal) -> tuple[int, int, Encoding] | None:
        """Return the tag and length of the next element and how its value is written; None at the end.

        Within a sequence the VR may become implicit: by the rules in an element of VR UN (PS3.5 6.2.2), by some writers
        elsewhere. What stands in the place of a VR then is no pair of capitals.
        """
        read = source.read(8)
        if len(read) < 8:
            return None
        order = "<" if self.little else ">"
        group, element, vr, length = struct.unpack(f"{order}HH2sH", read)
        inner = self
        if self.implicit or group == _DELIMITING or not (vr.isalpha() and vr.isupper()):
            (length,) = struct.unpack(f"{order}L", read[4:])
            inner = self if group == _DELIMITING else replace(self, implicit=True)
        elif vr in _LONG_VRS:
            (length,) = struct.unpack(f"{order}L", source.read(4))
        return group << 16 | element, length, inner


def find_sequence(source: Frugal, tag: int, encoding: Encoding) -> tuple[int, Encoding] | None:
    """Return the length of a sequence of the data set and how its items are written; None where there is none.

    The source stands behind some earlier element; it then stands before the first item, or before a later element.
    """
    while True:
        start = source.tell()
        head = encoding.head(source)
        if head is None:
            return None
        found, length, inner = head
        if found == tag:
            return length, inner
        if found > tag:
            source.seek(start)
            return None
        skip(source, length, inner)


@dataclass(frozen=True)
class ItemReader:
    """Reads the items of a sequence one by one.

    Parameters
    ----------
    tags
        The sequences of an item that are read; all else is passed over.
    budget
        For one item.
    """

    tags: frozenset[int]
    budget: Budget

    def items(self, source: Frugal, length: int, encoding: Encoding) -> Iterator[Dataset]:
        """Yield each item, and leave the source behind the sequence.

        Parameters
        ----------
        length
            Of the sequence, which starts where the source stands.

        Raises
        ------
        TooMuch
            If an item exceeds its budget, or all together that of the source.
        struct.error, EOFError, OSError
            If the bytes end early.
        """
        end = None if length == _UNDEFINED else source.tell() + length
        while end is None or source.tell() < end:
            head = encoding.head(source)
            if head is None or head[0] != _ITEM:
                return
            end_of_item = None if head[1] == _UNDEFINED else source.tell() + head[1]
            item, ended = self._item(source.part(self.budget, end_of_item), encoding)
            if not (ended or source.tell() == end_of_item):
                raise EOFError("an item does not end where it should")
            yield item

    def _item(self, source: Frugal, encoding: Encoding) -> tuple[Dataset, bool]:
        """Return an item, and whether it ended with a delimiter."""
        found: dict[BaseTag, DataElement] = {}
        while (head := encoding.head(source)) is not None and head[0] not in _DELIMITERS:
            tag, length, inner = head
            if tag in self.tags:
                stream = cast("BinaryIO", source)
                sequence = read_sequence(stream, inner.implicit, inner.little, length, encoding.character_sets)
                found[BaseTag(tag)] = DataElement(BaseTag(tag), "SQ", sequence)
            else:
                skip(source, length, inner)
        return Dataset({**found}), head is not None


def skip(source: Frugal, length: int, encoding: Encoding) -> None:
    """Pass over a value; one of undefined length ends with its delimiter, and so do those within it.

    Raises
    ------
    EOFError
        If it does not end.
    """
    depth = 0
    while True:
        if length == _UNDEFINED:
            depth += 1
        else:
            source.seek(length, os.SEEK_CUR)
        if depth == 0:
            return
        head = encoding.head(source)
        if head is None:
            raise EOFError("a sequence does not end")
        tag, length, _ = head
        if tag in _DELIMITERS:
            depth, length = depth - 1, 0
