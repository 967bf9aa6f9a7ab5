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
    NOT_SELECTED = "not_selected"
    JOB_QUEUED = "job_queued"
    JOB_REFUSED = "job_refused"
    JOB_SUPERSEDED = "job_superseded"
    JOB_STARTED = "job_started"
    JOB_INTERRUPTED = "job_interrupted"
    JOB_ATTEMPT_FAILED = "job_attempt_failed"
    JOB_FAILED = "job_failed"
    JOB_DONE = "job_done"
    DELIVERED = "delivered"
    DELIVERY_POSTPONED = "delivery_postponed"
    DELIVERY_KEPT_ASIDE = "delivery_kept_aside"
    DELIVERY_WITHHELD = "delivery_withheld"  # the site wants no more of the model's results to go out
    DELIVERY_REPLACED = "delivery_replaced"  # the peer refused the form, and is sent another one instead
    NOTICE_WRITTEN = "notice_written"  # the refusal report for the PACS
    NOTICE_FAILED = "notice_failed"
    RETRY = "retry"


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
