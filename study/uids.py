"""Validated value types for what arrives from the wire, and the derivation of result UIDs."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import NewType

AETitle = NewType("AETitle", str)
StudyInstanceUID = NewType("StudyInstanceUID", str)
SeriesInstanceUID = NewType("SeriesInstanceUID", str)
SOPInstanceUID = NewType("SOPInstanceUID", str)

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_SLOPPY_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64  # PS3.5 9.1
_LONGEST_AE_TITLE = 16  # PS3.5 6.2


def is_uid(text: str) -> bool:
    """Tell whether `text` is a UID by the letter of PS3.5 9.1."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def is_storable_uid(text: str) -> bool:
    """Tell whether `text` can stand for a UID in our store: digits and dots, at most 64 characters.

    Leading zeros in a component break PS3.5 9.1 but occur in practice and do no harm, so such objects are stored.
    """
    return len(text) <= _LONGEST_UID and _SLOPPY_UID.fullmatch(text) is not None


def ae_title(text: str) -> AETitle:
    """Return `text` as an AE title.

    Raises
    ------
    ValueError
        If it is not 1 to 16 characters of the default repertoire without backslash and control characters, once
        leading and trailing spaces, which do not count, are removed (PS3.5 6.2, VR AE).
    """
    stripped = text.strip(" ")
    if not 1 <= len(stripped) <= _LONGEST_AE_TITLE:
        raise ValueError(f"an AE title has 1 to {_LONGEST_AE_TITLE} characters, this has {len(stripped)}")
    if any(not " " <= character <= "~" or character == "\\" for character in stripped):
        raise ValueError("an AE title has printable ASCII characters only, and no backslash")
    return AETitle(stripped)


def derive_uid(*parts: str) -> str:
    """Return the UID that belongs to `parts`: the same parts give the same UID, anywhere and always.

    The UID is of the form 2.25.<UUID as an integer> (PS3.5 B.2); the UUID is made of the SHA-256 of the parts.
    """
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"
