"""Images that Key Objects rejected: which they are, and what follows for work that reads them.

A rejection names objects of a study by their UIDs. It holds for what is here and for what comes later, whatever its
bytes, until a person wants the images analysed all the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import aliased

from db.delivery import outbox
from db.engine import UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.tables import (
    InstanceRow,
    JobInstanceRow,
    JobPriorRow,
    JobRow,
    RejectedImageRow,
    RejectionNoteRow,
    ResultRow,
    StudyRow,
)
from db.work import notices
from study.entities import StoredInstance
from study.rejections import ImageRejection, RejectionNote, RejectionTitle
from study.states import JobState, job_sources

_CHUNK: Final = 1000


def heed(uow: UnitOfWork, arrived: Sequence[tuple[int, StoredInstance]]) -> None:
    """Heed what new instances reject, and note which of them were rejected before they came.

    Parameters
    ----------
    arrived
        Each with the key of its study.
    """
    _note_rejected_before(uow, arrived)
    for study, instance in arrived:
        if instance.rejection is not None:
            _heed(uow, study, instance, instance.rejection)


def is_excluded() -> ColumnElement[bool]:
    """Tell whether an instance is rejected, so that no model reads it."""
    study = aliased(StudyRow)
    naming = (
        select(RejectedImageRow.note)
        .join(study, study.study_instance_uid == RejectedImageRow.study_instance_uid)
        .where(study.id == InstanceRow.study, RejectedImageRow.excluded)
        .where(RejectedImageRow.sop_instance_uid == InstanceRow.sop_instance_uid)
    )
    return naming.correlate(InstanceRow).exists()


def excluded(uow: UnitOfWork, study_instance_uid: str) -> dict[str, RejectionTitle]:
    """Return the SOP Instance UIDs of a study that no model reads, and why; also of what is not here."""
    query = (
        select(RejectedImageRow.sop_instance_uid, RejectionNoteRow.title)
        .join(RejectionNoteRow, RejectionNoteRow.id == RejectedImageRow.note)
        .where(RejectedImageRow.study_instance_uid == study_instance_uid, RejectedImageRow.excluded)
        .order_by(RejectionNoteRow.id)
    )
    return {row.sop_instance_uid: RejectionTitle(row.title) for row in uow.execute(query)}


def of_study(uow: UnitOfWork, study_instance_uid: str) -> tuple[ImageRejection, ...]:
    """Return what Key Objects rejected of a study, in order of time, and those of it that could not be read."""
    query = (
        select(
            RejectionNoteRow.id, RejectionNoteRow.sop_instance_uid.label("key_object"), RejectionNoteRow.title,
            RejectionNoteRow.received_at, RejectedImageRow.sop_instance_uid, RejectedImageRow.excluded,
            RejectedImageRow.lifted_at,
        )
        .join(RejectedImageRow, RejectedImageRow.note == RejectionNoteRow.id, isouter=True)
        .where(_is_about(study_instance_uid))
        .order_by(RejectionNoteRow.id, RejectedImageRow.sop_instance_uid)
    )  # fmt: skip
    groups: dict[int, list[tuple[ImageRejection, bool]]] = defaultdict(list)
    for row in uow.execute(query):
        uids = (row.sop_instance_uid,) if row.sop_instance_uid else ()
        each = ImageRejection(
            row.key_object, RejectionTitle(row.title), row.received_at, uids, int(row.excluded or 0), row.lifted_at
        )
        groups[row.id].append((each, bool(row.excluded)))
    return tuple(_joined([each for each, _ in group]) for group in groups.values())


def lift(uow: UnitOfWork, study_instance_uid: str) -> int:
    """Let models read the images of a study that are rejected, on record; return how many are here.

    A Key Object that comes later rejects them again.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid, for_update=True)
    count = len(_here(uow, study.id, set(excluded(uow, study_instance_uid))))
    theirs = update(RejectedImageRow).where(
        RejectedImageRow.study_instance_uid == study_instance_uid, RejectedImageRow.excluded
    )
    uow.execute(theirs.values(excluded=False, lifted_at=uow.now()))
    if count:
        _look_again(uow, {study.id})
        words = f"A person wants {count} image(s) analysed that were rejected."
        record(uow, uow.now(), [NewEvent(study.id, EventKind.REJECTION_LIFTED, words, {"images": count})])
    return count


def _is_about(study_instance_uid: str) -> ColumnElement[bool]:
    unread = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid).scalar_subquery()
    return (RejectedImageRow.study_instance_uid == study_instance_uid) | (
        (RejectionNoteRow.title == RejectionTitle.UNREAD.value) & (RejectionNoteRow.study == unread)
    )


def _joined(parts: Sequence[ImageRejection]) -> ImageRejection:
    first = parts[0]
    return ImageRejection(
        first.key_object,
        first.title,
        first.received_at,
        tuple(uid for part in parts for uid in part.sop_instance_uids),
        sum(part.excluded for part in parts),
        max((part.lifted_at for part in parts if part.lifted_at), default=None),
    )


@dataclass(frozen=True)
class _Named:
    """What a Key Object names of a study that is here: its key, its UID, the images, those that are out from now on."""

    study: int
    study_instance_uid: str
    named: int
    here: frozenset[str]
    newly: frozenset[str]


def _heed(uow: UnitOfWork, study: int, instance: StoredInstance, note: RejectionNote) -> None:
    key_object, at = instance.header.sop_instance_uid, uow.now()
    ours, lifted = _results_among(uow, [uid for _, uid in note.named]), _lifted(uow, key_object)
    images = [pair for pair in note.named if pair[1] not in ours and pair not in lifted]
    affected = list(_named(uow, images, note.title)) if note.title.excludes else []
    values = {
        "study": study,
        "sop_instance_uid": key_object,
        "title": note.title.value,
        "received_at": instance.received_at,
    }
    key = uow.execute(insert(RejectionNoteRow).values(values).returning(RejectionNoteRow.id)).scalar_one()
    excluded_ones = set(images) if note.title.excludes else set()
    for start in range(0, len(note.named), _CHUNK):
        rows = [
            {
                "note": key,
                "study_instance_uid": pair[0],
                "sop_instance_uid": pair[1],
                "excluded": pair in excluded_ones,
                "lifted_at": lifted.get(pair),
            }
            for pair in note.named[start : start + _CHUNK]
        ]
        uow.execute(insert(RejectedImageRow), rows)
    for each in affected:
        _take_back(uow, each)
    _look_again(uow, {each.study for each in affected if each.newly} | _compared_with(uow, affected))
    record(uow, at, [*_told(study, key_object, note, len(ours), affected)])


def _lifted(uow: UnitOfWork, key_object: str) -> dict[tuple[str, str], datetime]:
    """Return what a person wanted analysed though the same Key Object, in other bytes, rejected it."""
    query = (
        select(RejectedImageRow.study_instance_uid, RejectedImageRow.sop_instance_uid, RejectedImageRow.lifted_at)
        .join(RejectionNoteRow, RejectionNoteRow.id == RejectedImageRow.note)
        .where(RejectionNoteRow.sop_instance_uid == key_object, RejectedImageRow.lifted_at.is_not(None))
    )
    return {(row.study_instance_uid, row.sop_instance_uid): row.lifted_at for row in uow.execute(query)}


def _results_among(uow: UnitOfWork, uids: Sequence[str]) -> set[str]:
    """Return which are results of ours: an archive that rejects these rejects no image."""
    found: set[str] = set()
    for start in range(0, len(uids), _CHUNK):
        query = select(ResultRow.sop_instance_uid).where(ResultRow.sop_instance_uid.in_(uids[start : start + _CHUNK]))
        found |= set(uow.execute(query).scalars())
    return found


def _named(uow: UnitOfWork, images: Sequence[tuple[str, str]], title: RejectionTitle) -> Iterator[_Named]:
    by_study: dict[str, set[str]] = defaultdict(set)
    for study_uid, uid in images:
        by_study[study_uid].add(uid)
    for study_uid, uids in sorted(by_study.items()):
        its_key = select(StudyRow.id).where(StudyRow.study_instance_uid == study_uid)
        key = uow.execute(its_key.with_for_update()).scalar()  # before its jobs, as everybody does who changes both
        if key is not None:
            here = frozenset(_here(uow, key, uids))
            newly = here - excluded(uow, study_uid).keys() if title.excludes else frozenset()
            yield _Named(key, study_uid, len(uids), here, newly)


def _here(uow: UnitOfWork, study: int, uids: Collection[str]) -> set[str]:
    """Return which of these are current instances of a study, by its key."""
    query = select(InstanceRow.sop_instance_uid).where(InstanceRow.study == study, InstanceRow.current)
    return set(uow.execute(query).scalars()) & set(uids) if uids else set()


def _take_back(uow: UnitOfWork, each: _Named) -> None:
    """Let no job of a study count that reads what was rejected: its results do not go out, and it does not begin."""
    if not each.newly:
        return
    reading = (
        select(JobInstanceRow.job)
        .join(InstanceRow, InstanceRow.id == JobInstanceRow.instance)
        .where(InstanceRow.study == each.study, is_excluded())
    )
    theirs = update(JobRow).where(JobRow.study == each.study, JobRow.current, JobRow.id.in_(reading))
    jobs = list(uow.execute(theirs.values(current=False).returning(JobRow.id)).scalars())
    queued = update(JobRow).where(
        JobRow.id.in_(jobs), JobRow.state.in_([state.value for state in job_sources(JobState.SUPERSEDED)])
    )
    uow.execute(queued.values(state=JobState.SUPERSEDED.value, ended_at=uow.now()))
    notices.forget(uow, jobs)
    outbox.owe_no_more(uow, jobs)


def _compared_with(uow: UnitOfWork, affected: Sequence[_Named]) -> set[int]:
    """Return the keys of the studies whose analyses were compared with what is out from now on."""
    studies = [each.study for each in affected if each.newly]
    query = (
        select(JobRow.study)
        .join(JobPriorRow, JobPriorRow.job == JobRow.id)
        .join(InstanceRow, InstanceRow.id == JobPriorRow.instance)
        .where(JobRow.current, InstanceRow.study.in_(studies), is_excluded())
    )
    return set(uow.execute(query.distinct()).scalars()) if studies else set()


def _look_again(uow: UnitOfWork, studies: Collection[int]) -> None:
    """Have models matched anew: a plan that is made just now does not hold."""
    change = update(StudyRow).where(StudyRow.id.in_(list(studies)))
    uow.execute(change.values(evaluation_due=True, generation=StudyRow.generation + 1))


def _told(
    study: int, key_object: str, note: RejectionNote, ours: int, affected: Sequence[_Named]
) -> Iterator[NewEvent]:
    """Yield what the journals say of a Key Object: that of its own study always, and those whose images it rejects."""
    says = {"key_object": key_object, "title": note.title.value}
    if note.title is RejectionTitle.UNREAD:
        words = f"The Key Object {key_object} may reject images, and is not heeded. {note.unread}"
        yield NewEvent(study, EventKind.REJECTION_UNREAD, words, says)
        return
    what = f"The Key Object {key_object} ({note.title.words})"
    for each in affected:
        words = f"{what} rejects {each.named} object(s) of it, {len(each.here)} of them here; no model reads them."
        numbers = says | {"named": each.named, "here": len(each.here), "excluded": len(each.newly)}
        yield NewEvent(each.study, EventKind.IMAGES_REJECTED, words, numbers)
    if study not in {each.study for each in affected}:
        named = len(note.named) - ours
        words = f"{what} names {named} object(s)" + (f", and {ours} result(s) of this node" if ours else "")
        words = f"{words}; for this study nothing follows."
        yield NewEvent(study, EventKind.IMAGES_REJECTED, words, says | {"named": named, "results": ours})


def _note_rejected_before(uow: UnitOfWork, arrived: Sequence[tuple[int, StoredInstance]]) -> None:
    """Note in their studies' journals which of these were rejected before they came."""
    keys = {instance.header.study_instance_uid: study for study, instance in arrived}
    came = {(instance.header.study_instance_uid, instance.header.sop_instance_uid) for _, instance in arrived}
    query = select(RejectedImageRow.study_instance_uid, RejectedImageRow.sop_instance_uid).where(
        RejectedImageRow.study_instance_uid.in_(list(keys)), RejectedImageRow.excluded
    )
    found = {(row.study_instance_uid, row.sop_instance_uid) for row in uow.execute(query.distinct())} & came
    events = [
        NewEvent(
            keys[uid],
            EventKind.IMAGES_REJECTED,
            f"{count} instance(s) arrived that a Key Object rejects; no model reads them.",
            {"excluded": count},
        )
        for uid, count in Counter(uid for uid, _ in found).items()
    ]
    record(uow, uow.now(), events)
