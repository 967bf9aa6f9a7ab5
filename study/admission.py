"""Whether a study is analysed at all, before any model is asked: who sent it, how old it is, and what a person said.

A study that is not is stored all the same, and why is on record. So a migration, or a fetch of earlier studies, never
fills studies that were read long ago with results.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Final

from study.errors import Reason
from study.headers import InstanceHeader
from study.priors import day_of

NOT_ASKED_FOR: Final = "NotAskedFor"
TOO_OLD: Final = "TooOld"
PASSED_OVER: Final = "PassedOver"

_REMEDY: Final = {"remedy": "hilum analyse STUDY has it analysed all the same"}
_MOST_NAMED: Final = 5

_FETCHED: Final = Reason(
    NOT_ASKED_FOR, "It was fetched as an earlier study of a patient; nobody sent it for analysis.", _REMEDY
)
_LET_GO: Final = Reason(
    PASSED_OVER,
    "It was received while analyses were paused, and passed over when they were resumed; whoever sends any of it again "
    "has it analysed.",
    _REMEDY,
)


def why_unasked(calling_ae_titles: Iterable[str], stored_only: Iterable[str]) -> Reason | None:
    """Return why nobody asks for the analysis of a study; None where one of its senders does.

    Parameters
    ----------
    calling_ae_titles
        Who sent any of it; nobody where all of it was fetched.
    stored_only
        Those of them whose studies are stored, and not sent for analysis.
    """
    senders = frozenset(calling_ae_titles)
    if not senders:
        return _FETCHED
    if senders - frozenset(stored_only):
        return None
    named = sorted(senders)
    listed = ", ".join(named[:_MOST_NAMED]) + (", ..." if len(named) > _MOST_NAMED else "")
    words = f"It is stored only: what comes from {listed} is not sent for analysis (analyse = false)."
    return Reason(NOT_ASKED_FOR, words, _REMEDY)


def why_let_go(*, passed_over: bool) -> Reason | None:
    """Return that a study was passed over when a pause ended; None where it was not."""
    return _LET_GO if passed_over else None


def why_too_old(headers: Iterable[InstanceHeader], today: date | None, most_days: int) -> Reason | None:
    """Return that a study is too old to be analysed; None where it is not, or nothing says when it was made.

    A date to come is no age: some clock is wrong, and nobody knows by how much.

    Parameters
    ----------
    headers
        Of all that is here of it.
    today
        The date at the site; None: its age does not matter.
    most_days
        How old it may be [days]; 0: any age.
    """
    made = made_on(headers) if today is not None and most_days else None
    if today is None or made is None:
        return None
    days = (today - made).days
    if days <= most_days:
        return None
    words = f"It is of {made.isoformat()}, {days} days ago; what is older than {most_days} days is stored only."
    return Reason(TOO_OLD, words, {"days": days, "max_age_days": most_days, **_REMEDY})


def made_on(headers: Iterable[InstanceHeader]) -> date | None:
    """Return when a study was made; None where nothing says it.

    The latest Study Date; where none can be read, the latest date of a series or acquisition that an image names:
    reports and results that join a study later say nothing of its age.
    """
    of_study: set[str] = set()
    of_images: set[str] = set()
    for header in headers:
        of_study.add(header.study_date)
        if header.rows:
            of_images |= {header.series_date, header.acquisition_date, header.acquisition_datetime[:8]}
    return max(filter(None, map(day_of, of_study)), default=None) or max(
        filter(None, map(day_of, of_images)), default=None
    )
