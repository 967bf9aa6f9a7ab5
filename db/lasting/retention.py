"""Removing the images and results of a study from the database, and the record of it that outlives the database.

The record is in the study's manifest before its rows go, and its files go after them: whatever ends in between, the
next look finds what is left to do. Revisions, jobs, results and deliveries stay as rows, so that it is still told what
was found in the study, by what, and who has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, insert, select, update

from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.lasting.dispensable import Ground, Limits, spared_by
from db.lasting.ledger import typed, values_of
from db.tables import (
    DeliveryRow,
    InstanceRow,
    JobInstanceRow,
    JobPriorRow,
    JobRow,
    NoticeRow,
    PatientRow,
    ResultRow,
    RevisionRow,
    SeriesRow,
    StudyRow,
    StudySenderRow,
)
from study.states import DeliveryState

REMOVED: Final = "removed"
"""What the manifest's record of it is called."""

_CHUNK: Final = 500
_WRITING: Final = frozenset({Ground.OPEN, Ground.AT_WORK, Ground.OWED, Ground.REPORT})
"""While these hold, a worker may write a result of the study."""
_KEY_OF_JOB: Final = (JobRow.model_name, JobRow.model_digest, JobRow.parameters_digest, JobRow.instances_digest)
_OF_THE_DATABASE: Final = ("id", "patient", "receiving", "evaluation_due", "stored_bytes", "files_left")


def hold(uow: UnitOfWork, study_instance_uid: str, limits: Limits) -> Ground | None:
    """Return what spares the study; None: it may go, and nothing of it changes until the transaction ends.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    uow.serialise("index")  # nobody may add an instance of it, and nothing may come to read it, meanwhile
    study = places.study(uow, study_instance_uid, for_update=True)
    held = select(InstanceRow.id).where(InstanceRow.study == study.id).with_for_update()
    uow.execute(held).all()  # nor may anybody commit us to keep one
    return spared_by(uow, study.id, limits)


def removed_record(uow: UnitOfWork, study_instance_uid: str) -> dict[str, Any]:
    """Return what the manifest says of a study that is removed now: all that no image tells any more, and what goes.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    key, now = places.study(uow, study_instance_uid).id, uow.now()
    study = uow.execute(select(*StudyRow.__table__.c).where(StudyRow.id == key)).one()
    patient = uow.execute(select(*PatientRow.__table__.c).where(PatientRow.id == study.patient)).one()
    instances = uow.execute(
        select(
            InstanceRow.id, InstanceRow.series, InstanceRow.sop_instance_uid, InstanceRow.digest,
            InstanceRow.current, InstanceRow.path,
        ).where(InstanceRow.study == key).order_by(InstanceRow.id)
    ).all()  # fmt: skip
    series = [_series_record(row, instances) for row in _series_of(uow, key)]
    total = sum(max(each["current"], each["removed_instances"]) for each in series)
    gone = {"removed_at": now.isoformat(), "removed_instances": total}
    return {
        "record": REMOVED,
        "removed_at": now.isoformat(),
        "study": values_of(study, _OF_THE_DATABASE) | gone,
        "patient": values_of(patient, ("id",)),
        "senders": sorted(places.senders(uow, key)),
        "series": series,
        "revisions": [values_of(row, ("id", "study")) for row in _revisions_of(uow, key)],
        "instances": [[row.sop_instance_uid, row.digest, row.path] for row in instances],
        "jobs": _inputs_of_jobs(uow, key, instances),
        "results": [[row.sop_instance_uid, row.path] for row in _kept_results(uow, key, ~_may_be_sent())],
    }


def remove(uow: UnitOfWork, study_instance_uid: str, removed: Mapping[str, Any]) -> None:
    """Let the study's instances go, and mark its results as removed; their files are still to be removed.

    Parameters
    ----------
    removed
        What `removed_record` returned in this transaction, and the manifest has by now.
    """
    study, now = places.study(uow, study_instance_uid), datetime.fromisoformat(removed["removed_at"])
    instances = list(uow.execute(select(InstanceRow.id).where(InstanceRow.study == study.id)).scalars())
    for start in range(0, len(instances), _CHUNK):
        _let_go(uow, instances[start : start + _CHUNK])
    _note_series(uow, study.id, {each["series_instance_uid"]: each["current"] for each in removed["series"]})
    going = [row.id for row in _kept_results(uow, study.id, ~_may_be_sent())]
    uow.execute(update(ResultRow).where(ResultRow.id.in_(going)).values(removed_at=now))
    uow.execute(delete(NoticeRow).where(NoticeRow.study == study.id))  # given up, and a person let go of it
    values = {"removed_at": now, "removed_instances": removed["study"]["removed_instances"]}
    values |= {"stored_bytes": 0, "files_left": True}
    uow.execute(update(StudyRow).where(StudyRow.id == study.id).values(values))
    numbers = {"instances": len(instances), "results": len(removed["results"])}
    words = (
        f"Retention removed {len(instances)} image(s) and {len(removed['results'])} result object(s) from this node; "
        "what was found, and who has it, stays on record."
    )
    record(uow, now, [NewEvent(study.id, EventKind.REMOVED, words, numbers)])


def restore_removed(
    uow: UnitOfWork,
    study_instance_uid: str,
    removed: Mapping[str, Any],
    is_here: Callable[[str], bool] = lambda _path: False,
) -> None:
    """Put a study that was removed into a database that lost it, as the record in its manifest tells.

    What is there already stays as it is: the study itself, where images of it are here again, and its revisions. Of the
    results that the record names, and of jobs whose images are not here, those that are in the database are marked as
    removed: call it (again) once all are. Where every file of the record is here the removal was never made: a kill
    came between the record and the database. Then nothing changes.

    Parameters
    ----------
    is_here
        Tells whether a file is in the store, by its path relative to that.
    """
    if all(is_here(path) for path in removed_paths(removed)):
        return
    there = uow.execute(select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)).scalar()
    key = _enter_study(uow, removed) if there is None else int(there)
    removed_at = datetime.fromisoformat(removed["removed_at"])
    values = {"removed_at": removed_at, "removed_instances": removed["study"]["removed_instances"]}
    uow.execute(update(StudyRow).where(StudyRow.id == key).values(values))
    _enter_series(uow, key, removed["series"])
    _enter_revisions(uow, key, removed["revisions"])
    _mark_jobs(uow, key, [uid for uid, path in removed["results"] if not is_here(path)], removed_at)


def removed_paths(removed: Mapping[str, Any]) -> list[str]:
    """Return the files that a record says are removed, relative to the store."""
    return [path for _, _, path in removed["instances"]] + [path for _, path in removed["results"]]


def with_files_left(uow: UnitOfWork, most: int) -> list[str]:
    """Return studies that were removed and whose files are still to be removed."""
    query = select(StudyRow.study_instance_uid).where(StudyRow.files_left).order_by(StudyRow.id).limit(most)
    return list(uow.execute(query).scalars())


def paths_in_use(uow: UnitOfWork, study_instance_uid: str) -> frozenset[str]:
    """Return the files of the study that the database knows as being there, relative to the store.

    Until the transaction ends none is added.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    uow.serialise("index")
    study = places.study(uow, study_instance_uid, for_update=True)
    images = uow.execute(select(InstanceRow.path).where(InstanceRow.study == study.id)).scalars()
    return frozenset(images) | {row.path for row in _kept_results(uow, study.id)}


def has_work(uow: UnitOfWork, study_instance_uid: str) -> bool:
    """Tell whether anything is kept, or may come to be written, below the folder of the study's results."""
    study = places.study(uow, study_instance_uid)
    return bool(_kept_results(uow, study.id)) or spared_by(uow, study.id, Limits()) in _WRITING


def files_removed(uow: UnitOfWork, study_instance_uid: str) -> None:
    """Note that nothing is left of the files of a study that was removed."""
    of_study = update(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid)
    uow.execute(of_study.values(files_left=False))


def _let_go(uow: UnitOfWork, instances: Collection[int]) -> None:
    """Delete instances by their keys; the jobs that read them can not run again as they are."""
    for table in (JobInstanceRow, JobPriorRow):
        reading = select(table.job).where(table.instance.in_(instances))
        uow.execute(update(JobRow).where(JobRow.id.in_(reading)).values(inputs_removed=True))
        uow.execute(delete(table).where(table.instance.in_(instances)))
    uow.execute(delete(InstanceRow).where(InstanceRow.id.in_(instances)))


def _note_series(uow: UnitOfWork, study: int, counts: Mapping[str, int]) -> None:
    """Remember how many images each series had: what comes again later is whole only with as many."""
    for uid, count in counts.items():
        most = case((SeriesRow.removed_instances > count, SeriesRow.removed_instances), else_=count)
        of_series = update(SeriesRow).where(SeriesRow.study == study, SeriesRow.series_instance_uid == uid)
        uow.execute(of_series.values(removed_instances=most))


def _series_of(uow: UnitOfWork, study: int) -> Sequence[AnyRow]:
    return uow.execute(select(*SeriesRow.__table__.c).where(SeriesRow.study == study).order_by(SeriesRow.id)).all()


def _series_record(series: AnyRow, instances: Sequence[AnyRow]) -> dict[str, Any]:
    current = sum(row.current for row in instances if row.series == series.id)
    return values_of(series, ("id", "study")) | {"current": current}


def _revisions_of(uow: UnitOfWork, study: int) -> Sequence[AnyRow]:
    query = select(*RevisionRow.__table__.c).where(RevisionRow.study == study)
    return uow.execute(query.order_by(RevisionRow.number)).all()


def _may_be_sent() -> ColumnElement[bool]:
    """Tell whether a result is not with a peer that was to have it: hilum retry, or an older revision, may send it."""
    states = (DeliveryState.KEPT_ASIDE.value, DeliveryState.WITHHELD.value)
    return select(DeliveryRow.id).where(DeliveryRow.result == ResultRow.id, DeliveryRow.state.in_(states)).exists()


def _kept_results(uow: UnitOfWork, study: int, *which: ColumnElement[bool]) -> Sequence[AnyRow]:
    query = select(ResultRow.id, ResultRow.sop_instance_uid, ResultRow.path).join(JobRow, JobRow.id == ResultRow.job)
    kept = query.where(JobRow.study == study, ResultRow.removed_at.is_(None), *which)
    return uow.execute(kept.order_by(ResultRow.id)).all()


def _inputs_of_jobs(uow: UnitOfWork, study: int, instances: Sequence[AnyRow]) -> list[dict[str, Any]]:
    """Return the key of each job of a study, and what it read: places among the instances, in the order of slices."""
    place = {row.id: number for number, row in enumerate(instances)}
    read = (
        select(JobInstanceRow.job, JobInstanceRow.instance)
        .join(JobRow, JobRow.id == JobInstanceRow.job)
        .where(JobRow.study == study)
        .order_by(JobInstanceRow.job, JobInstanceRow.position)
    )
    reads: dict[int, list[int]] = defaultdict(list)
    for row in uow.execute(read):
        reads[row.job].append(place[row.instance])
    jobs = uow.execute(select(JobRow.id, *_KEY_OF_JOB).where(JobRow.study == study).order_by(JobRow.id))
    return [values_of(row, ("id",)) | {"job": row.id, "reads": reads[row.id]} for row in jobs]


def _enter_study(uow: UnitOfWork, removed: Mapping[str, Any]) -> int:
    known = {"receiving": False, "evaluation_due": False, "patient": places.ensure_patient(uow, removed["patient"])}
    row = typed(StudyRow, removed["study"]) | known
    key: int = uow.execute(insert(StudyRow).values(row).returning(StudyRow.id)).scalar_one()
    senders = [{"study": key, "calling_ae_title": title} for title in removed["senders"]]
    if senders:
        uow.execute(insert(StudySenderRow), senders)
    return key


def _enter_series(uow: UnitOfWork, study: int, series: Sequence[Mapping[str, Any]]) -> None:
    there = {row.series_instance_uid for row in _series_of(uow, study)}
    names = ("series_instance_uid", "modality", "series_number", "series_description", "removed_instances")
    rows = [{name: each[name] for name in names} | {"study": study} for each in series]
    fresh = [row for row in rows if row["series_instance_uid"] not in there]
    if fresh:
        uow.execute(insert(SeriesRow), fresh)
    _note_series(uow, study, {each["series_instance_uid"]: each["current"] for each in series})


def _enter_revisions(uow: UnitOfWork, study: int, revisions: Sequence[Mapping[str, Any]]) -> None:
    known = {row.number for row in _revisions_of(uow, study)}
    rows = [typed(RevisionRow, each) | {"study": study} for each in revisions if each["number"] not in known]
    if rows:
        uow.execute(insert(RevisionRow), rows)


def _mark_jobs(uow: UnitOfWork, study: int, results: Sequence[str], removed_at: datetime) -> None:
    """Mark what is gone of jobs of a study: images that they read, and results, by their SOP Instance UIDs."""
    without_images = ~select(JobInstanceRow.job).where(JobInstanceRow.job == JobRow.id).exists()
    uow.execute(update(JobRow).where(JobRow.study == study, without_images).values(inputs_removed=True))
    of_the_study = update(ResultRow).where(ResultRow.job.in_(select(JobRow.id).where(JobRow.study == study)))
    for start in range(0, len(results), _CHUNK):
        gone = of_the_study.where(ResultRow.sop_instance_uid.in_(results[start : start + _CHUNK]))
        uow.execute(gone.values(removed_at=removed_at))
