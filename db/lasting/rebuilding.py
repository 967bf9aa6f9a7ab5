"""A study as its files tell it: what the manifest beside them says, entered into a database that does not know it.

Images are entered before, by `db.images.index.add_instances`. Then what ended is as it was: the same jobs by the same
numbers, the same results, owed to the same peers. What had not ended is planned anew, and only where something is left
to do the study is looked at again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Insert, and_, delete, func, insert, select, tuple_, update

from db.delivery import outbox, withdrawn
from db.engine import UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import image_choices, places
from db.lasting.ledger import Record, ended_jobs, instances_digest, key_of, typed
from db.tables import (
    CommitmentItemRow,
    DeliveryRow,
    EventRow,
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
from study.entities import ResultObject
from study.errors import ArchiveError
from study.states import DeliveryState, JobState

IsHere = Callable[[ResultObject], bool]
"""Tells whether the file of a result is there, with the bytes that are on record."""

_OF_ARRIVALS = (EventKind.FIRST_INSTANCE, EventKind.LATE_INSTANCES, EventKind.OTHER_VERSION, EventKind.UID_ELSEWHERE)
_LARGEST_NUMBER = 2**62  # of a job: far beyond any, and within every database's numbers
_CHUNK = 400  # pairs in one query
_WAITING = (DeliveryState.PENDING.value, DeliveryState.STORED.value)
_SOURCES = {
    "stored": (DeliveryState.PENDING.value, DeliveryState.STANDBY.value),
    "delivered": (*_WAITING, DeliveryState.STANDBY.value),
    "committed": (*_WAITING, DeliveryState.STANDBY.value),
}


@dataclass
class Told:
    """What the records of a manifest come to.

    Parameters
    ----------
    jobs
        The last record of each job that ended, by its number, with what became of its deliveries since.
    closings
        Each time that models were matched, in order.
    said
        What a person said of the study last.
    vouched
        (SOP Instance UID, digest) of what we answered for, with the time.
    """

    jobs: dict[int, Record] = field(default_factory=dict)
    closings: list[Record] = field(default_factory=list)
    said: Record = field(default_factory=dict)
    vouched: dict[tuple[str, str], datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Rebuilt:
    """What was entered of a study.

    Parameters
    ----------
    lost
        Results that count and whose files are gone; their jobs run again.
    due
        Whether models are matched anew, since something is left to do.
    """

    jobs: int
    results: int
    owed: int
    lost: int
    due: bool


def told(records: Sequence[Record]) -> Told:
    """Return what the records of a manifest come to, those of the order in which they were written."""
    found = Told()
    for each in records:
        kind = each.get("record")
        if isinstance(each.get("job"), dict):
            found.jobs[each["job"]["id"]] = copy.deepcopy(each)
        elif kind in _SOURCES:
            for job in found.jobs.values():
                _mark(job, each)
        elif kind == "closed":
            found.closings.append(each)
            found.said = each
        elif kind == "study":
            found.said = each
        elif kind == "vouched":
            at = datetime.fromisoformat(each["at"])
            found.vouched |= {(one["sop_instance_uid"], one["digest"]): at for one in each["instances"]}
    found.jobs = ended_jobs(list(found.jobs.values()))
    return found


def enter_work(
    uow: UnitOfWork, study_instance_uid: str, records: Sequence[Record], is_here: IsHere, fresh: Iterator[int]
) -> Rebuilt:
    """Let the study's jobs, results and deliveries be those that its manifest tells; what was there of them goes.

    Parameters
    ----------
    records
        Of the manifest, in order.
    is_here
        A job that counts and has a result that is not here runs again, as it was: it makes the same.
    fresh
        Gives numbers that no job has, in whatever manifest.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    found = told(records)
    image_choices.repeat(uow, study_instance_uid, found.said.get("images", {}))
    place = places.study(uow, study_instance_uid, for_update=True)  # versions that were exchanged changed it
    numbers = _forget(uow, place.id)
    jobs = _last_of_each(found.jobs)
    last = found.closings[-1] if found.closings else None
    _demand_own_files(study_instance_uid, (*jobs.values(), *(last or {}).get("refused", ())))
    current = _current(jobs, last)
    gone = {key for key, each in jobs.items() if _must_run_again(each, current, is_here)}
    # One that lacks an image now is another: it is planned anew
    left_out = {key for key in gone if not _has_all_images(uow, jobs[key])}
    here = {key: _queued(each) if key in gone else each for key, each in jobs.items() if key not in left_out}
    lost = sum(len(jobs[key]["objects"]) for key in gone)
    revisions = _revisions(uow, place.id, found)
    known = {tuple(key_of(each["job"])) for each in here.values()}
    unseen = [each for each in (last or {}).get("refused", ()) if tuple(key_of(each["job"])) not in known]
    numbered = [(each, _free(uow, key, fresh)) for key, each in here.items()]
    for each, key in (*numbered, *((each, next(fresh)) for each in unseen)):
        _enter_job(uow, place.id, revisions[each["job"]["revision"]], each, key, current)
        known.add(tuple(key_of(each["job"])))
    _remember_jobs(uow, place.id, numbers)
    _settle(uow, place.id)
    due = not (_is_done(uow, place.id, last, known) or _is_empty(uow, place.id))
    _say(uow, place, found.said, last, due=due)
    _vouch(uow, place.id, found)
    results = sum(len(each["objects"]) for each in here.values())
    owed = _count_owed(uow, place.id)
    done = Rebuilt(len(here) + len(unseen), results, owed, lost, due)
    words = f"Rebuilt from the files: {done.jobs} job(s), {results} result object(s), {owed} to deliver."
    event = NewEvent(place.id, EventKind.REBUILT, words, {"jobs": done.jobs, "results": results, "lost": lost})
    record(uow, uow.now(), [event])
    return done


def leave_alone(uow: UnitOfWork, study_instance_uid: str) -> Rebuilt:
    """Let nothing be done with a study until a person wants it analysed: what was done before is not known.

    To analyse it once more by itself might send other results under the UIDs of those that peers have.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    place = places.study(uow, study_instance_uid, for_update=True)
    left = {"receiving": False, "evaluation_due": False, "passed_over": True, "on_request": False}
    uow.execute(update(StudyRow).where(StudyRow.id == place.id).values(left))
    words = "Rebuilt from the images alone: what its manifest tells is not understood. hilum analyse has it analysed."
    record(uow, uow.now(), [NewEvent(place.id, EventKind.REBUILT, words)])
    return Rebuilt(0, 0, 0, 0, due=False)


def known_paths(uow: UnitOfWork, study_instance_uid: str) -> frozenset[str] | None:
    """Return where the files are that the index has of a study [relative to the store]; None where it has none."""
    query = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    study = uow.execute(query).scalar_one_or_none()
    if study is None:
        return None
    return frozenset(uow.execute(select(InstanceRow.path).where(InstanceRow.study == study)).scalars())


def backdate(uow: UnitOfWork, study_instance_uid: str) -> None:
    """Let what arrived have arrived when it did: the events of a study that was entered just now tell of its images."""
    study = select(StudyRow.id, StudyRow.last_received_at).where(StudyRow.study_instance_uid == study_instance_uid)
    key, at = uow.execute(study).one()
    kinds = [kind.value for kind in _OF_ARRIVALS]
    later = update(EventRow).where(EventRow.study == key, EventRow.kind.in_(kinds), EventRow.at > at)
    uow.execute(later.values(at=at))


def largest_job(records: Sequence[Record]) -> int:
    """Return the largest number of a job that a manifest names; 0 where it names none."""
    jobs = [each["job"].get("id") for each in records if isinstance(each.get("job"), dict)]
    return max((number for number in jobs if isinstance(number, int) and number <= _LARGEST_NUMBER), default=0)


def largest_job_here(uow: UnitOfWork) -> int:
    """Return the largest number of a job in the database; 0 where there is none."""
    return uow.execute(select(func.max(JobRow.id))).scalar_one() or 0


def is_entered(uow: UnitOfWork, study_instance_uid: str) -> bool:
    """Tell whether the work of a study was entered by a rebuild."""
    query = select(EventRow.id).join(StudyRow, StudyRow.id == EventRow.study)
    told = query.where(StudyRow.study_instance_uid == study_instance_uid, EventRow.kind == EventKind.REBUILT.value)
    return uow.execute(told.limit(1)).first() is not None


def _mark(job: Record, told_of: Record) -> None:
    """Note that a peer has a result of the job, where it is one."""
    kind, at = told_of["record"], told_of.get("at")
    for each in job["deliveries"]:
        same = (each["peer"], each["sop_instance_uid"]) == (told_of["peer"], told_of["sop_instance_uid"])
        if not same or each["state"] not in _SOURCES[kind]:
            continue
        if each["state"] == DeliveryState.STANDBY.value:
            _replace(job, each["peer"])
        end = {"state": DeliveryState.STORED.value, "stored_at": at, "status": told_of.get("status")}
        if kind != "stored":
            end = {"state": DeliveryState.DELIVERED.value, "delivered_at": at}
            end |= {"status": told_of["status"]} if "status" in told_of else {}
        each.update(end | {"problem": False, "reason": None})


def _replace(job: Record, peer: str) -> None:
    """End what something on stand-by took the place of."""
    for each in job["deliveries"]:
        if each["peer"] == peer and each["doubted"] and each["state"] == DeliveryState.PENDING.value:
            each.update({"state": DeliveryState.REPLACED.value, "problem": False})


def _last_of_each(jobs: dict[int, Record]) -> dict[int, Record]:
    """Return one job of those that are the same work: the one that was entered last."""
    last = {tuple(key_of(jobs[key]["job"])): key for key in sorted(jobs)}
    return {key: jobs[key] for key in sorted(last.values())}


def _must_run_again(job: Record, current: set[tuple[str, ...]], is_here: IsHere) -> bool:
    """Tell whether the job has to make its results once more: they count, nobody took them back, and are not here."""
    if tuple(key_of(job["job"])) not in current or job["withdrawals"]:
        return False
    names = ResultObject.__dataclass_fields__
    return not all(is_here(ResultObject(**{name: each[name] for name in names})) for each in job["objects"])


def _queued(job: Record) -> Record:
    """Return the job as it was before it made anything; its times, which its results carry, stay."""
    waiting = {"state": JobState.QUEUED.value, "reason": None, "ended_at": None, "crashes": 0}
    return job | {"job": job["job"] | waiting, "objects": [], "deliveries": [], "notice": None}


def _current(jobs: dict[int, Record], last: Record | None) -> set[tuple[str, ...]]:
    """Return the keys of the jobs that count."""
    if last is not None:
        return {tuple(key) for key in last["jobs"]}
    newest = {each["job"]["model_name"]: tuple(key_of(each["job"])) for _, each in sorted(jobs.items())}
    return set(newest.values())


def _revisions(uow: UnitOfWork, study: int, found: Told) -> dict[int, int]:
    """Enter the study's revisions; return their keys by number."""
    rows: dict[int, Record] = {}
    for each in found.jobs.values():
        rows[each["job"]["revision"]] = {"created_at": each["job"]["created_at"]}
    for closing in found.closings:
        if closing["revision"] is not None:
            rows[closing["revision"]["number"]] = closing["revision"]
    return {
        number: _insert(uow, RevisionRow, values | {"study": study, "number": number})
        for number, values in sorted(rows.items())
    }


def _enter_job(
    uow: UnitOfWork, study: int, revision: int, told_of: Record, key: int, current: set[tuple[str, ...]]
) -> None:
    job = told_of["job"]
    columns = {"id": key, "study": study, "revision": revision, "current": tuple(key_of(job)) in current}
    _insert(uow, JobRow, job | columns)
    _enter_instances(uow, key, told_of)
    results = {each["sop_instance_uid"]: _insert(uow, ResultRow, each | {"job": key}) for each in told_of["objects"]}
    _enter_deliveries(uow, study, key, told_of, results)
    for each in told_of["withdrawals"]:
        withdrawal = _insert(uow, WithdrawalRow, each | {"study": study, "job": key})
        rows = [{"result": results[uid], "withdrawal": withdrawal} for uid in each["objects"]]
        uow.execute(insert(WithdrawnRow), rows)
    if told_of.get("notice") is not None:
        _insert(uow, NoticeRow, told_of["notice"] | {"study": study, "job": key, "not_before": uow.now()})


def _demand_own_files(study_instance_uid: str, jobs: Iterable[Record]) -> None:
    """Make sure that records name no files but results of the study: senders send what they name."""
    own = ("results", study_instance_uid)
    paths = [PurePosixPath(each["path"]) for job in jobs for each in job["objects"]]
    if any(path.parts[:2] != own or ".." in path.parts for path in paths):
        raise ArchiveError("A manifest names a file that is no result of its study.")


def _has_all_images(uow: UnitOfWork, told_of: Record) -> bool:
    """Tell whether all that a job read is here, of earlier studies too."""
    read = [(uid, digest) for series in (told_of["instances"], *told_of["priors"]) for uid, digest in series]
    return set(read) <= _instance_keys(uow, read).keys()


def _enter_instances(uow: UnitOfWork, job: int, told_of: Record) -> None:
    """Enter what the job read, but for what is here no more."""
    pairs = [(uid, digest) for uid, digest in told_of["instances"]]
    keys = _instance_keys(uow, pairs)
    rows = [{"job": job, "position": at, "instance": keys[each]} for at, each in enumerate(pairs) if each in keys]
    if rows:
        uow.execute(insert(JobInstanceRow), rows)
    for prior, series in enumerate(told_of["priors"]):
        read = [(uid, digest) for uid, digest in series]
        keys = _instance_keys(uow, read)
        beside = [
            {"job": job, "prior": prior, "position": at, "instance": keys[each]}
            for at, each in enumerate(read)
            if each in keys
        ]
        if beside:
            uow.execute(insert(JobPriorRow), beside)


def _instance_keys(uow: UnitOfWork, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for start in range(0, len(pairs), _CHUNK):
        chosen = tuple_(InstanceRow.sop_instance_uid, InstanceRow.digest).in_(pairs[start : start + _CHUNK])
        query = select(InstanceRow.id, InstanceRow.sop_instance_uid, InstanceRow.digest).where(chosen)
        found |= {(row.sop_instance_uid, row.digest): row.id for row in uow.execute(query)}
    return found


def _enter_deliveries(uow: UnitOfWork, study: int, job: int, told_of: Record, results: dict[str, int]) -> None:
    keys: dict[tuple[str, str], int] = {}
    for each in told_of["deliveries"]:
        values = each | {"study": study, "job": job, "result": results[each["sop_instance_uid"]]}
        if each["state"] in _WAITING:
            values |= {"next_attempt_at": uow.now()}
        if each["state"] == DeliveryState.PENDING.value:
            values |= {"unsure": True}  # it may have been sent after the last record that is here
        keys[each["peer"], each["sop_instance_uid"]] = _insert(uow, DeliveryRow, values)
    rows = [
        {"delivery": keys[each["peer"], uid], "key_object": keys[each["peer"], each["sop_instance_uid"]]}
        for each in told_of["deliveries"]
        for uid in each.get("rejects", ())
    ]
    if rows:
        uow.execute(insert(RejectionRow), rows)


def _settle(uow: UnitOfWork, study: int) -> None:
    """Let go of what outdated jobs owe, and have what was taken back rejected where it got."""
    outdated = select(JobRow.id).where(JobRow.study == study, ~JobRow.current)
    outbox.owe_no_more(uow, list(uow.execute(outdated).scalars()))
    withdrawn.let_go(uow, DeliveryRow.study == study)


def _is_done(uow: UnitOfWork, study: int, last: Record | None, known: set[tuple[str, ...]]) -> bool:
    if last is None or not last["whole"] or last["instances_digest"] != instances_digest(uow, study):
        return False
    return all(tuple(key) in known for key in last["jobs"])


def _is_empty(uow: UnitOfWork, study: int) -> bool:
    """Tell whether retention left no image of the study."""
    return uow.execute(select(InstanceRow.id).where(InstanceRow.study == study).limit(1)).first() is None


def _say(uow: UnitOfWork, place: places.StudyPlace, said: Record, last: Record | None, *, due: bool) -> None:
    """Let the study be as people left it, and look at it again only where something is left to do."""
    study = update(StudyRow).where(StudyRow.id == place.id)
    values: dict[str, Any] = {"evaluation_due": due, "receiving": due}
    if said:
        accepted = said["accepted"] is not None and said["accepted"] == instances_digest(uow, place.id)
        values |= typed(
            StudyRow, {name: said[name] for name in ("first_received_at", "on_request", "passed_over", "discarded_at")}
        )
        values |= {"accepted_generation": place.generation if accepted else None}
    if last is not None:
        values |= {"verdicts": last["verdicts"]}
    uow.execute(study.values(values))


def _vouch(uow: UnitOfWork, study: int, found: Told) -> None:
    for (uid, digest), at in found.vouched.items():
        of_it = and_(InstanceRow.study == study, InstanceRow.sop_instance_uid == uid, InstanceRow.digest == digest)
        uow.execute(update(InstanceRow).where(of_it).values(vouched_at=at))


def _forget(uow: UnitOfWork, study: int) -> dict[int, int]:
    """Take all work of the study out of the database; return which job each of its events was of."""
    jobs = select(JobRow.id).where(JobRow.study == study)
    deliveries = select(DeliveryRow.id).where(DeliveryRow.study == study)
    results = select(ResultRow.id).where(ResultRow.job.in_(jobs))
    of_events = select(EventRow.id, EventRow.job).where(EventRow.study == study, EventRow.job.is_not(None))
    numbers = {row.id: row.job for row in uow.execute(of_events)}
    uow.execute(update(EventRow).where(EventRow.study == study).values(job=None))
    for which in (
        delete(CommitmentItemRow).where(CommitmentItemRow.delivery.in_(deliveries)),
        delete(RejectionRow).where(RejectionRow.delivery.in_(deliveries) | RejectionRow.key_object.in_(deliveries)),
        delete(DeliveryRow).where(DeliveryRow.study == study),
        delete(WithdrawnRow).where(WithdrawnRow.result.in_(results)),
        delete(WithdrawalRow).where(WithdrawalRow.study == study),
        delete(ResultRow).where(ResultRow.job.in_(jobs)),
        delete(NoticeRow).where(NoticeRow.study == study),
        delete(JobInstanceRow).where(JobInstanceRow.job.in_(jobs)),
        delete(JobPriorRow).where(JobPriorRow.job.in_(jobs)),
        delete(JobRow).where(JobRow.study == study),
        delete(RevisionRow).where(RevisionRow.study == study),
    ):
        uow.execute(which)
    return numbers


def _remember_jobs(uow: UnitOfWork, study: int, numbers: dict[int, int]) -> None:
    there = set(uow.execute(select(JobRow.id).where(JobRow.study == study)).scalars())
    for event, job in numbers.items():
        if job in there:
            uow.execute(update(EventRow).where(EventRow.id == event).values(job=job))


def _free(uow: UnitOfWork, key: int, fresh: Iterator[int]) -> int:
    """Return the number that a job gets: its own, unless another study's job has that (files that were copied)."""
    if uow.execute(select(JobRow.id).where(JobRow.id == key)).first() is None:
        return key
    return next(fresh)


def _count_owed(uow: UnitOfWork, study: int) -> int:
    owed = select(func.count()).where(DeliveryRow.study == study, DeliveryRow.state.in_(_WAITING))
    count: int = uow.execute(owed).scalar_one()
    return count


def _insert(uow: UnitOfWork, table: type[Table], values: Record) -> int:
    """Insert a row; return its key."""
    statement: Insert = insert(table).values(typed(table, values))
    key: int = uow.execute(statement.returning(table.__table__.c.id)).scalar_one()
    return key
