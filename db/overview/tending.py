"""What a person does about a study that is stuck, or lost elsewhere: lets go of what failed, has results sent again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select, update

from db import records
from db.delivery.outdated import outdated_results, unread_notes
from db.delivery.withdrawn import REJECTION_POSITION
from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.overview import problems
from db.tables import DeliveryRow, JobRow, NoticeRow, ResultRow, StudyRow, WithdrawnRow
from study.entities import ResultObject
from study.errors import ArchiveError
from study.forms import Form
from study.states import DeliveryState, JobState, delivery_sources

_NO_RESULTS: Final = (Form.REFUSAL.value, Form.REJECTION.value)
_GONE: Final = (DeliveryState.STORED.value, DeliveryState.DELIVERED.value)


@dataclass(frozen=True)
class Failed:
    """What failed in a study and needs a person.

    Parameters
    ----------
    jobs
        Keys of its failed jobs, with their models.
    owed
        How many objects each peer is not sent any more, by its name.
    asked
        How many objects each peer stored that it does not commit itself to: it is asked on.
    rejections
        How many rejections of withdrawn results a peer does not heed, by its name.
    reports
        How many refusal reports could not be written.
    discarded_at
        When a person let go of what failed before.
    outdated
        How many result objects peers have of images that were rejected since.
    unread
        How many Key Objects that may reject images of it could not be read.
    """

    jobs: Sequence[tuple[int, str]]
    owed: Counter[str]
    asked: Counter[str]
    rejections: Counter[str]
    reports: int
    discarded_at: datetime | None
    outdated: int = 0
    unread: int = 0

    def __bool__(self) -> bool:
        return bool(
            self.jobs or self.owed or self.asked or self.rejections or self.reports or self.outdated or self.unread
        )


@dataclass(frozen=True)
class Sendable:
    """A result that a peer was sent; `delivery` is its key in the outbox."""

    delivery: int
    job: int
    model: str
    peer: str
    object: ResultObject


def failed(uow: UnitOfWork, study_instance_uid: str, destinations: Collection[str]) -> Failed:
    """Return what failed in the study.

    Parameters
    ----------
    destinations
        The peers that the configuration sends results, by name.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    jobs = select(JobRow.id, JobRow.model_name).where(JobRow.study == study.id, problems.is_failed())
    reports = select(func.count()).select_from(NoticeRow).where(NoticeRow.study == study.id, NoticeRow.given_up)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in _troubled(uow, study.id, destinations):
        if row.position >= REJECTION_POSITION:
            counts["rejections"][row.peer] += 1
        else:
            counts["asked" if row.state == DeliveryState.STORED.value else "owed"][row.peer] += 1
    return Failed(
        [(row.id, row.model_name) for row in uow.execute(jobs.order_by(JobRow.id))],
        counts["owed"],
        counts["asked"],
        counts["rejections"],
        uow.execute(reports).scalar_one(),
        uow.execute(select(StudyRow.discarded_at).where(StudyRow.id == study.id)).scalar_one(),
        sum(each.objects for each in outdated_results(uow) if each.study_instance_uid == study_instance_uid),
        sum(each.study_instance_uid == study_instance_uid for each in unread_notes(uow)),
    )


def discard(uow: UnitOfWork, study_instance_uid: str, destinations: Collection[str], account: str) -> Failed:
    """Let go of what failed in the study, on record: it is no problem any more, and what is owed of it is kept aside.

    Failed jobs stay failed; rejections that a peer does not heed count as seen to. Images that arrive undo it, and
    `db.overview.queries.retry_study`.

    Parameters
    ----------
    account
        Of the person, on this machine.

    Raises
    ------
    ArchiveError
        If the index knows no such study, or a sender holds some of it just now.
    """
    study, now = places.study(uow, study_instance_uid, for_update=True), uow.now()
    rows = _troubled(uow, study.id, destinations, for_update=True)
    if any(row.lease_owner is not None and row.next_attempt_at > now and _is_pending(row) for row in rows):
        raise ArchiveError("Some of it is being sent just now; nothing was discarded. Try again in a minute.")
    found = failed(uow, study_instance_uid, destinations)
    pending = [row for row in rows if _is_pending(row)]
    kept = {"state": DeliveryState.KEPT_ASIDE.value, "problem": True, "lease_owner": None}
    aside = update(DeliveryRow).where(DeliveryRow.id.in_([row.id for row in pending]))
    uow.execute(aside.values(kept))
    lost = [row.id for row in pending if row.lease_owner is not None]  # its sender died: it may have brought it there
    uow.execute(update(DeliveryRow).where(DeliveryRow.id.in_(lost)).values(unsure=True))
    seen = [row.id for row in rows if row.position >= REJECTION_POSITION]
    uow.execute(update(DeliveryRow).where(DeliveryRow.id.in_(seen)).values(problem=False))
    uow.execute(update(StudyRow).where(StudyRow.id == study.id).values(discarded_at=now))
    numbers = {
        "account": account,
        "jobs": len(found.jobs),
        "deliveries": found.owed.total(),
        "rejections": found.rejections.total(),
    }
    words = (
        f"{account} let go of what failed: {len(found.jobs)} analysis job(s), {found.owed.total()} undelivered "
        f"object(s), {found.rejections.total()} rejection(s)."
    )
    record(uow, now, [NewEvent(study.id, EventKind.DISCARDED, words, numbers)])
    return found


def sendable(uow: UnitOfWork, study_instance_uid: str) -> list[Sendable]:
    """Return the results of the study that count and that peers were sent, in the order in which they must go.

    What was taken back is not among them, nor are refusal reports.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    query = (
        records.deliveries()
        .add_columns(JobRow.model_name)
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .where(
            DeliveryRow.study == study.id,
            DeliveryRow.state.in_(_GONE),
            JobRow.current,
            JobRow.state == JobState.DONE.value,
            ResultRow.form.not_in(_NO_RESULTS),
            ResultRow.id.not_in(select(WithdrawnRow.result)),
        )
        .order_by(DeliveryRow.peer, DeliveryRow.position, DeliveryRow.id)
    )
    return [Sendable(row.id, row.job, row.model_name, row.peer, records.result_of(row)) for row in uow.execute(query)]


def taken_back(uow: UnitOfWork, study_instance_uid: str) -> int:
    """Return how many results of the study that count were taken back."""
    query = (
        select(func.count())
        .select_from(WithdrawnRow)
        .join(ResultRow, ResultRow.id == WithdrawnRow.result)
        .join(JobRow, JobRow.id == ResultRow.job)
        .join(StudyRow, StudyRow.id == JobRow.study)
        .where(StudyRow.study_instance_uid == study_instance_uid, JobRow.current)
    )
    count: int = uow.execute(query).scalar_one()
    return count


def resend(uow: UnitOfWork, study_instance_uid: str, chosen: Sequence[Sendable], account: str) -> int:
    """Have these results sent again, on record, as if they had never been; return how many objects that are.

    Parameters
    ----------
    account
        Of the person, on this machine.

    Raises
    ------
    ArchiveError
        If the index knows no such study, or one of them has changed its state meanwhile; then nothing is sent.
    """
    study, now = places.study(uow, study_instance_uid, for_update=True), uow.now()
    sources = [state.value for state in delivery_sources(DeliveryState.PENDING) if state.value in _GONE]
    keys = [each.delivery for each in chosen]
    current = select(JobRow.id).where(JobRow.id == DeliveryRow.job, JobRow.current).exists()
    again = update(DeliveryRow).where(DeliveryRow.id.in_(keys), DeliveryRow.state.in_(sources), current)
    fresh = {"attempts": 0, "problem": False, "reason": None, "status": None, "lease_owner": None}
    pending = {"state": DeliveryState.PENDING.value, "next_attempt_at": now, "unsure": True}  # the peer may have it
    if len(uow.execute(again.values(fresh | pending).returning(DeliveryRow.id)).all()) != len(keys):
        raise ArchiveError("The results changed just now; nothing is sent again. Try once more.")
    counts = Counter((each.job, each.peer) for each in chosen)
    told = [
        NewEvent(
            study.id,
            EventKind.RESENT,
            f"{account} has {count} object(s) sent to {peer} again.",
            {"peer": peer, "objects": count, "account": account},
            job,
        )
        for (job, peer), count in counts.items()
    ]
    record(uow, now, told)
    return len(keys)


def _is_pending(row: AnyRow) -> bool:
    return bool(row.state == DeliveryState.PENDING.value)


def _troubled(
    uow: UnitOfWork, study: int, destinations: Collection[str], *, for_update: bool = False
) -> Sequence[AnyRow]:
    query = (
        select(
            DeliveryRow.id,
            DeliveryRow.peer,
            DeliveryRow.state,
            DeliveryRow.position,
            DeliveryRow.lease_owner,
            DeliveryRow.next_attempt_at,
        )
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .where(DeliveryRow.study == study, problems.in_trouble(destinations))
        .order_by(DeliveryRow.id)
    )
    return uow.execute(query.with_for_update(of=DeliveryRow) if for_update else query).all()
