"""What needs a person, whole node over: analyses, deliveries and reports that failed, peers out of reach, idle queues.

What a person let go of (`db.overview.tending.discard`) is left out, until something fails after that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_, select

from db import records
from db.delivery import withdrawn
from db.delivery.outdated import outdated_results, unread_notes
from db.engine import AnyRow, UnitOfWork
from db.events import EventKind
from db.images import index
from db.lasting import removals
from db.overview import waiting
from db.overview.problem import Kind, Problem
from db.tables import DeliveryRow, EventRow, JobRow, NoticeRow, ResultRow, StudyRow
from db.work import pauses
from study.errors import Reason
from study.forms import Form
from study.identity import PIXELS_CHANGED
from study.states import DeliveryState, Halted, JobState

NOT_SENT: Final = "PeerNotSent"
_LONG: Final = timedelta(hours=1)

_OWED = (DeliveryState.PENDING.value, DeliveryState.STORED.value)
_TROUBLES = (
    EventKind.DELIVERY_POSTPONED.value,
    EventKind.DELIVERY_KEPT_ASIDE.value,
    EventKind.COMMITMENT_FAILED.value,
    EventKind.COMMITMENT_UNPROVEN.value,
)


def problems(uow: UnitOfWork, destinations: Collection[str], refusal_delay_seconds: float = 0.0) -> list[Problem]:
    """Return what needs a person, the oldest of each kind first.

    Parameters
    ----------
    destinations
        The peers that the configuration sends results, by name.
    refusal_delay_seconds
        How long a refusal must stand before its report is written [s].
    """
    found = [
        *_analyses(uow),
        *_alarms(uow),
        *_parts(uow),
        *_deliveries(uow, destinations),
        *_outdated(uow),
        *_unread(uow),
        *_reports(uow),
        *waiting.problems(uow, destinations, refusal_delay_seconds),
        *_peers(uow, destinations),
        *_files(uow),
        *_pauses(uow),
    ]
    order = list(Kind)
    return sorted(found, key=lambda each: (order.index(each.kind), each.since, each.subject))


def in_trouble(destinations: Collection[str]) -> ColumnElement[bool]:
    """Tell whether a delivery of a job needs a person; for queries that join deliveries, jobs and results.

    What outdated jobs owe needs nobody, but for the rejection of what a peer has of them.
    """
    counts = or_(JobRow.current, ~withdrawn.is_no_rejection())
    blamed = and_(counts, DeliveryRow.problem)
    kept = and_(
        JobRow.current,
        DeliveryRow.state == DeliveryState.KEPT_ASIDE.value,
        ResultRow.form.not_in((Form.REFUSAL.value, Form.REJECTION.value)),
    )
    unsent = and_(counts, DeliveryRow.state.in_(_OWED), DeliveryRow.peer.not_in(list(destinations)))
    open_ones = DeliveryRow.state.in_((*_OWED, DeliveryState.KEPT_ASIDE.value))  # few; the index finds them
    return and_(open_ones, or_(blamed, kept, unsent))


def is_failed() -> ColumnElement[bool]:
    """Tell whether a job needs a person."""
    return and_(JobRow.current, JobRow.state == JobState.FAILED.value)


def _analyses(uow: UnitOfWork) -> Iterator[Problem]:
    query = (
        select(
            JobRow.id,
            JobRow.model_name,
            JobRow.reason,
            func.coalesce(JobRow.ended_at, JobRow.created_at).label("since"),
            StudyRow.study_instance_uid,
            StudyRow.discarded_at,
        )
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(is_failed())
    )
    for row in uow.execute(query):
        if _is_news(row.discarded_at, row.since):
            reason = records.reason_from_json(row.reason) or Reason("Failed", "The analysis failed.")
            words = f"{row.model_name}: {reason.words}"
            yield Problem(
                Kind.ANALYSIS, row.study_instance_uid, row.since, Reason(reason.code, words, reason.numbers), job=row.id
            )


def _alarms(uow: UnitOfWork) -> Iterator[Problem]:
    query = (
        select(JobRow.id, JobRow.reason, JobRow.ended_at, JobRow.created_at, StudyRow.study_instance_uid)
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(JobRow.current, JobRow.state == JobState.REFUSED.value)
    )
    for row in uow.execute(query):
        reason = records.reason_from_json(row.reason)
        if reason is not None and reason.code == PIXELS_CHANGED:
            since = row.ended_at or row.created_at
            yield Problem(Kind.ALARM, row.study_instance_uid, since, reason, job=row.id)


def _parts(uow: UnitOfWork) -> Iterator[Problem]:
    for each in removals.parts(uow):
        since = each.last_received_at
        if since < uow.now() - _LONG and not each.accepted and _is_news(each.discarded_at, since):
            yield Problem(Kind.PART, each.study_instance_uid, since, each.reason)


def _deliveries(uow: UnitOfWork, destinations: Collection[str]) -> Iterator[Problem]:
    """Give one problem for all objects of an analysis that a peer does not get for one reason: pictures are many."""
    query = (
        select(
            DeliveryRow.job,
            DeliveryRow.peer,
            DeliveryRow.state,
            DeliveryRow.problem,
            DeliveryRow.position,
            DeliveryRow.reason,
            func.coalesce(JobRow.ended_at, JobRow.created_at).label("made_at"),
            StudyRow.study_instance_uid,
            StudyRow.discarded_at,
        )
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .join(StudyRow, StudyRow.id == DeliveryRow.study)
        .where(in_trouble(destinations))
        .order_by(DeliveryRow.id)
    )
    groups: dict[tuple[int, str, Kind, str, str], list[AnyRow]] = defaultdict(list)
    for row in uow.execute(query):
        groups[_key_of(row, destinations)].append(row)
    times = _times(uow, {job for job, *_ in groups}, _TROUBLES)
    for (job, peer, kind, code, words), rows in groups.items():
        since = max(times.get((job, peer), [rows[0].made_at]))
        if _is_news(rows[0].discarded_at, since):
            told = Reason(code, f"{len(rows)} object(s) for {peer}: {words}", {"objects": len(rows)})
            yield Problem(kind, rows[0].study_instance_uid, since, told, peer, job)


def _key_of(row: AnyRow, destinations: Collection[str]) -> tuple[int, str, Kind, str, str]:
    kind = Kind.REJECTION if row.position >= withdrawn.REJECTION_POSITION else Kind.DELIVERY
    if row.peer not in destinations and row.state in _OWED:
        reason = Reason(NOT_SENT, "the configuration sends it nothing any more.")
    else:
        reason = records.reason_from_json(row.reason) or Reason("NotDelivered", "it was not taken.")
    return row.job, row.peer, kind, reason.code, reason.words


def _outdated(uow: UnitOfWork) -> Iterator[Problem]:
    for each in outdated_results(uow):
        if _is_news(each.discarded_at, each.since):
            words = (
                f"{each.model}: {', '.join(each.peers)} has {each.objects} result object(s) of images that were "
                "rejected since."
            )
            reason = Reason(
                "ResultsOutdated", words, {"objects": each.objects, "sop_instance_uid": each.sop_instance_uid}
            )
            yield Problem(Kind.OUTDATED, each.study_instance_uid, each.since, reason, job=each.job)


def _unread(uow: UnitOfWork) -> Iterator[Problem]:
    for each in unread_notes(uow):
        if _is_news(each.discarded_at, each.since):
            words = f"The Key Object {each.key_object} may reject images, and could not be read."
            yield Problem(Kind.UNREAD, each.study_instance_uid, each.since, Reason("RejectionUnread", words))


def _reports(uow: UnitOfWork) -> Iterator[Problem]:
    query = (
        select(
            NoticeRow.job, NoticeRow.reason, NoticeRow.not_before, StudyRow.study_instance_uid, StudyRow.discarded_at
        )
        .join(StudyRow, StudyRow.id == NoticeRow.study)
        .where(NoticeRow.given_up)
    )
    rows = uow.execute(query).all()
    times = _times(uow, {row.job for row in rows}, (EventKind.NOTICE_FAILED.value,))
    for row in rows:
        since = max(times.get((row.job, ""), [row.not_before]))
        if _is_news(row.discarded_at, since):
            reason = records.reason_from_json(row.reason) or Reason("NotWritten", "It could not be written.")
            yield Problem(Kind.REPORT, row.study_instance_uid, since, reason, job=row.job)


def _peers(uow: UnitOfWork, destinations: Collection[str]) -> Iterator[Problem]:
    """Give the peers that took nothing for long, and what the last answer was; while deliveries are paused none."""
    if pauses.is_paused(uow, Halted.DELIVERIES):
        return
    owed = (DeliveryRow.state == DeliveryState.PENDING.value, ~DeliveryRow.problem)
    tried = select(DeliveryRow.job, DeliveryRow.peer, DeliveryRow.reason).where(
        *owed, DeliveryRow.attempts > 0, DeliveryRow.reason.is_not(None), DeliveryRow.peer.in_(list(destinations))
    )
    rows = uow.execute(tried.order_by(DeliveryRow.id)).all()
    reasons = {row.peer: reason for row in rows if (reason := records.reason_from_json(row.reason))}
    times = _times(uow, {row.job for row in rows}, (EventKind.DELIVERY_POSTPONED.value,))
    for peer, reason in reasons.items():
        since = _first(times, [(row.job, row.peer) for row in rows if row.peer == peer])
        if since is None or since > uow.now() - _LONG:
            continue
        waiting = select(func.count()).select_from(DeliveryRow).where(*owed, DeliveryRow.peer == peer)
        count = uow.execute(waiting).scalar_one()
        words = f"{count} object(s) wait for it: {reason.words}"
        yield Problem(Kind.PEER, peer, since, Reason(reason.code, words, {"objects": count}), peer)


def _first(times: dict[tuple[int, str], list[datetime]], keys: Iterable[tuple[int, str]]) -> datetime | None:
    return min((at for key in keys for at in times.get(key, [])), default=None)


def _files(uow: UnitOfWork) -> Iterator[Problem]:
    for each in index.list_set_aside(uow):
        yield Problem(Kind.FILE, each.path, each.at, each.reason)


def _pauses(uow: UnitOfWork) -> Iterator[Problem]:
    for what, each in pauses.pauses(uow).items():
        words = f"{what.value} are paused{f': {each.words}' if each.words else '.'}"
        yield Problem(Kind.PAUSE, what.value, each.since, Reason("Paused", words))


def _times(uow: UnitOfWork, jobs: Collection[int], kinds: Sequence[str]) -> dict[tuple[int, str], list[datetime]]:
    """Return when such events happened, by job and peer ("": of none); what was before it was sent anew is left out."""
    found: dict[tuple[int, str], list[datetime]] = defaultdict(list)
    keys = sorted(jobs)
    for start in range(0, len(keys), 1000):
        query = select(EventRow.job, EventRow.kind, EventRow.at, EventRow.numbers).where(
            EventRow.job.in_(keys[start : start + 1000]), EventRow.kind.in_((*kinds, EventKind.RESENT.value))
        )
        for row in uow.execute(query.order_by(EventRow.id)):
            key = (row.job, str(row.numbers.get("peer", "")))
            if row.kind == EventKind.RESENT.value:
                found.pop(key, None)
            else:
                found[key].append(row.at)
    return found


def _is_news(discarded_at: datetime | None, since: datetime) -> bool:
    return discarded_at is None or since > discarded_at
