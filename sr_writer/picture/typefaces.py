"""Which typeface has which characters, and text as runs of them; what no typeface has is said to be missing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont

REGULAR: Final = "HilumSans"
BOLD: Final = "HilumSans-Bold"
_IDEOGRAPHIC: Final = "HilumFallback"
_FOLDER: Final = Path(__file__).with_name("fonts")
_FILES: Final = {REGULAR: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf", _IDEOGRAPHIC: "DroidSansFallback.ttf"}
NOT_PRINTABLE: Final = "[in characters that are not printed here; see the images]"


@cache
def characters(name: str) -> frozenset[str]:
    """Return the characters of a typeface, which reportlab knows from then on by its name."""
    face = TTFont(name, str(_FOLDER / _FILES[name]))
    registerFont(face)
    return frozenset(map(chr, face.face.charToGlyph))


def typeset(text: str | None, face: str = REGULAR) -> str:
    """Return text as reportlab's markup, each part in a typeface that has its characters.

    Text that can not be read for certain (None), or of which any character is missing, is replaced as a whole by words
    that say so: half a name is another name.
    """
    if text is None:
        return f'<font name="{REGULAR}">{NOT_PRINTABLE}</font>'
    composed = unicodedata.normalize("NFC", text)
    faces = [_face_of(letter, face) for letter in composed]
    if None in faces:
        return f'<font name="{REGULAR}">{NOT_PRINTABLE}</font>'
    runs = groupby(zip(composed, faces, strict=True), key=lambda pair: pair[1])
    return "".join(f'<font name="{name}">{escape("".join(letter for letter, _ in run))}</font>' for name, run in runs)


def typeset_all(writings: Sequence[str | None]) -> str:
    """Return a name in all its writings; words in place of those that are not printed."""
    return " / ".join(typeset(writing) for writing in writings)


def _face_of(letter: str, face: str) -> str | None:
    return next((name for name in (face, _IDEOGRAPHIC) if letter in characters(name)), None)
