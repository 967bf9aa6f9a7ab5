"""Earlier studies of a patient: those that are here, the searches for those that are not, and which a job reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import func, insert, select, update

from db import records
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.images import places
from db.images.image_rejections import is_excluded
from db.lasting import removals
from db.tables import InstanceRow, JobPriorRow, PatientRow, PriorSearchRow, SeriesRow, StudyRow, StudySenderRow
from study.entities import StoredInstance
from study.errors import Reason
from study.priors import INCOMPLETE, EarlierStudy, day_of, day_words
from study.searches import FoundStudy, PriorOutcome, PriorSearch, SearchState

_MOST_SERIES: Final = 12  # of one earlier study that are looked at, the largest ones
_MOST_SEARCHES: Final = 200  # of one patient, the newest ones


@dataclass(frozen=True)
class Unsearched:
    """A study that waits to be looked at, for which a search for earlier ones was not begun for every model.

    Parameters
    ----------
    study
        Its key in the database.
    models
        For which there is a search already.
    """

    study: int
    study_instance_uid: str
    generation: int
    on_request: bool
    passed_over: bool
    models: frozenset[str]


def begin_searches(uow: UnitOfWork, study_instance_uid: str, models: Collection[str]) -> None:
    """Have earlier studies searched for, for each of these models for which that was not begun before.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid, for_update=True)
    begun = set(uow.execute(select(PriorSearchRow.model_name).where(PriorSearchRow.study == study.id)).scalars())
    at = uow.now()
    rows: list[dict[str, Any]] = [
        {
            "study": study.id,
            "model_name": model,
            "state": SearchState.SEARCHING.value,
            "begun_at": at,
            "attempts": 0,
            "next_attempt_at": at,
            "found": [],
            "reason": None,
        }
        for model in sorted(set(models) - begun)
    ]
    if rows:
        uow.execute(insert(PriorSearchRow), rows)


def searches_of(uow: UnitOfWork, study_instance_uid: str) -> dict[str, PriorSearch]:
    """Return the searches for a study, by the model that they are for."""
    rows = uow.execute(_searches().where(StudyRow.study_instance_uid == study_instance_uid))
    return {row.model_name: _search(row) for row in rows}


def searches_due(uow: UnitOfWork, calling_ae_titles: Collection[str], most: int) -> list[PriorSearch]:
    """Return the searches that something is to be done about now, for studies that one of these sent; oldest first."""
    sent = select(StudySenderRow.study).where(StudySenderRow.calling_ae_title.in_(list(calling_ae_titles)))
    query = _searches().where(
        PriorSearchRow.state == SearchState.SEARCHING.value,
        PriorSearchRow.next_attempt_at <= uow.now(),
        PriorSearchRow.study.in_(sent),
    )
    return [_search(row) for row in uow.execute(query.order_by(PriorSearchRow.next_attempt_at).limit(most))]


def note_search(uow: UnitOfWork, search: PriorSearch, *, again_in_seconds: float = 0.0) -> None:
    """Put on record how far a search is, and when to go on with it, by the database's time."""
    study = places.study(uow, search.study_instance_uid)
    uow.execute(
        update(PriorSearchRow)
        .where(PriorSearchRow.study == study.id, PriorSearchRow.model_name == search.model_name)
        .values(
            state=search.state.value,
            attempts=search.attempts,
            next_attempt_at=uow.now() + timedelta(seconds=again_in_seconds),
            found=[_found_to_json(each) for each in search.found],
            reason=None if search.reason is None else records.reason_to_json(search.reason),
        )
    )


def search_again(uow: UnitOfWork, study: int) -> None:
    """Have earlier studies of a study, by its key, searched for anew where none is of use, or one was not given."""
    rows = uow.execute(_searches().where(PriorSearchRow.study == study))
    wanting = [row.id for row in rows if _is_wanting(_search(row))]
    at = uow.now()
    begun_anew = {"state": SearchState.SEARCHING.value, "attempts": 0, "found": [], "reason": None}
    again = update(PriorSearchRow).where(PriorSearchRow.id.in_(wanting))
    uow.execute(again.values(begun_at=at, next_attempt_at=at, **begun_anew))


def _is_wanting(search: PriorSearch) -> bool:
    outcomes = {each.outcome for each in search.found}
    failed = search.state is SearchState.FAILED or PriorOutcome.FAILED in outcomes
    return failed or PriorOutcome.HERE not in outcomes


def unsearched(uow: UnitOfWork, calling_ae_titles: Collection[str], models: Collection[str]) -> list[Unsearched]:
    """Return the studies that one of these sent and that wait to be looked at, without a search for each model."""
    query = (
        select(
            StudyRow.id,
            StudyRow.study_instance_uid,
            StudyRow.generation,
            StudyRow.on_request,
            StudyRow.passed_over,
            PriorSearchRow.model_name,
        )
        .join(StudySenderRow, StudySenderRow.study == StudyRow.id)
        .outerjoin(PriorSearchRow, PriorSearchRow.study == StudyRow.id)
        .where(StudyRow.evaluation_due, StudySenderRow.calling_ae_title.in_(list(calling_ae_titles)))
    )
    begun: dict[tuple[int, str, int, bool, bool], set[str]] = defaultdict(set)
    for *of_study, model in uow.execute(query):
        begun[tuple(of_study)] |= {model} - {None}
    return [Unsearched(*of_study, frozenset(known)) for of_study, known in begun.items() if not set(models) <= known]


def earlier_studies(
    uow: UnitOfWork, study_instance_uid: str, modalities: Collection[str], most: int
) -> tuple[EarlierStudy, ...]:
    """Return the earlier studies under the same Patient ID that are here, the latest first.

    Whether they are the same patient's, and earlier, is for the caller to judge by their headers; a study of the same
    day is among them.

    Parameters
    ----------
    modalities
        Of the series that may be of use; others are left out.
    most
        How many studies.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    whose = select(PatientRow.patient_id, StudyRow.study_date).join(StudyRow, StudyRow.patient == PatientRow.id)
    patient_id, study_date = uow.execute(whose.where(StudyRow.id == study.id)).one()
    if not patient_id.strip() or day_of(study_date) is None or not modalities:
        return ()
    query = (
        select(StudyRow.id, StudyRow.study_instance_uid, StudyRow.study_date, StudyRow.receiving)
        .join(PatientRow, PatientRow.id == StudyRow.patient)
        .join(SeriesRow, SeriesRow.study == StudyRow.id)
        .where(
            PatientRow.patient_id == patient_id,
            StudyRow.id != study.id,
            StudyRow.study_date != "",
            StudyRow.study_date <= study_date,
            SeriesRow.modality.in_(list(modalities)),
            select(InstanceRow.id).where(InstanceRow.series == SeriesRow.id, InstanceRow.current).exists(),
        )
        .distinct()
        .order_by(StudyRow.study_date.desc(), StudyRow.id.desc())
        .limit(most)
    )
    rows = list(uow.execute(query))
    if not rows:
        return ()
    archived, fetching = _said_by_archives(uow, patient_id)
    return tuple(_earlier(uow, row, modalities, archived, fetching) for row in rows)


def study_here(uow: UnitOfWork, study_instance_uid: str, modalities: Collection[str]) -> EarlierStudy | None:
    """Return what is here of a study, of series of these modalities; None where nothing is."""
    row = uow.execute(
        select(StudyRow.id, StudyRow.study_date).where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    series = {} if row is None else _series_of(uow, row.id, modalities)
    return EarlierStudy(study_instance_uid, row.study_date, series) if row is not None and series else None


def _earlier(
    uow: UnitOfWork, row: AnyRow, modalities: Collection[str], archived: Mapping[str, int], fetching: Collection[str]
) -> EarlierStudy:
    series = _series_of(uow, row.id, modalities)
    unready = None
    # What was fetched is never waited for in silence: the search that fetches it knows when it is all here
    if row.study_instance_uid in fetching or (row.receiving and places.senders(uow, row.id)):
        words = f"The study of {day_words(row.study_date)} is not all here yet."
        unready = Reason(INCOMPLETE, words)
    elif removals.lacking_series(uow, row.id).keys() & (series.keys() - archived.keys()):
        words = f"The study of {day_words(row.study_date)} was removed from this node, and not all of it came again."
        unready = Reason(INCOMPLETE, words)
    known = {uid: archived[uid] for uid in series if uid in archived}
    return EarlierStudy(row.study_instance_uid, row.study_date, series, known, unready)


def _series_of(uow: UnitOfWork, study: int, modalities: Collection[str]) -> dict[str, tuple[StoredInstance, ...]]:
    """Return the current instances of the largest series of a study that are of one of these modalities."""
    counted = (
        select(SeriesRow.id, SeriesRow.series_instance_uid)
        .join(InstanceRow, InstanceRow.series == SeriesRow.id)
        .where(SeriesRow.study == study, SeriesRow.modality.in_(list(modalities)), InstanceRow.current)
        .where(~is_excluded())
        .group_by(SeriesRow.id, SeriesRow.series_instance_uid)
        .order_by(func.count().desc(), SeriesRow.id)
        .limit(_MOST_SERIES)
    )
    uids = {row.id: row.series_instance_uid for row in uow.execute(counted)}
    found: dict[str, list[StoredInstance]] = defaultdict(list)
    held = records.instances().add_columns(InstanceRow.series)
    held = held.where(InstanceRow.study == study, InstanceRow.current, InstanceRow.series.in_(list(uids)))
    held = held.where(~is_excluded())
    for row in uow.execute(held.order_by(InstanceRow.id)):
        found[uids[row.series]].append(records.instance_of(row))
    return {uid: tuple(instances) for uid, instances in found.items()}


def _said_by_archives(uow: UnitOfWork, patient_id: str) -> tuple[dict[str, int], set[str]]:
    """Return how many instances an archive has of each series, and which studies are just fetched, of a patient."""
    query = (
        _searches()
        .join(PatientRow, PatientRow.id == StudyRow.patient)
        .where(PatientRow.patient_id == patient_id)
        .order_by(PriorSearchRow.id.desc())
        .limit(_MOST_SEARCHES)
    )
    counts: dict[str, int] = {}
    fetching: set[str] = set()
    for search in (_search(row) for row in uow.execute(query)):
        for each in search.found:
            for uid, count in each.series.items():
                counts[uid] = max(counts.get(uid, 0), count or 0)
            if search.state is SearchState.SEARCHING and each.outcome is PriorOutcome.FETCHING:
                fetching.add(each.study_instance_uid)
    return counts, fetching


def enter_priors(uow: UnitOfWork, job: int, priors: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Put on record which versions of which instances of earlier series a job reads.

    Parameters
    ----------
    priors
        (SOP Instance UID, digest) of each instance of each series, in their order.

    Raises
    ------
    KeyError
        If one of them is not in the index.
    """
    rows = []
    for prior, instances in enumerate(priors):
        keys = _keys_of(uow, instances)
        rows += [
            {"job": job, "prior": prior, "position": position, "instance": keys[uid, digest]}
            for position, (uid, digest) in enumerate(instances)
        ]
    if rows:
        uow.execute(insert(JobPriorRow), rows)


def _keys_of(uow: UnitOfWork, instances: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    query = select(InstanceRow.id, InstanceRow.sop_instance_uid, InstanceRow.digest)
    rows = uow.execute(query.where(InstanceRow.sop_instance_uid.in_([uid for uid, _ in instances])))
    return {(row.sop_instance_uid, row.digest): row.id for row in rows}


def priors_of_job(uow: UnitOfWork, job: int) -> list[list[StoredInstance]]:
    """Return the instances of each earlier series that a job reads, the latest series first, in the order of slices."""
    query = (
        records.instances()
        .add_columns(JobPriorRow.prior)
        .join(JobPriorRow, JobPriorRow.instance == InstanceRow.id)
        .where(JobPriorRow.job == job)
        .order_by(JobPriorRow.prior, JobPriorRow.position)
    )
    found: dict[int, list[StoredInstance]] = defaultdict(list)
    for row in uow.execute(query):
        found[row.prior].append(records.instance_of(row))
    return list(found.values())


def _searches() -> AnyQuery:
    return select(*PriorSearchRow.__table__.c, StudyRow.study_instance_uid).join(
        StudyRow, StudyRow.id == PriorSearchRow.study
    )


def _search(row: AnyRow) -> PriorSearch:
    return PriorSearch(
        study_instance_uid=row.study_instance_uid,
        model_name=row.model_name,
        state=SearchState(row.state),
        begun_at=row.begun_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        found=tuple(map(_found_from_json, row.found)),
        reason=records.reason_from_json(row.reason),
    )


def _found_to_json(found: FoundStudy) -> dict[str, Any]:
    return {
        "study": found.study_instance_uid,
        "date": found.study_date,
        "time": found.study_time,
        "outcome": found.outcome.value,
        "series": dict(found.series),
        "reason": None if found.reason is None else records.reason_to_json(found.reason),
    }


def _found_from_json(values: dict[str, Any]) -> FoundStudy:
    return FoundStudy(
        study_instance_uid=values["study"],
        study_date=values["date"],
        study_time=values["time"],
        outcome=PriorOutcome(values["outcome"]),
        series=values["series"],
        reason=records.reason_from_json(values["reason"]),
    )
