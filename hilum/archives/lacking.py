"""What a study lacks: the order that has it fetched, and what came of it, on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from db.complete import questions
from db.complete.questions import DueInquiry
from db.engine import Database
from db.events import EventKind
from hilum.archives.fetching import Order, Urgency
from hilum.entries import PeerSettings
from scp.retrieving.fetching import Retrieved, Wanted
from study.errors import HilumError
from study.holdings import ArchivedInstance
from study.inquiry import HeldSeries

log = structlog.get_logger()

_MOST_NAMED: Final = 10
_METHODS: Final = {"get": "C-GET", "move": "C-MOVE"}


def order_for(
    archive: PeerSettings,
    database: Database,
    due: DueInquiry,
    series_instance_uid: str,
    listing: Sequence[ArchivedInstance],
    held: HeldSeries | None,
) -> Order:
    """Return the order for what an archive names of a series and is not here.

    Parameters
    ----------
    held
        What is here of the series; None for nothing: then all of it is ordered.
    """
    here = held.sop_instance_uids if held else frozenset()
    missing = [each for each in listing if each.sop_instance_uid not in here]
    classes = {each.sop_class_uid for each in missing}
    named = tuple(sorted(each.sop_instance_uid for each in missing))
    wanted = Wanted(
        due.study_instance_uid,
        series_instance_uid,
        named if here else (),
        () if "" in classes else tuple(sorted(classes)),
    )

    def done(outcome: Retrieved | HilumError) -> None:
        _note(archive, database, due, series_instance_uid, named, outcome)

    return Order(wanted, Urgency.LACKING, done)


def _note(
    archive: PeerSettings,
    database: Database,
    due: DueInquiry,
    series_instance_uid: str,
    named: Sequence[str],
    outcome: Retrieved | HilumError,
) -> None:
    """Put on record what came of an order, and have the archive asked again."""
    if isinstance(outcome, HilumError):
        trouble = f"{outcome.code}: {outcome.reason.words}"
        words = f"{len(named)} instance(s) are missing, and could not be fetched from {archive.name} ({trouble})"
        event = (EventKind.MISSING_NOT_FETCHED, f"{words}: {_listed(named)}.", len(named))
    else:
        event, trouble = _what_came(archive, named, outcome)
    with database.writing() as uow:
        questions.fetched(uow, due.study, series_instance_uid, trouble, event)
        uow.commit()
    log.info("study.missing", study=due.study_instance_uid, series=series_instance_uid, kind=event[0], count=event[2])


def _what_came(
    archive: PeerSettings, named: Sequence[str], outcome: Retrieved
) -> tuple[tuple[EventKind, str, int], str]:
    """Return the event, and why not all came; "" where it did.

    Which ones came by C-MOVE is known of our listener alone: the archive only counts them, and names those that failed.
    """
    came = outcome.stored or tuple(uid for uid in named if uid not in outcome.failed_sop_instance_uids)
    count = len(outcome.stored) or min(outcome.completed, len(named))
    lacking = len(named) - count
    by = f"from {archive.name} by {_METHODS[outcome.method]}"
    if not count:
        words = f"{len(named)} instance(s) are missing, and none came {by} ({outcome.words or 'it gives no reason'})"
        return (EventKind.MISSING_NOT_FETCHED, f"{words}: {_listed(named)}.", len(named)), outcome.words
    words = f"{count} instance(s) were missing, and were fetched {by}: {_listed(came[:count])}."
    if not lacking:
        return (EventKind.MISSING_FETCHED, words, count), ""
    words += f" {lacking} more did not come. {outcome.words}".rstrip()
    return (EventKind.MISSING_FETCHED, words, count), outcome.words or f"{lacking} of {len(named)} did not come."


def _listed(uids: Sequence[str]) -> str:
    more = f" and {len(uids) - _MOST_NAMED} more" if len(uids) > _MOST_NAMED else ""
    return f"{', '.join(uids[:_MOST_NAMED])}{more}"
