"""Images that came again otherwise: a header that was corrected is a correction, other pixels are an alarm.

A SOP Instance UID stands for one image for ever: where the same one comes with other pixels, it may be another
patient's, and nobody here can say which is right. Where it comes in another encoding and shows the same, nothing
happened. A lossy form is another image, which has no right to the UID (PS3.3 C.7.6.1.1.2): other pixels.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Final

import structlog

from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from db.images import versions
from db.images.index import StudySnapshot
from db.images.pixels import StoredPixels, pixels_of
from db.images.versions import Version
from hilum.config import Settings
from hilum.showing import Shown, shown_by
from inference.machine import MEGABYTE, machine_bytes
from study.entities import StoredInstance
from study.errors import ArchiveError, Reason
from study.identity import PIXELS_CHANGED
from study.states import Which

log = structlog.get_logger()

_PART_OF_MACHINE: Final = 4
_REST_SECONDS: Final = 30.0


def changed_pixels(uow: UnitOfWork, store: FileStore, seen: StudySnapshot) -> dict[str, Reason]:
    """Return why series can not be analysed of which images came again with other pixels, by Series Instance UID.

    What can not be compared counts as a correction of its header, and stands in the log.
    """
    series_of = {each.header.sop_instance_uid: uid for uid, series in seen.series.items() for each in series}
    pixels = _Pixels(store)
    changed: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for uid, several in versions.of_study(uow, seen.study_instance_uid).items():
        newest = next((each for each in several if each.current), None)
        if newest is None or uid not in series_of:
            continue
        alike = [pixels.are_alike(newest, each) for each in several if not (each.current or each.discounted)]
        changed[series_of[uid]] += False in alike
        unknown[series_of[uid]] += False not in alike and None in alike
    for series, count in (+unknown).items():
        log.info("versions.not_compared", study=seen.study_instance_uid, series=series, versions=count)
    return {series: _reason(images) for series, images in (+changed).items()}


def choose(uow: UnitOfWork, store: FileStore, study_instance_uid: str, which: Which) -> int:
    """Let the newest, or the oldest, of an image's pixels be right, on record; return of how many images.

    Of the versions that have these pixels the newest counts: its header is the last correction. Those that have
    others are kept, and count no more, whatever comes of them again.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    pixels = _Pixels(store)
    chosen: list[int] = []
    wrong: list[int] = []
    for several in versions.of_study(uow, study_instance_uid).values():
        left = several if which is Which.NEWEST else [each for each in several if not each.discounted]
        right = left[-1] if which is Which.NEWEST else left[0]
        others = [each.id for each in left if pixels.are_alike(right, each) is False]
        if others:
            alike = [each for each in left if pixels.are_alike(right, each)]
            last = next((each for each in alike if each.current), alike[-1])
            chosen.append(next(each.id for each in alike if each is last or each.is_same_as(last)))
            wrong += others
    words = f"A person says that of {len(chosen)} image(s) the {which.value} pixels are right; others count no more."
    versions.choose(uow, study_instance_uid, chosen, wrong, words)
    return len(chosen)


class Comparing:
    """Finds out what the versions of images show where that is not known, beside all else that a process does.

    Images are decoded for it, by a process of its own; one study after the other has its turn.
    """

    def __init__(self, settings: Settings, database: Database, store: FileStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()

    def holds_up(self, study_instance_uid: str) -> bool:
        """Tell whether a study has to wait until it is known what its images show; it is found out meanwhile."""
        with self._changed:
            if study_instance_uid in self._waiting:
                return True
        with self._database.reading() as uow:
            if not _unknown(uow, self._store, study_instance_uid):
                return False
        with self._changed:
            if not self._waiting:
                threading.Thread(target=self._work, name="comparing", daemon=True).start()
            self._waiting.append(study_instance_uid)
        return True

    def _work(self) -> None:
        """Find it out for each study that waits, and end."""
        while True:
            with self._changed:
                if not self._waiting:
                    return
                study = self._waiting[0]
            try:
                find_out(self._settings, self._database, self._store, study)
            except Exception:  # the loop's edge: it is tried again
                log.exception("versions.not_found_out", study=study)
                time.sleep(_REST_SECONDS)
            finally:
                with self._changed:
                    self._waiting.popleft()


def find_out(settings: Settings, database: Database, store: FileStore, study_instance_uid: str) -> None:
    """Put on record what the versions of a study's images show, where that decides something and is not known.

    It may take ``inference.deadline_seconds``, and a part of the memory that models have.
    """
    with database.reading() as uow:
        unknown = _unknown(uow, store, study_instance_uid)
    if not unknown:
        return
    memory = settings.inference.memory_mb * MEGABYTE or machine_bytes() // _PART_OF_MACHINE
    here = {each.id: path for each in unknown if (path := _path(store, each)) is not None}
    shown: dict[int, Shown] = {each.id: {"unread": "FileGone"} for each in unknown}
    shown |= zip(here, shown_by(list(here.values()), settings.inference.deadline_seconds, memory), strict=True)
    with database.writing() as uow:
        versions.keep_shown(uow, shown)
        uow.commit()
    unread = Counter(what["unread"] for what in shown.values() if "unread" in what)
    log.info("versions.compared", study=study_instance_uid, versions=len(shown), unread=dict(unread))


def _path(store: FileStore, version: Version) -> Path | None:
    try:
        return store.locate(version.instance)
    except ArchiveError:  # retention removed it
        return None


def settle(database: Database, study_instance_uid: str) -> None:
    """Let the first version of each image count of which the newest shows the same; of all others the newest does."""
    with database.reading() as uow:
        if not versions.of_study(uow, study_instance_uid):
            return
    with database.writing() as uow:
        if versions.settle(uow, study_instance_uid):
            uow.commit()


def _unknown(uow: UnitOfWork, store: FileStore, study_instance_uid: str) -> list[Version]:
    """Return the versions that must be decoded before anybody can say whether others show the same."""
    pixels = _Pixels(store)
    wanted: dict[int, Version] = {}
    for several in versions.of_study(uow, study_instance_uid).values():
        counting = [each for each in several if not each.discounted]
        newest = next((each for each in counting if each.current), None)
        for each in counting:
            if newest is not None and each is not newest and pixels.need_decoding(newest, each):
                wanted |= {version.id: version for version in (newest, each) if version.shown is None}
    return list(wanted.values())


class _Pixels:
    """The pixel data of versions, each read once."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._seen: dict[str, StoredPixels | None] = {}

    def are_alike(self, one: Version, other: Version) -> bool | None:
        """Tell whether two versions have the same pixels; None where that can not be said."""
        mine, others = one.shows("pixels"), other.shows("pixels")
        if one.id == other.id or (mine and mine == others):
            return True
        return False if mine and others else self._are_stored_alike(one, other)

    def need_decoding(self, one: Version, other: Version) -> bool:
        """Tell whether the bytes alone do not say whether two versions show the same."""
        syntaxes = {each.instance.header.transfer_syntax_uid for each in (one, other)}
        if len(syntaxes) > 1:
            return True
        first = self._of(one.instance)
        return first is not None and not first.is_native and self._are_stored_alike(one, other) is False

    def _are_stored_alike(self, one: Version, other: Version) -> bool | None:
        first, second = self._of(one.instance), self._of(other.instance)
        return None if first is None or second is None else first.are_those_of(second)

    def _of(self, version: StoredInstance) -> StoredPixels | None:
        if version.digest not in self._seen:
            try:
                self._seen[version.digest] = pixels_of(self._store.locate(version))
            except (ArchiveError, OSError):
                self._seen[version.digest] = None
        return self._seen[version.digest]


def _reason(images: int) -> Reason:
    several = "s" if images != 1 else ""
    return Reason(
        PIXELS_CHANGED,
        f"{images} image{several} came again with other pixels under the same SOP Instance UID; it can not be told "
        "which are right. Have them sent under new UIDs, or say it: hilum analyse --versions newest (or oldest).",
        {"images": images},
    )
