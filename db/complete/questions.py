"""What archives are asked, and what is kept of their answers: whose turn it is, what is here, what was fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from db import records
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import InquiryRow, InstanceRow, SeriesRow, StudyRow, StudySenderRow
from study.asking import SLOW_SECONDS
from study.errors import Reason
from study.headers import InstanceHeader
from study.holdings import ArchivedSeries
from study.inquiry import HeldSeries, Inquiry, InquiryState, SeriesInquiry


@dataclass(frozen=True)
class DueInquiry:
    """A study of which an archive is to be asked now.

    Parameters
    ----------
    study
        The study's key in the database.
    calling_ae_titles
        Who sent something of it.
    """

    study: int
    study_instance_uid: str
    generation: int
    last_received_at: datetime
    inquiry: Inquiry
    calling_ae_titles: frozenset[str]
    on_request: bool
    passed_over: bool


@dataclass(frozen=True)
class StudyStanding:
    """A study's generation, and when something last came of it."""

    generation: int
    last_received_at: datetime


def due(uow: UnitOfWork, archive: str, limit: int) -> list[DueInquiry]:
    """Return the studies of which the archive is to be asked now, those first that wait longest."""
    query = (
        select(
            *InquiryRow.__table__.c,
            StudyRow.study_instance_uid,
            StudyRow.generation.label("of_study"),
            StudyRow.last_received_at,
            StudyRow.on_request,
            StudyRow.passed_over,
        )
        .join(StudyRow, StudyRow.id == InquiryRow.study)
        .where(
            InquiryRow.peer == archive,
            InquiryRow.state == InquiryState.ASKING.value,
            InquiryRow.next_ask_at <= uow.now(),
        )
        .order_by(InquiryRow.next_ask_at)
        .limit(limit)
    )
    rows = list(uow.execute(query))
    senders = senders_of(uow, [row.study for row in rows])
    return [
        DueInquiry(
            row.study,
            row.study_instance_uid,
            row.of_study,
            row.last_received_at,
            inquiry_of(row),
            frozenset(senders[row.study]),
            row.on_request,
            row.passed_over,
        )
        for row in rows
    ]


def holdings(uow: UnitOfWork, study: int) -> dict[str, HeldSeries]:
    """Return what is here of each series of a study, by Series Instance UID.

    Parameters
    ----------
    study
        The study's key in the database.
    """
    instances = (
        select(SeriesRow.series_instance_uid, InstanceRow.sop_instance_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series)
        .where(InstanceRow.study == study, InstanceRow.current)
    )
    uids: dict[str, set[str]] = defaultdict(set)
    for series, instance in uow.execute(instances):
        uids[series].add(instance)
    described = {header.series_instance_uid: describe(header) for header in first_headers(uow, study)}
    return {uid: HeldSeries(described.get(uid, ArchivedSeries(uid)), frozenset(found)) for uid, found in uids.items()}


def first_headers(uow: UnitOfWork, study: int) -> list[InstanceHeader]:
    """Return the header of the first image that came of each series of a study."""
    first = select(func.min(InstanceRow.id)).where(InstanceRow.study == study, InstanceRow.current)
    query = select(InstanceRow.header).where(InstanceRow.id.in_(first.group_by(InstanceRow.series)))
    return [InstanceHeader.from_json(header) for header in uow.execute(query).scalars()]


def describe(header: InstanceHeader) -> ArchivedSeries:
    """Return what the header of an image says of its series."""
    return ArchivedSeries(
        header.series_instance_uid,
        modality=header.modality,
        series_number=header.series_number,
        series_description=header.series_description,
        body_part_examined=header.body_part_examined,
    )


def standing(uow: UnitOfWork, study: int) -> StudyStanding:
    """Return the generation of a study, and when something last came of it."""
    query = select(StudyRow.generation, StudyRow.last_received_at).where(StudyRow.id == study)
    row = uow.execute(query).one()
    return StudyStanding(row.generation, row.last_received_at)


def lock(uow: UnitOfWork, study: int) -> Inquiry | None:
    """Return the inquiry of a study, held by this transaction; None where nobody is to be asked any more."""
    query = inquiries().where(InquiryRow.study == study).with_for_update()
    row = uow.execute(query).first()
    return None if row is None or row.state != InquiryState.ASKING.value else inquiry_of(row)


def keep(uow: UnitOfWork, study: int, inquiry: Inquiry) -> None:
    """Put an inquiry on record as it now stands."""
    values = {
        "state": inquiry.state.value,
        "generation": inquiry.generation,
        "version": inquiry.version,
        "asked": inquiry.asked,
        "failures": inquiry.failures,
        "next_ask_at": inquiry.next_ask_at,
        "series": [each.to_json() for each in inquiry.series],
        "reason": None if inquiry.reason is None else records.reason_to_json(inquiry.reason),
    }
    uow.execute(update(InquiryRow).where(InquiryRow.study == study).values(values))


def unanswered(uow: UnitOfWork, archive: str, reason: Reason, seconds: float) -> int:
    """Put on record that the archive can not be asked just now, of any study that is due; return of how many.

    Parameters
    ----------
    seconds
        When it is asked again [s].
    """
    now = uow.now()
    values = {
        "failures": InquiryRow.failures + 1,
        "reason": records.reason_to_json(reason),
        "next_ask_at": now + timedelta(seconds=seconds),
    }
    of_it = (InquiryRow.peer == archive, InquiryRow.state == InquiryState.ASKING.value, InquiryRow.next_ask_at <= now)
    return uow.execute(update(InquiryRow).where(*of_it).values(values)).rowcount


def fetched(
    uow: UnitOfWork, study: int, series_instance_uid: str, trouble: str, event: tuple[EventKind, str, int]
) -> None:
    """Put on record what came of fetching what a series lacks, and have the archive asked again.

    Parameters
    ----------
    trouble
        Why not all came; "" where it did.
    event
        Its kind, words, and how many instances it is about.
    """
    now = uow.now()
    kind, words, instances = event
    record(uow, now, [NewEvent(study, kind, words, {"instances": instances, "series": series_instance_uid})])
    inquiry = lock(uow, study)
    if inquiry is None:
        return
    series = tuple(
        replace(each, trouble=trouble) if each.series_instance_uid == series_instance_uid else each
        for each in inquiry.series
    )
    soon = min(inquiry.next_ask_at, now + timedelta(seconds=SLOW_SECONDS))
    keep(uow, study, replace(inquiry, series=series, next_ask_at=soon))


def inquiries() -> AnyQuery:
    """Return the query whose rows `inquiry_of` reads."""
    return select(*InquiryRow.__table__.c)


def series_of(values: Sequence[dict[str, Any]]) -> tuple[SeriesInquiry, ...]:
    """Return what is known of each series, by the column `series`."""
    return tuple(SeriesInquiry.from_json(each) for each in values)


def inquiry_of(row: AnyRow) -> Inquiry:
    """Return the inquiry of a row with the columns of `InquiryRow`."""
    return Inquiry(
        peer=row.peer,
        state=InquiryState(row.state),
        generation=row.generation,
        version=row.version,
        asked=row.asked,
        failures=row.failures,
        next_ask_at=row.next_ask_at,
        series=series_of(row.series),
        reason=records.reason_from_json(row.reason),
    )


def senders_of(uow: UnitOfWork, studies: Collection[int]) -> Mapping[int, set[str]]:
    """Return who sent something of each study, by the studies' keys."""
    query = select(StudySenderRow.study, StudySenderRow.calling_ae_title).where(StudySenderRow.study.in_(studies))
    found: dict[int, set[str]] = defaultdict(set)
    for study, title in uow.execute(query):
        found[study].add(title)
    return found
