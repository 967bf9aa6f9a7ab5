"""What the manifest beside a study's files says: all that no image could tell again.

A record is written within the transaction that it tells of, before its commit. So it may tell of what was never
committed, and never lacks what was; `db.lasting.rebuilding` reads it.

================== ==================================================================================================
``closed``         models were matched: the work that the study calls for, and why what no worker ever saw was refused
``results``        a job is done; ``refused`` and ``failed`` are the other ends of one
``refusal_report`` ``withdrawn``, ``discarded``, ``resent``, ``retried``: the job after that
``stored``         a peer has a result; ``delivered`` and ``committed``: it need not be asked again
``study``          what a person said of the study
``vouched``        we answered for instances
================== ==================================================================================================
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import aliased

from db.columns import UTCDateTime
from db.engine import AnyRow, UnitOfWork
from db.files.filestore import FileStore
from db.images import image_choices
from db.tables import (
    DeliveryRow,
    InstanceRow,
    JobInstanceRow,
    JobPriorRow,
    JobRow,
    NoticeRow,
    RejectionRow,
    ResultRow,
    RevisionRow,
    StudyRow,
    Table,
    WithdrawalRow,
    WithdrawnRow,
)
from study.states import JobState

Record = dict[str, Any]

_OF_A_ROW = frozenset({"id", "study", "revision", "job", "result", "lease_owner", "lease_until"})
"""Columns that mean nothing in another database, or after the end of who wrote them."""


def job_record(uow: UnitOfWork, kind: str, job_id: int) -> Record:
    """Return all of a job as it stands: its key, what it read, what it made, and to whom that is owed."""
    job = uow.execute(_every(JobRow).where(JobRow.id == job_id)).one()
    number = uow.execute(select(RevisionRow.number).where(RevisionRow.id == job.revision)).scalar_one()
    results = uow.execute(_every(ResultRow).where(ResultRow.job == job_id).order_by(ResultRow.id)).all()
    uids = {row.id: row.sop_instance_uid for row in results}
    notice = uow.execute(_every(NoticeRow).where(NoticeRow.job == job_id)).first()
    return {
        "record": kind,
        "job": {"id": job.id, "revision": number} | values_of(job),
        "instances": _instances(uow, job_id),
        "priors": _priors(uow, job_id),
        "objects": [values_of(row) for row in results],
        "deliveries": _deliveries(uow, job_id, uids),
        "withdrawals": _withdrawals(uow, job_id, uids),
        "notice": None if notice is None else values_of(notice),
    }


def closed_record(uow: UnitOfWork, study_instance_uid: str, *, whole: bool) -> Record:
    """Return what came of matching models with a study.

    Parameters
    ----------
    whole
        Whether that was done for all models; the study awaits the others otherwise.
    """
    study = _study(uow, study_instance_uid)
    revision = uow.execute(_every(RevisionRow).where(RevisionRow.study == study.id).order_by(RevisionRow.number.desc()))
    jobs = uow.execute(_every(JobRow).where(JobRow.study == study.id, JobRow.current).order_by(JobRow.id)).all()
    unseen = [row.id for row in jobs if row.state == JobState.REFUSED.value and row.attempt == 0]
    newest = revision.first()
    return {
        "record": "closed",
        "whole": whole,
        "revision": None if newest is None else values_of(newest),
        "instances_digest": instances_digest(uow, study.id),
        "jobs": [key_of(values_of(row)) for row in jobs],
        "refused": [job_record(uow, "refused", key) for key in unseen],
        "verdicts": study.verdicts,
        **_said(uow, study),
    }


def note_work(uow: UnitOfWork, store: FileStore, kind: str, study_instance_uid: str, account: str) -> None:
    """Write down what a person had done with a study: all jobs that count (see `job_record`), and what was said.

    Parameters
    ----------
    account
        Of the person, on this machine.
    """
    study = _study(uow, study_instance_uid)
    jobs = select(JobRow.id).where(JobRow.study == study.id, JobRow.current).order_by(JobRow.id)
    for key in uow.execute(jobs).scalars().all():
        store.append_manifest(study_instance_uid, job_record(uow, kind, key) | {"account": account})
    note_words(uow, store, study_instance_uid)


def note_words(uow: UnitOfWork, store: FileStore, study_instance_uid: str) -> None:
    """Write down what a person said of a study."""
    said = _said(uow, _study(uow, study_instance_uid))
    store.append_manifest(study_instance_uid, {"record": "study"} | said)


def presence_record(kind: str, peer: str, sop_instance_uid: str, status: int) -> Record:
    """Return that a peer has a result, by its response status: `kind` is "stored" or "delivered"."""
    return {"record": kind, "peer": peer, "sop_instance_uid": sop_instance_uid, "status": status}


def key_of(job: Mapping[str, Any]) -> list[str]:
    """Return what makes a job of a study the same job, from its columns."""
    return [job[name] for name in ("model_name", "model_digest", "parameters_digest", "instances_digest")]


def instances_digest(uow: UnitOfWork, study: int) -> str:
    """Return the SHA-256 over the current versions of all instances of a study, by its key; hexadecimal."""
    query = select(InstanceRow.sop_instance_uid, InstanceRow.digest).where(
        InstanceRow.study == study, InstanceRow.current
    )
    lines = sorted(f"{row.sop_instance_uid} {row.digest}\n" for row in uow.execute(query))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _said(uow: UnitOfWork, study: AnyRow) -> Record:
    accepted = study.accepted_generation is not None and study.accepted_generation == study.generation
    return {
        "first_received_at": _json(study.first_received_at),
        "on_request": study.on_request,
        "passed_over": study.passed_over,
        "discarded_at": _json(study.discarded_at),
        "accepted": instances_digest(uow, study.id) if accepted else None,
        "images": image_choices.said(uow, study.study_instance_uid),
    }


def _study(uow: UnitOfWork, study_instance_uid: str) -> AnyRow:
    return uow.execute(_every(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid)).one()


def _instances(uow: UnitOfWork, job_id: int) -> list[list[str]]:
    query = (
        select(InstanceRow.sop_instance_uid, InstanceRow.digest)
        .join(JobInstanceRow, JobInstanceRow.instance == InstanceRow.id)
        .where(JobInstanceRow.job == job_id)
        .order_by(JobInstanceRow.position)
    )
    return [[row.sop_instance_uid, row.digest] for row in uow.execute(query)]


def _priors(uow: UnitOfWork, job_id: int) -> list[list[list[str]]]:
    query = (
        select(JobPriorRow.prior, InstanceRow.sop_instance_uid, InstanceRow.digest)
        .join(InstanceRow, InstanceRow.id == JobPriorRow.instance)
        .where(JobPriorRow.job == job_id)
        .order_by(JobPriorRow.prior, JobPriorRow.position)
    )
    found: dict[int, list[list[str]]] = defaultdict(list)
    for row in uow.execute(query):
        found[row.prior].append([row.sop_instance_uid, row.digest])
    return list(found.values())


def _deliveries(uow: UnitOfWork, job_id: int, uids: Mapping[int, str]) -> list[Record]:
    rejected = aliased(DeliveryRow)
    query = (
        select(RejectionRow.key_object, rejected.result)
        .join(rejected, rejected.id == RejectionRow.delivery)
        .where(rejected.job == job_id)
        .order_by(rejected.id)
    )
    rejects: dict[int, list[str]] = defaultdict(list)
    for row in uow.execute(query):
        rejects[row.key_object].append(uids[row.result])
    rows = uow.execute(_every(DeliveryRow).where(DeliveryRow.job == job_id).order_by(DeliveryRow.id))
    return [
        {"sop_instance_uid": uids[row.result]}
        | values_of(row)
        | ({"rejects": rejects[row.id]} if row.id in rejects else {})
        for row in rows
    ]


def _withdrawals(uow: UnitOfWork, job_id: int, uids: Mapping[int, str]) -> list[Record]:
    rows = uow.execute(_every(WithdrawalRow).where(WithdrawalRow.job == job_id).order_by(WithdrawalRow.id)).all()
    named: dict[int, list[str]] = defaultdict(list)
    for row in uow.execute(_every(WithdrawnRow).where(WithdrawnRow.withdrawal.in_([each.id for each in rows]))):
        named[row.withdrawal].append(uids[row.result])
    return [values_of(row) | {"objects": named[row.id]} for row in rows]


def _every(table: type[Table]) -> Any:  # noqa: ANN401 - a query of all columns, whatever they are
    return select(*table.__table__.c)


def values_of(row: AnyRow, without: Collection[str] = _OF_A_ROW) -> Record:
    """Return a row's columns as JSON holds them, but for some."""
    return {name: _json(value) for name, value in row._mapping.items() if name not in without}


def typed(table: type[Table], values: Mapping[str, Any]) -> Record:
    """Return those of the values that a table has columns for, times as such: what `values_of` gave, for a new row."""
    columns = table.__table__.c
    return {
        name: datetime.fromisoformat(value)
        if isinstance(value, str) and isinstance(columns[name].type, UTCDateTime)
        else value
        for name, value in values.items()
        if name in columns
    }


def _json(value: Any) -> Any:  # noqa: ANN401 - a column's value
    return value.isoformat() if isinstance(value, datetime) else value


def ended_jobs(records: Sequence[Record]) -> dict[int, Record]:
    """Return the newest record of each job that ended, by its key in the database that wrote it."""
    newest = {record["job"]["id"]: record for record in records if isinstance(record.get("job"), dict)}
    ends = {JobState.DONE.value, JobState.REFUSED.value, JobState.FAILED.value}
    return {key: record for key, record in newest.items() if record["job"]["state"] in ends}
