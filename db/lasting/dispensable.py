"""Which studies retention may remove, the oldest first, and what spares the others.

A study may go once nothing is owed of it, nothing works on it, and nobody needs it for anything else known here.
Each ground is a condition on the study's row, so that one query finds what may go in a store of any size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, select

from db.delivery.outdated import outdated_results
from db.delivery.withdrawn import REJECTION_POSITION
from db.engine import AnyQuery, UnitOfWork
from db.overview.problems import is_failed
from db.tables import (
    DeliveryRow,
    InstanceRow,
    JobPriorRow,
    JobRow,
    NoticeRow,
    PatientRow,
    RejectedImageRow,
    ResultRow,
    StudyRow,
    VouchRow,
)
from study.forms import Form
from study.identity import PIXELS_CHANGED
from study.states import DeliveryState, JobState

_CHUNK: Final = 500
_AT_WORK: Final = (JobState.QUEUED.value, JobState.RUNNING.value)
_OWED: Final = (DeliveryState.PENDING.value, DeliveryState.STORED.value)


class Ground(StrEnum):
    """What spares a study; of several that hold the first is told."""

    OPEN = "open"  # instances arrive, or it awaits its evaluation
    AT_WORK = "at_work"  # an analysis waits or runs
    OWED = "owed"  # a result, report or rejection is not with its peer, or the peer has not committed itself to it
    REPORT = "report"  # a refusal report is still to be written
    ALARM = "alarm"  # an image came again with other pixels, and nobody decided yet
    FAILED = "failed"  # and no person let go of it
    OUTDATED = "outdated"  # images of its results were rejected since, and nobody saw to what peers have
    PRIOR = "prior"  # of a patient of whom another study is open, which may be compared with it
    ASKED = "asked"  # a peer asks us to commit ourselves to it, and is not answered yet
    VOUCHED = "vouched"  # we committed ourselves to a peer to keep it


@dataclass(frozen=True)
class Limits:
    """What may be kept.

    Parameters
    ----------
    days
        For how long a study is kept after its last image; None: whatever its age.
    most_bytes
        How much all files may hold [bytes]; None: whatever fits on the disk.
    vouched_days
        For how long what we committed ourselves to is kept; None: for good.
    """

    days: float | None = None
    most_bytes: int | None = None
    vouched_days: float | None = None


@dataclass(frozen=True)
class KeptStudy:
    """A study of which something is here: how much of it [bytes], and what spares it (None: it may go)."""

    study_instance_uid: str
    last_received_at: datetime
    size: int
    ground: Ground | None = None


def used_bytes(uow: UnitOfWork) -> int:
    """Return how much the files of all studies and results hold, by what is counted of them [bytes]."""
    images = uow.execute(select(func.sum(StudyRow.stored_bytes)).where(StudyRow.stored_bytes > 0)).scalar_one()
    results = uow.execute(select(func.sum(ResultRow.size)).where(ResultRow.removed_at.is_(None))).scalar_one()
    return int(images or 0) + int(results or 0)


def due(uow: UnitOfWork, limits: Limits, most: int) -> list[KeptStudy]:
    """Return the studies that must go for the limits to hold and may, the oldest first, and no more than `most`."""
    grounds = _grounds(uow, limits)
    used, excess = 0, 0
    if limits.most_bytes is not None:
        used = used_bytes(uow)
        excess = used - limits.most_bytes
    before = None if limits.days is None else uow.now() - timedelta(days=limits.days)
    query = _kept().where(*(~condition for condition in grounds.values()))
    if excess <= 0:
        if before is None:
            return []
        query = query.where(StudyRow.last_received_at < before)
    found: list[KeptStudy] = []
    for row in uow.execute(query.limit(most)):
        if excess <= 0 and (before is None or row.last_received_at >= before):
            break
        found.append(KeptStudy(row.study_instance_uid, row.last_received_at, int(row.size)))
        excess -= int(row.size)
    return found


def kept_studies(uow: UnitOfWork, limits: Limits) -> list[KeptStudy]:
    """Return every study of which something is here, the oldest first, with what spares it."""
    grounds = _grounds(uow, limits)
    query = _kept().add_columns(*(condition.label(ground.value) for ground, condition in grounds.items()))
    return [
        KeptStudy(
            row.study_instance_uid,
            row.last_received_at,
            int(row.size),
            next((ground for ground in grounds if row._mapping[ground.value]), None),
        )
        for row in uow.execute(query)
    ]


def spared_by(uow: UnitOfWork, study: int, limits: Limits) -> Ground | None:
    """Return what spares a study now, by its key; None: it may go."""
    grounds = _grounds(uow, limits)
    columns = [condition.label(ground.value) for ground, condition in grounds.items()]
    query = select(*columns).select_from(StudyRow).join(PatientRow, PatientRow.id == StudyRow.patient)
    row = uow.execute(query.where(StudyRow.id == study)).one()
    return next((ground for ground in grounds if row._mapping[ground.value]), None)


def _kept() -> AnyQuery:
    results = (
        select(func.coalesce(func.sum(ResultRow.size), 0))
        .join(JobRow, JobRow.id == ResultRow.job)
        .where(JobRow.study == StudyRow.id, ResultRow.removed_at.is_(None))
        .scalar_subquery()
    )
    size = (StudyRow.stored_bytes + results).label("size")
    return (
        select(StudyRow.study_instance_uid, StudyRow.last_received_at, size)
        .join(PatientRow, PatientRow.id == StudyRow.patient)
        .where(StudyRow.stored_bytes > 0)
        .order_by(StudyRow.last_received_at, StudyRow.id)
    )


def _grounds(uow: UnitOfWork, limits: Limits) -> dict[Ground, ColumnElement[bool]]:
    """Return each ground as a condition on a row of `StudyRow` joined with its patient's, in the order of telling."""
    return {
        Ground.OPEN: or_(StudyRow.receiving, StudyRow.evaluation_due),
        Ground.AT_WORK: _has_job(JobRow.state.in_(_AT_WORK)),
        Ground.OWED: _has_delivery(_is_owed()),
        Ground.REPORT: _owes_report(),
        Ground.ALARM: _has_job(and_(JobRow.current, JobRow.state == JobState.REFUSED.value, _is_alarm())),
        Ground.FAILED: or_(_has_job(and_(is_failed(), _is_news())), _is_stuck()),
        Ground.OUTDATED: StudyRow.study_instance_uid.in_(_outdated(uow)),
        Ground.PRIOR: _may_be_compared_with(),
        Ground.ASKED: StudyRow.id.in_(_asked_for(uow)),
        Ground.VOUCHED: _is_vouched(uow, limits),
    }


def _has_job(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(JobRow.id).where(JobRow.study == StudyRow.id, condition).exists()


def _has_delivery(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(DeliveryRow.id).where(DeliveryRow.study == StudyRow.id, condition).exists()


def _is_owed() -> ColumnElement[bool]:
    """Tell whether a delivery is under way, or a rejection may still have to go out."""
    on_call = and_(DeliveryRow.state == DeliveryState.STANDBY.value, DeliveryRow.position >= REJECTION_POSITION)
    return or_(DeliveryRow.state.in_(_OWED), DeliveryRow.lease_owner.is_not(None), on_call)


def _owes_report() -> ColumnElement[bool]:
    waiting = select(NoticeRow.study).where(~NoticeRow.given_up)
    given_up = and_(StudyRow.discarded_at.is_(None), StudyRow.id.in_(select(NoticeRow.study)))
    return or_(StudyRow.id.in_(waiting), given_up)


def _is_alarm() -> ColumnElement[bool]:
    return cast(JobRow.reason, Text).like(f'%"{PIXELS_CHANGED}"%')


def _is_news() -> ColumnElement[bool]:
    """Tell whether a job failed since a person let go of what failed in its study, if anybody did."""
    ended_at = func.coalesce(JobRow.ended_at, JobRow.created_at)
    return or_(StudyRow.discarded_at.is_(None), ended_at > StudyRow.discarded_at)


def _is_stuck() -> ColumnElement[bool]:
    """Tell whether a peer will not take something that counts, and no person let go of it."""
    of_results = ResultRow.form.not_in((Form.REFUSAL.value, Form.REJECTION.value))
    counts = or_(JobRow.current, DeliveryRow.position >= REJECTION_POSITION)
    kept_aside = (
        select(DeliveryRow.study)
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .where(DeliveryRow.state == DeliveryState.KEPT_ASIDE.value)
        .where(or_(and_(counts, DeliveryRow.problem), and_(JobRow.current, of_results)))
    )
    return and_(StudyRow.discarded_at.is_(None), StudyRow.id.in_(kept_aside))


def _may_be_compared_with() -> ColumnElement[bool]:
    """Tell whether a job that is at work reads the study as an earlier one, or a job of an open study may come to."""
    at_work = select(JobRow.id).where(JobRow.state.in_(_AT_WORK))
    read = (
        select(InstanceRow.study)
        .join(JobPriorRow, JobPriorRow.instance == InstanceRow.id)
        .where(JobPriorRow.job.in_(at_work))
    )
    working = select(JobRow.study).where(JobRow.state.in_(_AT_WORK))
    waited_on = (
        select(PatientRow.patient_id)
        .join(StudyRow, StudyRow.patient == PatientRow.id)
        .where(PatientRow.patient_id != "", or_(StudyRow.evaluation_due, StudyRow.id.in_(working)))
    )
    return or_(StudyRow.id.in_(read), PatientRow.patient_id.in_(waited_on.correlate(None)))


def _outdated(uow: UnitOfWork) -> Collection[str]:
    if uow.execute(select(RejectedImageRow.note).where(RejectedImageRow.excluded).limit(1)).first() is None:
        return ()
    found = outdated_results(uow)
    return {each.study_instance_uid for each in found if each.discarded_at is None or each.since > each.discarded_at}


def _is_vouched(uow: UnitOfWork, limits: Limits) -> ColumnElement[bool]:
    vouched = select(InstanceRow.id).where(InstanceRow.study == StudyRow.id, InstanceRow.vouched_at.is_not(None))
    if limits.vouched_days is not None:
        vouched = vouched.where(InstanceRow.vouched_at >= uow.now() - timedelta(days=limits.vouched_days))
    return vouched.exists()


def _asked_for(uow: UnitOfWork) -> Collection[int]:
    """Return the studies, by their keys, of which a peer's request that is not answered yet names an instance."""
    wanted = sorted(
        {each["sop_instance_uid"] for objects in uow.execute(select(VouchRow.wanted)).scalars() for each in objects}
    )
    found: set[int] = set()
    for start in range(0, len(wanted), _CHUNK):
        chunk: Sequence[str] = wanted[start : start + _CHUNK]
        query = select(InstanceRow.study).where(InstanceRow.sop_instance_uid.in_(chunk))
        found.update(uow.execute(query).scalars())
    return found
