"""The versions of an image, what each of them shows, and which of them counts.

Of two that show the same the one that was analysed counts, else the first: an archive that sends a compressed form of
what a modality sent corrects nothing. What a person said is wrong counts no more, whatever comes of it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import bindparam, select, update

from db import records
from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.images import places
from db.tables import InstanceRow, JobInstanceRow, StudyRow
from study.entities import StoredInstance

_SAME: Final = ("header", "pixels")


class Standing(StrEnum):
    """What became of a version that does not count."""

    REPLACED = "replaced"  # other bytes took its place
    SAME = "same"  # it shows what the one that counts does, in another encoding
    DISCOUNTED = "discounted"  # a person said that it is wrong


@dataclass(frozen=True)
class Version:
    """A version of an image.

    Parameters
    ----------
    id
        Its key in the database.
    shown
        The digests of its `header` and its decoded `pixels`, or `unread`: why they are not known. None: nobody looked.
    discounted
        Whether a person said that it is wrong.
    is_read
        Whether an analysis read it.
    """

    id: int
    instance: StoredInstance
    current: bool
    shown: Mapping[str, Any] | None = None
    discounted: bool = False
    is_read: bool = False

    def shows(self, *what: str) -> tuple[str, ...] | None:
        """Return the digests of what it shows, of header or pixels or both; None where they are not known."""
        found = tuple(str((self.shown or {}).get(name, "")) for name in what)
        return found if all(found) else None

    def is_same_as(self, other: Version) -> bool:
        """Tell whether both are known to show the same."""
        mine = self.shows(*_SAME)
        return mine is not None and mine == other.shows(*_SAME)


def of_study(uow: UnitOfWork, study_instance_uid: str) -> dict[str, list[Version]]:
    """Return the versions of each image of a study of which there are several, by SOP Instance UID; the first first.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    return _several(uow, study.id)


def keep_shown(uow: UnitOfWork, shown: Mapping[int, Mapping[str, Any]]) -> None:
    """Put on record what versions show, by their keys."""
    by_key = update(InstanceRow).where(InstanceRow.id == bindparam("key")).values(shown=bindparam("what"))
    if shown:
        uow.execute(by_key, [{"key": key, "what": dict(what)} for key, what in shown.items()])


def settle(uow: UnitOfWork, study_instance_uid: str) -> int:
    """Let the version count that was analysed, else the first, of those that show the same; return of how many images.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid, for_update=True)
    pairs = [_one_of_the_same(versions) for versions in _several(uow, study.id).values()]
    chosen = [pair for pair in pairs if pair is not None]
    _exchange(uow, study.id, chosen)
    if chosen:
        words = f"{len(chosen)} instance(s) came again in another encoding and show the same; the first ones count."
        record(uow, uow.now(), [NewEvent(study.id, EventKind.SAME_AGAIN, words, {"instances": len(chosen)})])
    return len(chosen)


def choose(
    uow: UnitOfWork, study_instance_uid: str, chosen: Collection[int], wrong: Collection[int], words: str = ""
) -> None:
    """Let those versions count, by their keys, and those others no more: a person says so.

    Parameters
    ----------
    words
        What the study's journal says of it; "" for nothing.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid, for_update=True)
    versions = [each for several in _several(uow, study.id).values() for each in several]
    current = {each.instance.header.sop_instance_uid: each for each in versions if each.current}
    pairs = [
        (current[each.instance.header.sop_instance_uid], each)
        for each in versions
        if each.id in set(chosen) and not each.current
    ]
    _exchange(uow, study.id, pairs)
    mark = update(InstanceRow).where(InstanceRow.id == bindparam("key")).values(discounted=bindparam("said"))
    said = [{"key": key, "said": True} for key in wrong] + [{"key": key, "said": False} for key in chosen]
    if said:
        uow.execute(mark, said)
    if said and words:
        record(uow, uow.now(), [NewEvent(study.id, EventKind.VERSIONS_CHOSEN, words, {"instances": len(chosen)})])


def standings(uow: UnitOfWork, study_instance_uid: str) -> dict[tuple[str, str], Standing]:
    """Return what became of each version that does not count, by SOP Instance UID and digest."""
    found: dict[tuple[str, str], Standing] = {}
    for uid, versions in of_study(uow, study_instance_uid).items():
        counts = next((each for each in versions if each.current), None)
        for each in versions:
            if not each.current:
                found[uid, each.instance.digest] = _standing(each, counts)
    return found


def _standing(version: Version, counts: Version | None) -> Standing:
    if version.discounted:
        return Standing.DISCOUNTED
    return Standing.SAME if counts is not None and version.is_same_as(counts) else Standing.REPLACED


def _one_of_the_same(versions: Sequence[Version]) -> tuple[Version, Version] | None:
    """Return the version that counts, and the one that is to; None where that is so already."""
    counts = next((each for each in versions if each.current), None)
    if counts is None:
        return None
    same = [each for each in versions if each is counts or (not each.discounted and each.is_same_as(counts))]
    best = next((each for each in same if each.is_read), same[0])
    return None if best is counts else (counts, best)


def _several(uow: UnitOfWork, study: int) -> dict[str, list[Version]]:
    replaced = select(InstanceRow.sop_instance_uid).where(InstanceRow.study == study, ~InstanceRow.current)
    read = select(JobInstanceRow.job).where(JobInstanceRow.instance == InstanceRow.id).exists()
    query = (
        records.instances()
        .add_columns(
            InstanceRow.id, InstanceRow.current, InstanceRow.shown, InstanceRow.discounted, read.label("is_read")
        )
        .where(InstanceRow.study == study, InstanceRow.sop_instance_uid.in_(replaced))
        .order_by(InstanceRow.received_at, InstanceRow.id)  # a rebuild enters them in another order
    )
    found: dict[str, list[Version]] = defaultdict(list)
    for row in uow.execute(query):
        found[row.header["sop_instance_uid"]].append(_version(row))
    return found


def _version(row: AnyRow) -> Version:
    return Version(row.id, records.instance_of(row), row.current, row.shown, row.discounted, bool(row.is_read))


def _exchange(uow: UnitOfWork, study: int, pairs: Sequence[tuple[Version, Version]]) -> None:
    """Let the second of each pair count in the place of the first; a plan that is made just now does not hold."""
    if not pairs:
        return
    by_key = update(InstanceRow).where(InstanceRow.id == bindparam("key"))
    # What counts no more goes first: a study has one current version of an instance at any moment
    uow.execute(by_key.values(current=False), [{"key": old.id} for old, _ in pairs])
    uow.execute(by_key.values(current=True), [{"key": new.id} for _, new in pairs])
    change = update(StudyRow).where(StudyRow.id == study)
    uow.execute(change.values(evaluation_due=True, generation=StudyRow.generation + 1))
