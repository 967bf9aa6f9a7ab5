"""What retention removed, and what of it is here again: a part of a study must not pass for the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select

from db.engine import AnyQuery, UnitOfWork
from db.images import places
from db.tables import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow
from study.entities import Removal
from study.errors import ArchiveError, Reason

PART_OF_REMOVED: Final = "PartOfRemoved"
STUDY_REMOVED: Final = "StudyRemoved"
_CHUNK: Final = 500


@dataclass(frozen=True)
class Returned:
    """A study that was removed, of which images came again.

    Parameters
    ----------
    accepted
        Whether a person wants what is here now analysed as it is.
    discarded_at
        When a person let go of what failed in it; images that come later undo that.
    """

    study_instance_uid: str
    last_received_at: datetime
    reason: Reason
    accepted: bool
    discarded_at: datetime | None


def lacking(uow: UnitOfWork, studies: Collection[int]) -> Mapping[int, int]:
    """Return how many of the images that were removed are not here again, by the study's key; none: left out.

    Each series is counted for itself: more of one make up for nothing that another lacks.
    """
    found: Counter[int] = Counter()
    for row in uow.execute(_lacking(studies)):
        found[row.study] += row.missing
    return found


def lacking_series(uow: UnitOfWork, study: int) -> Mapping[str, int]:
    """Return how many of the images that were removed of each series of a study are not here again; none: left out."""
    return {row.series_instance_uid: row.missing for row in uow.execute(_lacking([study]))}


def _lacking(studies: Collection[int]) -> AnyQuery:
    here = (
        select(func.count())
        .where(InstanceRow.series == SeriesRow.id, InstanceRow.study == SeriesRow.study, InstanceRow.current)
        .scalar_subquery()
    )
    missing = SeriesRow.removed_instances - here
    return select(SeriesRow.study, SeriesRow.series_instance_uid, missing.label("missing")).where(
        SeriesRow.study.in_(list(studies)), SeriesRow.removed_instances > 0, missing > 0
    )


def of_studies(uow: UnitOfWork, studies: Collection[int]) -> Mapping[int, Removal]:
    """Return what retention did with those of the studies, by their keys, that it removed."""
    query = select(StudyRow.id, StudyRow.removed_at, StudyRow.removed_instances).where(StudyRow.removed_at.is_not(None))
    keys, found = list(studies), dict[int, Removal]()
    for start in range(0, len(keys), _CHUNK):
        rows = uow.execute(query.where(StudyRow.id.in_(keys[start : start + _CHUNK]))).all()
        missing = lacking(uow, [row.id for row in rows])
        found |= {row.id: Removal(row.removed_at, row.removed_instances, missing.get(row.id, 0)) for row in rows}
    return found


def demand_results(uow: UnitOfWork, jobs: Collection[int], therefore: str) -> None:
    """Make sure that retention removed no file of the results of these jobs.

    Parameters
    ----------
    therefore
        What can not be done without them, for the words of the error.

    Raises
    ------
    ArchiveError
        If it did.
    """
    query = select(func.max(ResultRow.removed_at)).where(ResultRow.job.in_(list(jobs)))
    at: datetime | None = uow.execute(query).scalar_one()
    if at is not None:
        raise ArchiveError(f"Retention removed the study from this node on {at:%Y-%m-%d}, its results too: {therefore}")


def demand_images(uow: UnitOfWork, job: int, therefore: str) -> None:
    """Make sure that retention removed none of the images that a job read, of earlier studies neither.

    Parameters
    ----------
    therefore
        What can not be done without them, for the words of the error.

    Raises
    ------
    ArchiveError
        If it did.
    """
    if uow.execute(select(JobRow.inputs_removed).where(JobRow.id == job)).scalar_one():
        raise ArchiveError(f"Retention removed images from this node that the analysis was about: {therefore}")


def why_not_whole(uow: UnitOfWork, study_instance_uid: str) -> Reason | None:
    """Return why what is here of a study that was removed is not all of it; None where nothing is known to lack.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    removal = of_studies(uow, [study.id]).get(study.id)
    return None if removal is None or not removal.missing else _reason(removal)


def parts(uow: UnitOfWork) -> Iterator[Returned]:
    """Yield the studies that were removed and of which a part is here again, which somebody sent."""
    sent = select(InstanceRow.id).where(InstanceRow.study == StudyRow.id, ~InstanceRow.fetched).exists()
    query = select(*StudyRow.__table__.c).where(StudyRow.stored_bytes > 0, StudyRow.removed_at.is_not(None), sent)
    rows = uow.execute(query.order_by(StudyRow.last_received_at)).all()
    missing = lacking(uow, [row.id for row in rows])
    for row in rows:
        if row.id in missing:
            reason = _reason(Removal(row.removed_at, row.removed_instances, missing[row.id]))
            accepted = row.accepted_generation == row.generation
            yield Returned(row.study_instance_uid, row.last_received_at, reason, accepted, row.discarded_at)


def _reason(removal: Removal) -> Reason:
    numbers = {"removed": removal.instances, "missing": removal.missing}
    removed = f"Retention removed the study on {removal.at:%Y-%m-%d}"
    if removal.missing >= removal.instances:
        words = (
            f"{removed}: of its {removal.instances} images none is here, and nothing can be analysed. Send it again."
        )
        return Reason(STUDY_REMOVED, words, numbers)
    words = (
        f"{removed}, and images came since: {removal.missing} of its {removal.instances} are not here, so what came is "
        "a part of it and is not analysed. Results that were sent stay valid. Send the whole study again, or have what "
        "is here analysed by hilum analyse."
    )
    return Reason(PART_OF_REMOVED, words, numbers)
