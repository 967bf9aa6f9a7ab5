"""The states of a study, a job and a delivery, and the transitions that are allowed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class JobState(StrEnum):
    """What became of one model's work on one revision of a study."""

    QUEUED = "QUEUED"  # waits for a worker, or for its next attempt
    RUNNING = "RUNNING"  # leased by a keeper whose runner computes
    DONE = "DONE"  # results are on disk and in the outbox
    REFUSED = "REFUSED"  # the model can not analyse this; the reason is on record; a normal outcome
    FAILED = "FAILED"  # all attempts are used up, or trying again can not help; a person should look
    SUPERSEDED = "SUPERSEDED"  # a newer revision took its place before it ran


class DeliveryState(StrEnum):
    """What became of one result object on its way to one peer."""

    PENDING = "PENDING"  # in the outbox; is tried until the peer takes it
    DELIVERED = "DELIVERED"  # the peer answered that it stored it, or it was proven
    KEPT_ASIDE = "KEPT_ASIDE"  # the peer will never take this object as it is; a person should look
    STANDBY = "STANDBY"  # made in case the peer refuses another form; owed to nobody until then
    REPLACED = "REPLACED"  # the peer refused its form, and is sent another one instead
    WITHHELD = "WITHHELD"  # the site took the model's delivery back before it went out; sent only on request
    STORED = "STORED"  # the peer answered that it stored it, and has still to commit itself to keep it
    WITHDRAWN = "WITHDRAWN"  # a person took the result back; where it was out already, a rejection follows it


class StudyState(StrEnum):
    """What a person sees of a study; derived from its revision, jobs and deliveries, never stored."""

    RECEIVING = "RECEIVING"  # instances arrive, or arrived less than the quiet period ago
    COMPLETE = "COMPLETE"  # a revision is closed; its jobs wait
    PROCESSING = "PROCESSING"  # a model runs
    REPORTED = "REPORTED"  # results are made and owed to a peer
    DELIVERED = "DELIVERED"  # every result that is due was taken by its peer
    NOT_SELECTED = "NOT_SELECTED"  # no model wants any series of it
    REFUSED = "REFUSED"  # a model wants it and can not analyse it, for a stated reason
    FAILED = "FAILED"  # an analysis or a delivery needs a person


class Which(StrEnum):
    """Which versions of an image are right, where others have other pixels."""

    NEWEST = "newest"
    OLDEST = "oldest"


class Halted(StrEnum):
    """What a person can pause; the words are those of the commands."""

    ANALYSES = "analyses"  # no job begins; those that run end
    DELIVERIES = "deliveries"  # no result or report is sent; what a sender has in its hands is


class VerdictOutcome(StrEnum):
    """What a model says of a series."""

    CHOSEN = "CHOSEN"  # accepted, and the one that it runs on
    ACCEPTED = "ACCEPTED"  # it could run, and runs on another series that it prefers
    REFUSED = "REFUSED"  # its kind of series, which it can not analyse
    NOT_WANTED = "NOT_WANTED"  # not its kind of series


_JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SUPERSEDED, JobState.REFUSED}),
    JobState.RUNNING: frozenset({JobState.DONE, JobState.REFUSED, JobState.FAILED, JobState.QUEUED}),
    JobState.DONE: frozenset(),
    JobState.REFUSED: frozenset({JobState.QUEUED}),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.REFUSED}),
    JobState.SUPERSEDED: frozenset({JobState.QUEUED, JobState.REFUSED}),
}

_DELIVERY_MOVES: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset(
        {
            DeliveryState.STORED,
            DeliveryState.DELIVERED,
            DeliveryState.KEPT_ASIDE,
            DeliveryState.REPLACED,
            DeliveryState.WITHHELD,
            DeliveryState.WITHDRAWN,
        }
    ),
    DeliveryState.STORED: frozenset({DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.WITHHELD: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.STANDBY: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.REPLACED: frozenset(),
    DeliveryState.DELIVERED: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),  # a person has it sent again
    DeliveryState.KEPT_ASIDE: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.WITHDRAWN: frozenset(),
}


def job_sources(target: JobState) -> frozenset[JobState]:
    """Return the states from which a job may move to `target`."""
    return frozenset(source for source, targets in _JOB_MOVES.items() if target in targets)


def delivery_sources(target: DeliveryState) -> frozenset[DeliveryState]:
    """Return the states from which a delivery may move to `target`."""
    return frozenset(source for source, targets in _DELIVERY_MOVES.items() if target in targets)


def study_state(
    *, receiving: bool, jobs: Iterable[JobState], deliveries: Iterable[DeliveryState], evaluated: bool
) -> StudyState:
    """Derive the state of a study.

    Parameters
    ----------
    receiving
        Whether instances arrived that no revision holds yet.
    jobs
        States of the newest job of each model.
    deliveries
        States of the deliveries of those jobs' results; those of refusal reports are left out, since the study is
        refused whoever was told.
    evaluated
        Whether a revision was closed at least once.
    """
    if receiving or not evaluated:
        return StudyState.RECEIVING
    # A job that was superseded and has no successor: the newest revision holds nothing that the model wants.
    of_jobs, of_deliveries = set(jobs) - {JobState.SUPERSEDED}, set(deliveries)
    rules = (
        (not of_jobs, StudyState.NOT_SELECTED),
        (JobState.RUNNING in of_jobs, StudyState.PROCESSING),
        (JobState.QUEUED in of_jobs, StudyState.COMPLETE),
        (JobState.FAILED in of_jobs or DeliveryState.KEPT_ASIDE in of_deliveries, StudyState.FAILED),
        (not of_deliveries.isdisjoint({DeliveryState.PENDING, DeliveryState.STORED}), StudyState.REPORTED),
        (JobState.DONE in of_jobs, StudyState.DELIVERED),
    )
    return next((state for holds, state in rules if holds), StudyState.REFUSED)
