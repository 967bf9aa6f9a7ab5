"""Images that came again otherwise: a header that was corrected is a correction, other pixels are an alarm.

A SOP Instance UID stands for one image for ever: where the same one comes with other pixels, it may be another
patient's, and nobody here can say which is right.
"""

from __future__ import annotations

from collections import Counter

import structlog

from db.engine import UnitOfWork
from db.filestore import FileStore
from db.index import StudySnapshot, other_versions
from db.pixels import StoredPixels, pixels_of
from study.entities import StoredInstance
from study.errors import ArchiveError, Reason
from study.identity import PIXELS_CHANGED

log = structlog.get_logger()


def changed_pixels(uow: UnitOfWork, store: FileStore, seen: StudySnapshot) -> dict[str, Reason]:
    """Return why series can not be analysed of which images came again with other pixels, by Series Instance UID.

    What can not be compared without decoding counts as a correction of its header, and stands in the log.
    """
    current = {each.header.sop_instance_uid: each for series in seen.series.values() for each in series}
    pixels = _Pixels(store)
    changed: dict[str, set[str]] = {}
    unknown: Counter[str] = Counter()
    for other in other_versions(uow, seen.study_instance_uid):
        newest = current.get(other.header.sop_instance_uid)
        if newest is None or other.header.sop_instance_uid in changed.get(newest.header.series_instance_uid, ()):
            continue
        same = pixels.are_alike(newest, other)
        if same is None:
            unknown[newest.header.series_instance_uid] += 1
        elif not same:
            changed.setdefault(newest.header.series_instance_uid, set()).add(other.header.sop_instance_uid)
    for series, count in unknown.items():
        log.info("versions.not_compared", study=seen.study_instance_uid, series=series, versions=count)
    return {series: _reason(len(uids)) for series, uids in changed.items()}


class _Pixels:
    """The pixel data of versions, each read once."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._seen: dict[str, StoredPixels | None] = {}

    def are_alike(self, one: StoredInstance, other: StoredInstance) -> bool | None:
        """Tell whether two versions show the same; None where that can not be said."""
        first, second = self._of(one), self._of(other)
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
        "which are right. Have them sent under new UIDs, or, if the newest are right, analysed by hilum analyse.",
        {"images": images},
    )
