"""Reading what a Key Object rejects: a stranger's bytes are walked, and only what is asked for is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from db.files.frugal import Budget, Encoding, Frugal, TooMuch, skip
from study.rejections import RejectionNote, is_rejection, rejection_note

# Fifty thousand references, each of some ten reads and 150 bytes, twice: in the evidence and in the content
_BUDGET: Final = Budget(size=32 * 2**20, reads=2**20)
_MOST_ITEMS: Final = 150_000
_DEEPEST: Final = 8  # items within items; a reference is in the fourth
_LONGEST: Final = 64  # bytes of a UID (PS3.5 9.1); a code value and its scheme have 16

_CODE_VALUE, _CODING_SCHEME = 0x00080100, 0x00080102
_STUDY_UID, _SOP_INSTANCE_UID = 0x0020000D, 0x00081155
_TITLE, _EVIDENCE, _CONTENT = 0x0040A043, 0x0040A375, 0x0040A730
_SERIES, _OBJECTS = 0x00081115, 0x00081199
_VALUES: Final = frozenset({_CODE_VALUE, _CODING_SCHEME, _STUDY_UID, _SOP_INSTANCE_UID})
_SEQUENCES: Final = frozenset({_TITLE, _EVIDENCE, _CONTENT, _SERIES, _OBJECTS})
_ITEM: Final = 0xFFFEE000
_DELIMITERS: Final = frozenset({0xFFFEE00D, 0xFFFEE0DD})
_UNDEFINED: Final = 0xFFFFFFFF


@dataclass
class _Item:
    """What is kept of an item, or of the whole data set."""

    values: dict[int, str] = field(default_factory=dict)
    items: dict[int, list[_Item]] = field(default_factory=dict)

    def within(self, *path: int) -> Iterator[_Item]:
        """Yield the items of a sequence, of a sequence of these, and so on."""
        for item in self.items.get(path[0], ()):
            yield from item.within(*path[1:]) if path[1:] else (item,)


def read_rejection(source: BinaryIO, encoding: Encoding, study_instance_uid: str) -> RejectionNote | None:
    """Return what a Key Object rejects; None where its title is no rejection.

    Parameters
    ----------
    source
        Stands at the start of its data set.
    encoding
        How that is written.
    study_instance_uid
        Of the Key Object itself.

    Raises
    ------
    TooMuch
        If it refers to more than can be heeded, or is nested beyond all measure.
    struct.error, EOFError, OSError
        If the bytes end early.
    """
    start = source.tell()
    titled = _Walk(Frugal(source, _BUDGET), _TITLE).content(encoding, None, 0)
    title = next(titled.within(_TITLE), _Item()).values
    code = title.get(_CODE_VALUE, ""), title.get(_CODING_SCHEME, "")
    if not is_rejection(code):
        return None
    source.seek(start)
    root = _Walk(Frugal(source, _BUDGET), _CONTENT).content(encoding, None, 0)
    evidence = [
        (study.values.get(_STUDY_UID, ""), each.values.get(_SOP_INSTANCE_UID, ""))
        for study in root.within(_EVIDENCE)
        for each in study.within(_SERIES, _OBJECTS)
    ]
    return rejection_note(code, evidence, _referred(root), study_instance_uid)


def _referred(item: _Item) -> Iterator[str]:
    """Yield what the content refers to, however deep."""
    for each in item.within(_CONTENT):
        yield from (found.values.get(_SOP_INSTANCE_UID, "") for found in each.within(_OBJECTS))
        yield from _referred(each)


class _Walk:
    """One way through a data set, past all that is not asked for, up to `last`."""

    def __init__(self, source: Frugal, last: int) -> None:
        self._source = source
        self._last = last
        self._items = 0

    def content(self, encoding: Encoding, end: int | None, depth: int) -> _Item:
        """Return what is kept of the elements up to `end`, or up to a delimiter."""
        found = _Item()
        while end is None or self._source.tell() < end:
            head = encoding.head(self._source)
            if head is None or head[0] in _DELIMITERS or (head[0] > self._last and depth == 0):
                break
            tag, length, inner = head
            if tag in _SEQUENCES:
                found.items[tag] = list(self._sequence(inner, length, depth + 1))
            elif tag in _VALUES and length <= _LONGEST:
                found.values[tag] = self._source.read(length).decode("ascii", "replace").strip(" \0")
            else:
                skip(self._source, length, inner)
        return found

    def _sequence(self, encoding: Encoding, length: int, depth: int) -> Iterator[_Item]:
        end = None if length == _UNDEFINED else self._source.tell() + length
        while end is None or self._source.tell() < end:
            head = encoding.head(self._source)
            if head is None:
                raise EOFError("a sequence does not end")
            if head[0] != _ITEM:
                return
            self._items += 1
            if self._items > _MOST_ITEMS or depth > _DEEPEST:
                raise TooMuch(f"It refers to more than {_MOST_ITEMS // 3} objects, or is nested too deep.")
            item_end = None if head[1] == _UNDEFINED else self._source.tell() + head[1]
            yield self.content(encoding, item_end, depth)
