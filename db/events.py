"""The journal of a study: what happened to it and when, from its first instance to its last delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert

from db.engine import UnitOfWork
from db.tables import EventRow


class EventKind(StrEnum):
    """The kinds of events, as `hilum show --json` prints them."""

    FIRST_INSTANCE = "first_instance"
    LATE_INSTANCES = "late_instances"  # arrived after the study had been complete
    DUPLICATE_INSTANCES = "duplicate_instances"  # bytes that were there already
    OTHER_VERSION = "other_version"  # other bytes under a known SOP Instance UID
    UID_ELSEWHERE = "uid_elsewhere"  # the UID is known from another study or series
    COMPLETE = "complete"
    COMPLETE_UNPROVEN = "complete_unproven"  # the archive could not say it, and the quiet period decided
    MISSING_FETCHED = "missing_fetched"  # the archive held more than was here
    MISSING_NOT_FETCHED = "missing_not_fetched"
    SERIES_INCOMPLETE = "series_incomplete"  # the archive holds more of it, which could not be had
    NOT_SELECTED = "not_selected"
    ANALYSIS_REQUESTED = "analysis_requested"  # a person wants it analysed, whatever its age and senders
    PASSED_OVER = "passed_over"  # it came during a pause, and was let go of at its end
    JOB_QUEUED = "job_queued"
    JOB_REFUSED = "job_refused"
    JOB_SUPERSEDED = "job_superseded"
    JOB_STARTED = "job_started"
    JOB_INTERRUPTED = "job_interrupted"
    JOB_ATTEMPT_FAILED = "job_attempt_failed"
    JOB_FAILED = "job_failed"
    JOB_DONE = "job_done"
    DELIVERY_STORED = "delivery_stored"  # the peer stored it, and has still to commit itself to keep it
    DELIVERED = "delivered"
    COMMITMENT_FAILED = "commitment_failed"  # the peer does not keep what it had stored: it is sent again
    COMMITMENT_UNPROVEN = "commitment_unproven"  # the peer does not say whether it keeps it
    DELIVERY_POSTPONED = "delivery_postponed"
    DELIVERY_KEPT_ASIDE = "delivery_kept_aside"
    DELIVERY_WITHHELD = "delivery_withheld"  # the site wants no more of the model's results to go out
    DELIVERY_REPLACED = "delivery_replaced"  # the peer refused the form, and is sent another one instead
    NOTICE_WRITTEN = "notice_written"  # the refusal report for the PACS
    NOTICE_FAILED = "notice_failed"
    RETRY = "retry"
    WITHDRAWN = "withdrawn"  # a person took results back
    RESENT = "resent"  # a person has delivered results sent again
    DISCARDED = "discarded"  # a person let go of what failed
    REMOVED = "removed"  # its images and results were removed: retention
    REBUILT = "rebuilt"  # the database was lost, and what it knew of the study was read from the files
    IMAGES_REJECTED = "images_rejected"  # a Key Object that came in rejects some, or some came that one rejects
    REJECTION_UNREAD = "rejection_unread"  # a Key Object came in that may reject images, and can not be read
    REJECTION_LIFTED = "rejection_lifted"  # a person wants images analysed that were rejected
    SAME_AGAIN = "same_again"  # an image came again in another encoding, and showed the same
    VERSIONS_CHOSEN = "versions_chosen"  # a person said which versions of images are right
    REJECTION_OWED = "rejection_owed"  # a peer stored, or may have stored, what was taken back meanwhile


@dataclass(frozen=True)
class NewEvent:
    """An event to be written; `study` and `job` are keys of the database."""

    study: int
    kind: EventKind
    words: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    job: int | None = None


def record(uow: UnitOfWork, at: datetime, events: Sequence[NewEvent]) -> None:
    """Append `events` to the journals of their studies; part of the caller's transaction."""
    if not events:
        return
    uow.execute(
        insert(EventRow),
        [
            {
                "study": event.study,
                "at": at,
                "kind": str(event.kind),
                "words": event.words,
                "numbers": dict(event.numbers),
                "job": event.job,
            }
            for event in events
        ],
    )
