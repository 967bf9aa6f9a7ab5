"""Text in pictures: rows of words that wrap, and as many captions as fit into a place."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from PIL import ImageDraw, ImageFont

from sr_writer.picture.captions import Caption, Colour

BACKGROUND: Final[Colour] = (16, 18, 22)
TEXT: Final[Colour] = (232, 234, 238)
QUIET: Final[Colour] = (166, 172, 182)
WARNING: Final[Colour] = (255, 196, 84)

_LEADING: Final = 1.3
_SWATCHES: Final = 3  # of the colours of one caption; a region of many segments has many
_MOST_LINES: Final = 3  # of one row; the rest is cut
_CUT: Final = "..."


@dataclass(frozen=True)
class Row:
    """Words in one size.

    Parameters
    ----------
    size
        Of the letters [pixels].
    swatches
        Colours in boxes before the words.
    indent
        Of the words [pixels].
    gap
        Before the row [pixels].
    """

    words: str
    size: int
    colour: Colour = TEXT
    swatches: tuple[Colour, ...] = ()
    indent: int = 0
    gap: int = 0

    @property
    def left(self) -> int:
        """Return where the words begin [pixels]."""
        return self.indent + len(self.swatches) * round(self.size * 0.95)

    @property
    def height(self) -> int:
        """Return how far it is to the next line [pixels]."""
        return round(self.size * _LEADING)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own typeface in a size [pixels]."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def length(words: str, size: int) -> float:
    """Return how wide words are [pixels]."""
    return font(size).getlength(words)


@lru_cache(maxsize=4096)
def wrapped(row: Row, width: int) -> tuple[str, ...]:
    """Return the lines of a row; what does not fit into three is cut, with dots."""
    room = width - row.left
    lines: list[str] = []
    for word in row.words.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length(longer, row.size) <= room:
            lines[-1] = longer
        else:
            lines += _broken(word, row.size, room)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], shortened(" ".join(lines[_MOST_LINES - 1 :]), row.size, room)]
    return tuple(lines)


def _broken(word: str, size: int, room: int) -> list[str]:
    """Return a word in pieces that fit."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and length(pieces[-1] + letter, size) > room:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def shortened(words: str, size: int, room: int) -> str:
    """Return words that fit into so many pixels, cut with dots where they are longer."""
    if length(words, size) <= room:
        return words
    fitting = bisect_right(range(len(words)), room, key=lambda end: math.ceil(length(words[:end] + _CUT, size)))
    return words[: max(0, fitting - 1)].rstrip() + _CUT


def height_of(rows: Iterable[Row], width: int) -> int:
    """Return how high rows are [pixels]."""
    return sum(row.gap + row.height * len(wrapped(row, width)) for row in rows)


def write_rows(draw: ImageDraw.ImageDraw, rows: Iterable[Row], left: int, top: int, width: int) -> int:
    """Draw rows below each other, and return where the next would begin."""
    for row in rows:
        top += row.gap
        for number, words in enumerate(wrapped(row, width)):
            for place, colour in enumerate(row.swatches if number == 0 else ()):
                x = left + row.indent + place * round(row.size * 0.95)
                box = (x, top + round(row.size * 0.2), x + round(row.size * 0.7), top + round(row.size * 0.9))
                draw.rectangle(box, fill=colour)
            draw.text((left + row.left, top), words, fill=row.colour, font=font(row.size))
            top += row.height
    return top


def rows_of(captions: Sequence[Caption], size: int, width: int, room: int, here: int | None = None) -> list[Row]:
    """Return what captions say, as much as fits into a place.

    Where not all fits, remarks are left out first, the last ones before the first, then all numbers of each but one,
    and then captions: those that are about another image before those about this one. What is left out is said.

    Parameters
    ----------
    size
        Of the names [pixels]; numbers and remarks are smaller.
    width, room
        Of the place [pixels].
    here
        Index of the image beside which they stand; None for none.
    """
    full = [row for caption in captions for row in _full(caption, size)]
    if height_of(full, width) <= room:
        return full
    total = sum(len(each.remarks) for each in captions)
    for kept in range(total - 1, -1, -1):
        rows = _with_remarks(captions, kept, size)
        if height_of(rows, width) <= room:
            return rows
    left_out = [_note("Remarks are left out here.", size)] if total else []
    small = max(12, round(size * 0.85))
    lines = [_line(caption, small, width) for caption in _nearest_first(captions, here)]
    if height_of(lines + left_out, width) <= room:
        return lines + left_out
    fitting = max(0, room // lines[0].height - 1)
    return [*lines[:fitting], _note(f"and {len(lines) - fitting} more", small)]


def _with_remarks(captions: Sequence[Caption], kept: int, size: int) -> list[Row]:
    """Return captions with all their numbers and the first remarks, and how many remarks are left out."""
    rows: list[Row] = []
    left = kept
    for caption in captions:
        rows += _full(caption, size, left)
        left = max(0, left - len(caption.remarks))
    missing = sum(len(each.remarks) for each in captions) - kept
    words = f"and {missing} more remark{'s' if missing > 1 else ''}" if kept else "Remarks are left out here."
    return [*rows, *([_note(words, size)] if missing else [])]


def _full(caption: Caption, size: int, remarks: int | None = None) -> list[Row]:
    small, indent = max(12, round(size * 0.85)), round(size * 0.8)
    return [
        Row(caption.head, size, swatches=caption.colours[:_SWATCHES], gap=size // 4),
        *(Row(words, small, indent=indent) for words in caption.numbers),
        *(_note(words, small, indent) for words in caption.remarks[:remarks]),
    ]


def _line(caption: Caption, size: int, width: int) -> Row:
    row = Row(caption.line, size, swatches=caption.colours[:1])
    return Row(shortened(row.words, size, width - row.left), size, swatches=row.swatches)


def _note(words: str, size: int, indent: int = 0) -> Row:
    return Row(words, max(12, round(size * 0.8)), QUIET, indent=indent)


def _nearest_first(captions: Sequence[Caption], here: int | None) -> list[Caption]:
    return sorted(captions, key=lambda each: bool(each.slices) and here not in each.slices)
