"""The search for earlier studies in an archive: how far it is, and what became of each study that the archive named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from study.errors import Reason


class SearchState(StrEnum):
    """How far the search for earlier studies is, of one study and for one model."""

    SEARCHING = "SEARCHING"  # the archive is asked, or what it has is fetched
    DONE = "DONE"  # all that can be found is here, or known not to be of use
    FAILED = "FAILED"  # the archive could not be asked; what is here already may be used all the same


class PriorOutcome(StrEnum):
    """What became of one earlier study that an archive named."""

    FOUND = "FOUND"  # the archive holds it, and nobody has looked into it yet
    FETCHING = "FETCHING"  # series of it that the model may want are asked for
    HERE = "HERE"  # what the model may want of it is here, and the model can use it
    UNUSABLE = "UNUSABLE"  # it is here, and the model can use no series of it
    NOT_WANTED = "NOT_WANTED"  # it holds no series that the model may want
    REFUSED = "REFUSED"  # it may be another patient's: never fetched, never used
    FAILED = "FAILED"  # the archive did not give it
    NOT_NEEDED = "NOT_NEEDED"  # later ones suffice


SETTLED: Final = frozenset(PriorOutcome) - {PriorOutcome.FOUND, PriorOutcome.FETCHING}
"""Outcomes after which nothing more is done about an earlier study."""


@dataclass(frozen=True)
class FoundStudy:
    """An earlier study that an archive named, and what became of it.

    Parameters
    ----------
    series
        Those that the model may want: how many instances the archive has of each (None: it does not say), by Series
        Instance UID.
    reason
        Why it is not used, where it is not.
    """

    study_instance_uid: str
    study_date: str
    study_time: str = ""
    outcome: PriorOutcome = PriorOutcome.FOUND
    series: Mapping[str, int | None] = field(default_factory=dict)
    reason: Reason | None = None


@dataclass(frozen=True)
class PriorSearch:
    """The search for earlier studies of a study's patient, for one model.

    Parameters
    ----------
    begun_at
        When it was begun, or begun anew, by the database's time.
    found
        The latest first.
    reason
        Why there is none, or why it could not be searched.
    """

    study_instance_uid: str
    model_name: str
    state: SearchState
    begun_at: datetime
    attempts: int
    next_attempt_at: datetime
    found: tuple[FoundStudy, ...] = ()
    reason: Reason | None = None
