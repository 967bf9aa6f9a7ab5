"""Storage commitment: a peer answers for objects that it stored, and says of each that it keeps it, or why not.

PS3.4 J: who wants it names the objects under a Transaction UID (N-ACTION); who has them answers in a report
(N-EVENT-REPORT), at once or much later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final

FAILED: Final = "CommitmentFailed"
"""The code of the reason for which an object is sent again: the peer does not keep what it had stored."""


class CommitmentState(StrEnum):
    """What became of one transaction."""

    OPEN = "OPEN"  # the peer was asked, or may have been; its report is awaited, however late it comes
    REFUSED = "REFUSED"  # the peer took no such request, or could not be reached: nothing comes of it
    ANSWERED = "ANSWERED"  # the peer has answered for every object


@dataclass(frozen=True)
class Reference:
    """An object, as one node names it to another."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """Objects that a peer is asked to answer for."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class CommitmentReport:
    """What a peer answers for, and what not.

    Parameters
    ----------
    failed
        Each object that it does not keep, with the Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: tuple[Reference, ...] = ()
    failed: tuple[tuple[Reference, int], ...] = ()


@dataclass(frozen=True)
class Standing:
    """How far a peer has come with committing itself to one object.

    Parameters
    ----------
    transaction_uid, state, requested_at
        Of the last transaction about it.
    asked
        In how many transactions the peer was asked for it since it stored it last, those that it refused left out.
    failures
        How often it answered that it does not keep it, and was sent it again.
    """

    transaction_uid: str
    state: CommitmentState
    requested_at: datetime
    asked: int
    failures: int


class FailureReason(IntEnum):
    """Why an object is not committed (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131
    RESOURCE_LIMITATION = 0x0213


_WORDS: Final[dict[int, str]] = {
    FailureReason.PROCESSING_FAILURE: "a general failure while it processed the request",
    FailureReason.NO_SUCH_OBJECT_INSTANCE: "it does not have the object",
    FailureReason.CLASS_INSTANCE_CONFLICT: "it has the object under another SOP Class",
    FailureReason.SOP_CLASS_NOT_SUPPORTED: "it takes no commitment for objects of this SOP Class",
    FailureReason.DUPLICATE_TRANSACTION_UID: "it knows the Transaction UID already",
    FailureReason.RESOURCE_LIMITATION: "it lacks the resources to answer for it",
}


def failure_words(reason: int) -> str:
    """Return what a Failure Reason means, whatever number it is, with the number."""
    return f"{_WORDS.get(reason, 'a reason that the standard does not name')} ({reason:04X})"


def tally(failed: Iterable[tuple[Reference, int]]) -> str:
    """Return how many objects failed for which reason, for a log."""
    counts: dict[int, int] = {}
    for _, reason in failed:
        counts[reason] = counts.get(reason, 0) + 1
    return ", ".join(f"{count} x {reason:04X}" for reason, count in sorted(counts.items()))
