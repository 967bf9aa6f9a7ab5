"""What archives are asked of studies: whose turn it is, what they said, and what the indexer has made of it.

The indexer begins an inquiry in the transaction that takes an instance in, the archivist keeps what comes of it, and
the indexer ends it as it closes the study: whichever of them dies, the others go on from what is written here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update

from db import records
from db.complete.questions import holdings, inquiries, inquiry_of, keep, senders_of, series_of
from db.engine import AnyRow, UnitOfWork
from db.tables import InquiryRow, InstanceRow, SeriesRow, StudyRow
from study.asking import SLOW_SECONDS, is_worth_asking
from study.errors import Reason
from study.inquiry import HeldSeries, Inquiry, InquiryState, SeriesInquiry, set_digest

OVERDUE_SECONDS = 20.0
"""How late an archive may be asked before the quiet period decides without it [s]: one time limit."""


@dataclass(frozen=True)
class Asked:
    """Whose studies an archive is asked of.

    Parameters
    ----------
    archives
        AE titles of the senders, by the archive that is asked; where several fit a study, the first of them is.
    stored_only
        AE titles of those whose studies are not sent for analysis.
    """

    archives: Mapping[str, Collection[str]]
    stored_only: Collection[str] = ()

    def of(self, calling_ae_titles: Collection[str]) -> str:
        """Return the archive that is asked of a study from these senders; "" for none."""
        if set(calling_ae_titles) <= set(self.stored_only):
            return ""
        fitting = (name for name, titles in self.archives.items() if not set(titles).isdisjoint(calling_ae_titles))
        return next(fitting, "")


def begin(uow: UnitOfWork, study_instance_uids: Collection[str], asked: Asked, settle_seconds: float) -> None:
    """Have archives asked of the studies that something has just come of, once their reception slows.

    Part of the transaction that takes the instances in, which holds the rows of these studies. An inquiry that was
    settled begins again; one that is under way is put off, or brought forward where the archive may prove something.
    """
    now = uow.now()
    rows = _due_studies(uow, study_instance_uids)
    senders = senders_of(uow, [row.id for row in rows])
    counts = _counts(uow, [row.id for row in rows if row.state is not None])
    fresh = []
    for row in rows:
        archive = asked.of(senders[row.id])
        if row.state is None:
            fresh += [_new_row(row, archive, now)] if archive else []
        elif row.inquired != row.generation:
            _put_off(uow, row, archive, counts[row.id], now, settle_seconds)
    if fresh:
        uow.execute(insert(InquiryRow), fresh)


def _due_studies(uow: UnitOfWork, study_instance_uids: Collection[str] | None) -> list[AnyRow]:
    """Return the studies that await evaluation, with their inquiries where they have one; None: of all."""
    query = (
        select(
            StudyRow.id,
            StudyRow.generation,
            InquiryRow.peer,
            InquiryRow.state,
            InquiryRow.generation.label("inquired"),
            InquiryRow.next_ask_at,
            InquiryRow.series,
        )
        .join(InquiryRow, InquiryRow.study == StudyRow.id, isouter=True)
        .where(StudyRow.evaluation_due)
    )
    if study_instance_uids is not None:
        query = query.where(StudyRow.study_instance_uid.in_(list(study_instance_uids)))
    return list(uow.execute(query))


def _counts(uow: UnitOfWork, studies: Collection[int]) -> Mapping[int, dict[str, int]]:
    """Return how many instances of each series are here, by study."""
    query = (
        select(InstanceRow.study, SeriesRow.series_instance_uid, func.count())
        .join(SeriesRow, SeriesRow.id == InstanceRow.series)
        .where(InstanceRow.study.in_(studies), InstanceRow.current)
        .group_by(InstanceRow.study, SeriesRow.series_instance_uid)
    )
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for study, series, count in uow.execute(query):
        found[study][series] = count
    return found


def _new_row(row: AnyRow, archive: str, now: datetime) -> dict[str, Any]:
    return {
        "study": row.id,
        "peer": archive,
        "state": InquiryState.ASKING.value if archive else InquiryState.LISTED.value,
        "generation": row.generation if not archive else -1,
        "version": 0,
        "considered": 0,
        "asked": 0,
        "failures": 0,
        "next_ask_at": now + timedelta(seconds=SLOW_SECONDS) if archive else now,
        "series": [],
        "reason": None,
    }


def _put_off(
    uow: UnitOfWork, row: AnyRow, archive: str, here: Mapping[str, int], now: datetime, settle_seconds: float
) -> None:
    known = series_of(row.series)
    again = row.state == InquiryState.SETTLED.value
    values: dict[str, Any] = {"peer": archive}
    if not archive:
        state = InquiryState.LISTED if any(each.listed for each in known) else InquiryState.SETTLED
        values |= {"state": state.value, "next_ask_at": now + timedelta(seconds=settle_seconds)}
    elif again or row.peer != archive or is_worth_asking(known, here):
        values |= {"state": InquiryState.ASKING.value, "next_ask_at": now + timedelta(seconds=SLOW_SECONDS)}
    if again:
        values |= {"failures": 0, "reason": None}
    uow.execute(update(InquiryRow).where(InquiryRow.study == row.id).values(values))


def resume(uow: UnitOfWork, asked: Asked) -> None:
    """Have every study that awaits evaluation asked of by the settings of now, and at once: called as a node starts.

    What waited for an archive that is asked no more waits for its quiet period.
    """
    uow.serialise("index")
    now = uow.now()
    rows = _due_studies(uow, None)
    senders = senders_of(uow, [row.id for row in rows])
    for row in rows:
        archive = asked.of(senders[row.id])
        if row.state is None and archive:
            uow.execute(insert(InquiryRow), [_new_row(row, archive, now)])
        elif row.state == InquiryState.ASKING.value or (archive and row.inquired != row.generation):
            state = InquiryState.ASKING if archive else InquiryState.SETTLED
            values = {"peer": archive or row.peer, "state": state.value, "next_ask_at": now}
            uow.execute(update(InquiryRow).where(InquiryRow.study == row.id).values(values))


def news(uow: UnitOfWork, limit: int) -> list[str]:
    """Return the studies of whose completeness something is known that was not considered yet."""
    query = (
        select(StudyRow.study_instance_uid)
        .join(InquiryRow, InquiryRow.study == StudyRow.id)
        .where(InquiryRow.version != InquiryRow.considered)
        .limit(limit)
    )
    return list(uow.execute(query).scalars())


def lists_due(uow: UnitOfWork, limit: int) -> list[str]:
    """Return the studies without an archive of which their sender's list may be the proof now."""
    query = (
        select(StudyRow.study_instance_uid)
        .join(InquiryRow, InquiryRow.study == StudyRow.id)
        .where(
            InquiryRow.peer == "", InquiryRow.state == InquiryState.LISTED.value, InquiryRow.next_ask_at <= uow.now()
        )
        .limit(limit)
    )
    return list(uow.execute(query).scalars())


def seconds_until_due(uow: UnitOfWork, archive: str = "") -> float | None:
    """Return in how long the next study falls due of which `archive` is to be asked [s]; None where none does.

    Of "" it is the next of which its sender's list may be the proof.
    """
    now = uow.now()
    state = InquiryState.ASKING if archive else InquiryState.LISTED
    waiting = select(func.min(InquiryRow.next_ask_at)).where(
        InquiryRow.peer == archive, InquiryRow.state == state.value, InquiryRow.next_ask_at > now
    )
    due: datetime | None = uow.execute(waiting).scalar_one()
    return None if due is None else (due - now).total_seconds()


def of_study(uow: UnitOfWork, study_instance_uid: str) -> Inquiry | None:
    """Return what is on record of the study's inquiry; None where nobody was ever to be asked."""
    query = inquiries().join(StudyRow, StudyRow.id == InquiryRow.study)
    row = uow.execute(query.where(StudyRow.study_instance_uid == study_instance_uid)).first()
    return None if row is None else inquiry_of(row)


def is_overdue(uow: UnitOfWork, inquiry: Inquiry) -> bool:
    """Tell whether the archive should have been asked long ago, so that the quiet period decides without it."""
    return inquiry.next_ask_at <= uow.now() - timedelta(seconds=OVERDUE_SECONDS)


def consider(uow: UnitOfWork, study_instance_uid: str, version: int, look_again_at: datetime | None = None) -> None:
    """Note that what was known at `version` has been considered.

    Parameters
    ----------
    look_again_at
        Of a study without an archive: when its sender's list may be the proof.
    """
    values: dict[str, Any] = {"considered": version}
    if look_again_at is not None:
        values["next_ask_at"] = look_again_at
    uow.execute(update(InquiryRow).where(InquiryRow.study == _key(study_instance_uid)).values(values))


def settle(uow: UnitOfWork, study_instance_uid: str, version: int, reason: Reason | None) -> bool:
    """End the inquiry of a study that is being closed; False, and nothing is changed, where more is known meanwhile.

    Parameters
    ----------
    version
        Of what was known as the study was judged.
    reason
        Why the archive was not relied on; None where it was, or nobody was asked.
    """
    values: dict[str, Any] = {
        "state": InquiryState.SETTLED.value,
        "considered": version,
        "reason": None if reason is None else records.reason_to_json(reason),
    }
    of_it = (InquiryRow.study == _key(study_instance_uid), InquiryRow.version == version)
    return uow.execute(update(InquiryRow).where(*of_it).values(values)).rowcount > 0


def ask_again(uow: UnitOfWork, study: int) -> None:
    """Have the archive asked again, and what is missing fetched again, where not all was proven.

    Parameters
    ----------
    study
        The study's key in the database.
    """
    query = inquiries().where(InquiryRow.study == study, InquiryRow.peer != "").with_for_update()
    row = uow.execute(query).first()
    inquiry = None if row is None else inquiry_of(row)
    if inquiry is None or inquiry.is_proven:
        return
    afresh = [replace(each, tries=0, tried_at=None, trouble="") for each in inquiry.series]
    asking = replace(inquiry, state=InquiryState.ASKING, failures=0, next_ask_at=uow.now(), series=tuple(afresh))
    keep(uow, study, asking)


def listed_by_sender(uow: UnitOfWork, study_instance_uid: str, listed: Mapping[str, frozenset[str]]) -> None:
    """Take in that the sender of a study listed all of some series, as it asked us to commit ourselves to keep them.

    That proves the end of a series, where just these instances are here and the archive holds as many, or, where there
    is no archive, nothing more comes for the settling time. A study that is closed, or unknown, is left alone.

    Parameters
    ----------
    listed
        The SOP Instance UIDs in one request, by Series Instance UID.
    """
    query = select(StudyRow.id, StudyRow.generation, StudyRow.evaluation_due).where(
        StudyRow.study_instance_uid == study_instance_uid
    )
    row = uow.execute(query.with_for_update()).first()
    if row is None or not row.evaluation_due:
        return
    now = uow.now()
    if uow.execute(select(InquiryRow.study).where(InquiryRow.study == row.id)).first() is None:
        uow.execute(insert(InquiryRow), [_new_row(row, "", now)])
    of_row = inquiries().where(InquiryRow.study == row.id).with_for_update()
    inquiry = inquiry_of(uow.execute(of_row).one())
    series = _with_lists(inquiry.series, holdings(uow, row.id), listed, now)
    settled_without = not inquiry.peer and inquiry.state is InquiryState.SETTLED
    state = InquiryState.LISTED if settled_without else inquiry.state
    keep(uow, row.id, replace(inquiry, state=state, series=series, next_ask_at=now))


def _with_lists(
    known: Iterable[SeriesInquiry], held: Mapping[str, HeldSeries], listed: Mapping[str, frozenset[str]], at: datetime
) -> tuple[SeriesInquiry, ...]:
    by_uid = {each.series_instance_uid: each for each in known}
    for uid in listed.keys() & held.keys():
        each = by_uid.get(uid, SeriesInquiry(held[uid].described))
        by_uid[uid] = replace(each, listed=set_digest(listed[uid]), listed_at=at)
    return tuple(by_uid.values())


def _key(study_instance_uid: str) -> Any:  # noqa: ANN401 - a scalar subquery
    return select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid).scalar_subquery()
