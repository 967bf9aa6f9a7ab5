"""The index of stored instances: adding what arrived, and asking which studies are silent and what they hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import bindparam, func, insert, or_, select, update

from db import records
from db.complete.inquiries import OVERDUE_SECONDS
from db.engine import UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import image_rejections, places
from db.images.arrivals import Arrival, Changes, Version, sort_out
from db.images.places import StudyPlace
from db.tables import InquiryRow, InstanceRow, JobInstanceRow, SeriesRow, SetAsideRow, StudyRow
from study.entities import StoredInstance
from study.errors import Reason
from study.inquiry import InquiryState
from study.rejections import RejectionTitle

_BATCH = 1000


@dataclass(frozen=True)
class StudySnapshot:
    """What a study holds at one moment.

    Parameters
    ----------
    generation
        Grows with every change of the current instances; `close_study` compares it.
    series
        The current instances by Series Instance UID, in no particular order, without those that were rejected.
    calling_ae_titles
        Who sent any instance of it; nobody where all of it was fetched.
    on_request
        Whether a person wants it analysed, whatever the rules on age and senders say.
    passed_over
        Whether it was let go of when a pause ended.
    newest_accepted
        Whether a person wants these very versions of its images analysed, whatever is held against them.
    rejected
        The current instances that were rejected, each with why, by Series Instance UID.
    """

    study_instance_uid: str
    generation: int
    last_received_at: datetime
    series: dict[str, list[StoredInstance]]
    calling_ae_titles: frozenset[str] = frozenset()
    on_request: bool = False
    passed_over: bool = False
    newest_accepted: bool = False
    rejected: dict[str, list[tuple[StoredInstance, RejectionTitle]]] = field(default_factory=dict)


@dataclass(frozen=True)
class SetAside:
    """A received file that could not be indexed; `path` is relative to the store."""

    at: datetime
    path: str
    reason: Reason


def add_instances(uow: UnitOfWork, instances: Sequence[StoredInstance]) -> list[Arrival]:
    """Put `instances` into the index, and say of each, in order, what it was.

    Adding the same instances again changes nothing. A study that gained or changed an instance is marked as receiving
    and as due for evaluation.
    """
    uow.serialise("index")  # two indexers of one store would both insert the same new study
    arrivals: list[Arrival] = []
    for start in range(0, len(instances), _BATCH):
        arrivals += _add_batch(uow, instances[start : start + _BATCH])
    return arrivals


def studies_due(uow: UnitOfWork, quiet_seconds: float, as_of: datetime) -> list[str]:
    """Return the Study Instance UIDs that await evaluation and were silent for so long [s] at `as_of`; oldest first.

    Left out is what an archive is being asked of that did answer: it may say that there is more to come.
    """
    overdue = uow.now() - timedelta(seconds=OVERDUE_SECONDS)
    left_to_itself = or_(
        InquiryRow.study.is_(None),
        InquiryRow.state != InquiryState.ASKING.value,
        InquiryRow.failures > 0,
        InquiryRow.next_ask_at <= overdue,
    )
    query = (
        select(StudyRow.study_instance_uid)
        .join(InquiryRow, InquiryRow.study == StudyRow.id, isouter=True)
        .where(StudyRow.evaluation_due, StudyRow.last_received_at <= as_of - timedelta(seconds=quiet_seconds))
        .where(left_to_itself)
        .order_by(StudyRow.last_received_at)
    )
    return list(uow.execute(query).scalars())


def seconds_until_silent(uow: UnitOfWork, quiet_seconds: float) -> float | None:
    """Return in how long the next study that awaits evaluation was silent for so long [s]; None where none does."""
    now = uow.now()
    waiting = select(func.min(StudyRow.last_received_at)).where(
        StudyRow.evaluation_due, StudyRow.last_received_at > now - timedelta(seconds=quiet_seconds)
    )
    last: datetime | None = uow.execute(waiting).scalar_one()
    return None if last is None else (last - now).total_seconds() + quiet_seconds


def clamp_times(uow: UnitOfWork, at: datetime) -> None:
    """Let no study that awaits evaluation have been received after `at`: the clock was set back since."""
    later = update(StudyRow).where(StudyRow.evaluation_due, StudyRow.last_received_at > at)
    uow.execute(later.values(last_received_at=at))


def snapshot(uow: UnitOfWork, study_instance_uid: str) -> StudySnapshot:
    """Return what the study holds now.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    query = (
        records.instances()
        .add_columns(SeriesRow.series_instance_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series)
        .where(InstanceRow.study == study.id, InstanceRow.current)
        .order_by(InstanceRow.id)
    )
    series: dict[str, list[StoredInstance]] = defaultdict(list)
    rejected: dict[str, list[tuple[StoredInstance, RejectionTitle]]] = defaultdict(list)
    excluded = image_rejections.excluded(uow, study_instance_uid)
    for row in uow.execute(query):
        instance = records.instance_of(row)
        if instance.header.sop_instance_uid in excluded:
            rejected[row.series_instance_uid].append((instance, excluded[instance.header.sop_instance_uid]))
        else:
            series[row.series_instance_uid].append(instance)
    said = select(StudyRow.on_request, StudyRow.passed_over, StudyRow.accepted_generation)
    on_request, passed_over, accepted = uow.execute(said.where(StudyRow.id == study.id)).one()
    return StudySnapshot(
        study_instance_uid,
        study.generation,
        study.last_received_at,
        dict(series),
        places.senders(uow, study.id),
        on_request,
        passed_over,
        accepted == study.generation,
        dict(rejected),
    )


def generation(uow: UnitOfWork, study_instance_uid: str) -> int:
    """Return the study's generation (see `StudySnapshot`); ArchiveError if the index knows no such study."""
    return places.study(uow, study_instance_uid).generation


def current_instances(uow: UnitOfWork, study_instance_uid: str) -> dict[str, list[StoredInstance]]:
    """Return the study's current instances by Series Instance UID, those too that were rejected."""
    seen = snapshot(uow, study_instance_uid)
    rejected = {uid: [instance for instance, _ in each] for uid, each in seen.rejected.items()}
    return {uid: [*seen.series.get(uid, ()), *rejected.get(uid, ())] for uid in {**seen.series, **rejected}}


def instances_of_job(uow: UnitOfWork, job_id: int) -> list[StoredInstance]:
    """Return the very versions that the job was planned for, in the order of its slices."""
    query = (
        records.instances()
        .join(JobInstanceRow, JobInstanceRow.instance == InstanceRow.id)
        .where(JobInstanceRow.job == job_id)
        .order_by(JobInstanceRow.position)
    )
    return [records.instance_of(row) for row in uow.execute(query)]


def set_aside(uow: UnitOfWork, path: str, reason: Reason) -> None:
    """Put on record that the file at `path` [relative to the store] is kept aside, and why; again changes nothing."""
    uow.serialise("index")
    known = uow.execute(select(SetAsideRow.id).where(SetAsideRow.path == path)).first()
    if known is None:
        values = {"at": uow.now(), "path": path, "reason": records.reason_to_json(reason)}
        uow.execute(insert(SetAsideRow), [values])


def list_set_aside(uow: UnitOfWork, limit: int | None = None) -> list[SetAside]:
    """Return the files that are kept aside, newest first."""
    query = select(SetAsideRow.at, SetAsideRow.path, SetAsideRow.reason).order_by(SetAsideRow.id.desc()).limit(limit)
    return [
        SetAside(row.at, row.path, Reason(row.reason["code"], row.reason["words"], row.reason["numbers"]))
        for row in uow.execute(query)
    ]


def _add_batch(uow: UnitOfWork, instances: Sequence[StoredInstance]) -> list[Arrival]:
    at = uow.now()
    studies = places.ensure_studies(uow, instances)
    series = places.ensure_series(uow, instances, studies)
    arriving = [_arriving(instance, studies, series) for instance in instances]
    changes = sort_out(arriving, _known(uow, {version.sop_instance_uid for version in arriving}))
    _write(uow, changes)
    places.renew(uow, studies.values(), _newest(changes), changes.studies, _gained(changes))
    places.note_senders(uow, _senders(instances, studies))
    image_rejections.heed(uow, [(version.study, version.instance) for version in changes.new if version.instance])
    places.want_again(uow, {studies[each.header.study_instance_uid].id for each in instances if _is_sent_image(each)})
    record(uow, at, _events(list(studies.values()), arriving, changes))
    return changes.arrivals


def _senders(instances: Iterable[StoredInstance], studies: dict[str, StudyPlace]) -> dict[int, set[str]]:
    """Return who sent something of each study, by its key."""
    found: dict[int, set[str]] = defaultdict(set)
    for instance in instances:
        if not instance.fetched:
            found[studies[instance.header.study_instance_uid].id].add(instance.calling_ae_title)
    return found


def _is_sent_image(instance: StoredInstance) -> bool:
    return bool(instance.header.rows) and not instance.fetched


def _arriving(instance: StoredInstance, studies: dict[str, StudyPlace], series: dict[tuple[int, str], int]) -> Version:
    header = instance.header
    study = studies[header.study_instance_uid].id
    return Version(
        study=study,
        series=series[study, header.series_instance_uid],
        sop_instance_uid=header.sop_instance_uid,
        digest=instance.digest,
        received_at=instance.received_at,
        instance=instance,
    )


def _known(uow: UnitOfWork, sop_instance_uids: Iterable[str]) -> list[Version]:
    query = select(
        InstanceRow.id,
        InstanceRow.study,
        InstanceRow.series,
        InstanceRow.sop_instance_uid,
        InstanceRow.digest,
        InstanceRow.received_at,
        InstanceRow.current,
        InstanceRow.discounted,
    ).where(InstanceRow.sop_instance_uid.in_(list(sop_instance_uids)))
    return [Version(**row._mapping) for row in uow.execute(query)]


def _write(uow: UnitOfWork, changes: Changes) -> None:
    # What is replaced stops being current first: a study has one current version of an instance at any moment.
    by_key = update(InstanceRow).where(InstanceRow.id == bindparam("key"))
    if changes.replaced:
        uow.execute(by_key.values(current=False), [{"key": version.id} for version in changes.replaced])
    if changes.restored:
        uow.execute(
            by_key.values(current=True, received_at=bindparam("at")),
            [{"key": version.id, "at": version.received_at} for version in changes.restored],
        )
    if changes.new:
        uow.execute(
            insert(InstanceRow),
            [_columns(version, version.instance) for version in changes.new if version.instance is not None],
        )


def _columns(version: Version, instance: StoredInstance) -> dict[str, object]:
    return {
        "study": version.study,
        "series": version.series,
        "sop_instance_uid": version.sop_instance_uid,
        "digest": version.digest,
        "current": version.current,
        "header": instance.header.to_json(),
        "path": instance.path,
        "inbox_path": instance.inbox_path,
        "size": instance.size,
        "calling_ae_title": instance.calling_ae_title,
        "received_at": version.received_at,
        "fetched": instance.fetched,
    }


def _gained(changes: Changes) -> dict[int, int]:
    """Return how much the files of new versions hold [bytes], by their study's key."""
    sizes: Counter[int] = Counter()
    for version in changes.new:
        sizes[version.study] += version.instance.size if version.instance else 0
    return sizes


def _newest(changes: Changes) -> dict[int, StoredInstance | datetime]:
    """Return for each study that changed its newest arrival: the instance, or only the time of a restored one."""
    newest: dict[int, Version] = {}
    for version in (*changes.restored, *changes.new):
        rival = newest.get(version.study)
        if rival is None or version.received_at >= rival.received_at:
            newest[version.study] = version
    return {study: version.instance or version.received_at for study, version in newest.items()}


def _events(studies: list[StudyPlace], arriving: list[Version], changes: Changes) -> list[NewEvent]:
    counts: dict[int, Counter[Arrival]] = defaultdict(Counter)
    for version, arrival in zip(arriving, changes.arrivals, strict=True):
        counts[version.study][arrival] += 1
    elsewhere = Counter(version.study for version in changes.elsewhere)
    events = []
    for study in studies:
        seen = counts[study.id]
        gained = seen[Arrival.NEW] + seen[Arrival.OTHER_VERSION]
        told = (
            (study.created, EventKind.FIRST_INSTANCE, "The first instance arrived.", gained),
            (not study.created and not study.receiving and gained > 0, EventKind.LATE_INSTANCES,
             "{n} instance(s) arrived after the study had been complete.", gained),
            (seen[Arrival.DUPLICATE] > 0, EventKind.DUPLICATE_INSTANCES,
             "{n} instance(s) arrived again, byte for byte.", seen[Arrival.DUPLICATE]),
            (seen[Arrival.OTHER_VERSION] > 0, EventKind.OTHER_VERSION,
             "{n} instance(s) arrived with other bytes under a known UID; both versions are kept.",
             seen[Arrival.OTHER_VERSION]),
            (elsewhere[study.id] > 0, EventKind.UID_ELSEWHERE,
             "{n} instance(s) carry a UID that another study or series holds too.", elsewhere[study.id]),
        )  # fmt: skip
        events += [
            NewEvent(study.id, kind, words.format(n=number), {"instances": number})
            for holds, kind, words, number in told
            if holds
        ]
    return events
