"""Texts that Hilum writes into objects: plain ASCII, and as long as their place allows.

ASCII reads the same in whatever character set the source declares, or fails to declare (PS3.3 C.12.1.1.2).
"""

from __future__ import annotations

from study.errors import EncodingError

_TYPOGRAPHY = str.maketrans(
    {"≤": "<=", "≥": ">=", "±": "+/-", "µ": "u", "μ": "u", "×": "x", "°": " degrees", "–": "-", "—": "-", "−": "-"}
    | {"’": "'", "‘": "'", "“": '"', "”": '"', "²": "2", "³": "3", "…": "...", "\u00a0": " ", "\\": "/", "~": "about "}
)

LONGEST = 64
"""Characters of VR LO (PS3.5 6.2)."""


def ascii_text(text: str) -> str:
    """Return `text` in printable ASCII, typographic signs spelled out.

    Backslash and tilde are spelled out too: the first separates values, and both have other shapes in the Japanese
    single-byte set (ISO IR 13).

    Raises
    ------
    EncodingError
        If a character is left that no rule spells out.
    """
    plain = text.translate(_TYPOGRAPHY)
    strange = sorted({character for character in plain if not " " <= character <= "}" and character != "\n"})
    if strange:
        listed = ", ".join(f"U+{ord(character):04X}" for character in strange)
        raise EncodingError(f"A text of the result has characters outside ASCII ({listed}).")
    return plain


def spelled_out(text: str) -> str:
    """Return `text` in printable ASCII, with a question mark for what no rule spells out, and a word that says so.

    For what must be told and may quote a header, as reasons do.
    """
    plain = "".join(sign if sign in "\n" or " " <= sign <= "}" else "?" for sign in text.translate(_TYPOGRAPHY))
    return (
        plain if plain.count("?") == text.count("?") else f"{plain} (? stands for a sign that can not be shown here.)"
    )


def long_string(text: str, longest: int = LONGEST) -> str:
    """Return `text` fit for VR LO, or SH with `longest` = 16 (PS3.5 6.2).

    Raises
    ------
    EncodingError
        If it is empty, longer, or not ASCII.
    """
    plain = ascii_text(text).strip()
    if not 1 <= len(plain) <= longest or "\n" in plain:
        raise EncodingError(f"A name of {len(plain)} characters does not fit where 1 to {longest} are allowed.")
    return plain


def with_end(text: str, end: str, longest: int = LONGEST) -> str:
    """Return `text` and `end` in `longest` characters: the text is cut where it must be, the end stands there whole."""
    return text[: longest - len(end)].rstrip() + end
