"""From rows to the node's frozen records, and back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from db.engine import AnyQuery, AnyRow
from db.tables import (
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    ResultRow,
    RevisionRow,
    StudyRow,
)
from study.entities import Delivery, Event, Job, ResultObject, StoredInstance, Verdict
from study.errors import Reason
from study.headers import InstanceHeader
from study.states import DeliveryState, JobState, VerdictOutcome


def reason_to_json(reason: Reason) -> dict[str, Any]:
    """Return `reason` as a JSON object."""
    return {"code": reason.code, "words": reason.words, "numbers": dict(reason.numbers)}


def reason_from_json(value: dict[str, Any] | None) -> Reason | None:
    """Return the reason that `reason_to_json` wrote."""
    return None if value is None else Reason(value["code"], value["words"], value["numbers"])


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Return `verdict` as a JSON object."""
    return {
        "model": verdict.model_name,
        "series": verdict.series_instance_uid,
        "number": verdict.series_number,
        "description": verdict.series_description,
        "stack": verdict.stack,
        "outcome": verdict.outcome.value,
        "reasons": [reason_to_json(reason) for reason in verdict.reasons],
    }


def verdict_from_json(value: dict[str, Any]) -> Verdict:
    """Return the verdict that `verdict_to_json` wrote."""
    return Verdict(
        model_name=value["model"],
        series_instance_uid=value["series"],
        series_number=value["number"],
        series_description=value["description"],
        stack=value["stack"],
        outcome=VerdictOutcome(value["outcome"]),
        reasons=tuple(Reason(reason["code"], reason["words"], reason["numbers"]) for reason in value["reasons"]),
    )


def instances() -> AnyQuery:
    """Return the query whose rows `instance_of` reads."""
    return select(
        InstanceRow.header,
        InstanceRow.digest,
        InstanceRow.path,
        InstanceRow.inbox_path,
        InstanceRow.size,
        InstanceRow.calling_ae_title,
        InstanceRow.received_at,
        InstanceRow.fetched,
    )


def instance_of(row: AnyRow) -> StoredInstance:
    """Return the stored instance of a row of `instances`."""
    return StoredInstance(
        header=InstanceHeader.from_json(row.header),
        digest=row.digest,
        path=row.path,
        inbox_path=row.inbox_path,
        size=row.size,
        calling_ae_title=row.calling_ae_title,
        received_at=row.received_at,
        fetched=row.fetched,
    )


def jobs() -> AnyQuery:
    """Return the query whose rows `job_of` reads."""
    return (
        select(
            *JobRow.__table__.c,
            StudyRow.study_instance_uid,
            RevisionRow.number.label("revision_number"),
        )
        .join(StudyRow, StudyRow.id == JobRow.study)
        .join(RevisionRow, RevisionRow.id == JobRow.revision)
    )


def job_of(row: AnyRow) -> Job:
    """Return the job of a row of `jobs`."""
    return Job(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        revision=row.revision_number,
        model_name=row.model_name,
        model_digest=row.model_digest,
        series_instance_uid=row.series_instance_uid,
        instances_digest=row.instances_digest,
        parameters=row.parameters,
        parameters_digest=row.parameters_digest,
        deadline_seconds=row.deadline_seconds,
        state=JobState(row.state),
        current=row.current,
        attempt=row.attempt,
        crashes=row.crashes,
        interruptions=row.interruptions,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        not_before=row.not_before,
        reason=reason_from_json(row.reason),
        details=row.details,
        priority=row.priority,
    )


_RESULT_COLUMNS = (
    ResultRow.form,
    ResultRow.variant,
    ResultRow.sop_class_uid,
    ResultRow.sop_instance_uid,
    ResultRow.series_instance_uid,
    ResultRow.path,
    ResultRow.digest,
    ResultRow.size,
)


def results() -> AnyQuery:
    """Return the query whose rows `result_of` reads; `job` tells whose result it is."""
    return select(*_RESULT_COLUMNS, ResultRow.job)


def result_of(row: AnyRow) -> ResultObject:
    """Return the result object of a row of `results` or `deliveries`."""
    return ResultObject(
        form=row.form,
        variant=row.variant,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        path=row.path,
        digest=row.digest,
        size=row.size,
    )


def deliveries() -> AnyQuery:
    """Return the query whose rows `delivery_of` reads."""
    return (
        select(
            DeliveryRow.id,
            DeliveryRow.job,
            DeliveryRow.peer,
            DeliveryRow.position,
            DeliveryRow.state,
            DeliveryRow.attempts,
            DeliveryRow.problem,
            DeliveryRow.next_attempt_at,
            DeliveryRow.delivered_at,
            DeliveryRow.status,
            DeliveryRow.reason,
            DeliveryRow.stored_at,
            StudyRow.study_instance_uid,
            *_RESULT_COLUMNS,
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .join(StudyRow, StudyRow.id == DeliveryRow.study)
    )


def delivery_of(row: AnyRow) -> Delivery:
    """Return the delivery of a row of `deliveries`."""
    return Delivery(
        id=row.id,
        job_id=row.job,
        study_instance_uid=row.study_instance_uid,
        peer=row.peer,
        position=row.position,
        result=result_of(row),
        state=DeliveryState(row.state),
        attempts=row.attempts,
        problem=row.problem,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        status=row.status,
        reason=reason_from_json(row.reason),
        stored_at=row.stored_at,
    )


def event_of(row: AnyRow) -> Event:
    """Return the event of a row with the columns of `EventRow`."""
    return Event(at=row.at, kind=row.kind, words=row.words, numbers=row.numbers, job_id=row.job)


def events() -> AnyQuery:
    """Return the query whose rows `event_of` reads."""
    return select(EventRow.at, EventRow.kind, EventRow.words, EventRow.numbers, EventRow.job)
