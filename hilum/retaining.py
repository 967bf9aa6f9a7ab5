"""Retention: studies that nobody needs here any more go, the oldest first, until the limits of ``[retention]`` hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import structlog

from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from db.lasting import dispensable, retention
from db.lasting.dispensable import Ground, KeptStudy, Limits
from db.lasting.sweeping import sweep
from db.overview.problem import Kind, Problem
from hilum.config import Settings
from hilum.outages import disk_failure
from hilum.processes import StopSignal
from study.errors import ArchiveError, DatabaseUnavailable, Reason

log = structlog.get_logger()

AT_ONCE: Final = 20  # studies of one look
_GIGABYTE: Final = 1e9
_MEGABYTE: Final = 1e6
_REST_SECONDS: Final = 600.0  # before a study is tried again that could not be removed

SPARED_WORDS: Final = {
    Ground.OPEN: "images arrive, or it waits to be looked at",
    Ground.AT_WORK: "an analysis waits or runs",
    Ground.OWED: "a result, report or rejection is not with its peer yet, or the peer has not committed itself to it",
    Ground.REPORT: "a refusal report is not written yet",
    Ground.ALARM: "an image came again with other pixels, and nobody said which are right (hilum studies --problems)",
    Ground.FAILED: "something failed, and nobody let go of it (hilum discard)",
    Ground.OUTDATED: "images of its results were rejected since, and peers have the results (hilum studies --problems)",
    Ground.PRIOR: "another study of the patient is being worked on, and may be compared with it",
    Ground.ASKED: "a peer asks us to commit ourselves to it",
    Ground.VOUCHED: "we committed ourselves to a peer to keep it (retention.vouched_days)",
}


def amount(size: int) -> str:
    """Return how much that is [bytes], for a person."""
    return f"{size / _GIGABYTE:.2f} GB" if size >= _GIGABYTE else f"{size / _MEGABYTE:.1f} MB"


def counted(studies: int) -> str:
    """Return how many studies, for a person."""
    return f"{studies} {'study' if studies == 1 else 'studies'}"


def limits_of(settings: Settings) -> Limits:
    """Return what may be kept, by the configuration."""
    said = settings.retention
    return Limits(
        days=said.days or None,
        most_bytes=int(said.max_gb * _GIGABYTE) if said.max_gb else None,
        vouched_days=said.vouched_days or None,
    )


def retention_words(settings: Settings) -> Iterator[str]:
    """Give what is removed by itself, in words; nothing where everything is kept."""
    said = settings.retention
    limits = [f"older than {said.days:g} day{'' if said.days == 1 else 's'}"] if said.days else []
    limits += [f"whatever is above {said.max_gb:g} GB"] if said.max_gb else []
    if limits:
        yield f"retention removes studies that are done with, the oldest first: {', and '.join(limits)}"


def problems(uow: UnitOfWork, settings: Settings) -> Iterator[Problem]:
    """Give that more is here than ``max_gb``, and nothing of it may go; nothing where that is not so."""
    limits = limits_of(settings)
    if limits.most_bytes is None or (used := dispensable.used_bytes(uow)) <= limits.most_bytes:
        return
    if dispensable.due(uow, limits, 1):
        return
    words = (
        f"{amount(used)} are here, more than retention.max_gb = {settings.retention.max_gb:g}, and nothing "
        f"may be removed: {spared_words(dispensable.kept_studies(uow, limits))}."
    )
    yield Problem(Kind.STORE, str(settings.data_dir), uow.now(), Reason("AboveMaxGb", words, {"bytes": used}))


def spared_words(studies: Iterable[KeptStudy]) -> str:
    """Return how many studies each ground spares, and how much they hold, the greatest first."""
    counts, sizes = Counter[Ground](), Counter[Ground]()
    for each in studies:
        if each.ground is not None:
            counts[each.ground] += 1
            sizes[each.ground] += each.size
    return "; ".join(
        f"{counted(counts[ground])} ({amount(size)}) spared, since {SPARED_WORDS[ground]}"
        for ground, size in sizes.most_common()
    )


class Retainer:
    """Removes what must go and may; whatever ends it in between, the next look goes on from what it left."""

    def __init__(self, settings: Settings, database: Database, store: FileStore, stop: StopSignal) -> None:
        self._limits = limits_of(settings)
        self._database = database
        self._store = store
        self._stop = stop
        self._resting: dict[str, float] = {}

    def turn(self) -> bool:
        """Remove the files that are left, and some of the studies that must go; tell whether there may be more."""
        with self._store.removing() as may:
            if not may:
                log.info("retention.waits", words="A backup copies the store.")
                return False
        with self._database.reading() as uow:
            left = retention.with_files_left(uow, AT_ONCE)
            due = dispensable.due(uow, self._limits, AT_ONCE)
        done = [self._tried(uid, None) for uid in left]
        done += [self._tried(each.study_instance_uid, each) for each in due]
        return any(done) and not self._stop.is_set()

    def _tried(self, study_instance_uid: str, due: KeptStudy | None) -> bool:
        """Remove one study, or what is left of it; what can not be removed keeps no other from going.

        It tells whether that came to anything.
        """
        if self._stop.is_set() or self._resting.get(study_instance_uid, 0.0) > time.monotonic():
            return False
        try:
            removed = due is not None and self._remove(due)
            swept = (removed or due is None) and sweep(self._database, self._store, study_instance_uid)
            return removed or swept
        except (OSError, ArchiveError) as error:
            if isinstance(error, DatabaseUnavailable) or disk_failure(error) is not None:
                raise  # no study's fault
            words = error.words if isinstance(error, ArchiveError) else error.strerror
            log.warning("retention.not_removed", study=study_instance_uid, words=words)
        self._resting[study_instance_uid] = time.monotonic() + _REST_SECONDS
        return False

    def _remove(self, due: KeptStudy) -> bool:
        """Remove a study from the database, its manifest first; False where something spares it by now."""
        uid = due.study_instance_uid
        with self._database.writing() as uow:
            ground = retention.hold(uow, uid, self._limits)
            if ground is not None:
                return False
            record = retention.removed_record(uow, uid)
            self._store.append_manifest(uid, record)
            retention.remove(uow, uid, record)
            age = uow.now() - due.last_received_at
            uow.commit()
        log.info(
            "retention.removed",
            study=uid,
            instances=len(record["instances"]),
            results=len(record["results"]),
            bytes=due.size,
            age_days=round(age.total_seconds() / 86_400, 1),
        )
        return True
