"""Text of a header as it reads, or None: nobody is named by guesswork.

Decoded strictly, by the Specific Character Set that the header declares (PS3.3 C.12.1.1.2, PS3.5 6.1.2). What its bytes
contradict is not shown: a name that reads wrong is worse on a page than the words that it can not be read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from pydicom.dataset import Dataset

from sr_writer.source.carrying import element_bytes, tag_of

_WHOLE: Final = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"}
"""Sets without code extensions."""
_SINGLE_BYTE: Final = {
    "100": "latin_1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "144": "iso8859_5",
    "127": "iso8859_6",
    "126": "iso8859_7",
    "138": "iso8859_8",
    "148": "iso8859_9",
    "203": "iso8859_15",
    "13": "shift_jis",
    "166": "tis_620",
}
"""Sets of one byte a character, by the number of their registration (PS3.3 Table C.12-2)."""
_ESCAPES: Final = {
    b"\x1b(B": "ascii",
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-L": "iso8859_5",
    b"\x1b-G": "iso8859_6",
    b"\x1b-F": "iso8859_7",
    b"\x1b-H": "iso8859_8",
    b"\x1b-M": "iso8859_9",
    b"\x1b-b": "iso8859_15",
    b"\x1b-T": "tis_620",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)C": "euc_kr",
    b"\x1b$)A": "gb2312",
}
"""What an escape sequence begins (PS3.3 Tables C.12-3 and C.12-4)."""
_KEEPS_ITS_ESCAPE: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
_FRAGMENT: Final = re.compile(rb"(\x1b(?:\$[()].|..)?)?([^\x1b]*)", re.DOTALL)
_STRANGE: Final = frozenset({"Cc", "Co", "Cn", "Cs"})


def certain_text(source: Dataset, keyword: str) -> str | None:
    """Return the text of an element; "" where it is absent or empty, None where it can not be read for certain."""
    return decoded(element_bytes(source, tag_of(keyword)), _declared(source))


def names_of(source: Dataset, keyword: str) -> list[str | None]:
    """Return a name in each of the writings that it has, as "Family, Given Middle" (PS3.5 6.2.1).

    An alphabetic writing in ASCII is read whatever may be wrong with the others. None for what can not be read for
    certain.
    """
    value = element_bytes(source, tag_of(keyword)).rstrip(b" \0")
    first, _, rest = value.partition(b"=")
    if rest and _is_ascii(first):
        others = decoded(rest, _declared(source))
        groups = [first.decode("ascii"), *([None] if others is None else others.split("="))]
    else:
        whole = decoded(value, _declared(source))
        groups = [None] if whole is None else [*whole.split("=")]
    return [None if group is None else _in_order(group) for group in groups if group is None or group.strip("^ ")]


def decoded(value: bytes, declared: Sequence[str]) -> str | None:
    """Return what bytes say in the declared character sets; None where these can not be right."""
    value = value.rstrip(b" \0")
    if _is_ascii(value):
        return value.decode("ascii")
    try:
        text = _by_sets(value, declared)
    except (UnicodeDecodeError, KeyError):
        return None
    readable = not any(letter == "\ufffd" or unicodedata.category(letter) in _STRANGE for letter in text)
    return text if readable else None


def _by_sets(value: bytes, declared: Sequence[str]) -> str:
    """Return the text; KeyError or UnicodeDecodeError where the sets do not fit."""
    first = declared[0] if declared else ""
    if first in _WHOLE:
        return value.decode(_WHOLE[first])
    number = first.rpartition(" ")[2]
    codec = _SINGLE_BYTE.get(number, "ascii")
    parts = []
    for escape, rest in _FRAGMENT.findall(value):
        codec = _ESCAPES[escape] if escape else codec
        if codec in _KEEPS_ITS_ESCAPE:
            parts.append((escape + rest).decode(codec))
            continue
        if not escape and codec != "shift_jis" and _reads_as_utf_8(rest):
            raise KeyError("bytes of another set than the declared one")
        parts.append(rest.decode(codec))
    return "".join(parts)


def _reads_as_utf_8(value: bytes) -> bool:
    """Tell whether bytes beyond ASCII are sound UTF-8, which text in another set is next to never."""
    try:
        return len(value.decode("utf_8")) < len(value)
    except UnicodeDecodeError:
        return False


def _is_ascii(value: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in value)


def _declared(source: Dataset) -> list[str]:
    stated = source.get("SpecificCharacterSet") or ""
    return [str(term).strip() for term in ([stated] if isinstance(stated, str) else stated)]


def _in_order(group: str) -> str:
    """Return the components of a name in the order in which people read them."""
    family, *others = (part.strip() for part in group.split("^"))
    given = " ".join(filter(None, others))
    if not family or not given:
        return family or given
    # Ideographic and phonetic writings have no comma
    return (
        f"{family}, {given}"
        if group.isascii() or unicodedata.name(family[0], "").startswith(_ALPHABETS)
        else f"{family} {given}"
    )


_ALPHABETS: Final = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN")
