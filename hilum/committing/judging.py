"""Which objects we commit ourselves to keep: those that are on disk as they came, and that nobody will remove.

Whoever asked may erase them then. So every version under the UID must be whole, and its bytes are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from db.delivery.vouching import Held
from db.files.filestore import FileStore
from db.files.incoming import read_object
from study.commitment import FailureReason, Reference
from study.entities import StoredInstance
from study.errors import ArchiveError

_INBOX_MARGIN = timedelta(seconds=2)


@dataclass(frozen=True)
class Judgement:
    """What is to be answered for each object of a request.

    Parameters
    ----------
    whole
        The versions of each object that we answer for, if they are still there.
    failed
        Every other object, and why not.
    absent
        How many of those the index does not know.
    """

    whole: dict[Reference, tuple[Held, ...]] = field(default_factory=dict)
    failed: dict[Reference, FailureReason] = field(default_factory=dict)
    absent: int = 0


def judge(
    references: Iterable[Reference], versions: Mapping[str, Sequence[Held]], is_whole: Callable[[StoredInstance], bool]
) -> Judgement:
    """Return what can be said for each object (PS3.4 J.3.3.1.2).

    Parameters
    ----------
    versions
        What the index has, by SOP Instance UID.
    is_whole
        Tells whether an instance is on disk as it came; asked once for each version.
    """
    judgement = Judgement()
    absent = 0
    for reference in references:
        held = tuple(versions.get(reference.sop_instance_uid, ()))
        if not held:
            judgement.failed[reference] = FailureReason.NO_SUCH_OBJECT_INSTANCE
            absent += 1
        elif any(each.instance.header.sop_class_uid != reference.sop_class_uid for each in held):
            judgement.failed[reference] = FailureReason.CLASS_INSTANCE_CONFLICT
        elif not all(is_whole(each.instance) for each in held):
            judgement.failed[reference] = FailureReason.PROCESSING_FAILURE
        else:
            judgement.whole[reference] = held
    return Judgement(judgement.whole, judgement.failed, absent)


def is_on_disk(store: FileStore, instance: StoredInstance) -> bool:
    """Tell whether the instance's file is there with the size and the data set that it came with, read to its end."""
    try:
        found = read_object(store.locate(instance))
    except (ArchiveError, OSError):
        return False
    return (found.size, found.digest) == (instance.size, instance.digest)


def may_still_come(store: FileStore, received_at: datetime) -> bool:
    """Tell whether an inbox holds anything that came before a request did, and is not in the index yet."""
    first = store.first_received()
    return first is not None and first <= received_at + _INBOX_MARGIN


def listed(judgement: Judgement) -> dict[str, dict[str, frozenset[str]]]:
    """Return which instances of which series of which study a request names.

    Nothing where we do not answer for an object: nobody knows of which series it is, so no list is known to be whole.
    """
    if judgement.failed:
        return {}
    found: dict[str, dict[str, set[str]]] = {}
    for held in judgement.whole.values():
        for each in held:
            header = each.instance.header
            series = found.setdefault(header.study_instance_uid, {}).setdefault(header.series_instance_uid, set())
            series.add(header.sop_instance_uid)
    return {study: {uid: frozenset(uids) for uid, uids in series.items()} for study, series in found.items()}
