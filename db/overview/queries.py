"""What a person asks of the database: the list of studies, one study in full, and to try again what failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from db import records
from db.complete import inquiries, priors, questions
from db.delivery import commitments, outbox, withdrawals, withdrawn
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import image_rejections, places, versions
from db.lasting import removals
from db.tables import (
    DeliveryRow,
    EventRow,
    InquiryRow,
    InstanceRow,
    JobRow,
    PatientRow,
    ResultRow,
    RevisionRow,
    SeriesRow,
    StudyRow,
    WithdrawalRow,
)
from db.work import notices
from study.completion import awaited
from study.entities import Removal, StudyRecord, StudySummary
from study.errors import Reason
from study.forms import Form
from study.inquiry import InquiryState
from study.states import DeliveryState, JobState, StudyState, study_state

_NOT_SELECTED = "NotSelected"
_KEPT_HERE = "KeptHere"


@dataclass
class _Standing:
    """What the state of one study is derived from."""

    revision: int = 0
    awaited: Reason | None = None
    not_selected: Reason | None = None
    series: int = 0
    instances: int = 0
    removal: Removal | None = None
    jobs: list[tuple[JobState, Reason | None]] = field(default_factory=list)
    models_of_results: dict[int, str] = field(default_factory=dict)
    withdrawn: dict[int, str] = field(default_factory=dict)
    owing: set[int] = field(default_factory=set)
    deliveries: list[tuple[DeliveryState, bool, Reason | None]] = field(default_factory=list)

    def state(self, *, receiving: bool) -> StudyState:
        return study_state(
            receiving=receiving,
            jobs=[state for state, _ in self.jobs],
            deliveries=[state for state, _, _ in self.deliveries],
            evaluated=self.revision > 0,
        )

    def reason(self, state: StudyState) -> Reason | None:
        """Return why the study is in a state that a person asks about."""
        if state is StudyState.RECEIVING:
            return self.awaited
        if state is StudyState.NOT_SELECTED:
            return self.not_selected or Reason(_NOT_SELECTED, "")
        taken_back = [self.models_of_results[job] for job in self.withdrawn if job in self.models_of_results]
        if state is StudyState.DELIVERED and taken_back:
            words = " ".join(self.withdrawn.values())
            return Reason(withdrawals.WITHDRAWN, f"The results of {', '.join(taken_back)} were taken back: {words}")
        kept_here = [model for job, model in self.models_of_results.items() if job not in self.owing]
        if state is StudyState.DELIVERED and kept_here:
            return Reason(_KEPT_HERE, f"The results of {', '.join(kept_here)} are kept here, and sent to nobody.")
        failed = [reason for job, reason in self.jobs if job is JobState.FAILED]
        kept = [reason for delivery, _, reason in self.deliveries if delivery is DeliveryState.KEPT_ASIDE]
        refused = [reason for job, reason in self.jobs if job is JobState.REFUSED]
        owed = [reason for delivery, problem, reason in self.deliveries if problem]
        causes = {StudyState.FAILED: failed + kept, StudyState.REFUSED: refused, StudyState.REPORTED: owed}
        return next(iter(causes.get(state, [])), None)


def list_studies(uow: UnitOfWork, limit: int | None = None) -> list[StudySummary]:
    """Return the studies with the states they are in, those that received an instance last first."""
    rows = list(uow.execute(_studies().order_by(StudyRow.last_received_at.desc(), StudyRow.id.desc()).limit(limit)))
    standings = _standings(uow, None if limit is None else [row.id for row in rows])
    return [_summary(row, standings[row.id]) for row in rows]


def find_studies(uow: UnitOfWork, text: str, limit: int = 20) -> list[str]:
    """Return the Study Instance UIDs that `text` stands for: a UID, an accession number, or the beginning of a UID."""
    uid = select(StudyRow.study_instance_uid).order_by(StudyRow.last_received_at.desc()).limit(limit)
    ways = (
        uid.where(StudyRow.study_instance_uid == text),
        uid.where(StudyRow.accession_number == text, StudyRow.accession_number != ""),
        uid.where(StudyRow.study_instance_uid.startswith(text, autoescape=True)),
    )
    for query in ways:
        found = list(uow.execute(query).scalars())
        if found:
            return found
    return []


def study_record(uow: UnitOfWork, study_instance_uid: str) -> StudyRecord | None:
    """Return everything that is known of the study; None where the index knows no such study."""
    row = uow.execute(_studies().where(StudyRow.study_instance_uid == study_instance_uid)).first()
    if row is None:
        return None
    standing = _standings(uow, [row.id])[row.id]
    jobs = uow.execute(records.jobs().where(JobRow.study == row.id).order_by(JobRow.id))
    owed = records.deliveries().where(DeliveryRow.study == row.id).order_by(DeliveryRow.peer, DeliveryRow.id)
    deliveries = [records.delivery_of(delivery) for delivery in uow.execute(owed)]
    commitment = commitments.standings(uow, [delivery.id for delivery in deliveries])
    results = uow.execute(
        records.results().join(JobRow, JobRow.id == ResultRow.job).where(JobRow.study == row.id).order_by(ResultRow.id)
    )
    events = uow.execute(records.events().where(EventRow.study == row.id).order_by(EventRow.id))
    verdicts = uow.execute(select(StudyRow.verdicts).where(StudyRow.id == row.id)).scalar_one()
    others = uow.execute(
        records.instances().where(InstanceRow.study == row.id, ~InstanceRow.current).order_by(InstanceRow.id)
    )
    return StudyRecord(
        summary=_summary(row, standing),
        revision=standing.revision,
        series=_series(uow, row.id),
        jobs=tuple(records.job_of(job) for job in jobs),
        deliveries=tuple(replace(each, commitment=commitment.get(each.id)) for each in deliveries),
        results=tuple((result.job, records.result_of(result)) for result in results),
        events=tuple(records.event_of(event) for event in events),
        verdicts=tuple(records.verdict_from_json(verdict) for verdict in verdicts or ()),
        other_versions=tuple(records.instance_of(version) for version in others),
        standings={key: each.value for key, each in versions.standings(uow, study_instance_uid).items()},
        withdrawals=withdrawals.of_study(uow, study_instance_uid),
        rejections=image_rejections.of_study(uow, study_instance_uid),
        inquiry=inquiries.of_study(uow, study_instance_uid),
        prior_searches=tuple(priors.searches_of(uow, study_instance_uid).values()),
    )


def retry_study(uow: UnitOfWork, study_instance_uid: str, withheld: Collection[str] = ()) -> tuple[int, int]:
    """Have everything tried again that failed or waits: jobs, deliveries, and the match of models to the study.

    Failed jobs are queued as if they had never crashed, waiting ones and deliveries are due at once, what was kept
    aside is pending again, and peers are asked at once to commit themselves to what they stored; whether a refusal
    still holds is judged anew when the study is evaluated, and its archive is asked again where not all of it was
    proven to be here. A study that was judged before is wanted from then on, though it has become too old meanwhile.

    Parameters
    ----------
    withheld
        The models of which nothing may be sent.

    Returns
    -------
    tuple of int
        How many failed jobs and undelivered results are tried again.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study, now = places.study(uow, study_instance_uid, for_update=True), uow.now()
    refused_by_model = and_(JobRow.state == JobState.REFUSED.value, JobRow.attempt > 0)
    failed = update(JobRow).where(
        JobRow.study == study.id,
        JobRow.current,
        ~JobRow.inputs_removed,
        or_(JobRow.state == JobState.FAILED.value, refused_by_model),
    )
    fresh: dict[str, Any] = {"crashes": 0, "reason": None, "ended_at": None, "not_before": now}
    jobs = list(uow.execute(failed.values(state=JobState.QUEUED.value, **fresh).returning(JobRow.id)).scalars())
    notices.forget(uow, jobs)
    outbox.owe_no_more(uow, jobs)  # they had nothing but their refusals to deliver
    waiting = update(JobRow).where(JobRow.study == study.id, JobRow.state == JobState.QUEUED.value)
    uow.execute(waiting.values(not_before=now))
    deliveries = uow.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.study == study.id,
            DeliveryRow.job.in_(select(JobRow.id).where(JobRow.study == study.id, JobRow.current)),
            DeliveryRow.job.not_in(jobs),
            withdrawn.is_no_rejection(),
            ~_outdated_refusals(),
            or_(
                DeliveryRow.state == DeliveryState.KEPT_ASIDE.value,
                (DeliveryRow.state == DeliveryState.WITHHELD.value) & ~_is_of(withheld),
                (DeliveryRow.state == DeliveryState.PENDING.value) & DeliveryRow.lease_owner.is_(None),
            ),
        )
        .values(state=DeliveryState.PENDING.value, problem=False, next_attempt_at=now)
        .returning(DeliveryRow.id)
    ).all()
    owed = len(deliveries) + commitments.ask_now(uow, study.id) + withdrawals.reject_now(uow, study.id)
    notices.try_again(uow, study.id)
    inquiries.ask_again(uow, study.id)
    priors.search_again(uow, study.id)
    of_study = update(StudyRow).where(StudyRow.id == study.id)
    uow.execute(of_study.values(evaluation_due=True, discarded_at=None))
    has_jobs = select(JobRow.id).where(JobRow.study == study.id, JobRow.current).exists()
    uow.execute(of_study.where(has_jobs).values(on_request=True))
    numbers = {"jobs": len(jobs), "deliveries": owed}
    words = f"On request: {len(jobs)} job(s) and {owed} undelivered result(s) are tried again."
    record(uow, now, [NewEvent(study.id, EventKind.RETRY, words, numbers)])
    return len(jobs), owed


def _is_of(models: Collection[str]) -> ColumnElement[bool]:
    """Tell whether a delivery is of the results of one of these models."""
    return select(JobRow.id).where(JobRow.id == DeliveryRow.job, JobRow.model_name.in_(list(models))).exists()


def _outdated_refusals() -> ColumnElement[bool]:
    """Tell whether a delivery is of a refusal that was kept aside because its job ran again."""
    refusals = select(ResultRow.id).where(ResultRow.form == Form.REFUSAL.value)
    kept = DeliveryRow.state == DeliveryState.KEPT_ASIDE.value
    return and_(kept, ~DeliveryRow.problem, DeliveryRow.result.in_(refusals))


def _studies() -> AnyQuery:
    return select(
        StudyRow.id,
        StudyRow.study_instance_uid,
        StudyRow.accession_number,
        StudyRow.study_description,
        StudyRow.first_received_at,
        StudyRow.last_received_at,
        StudyRow.receiving,
        StudyRow.discarded_at,
        PatientRow.patient_id,
    ).join(PatientRow, PatientRow.id == StudyRow.patient)


def _summary(row: AnyRow, standing: _Standing) -> StudySummary:
    state = standing.state(receiving=row.receiving)
    return StudySummary(
        study_instance_uid=row.study_instance_uid,
        state=state,
        patient_id=row.patient_id,
        accession_number=row.accession_number,
        study_description=row.study_description,
        series=standing.series,
        instances=standing.instances,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        reason=standing.reason(state),
        discarded_at=row.discarded_at,
        removal=standing.removal,
    )


def _standings(uow: UnitOfWork, studies: Collection[int] | None) -> dict[int, _Standing]:
    """Return where each study stands, in one query per table; None: all studies."""
    standings: dict[int, _Standing] = defaultdict(_Standing)

    def of_these(query: AnyQuery, column: Any) -> Sequence[AnyRow]:  # noqa: ANN401 - a mapped column
        return uow.execute(query if studies is None else query.where(column.in_(studies))).all()

    counts = select(InstanceRow.study, func.count(), func.count(InstanceRow.series.distinct())).where(
        InstanceRow.current
    )
    for study, instances, series in of_these(counts.group_by(InstanceRow.study), InstanceRow.study):
        standings[study].instances, standings[study].series = instances, series
    removed = of_these(select(StudyRow.id).where(StudyRow.removed_at.is_not(None)), StudyRow.id)
    for study, removal in removals.of_studies(uow, [row.id for row in removed]).items():
        standings[study].removal = removal
    revisions = select(
        RevisionRow.study, RevisionRow.number, RevisionRow.not_selected, RevisionRow.not_admitted
    ).order_by(RevisionRow.number)
    for study, number, words, not_admitted in of_these(revisions, RevisionRow.study):
        why = records.reason_from_json(not_admitted) or Reason(_NOT_SELECTED, words or "")
        standings[study].revision, standings[study].not_selected = number, why
    asking = questions.inquiries().where(InquiryRow.state == InquiryState.ASKING.value)
    for row in of_these(asking, InquiryRow.study):
        standings[row.study].awaited = awaited(questions.inquiry_of(row))
    jobs = (
        select(JobRow.study, JobRow.id, JobRow.model_name, JobRow.state, JobRow.reason)
        .where(JobRow.current)
        .order_by(JobRow.id)
    )
    for study, key, model, state, reason in of_these(jobs, JobRow.study):
        standings[study].jobs.append((JobState(state), records.reason_from_json(reason)))
        if state == JobState.DONE.value:
            standings[study].models_of_results[key] = model
    taken_back = select(WithdrawalRow.study, WithdrawalRow.job, WithdrawalRow.words).order_by(WithdrawalRow.id)
    for study, job, words in of_these(taken_back, WithdrawalRow.study):
        standings[study].withdrawn[job] = words
    owed = (
        select(DeliveryRow.study, DeliveryRow.job, DeliveryRow.state, DeliveryRow.problem, DeliveryRow.reason)
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .where(JobRow.current, ResultRow.form != Form.REFUSAL.value)
        .order_by(DeliveryRow.id)
    )
    for study, job, state, problem, reason in of_these(owed, DeliveryRow.study):
        if state not in (DeliveryState.WITHHELD.value, DeliveryState.STANDBY.value):
            standings[study].owing.add(job)
        standings[study].deliveries.append((DeliveryState(state), problem, records.reason_from_json(reason)))
    return standings


def _series(uow: UnitOfWork, study: int) -> tuple[dict[str, Any], ...]:
    query = (
        select(
            SeriesRow.series_instance_uid,
            SeriesRow.modality,
            SeriesRow.series_number,
            SeriesRow.series_description,
            func.count(InstanceRow.id).label("instances"),
        )
        .join(InstanceRow, (InstanceRow.series == SeriesRow.id) & InstanceRow.current, isouter=True)
        .where(SeriesRow.study == study)
        .group_by(SeriesRow.id)
        .order_by(SeriesRow.id)
    )
    return tuple(dict(row._mapping) for row in uow.execute(query))
