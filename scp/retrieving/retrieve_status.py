"""What the last response to a C-GET or C-MOVE means (PS3.4 C.4.2.1.5, C.4.3.1.4, PS3.7 C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What became of the request."""

    DONE = "done"  # every sub-operation, be it with a warning
    DONE_IN_PART = "done in part"  # some sub-operations failed
    STOPPED = "stopped"  # it was cancelled
    NOT_UNDERSTOOD = "not understood"  # the request was no good; another form of it may be
    REFUSED = "refused"  # trying again may help
    NOT_ALLOWED = "not allowed"  # until a person changes something there


@dataclass(frozen=True)
class Meaning:
    """The verdict on a status, and words with the remedy."""

    verdict: Verdict
    words: str


_SINGLE = {
    0x0000: Meaning(Verdict.DONE, "success"),
    0x0110: Meaning(Verdict.NOT_UNDERSTOOD, "processing failure"),
    0x0122: Meaning(Verdict.NOT_ALLOWED, "it does not offer this service; allow our AE title to retrieve there"),
    0x0124: Meaning(Verdict.NOT_ALLOWED, "not authorized; allow our AE title to retrieve there"),
    0x0211: Meaning(Verdict.NOT_ALLOWED, "it does not know this operation"),
    0x0212: Meaning(Verdict.NOT_UNDERSTOOD, "mistyped argument"),
    0x0213: Meaning(Verdict.REFUSED, "resource limitation"),
    0xA701: Meaning(Verdict.REFUSED, "out of resources, it can not count the matches"),
    0xA702: Meaning(Verdict.REFUSED, "out of resources, or it can not reach us; it sent none"),
    0xA801: Meaning(
        Verdict.NOT_ALLOWED, "it does not know our AE title as a destination; register it there with our host and port"
    ),
    0xB000: Meaning(Verdict.DONE_IN_PART, "some instances could not be sent"),
    0xFE00: Meaning(Verdict.STOPPED, "cancelled"),
}

_RANGES = (
    (range(0xA900, 0xAA00), Meaning(Verdict.NOT_UNDERSTOOD, "it does not take the keys of the request")),
    (range(0xAA00, 0xAB00), Meaning(Verdict.NOT_UNDERSTOOD, "it does not take the keys of the request")),
    (range(0xA700, 0xA800), Meaning(Verdict.REFUSED, "out of resources")),
    (range(0xB000, 0xC000), Meaning(Verdict.DONE_IN_PART, "a warning")),
    (range(0xC000, 0xD000), Meaning(Verdict.NOT_UNDERSTOOD, "it could not process the request")),
)

_UNKNOWN = Meaning(Verdict.REFUSED, "a status that the standard does not know")


def meaning_of(status: int) -> Meaning:
    """Return what the last response's `status` means; every 16-bit value has a meaning."""
    if status in _SINGLE:
        return _SINGLE[status]
    return next((meaning for statuses, meaning in _RANGES if status in statuses), _UNKNOWN)
