"""What a C-STORE response status means for an object that is to be delivered (PS3.4 B.2.3, PS3.7 C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What to do about an answer."""

    STORED = "stored"  # the peer has it
    STORED_WITH_WARNING = "stored with a warning"  # the peer has it, and changed or disliked something
    DUPLICATE = "duplicate"  # the peer has an object of this UID; whether it is ours must be proven
    TRY_AGAIN = "try again"  # nothing is wrong with the object
    CONTEXT_REFUSED = "context refused"  # the peer does not take this SOP Class or asker, until a person changes that
    KEEP_ASIDE = "keep aside"  # the peer will never take this object as it is


@dataclass(frozen=True)
class Meaning:
    """The verdict on a status, and the standard's words for it."""

    verdict: Verdict
    words: str


_SINGLE = {
    0x0000: Meaning(Verdict.STORED, "Success"),
    0x0001: Meaning(Verdict.STORED_WITH_WARNING, "Requested optional attributes are not supported"),
    0x0107: Meaning(Verdict.STORED_WITH_WARNING, "Attribute list error"),
    0x0110: Meaning(Verdict.TRY_AGAIN, "Processing failure"),
    0x0111: Meaning(Verdict.DUPLICATE, "Duplicate SOP Instance"),
    0x0116: Meaning(Verdict.STORED_WITH_WARNING, "Attribute value out of range"),
    0x0117: Meaning(Verdict.KEEP_ASIDE, "Invalid SOP Instance"),
    0x0122: Meaning(Verdict.CONTEXT_REFUSED, "SOP Class not supported"),
    0x0124: Meaning(Verdict.CONTEXT_REFUSED, "Not authorized"),
    0x0210: Meaning(Verdict.TRY_AGAIN, "Duplicate invocation"),
    0x0211: Meaning(Verdict.CONTEXT_REFUSED, "Unrecognized operation"),
    0x0212: Meaning(Verdict.KEEP_ASIDE, "Mistyped argument"),
    0x0213: Meaning(Verdict.TRY_AGAIN, "Resource limitation"),
    0xB000: Meaning(Verdict.STORED_WITH_WARNING, "Coercion of data elements"),
    0xB006: Meaning(Verdict.STORED_WITH_WARNING, "Elements discarded"),
    0xB007: Meaning(Verdict.STORED_WITH_WARNING, "Data set does not match SOP Class"),
}

_RANGES = (
    (range(0xA700, 0xA800), Meaning(Verdict.TRY_AGAIN, "Out of resources")),
    (range(0xA900, 0xAA00), Meaning(Verdict.KEEP_ASIDE, "Data set does not match SOP Class")),
    (range(0xB000, 0xC000), Meaning(Verdict.STORED_WITH_WARNING, "Warning")),
    (range(0xC000, 0xD000), Meaning(Verdict.KEEP_ASIDE, "Cannot understand")),
)

# Of a status that no standard names nobody can say that the object is at fault: it is not given up.
_UNKNOWN = Meaning(Verdict.TRY_AGAIN, "A status that the standard does not know")


def meaning_of(status: int) -> Meaning:
    """Return what a C-STORE response `status` means; every 16-bit value has a meaning."""
    if status in _SINGLE:
        return _SINGLE[status]
    return next((meaning for statuses, meaning in _RANGES if status in statuses), _UNKNOWN)
