"""What rejections leave to a person: results of rejected images that peers have, Key Objects that could not be read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.tables import (
    DeliveryRow,
    InstanceRow,
    JobInstanceRow,
    JobRow,
    RejectedImageRow,
    RejectionNoteRow,
    ResultRow,
    StudyRow,
    WithdrawnRow,
)
from study.forms import REPORTS, Form
from study.rejections import RejectionTitle
from study.states import DeliveryState, JobState

_THERE: Final = (DeliveryState.STORED.value, DeliveryState.DELIVERED.value)
_NO_RESULTS: Final = (Form.REFUSAL.value, Form.REJECTION.value)
_REPORTS: Final = tuple(form.value for form in REPORTS)
_IN_PLACE: Final = (JobState.QUEUED.value, JobState.RUNNING.value, JobState.DONE.value)
_CHUNK: Final = 500


@dataclass(frozen=True)
class Outdated:
    """What peers have of an analysis that read images which were rejected since.

    Parameters
    ----------
    sop_instance_uid
        Of one of the objects: its report, where there is one.
    since
        When the last of the images was rejected.
    """

    job: int
    model: str
    study_instance_uid: str
    peers: tuple[str, ...]
    objects: int
    sop_instance_uid: str
    since: datetime
    discarded_at: datetime | None


def outdated_results(uow: UnitOfWork) -> list[Outdated]:
    """Return which results are with peers though images of theirs were rejected: of each model the newest.

    Left out is what was withdrawn, what a Key Object of an archive rejects too, and what a newer analysis takes the
    place of, or is about to.
    """
    since = _rejected_since(uow)
    jobs = sorted(since)
    groups: dict[int, list[AnyRow]] = defaultdict(list)
    for start in range(0, len(jobs), _CHUNK):
        for row in uow.execute(_with_peers().where(JobRow.id.in_(jobs[start : start + _CHUNK]))):
            groups[row.job].append(row)
    newest: dict[tuple[int, str], Outdated] = {}
    for rows in groups.values():  # in the order in which they ended
        newest[rows[0].study, rows[0].model_name] = _outdated(rows, since[rows[0].job])
    return list(newest.values())


@dataclass(frozen=True)
class UnreadNote:
    """A Key Object that may reject images of its study, and could not be read."""

    key_object: str
    study_instance_uid: str
    since: datetime
    discarded_at: datetime | None


def unread_notes(uow: UnitOfWork) -> list[UnreadNote]:
    """Return the Key Objects that may reject images and could not be read, each once."""
    query = (
        select(
            RejectionNoteRow.sop_instance_uid,
            StudyRow.study_instance_uid,
            func.max(RejectionNoteRow.received_at).label("since"),
            StudyRow.discarded_at,
        )
        .join(StudyRow, StudyRow.id == RejectionNoteRow.study)
        .where(RejectionNoteRow.title == RejectionTitle.UNREAD.value)
        .group_by(RejectionNoteRow.sop_instance_uid, StudyRow.study_instance_uid, StudyRow.discarded_at)
    )
    return [UnreadNote(*row) for row in uow.execute(query)]


def _rejected_since(uow: UnitOfWork) -> dict[int, datetime]:
    """Return the jobs that read what was rejected, by their keys, and when that was."""
    query = (
        select(JobInstanceRow.job, func.max(RejectionNoteRow.received_at).label("since"))
        .join(InstanceRow, InstanceRow.id == JobInstanceRow.instance)
        .join(StudyRow, StudyRow.id == InstanceRow.study)
        .join(RejectedImageRow, RejectedImageRow.sop_instance_uid == InstanceRow.sop_instance_uid)
        .join(RejectionNoteRow, RejectionNoteRow.id == RejectedImageRow.note)
        .where(RejectedImageRow.excluded, RejectedImageRow.study_instance_uid == StudyRow.study_instance_uid)
        .group_by(JobInstanceRow.job)
    )
    return {row.job: row.since for row in uow.execute(query)}


def _with_peers() -> AnyQuery:
    """Return the query for the deliveries of results that count with a peer, and that nobody took back."""
    other = aliased(JobRow)
    place_is_taken = select(other.id).where(
        other.study == JobRow.study, other.model_name == JobRow.model_name, other.current, other.state.in_(_IN_PLACE)
    )
    rejected_too = select(RejectedImageRow.note).where(RejectedImageRow.sop_instance_uid == ResultRow.sop_instance_uid)
    return (
        select(
            JobRow.id.label("job"), JobRow.study, JobRow.model_name, StudyRow.study_instance_uid, StudyRow.discarded_at,
            DeliveryRow.peer, ResultRow.form, ResultRow.sop_instance_uid,
        )
        .join(StudyRow, StudyRow.id == JobRow.study)
        .join(DeliveryRow, DeliveryRow.job == JobRow.id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .where(DeliveryRow.state.in_(_THERE), ResultRow.form.not_in(_NO_RESULTS), ~StudyRow.evaluation_due)
        .where(ResultRow.id.not_in(select(WithdrawnRow.result)), ~rejected_too.exists(), ~place_is_taken.exists())
        .order_by(JobRow.ended_at, JobRow.id, DeliveryRow.id)
    )  # fmt: skip


def _outdated(rows: list[AnyRow], since: datetime) -> Outdated:
    first = rows[0]
    reports = [row.sop_instance_uid for row in rows if row.form in _REPORTS]
    return Outdated(
        first.job,
        first.model_name,
        first.study_instance_uid,
        tuple(dict.fromkeys(row.peer for row in rows)),
        len({row.sop_instance_uid for row in rows}),
        (reports or [first.sop_instance_uid])[0],
        since,
        first.discarded_at,
    )
