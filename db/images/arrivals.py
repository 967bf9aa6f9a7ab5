"""Which version of an instance is current once new bytes have come? Known versions and arrivals in, the verdict out.

Within a study the bytes that came last under a SOP Instance UID are current; every other version is kept. The same
bytes again are nothing new, unless others had replaced them since: then their sender took the change back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from study.entities import StoredInstance


class Arrival(StrEnum):
    """What an arriving instance was."""

    NEW = "new"
    DUPLICATE = "duplicate"  # these bytes are there already
    OTHER_VERSION = "other_version"  # other bytes under a known UID, or known bytes that are current again


@dataclass
class Version:
    """One version of a SOP Instance, known (with its `id`) or arriving (with its `instance`)."""

    study: int
    series: int
    sop_instance_uid: str
    digest: str
    received_at: datetime
    current: bool = False
    discounted: bool = False  # a person said that it is wrong
    id: int | None = None
    instance: StoredInstance | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells versions apart everywhere."""
        return (self.sop_instance_uid, self.digest)


@dataclass
class Changes:
    """What must be written: one entry of `arrivals` per arriving version, in their order."""

    arrivals: list[Arrival] = field(default_factory=list)
    new: list[Version] = field(default_factory=list)
    replaced: list[Version] = field(default_factory=list)  # known, current until now
    restored: list[Version] = field(default_factory=list)  # known, current from now on
    elsewhere: list[Version] = field(default_factory=list)  # new, and the UID is known from another study or series

    @property
    def studies(self) -> set[int]:
        """Return the keys of the studies whose current instances change."""
        return {version.study for version in (*self.new, *self.restored)}


def sort_out(arriving: Sequence[Version], known: Iterable[Version]) -> Changes:
    """Return what changes when `arriving` join the `known` versions of the same SOP Instance UIDs."""
    ledger = {version.key: version for version in known}
    before = {key for key, version in ledger.items() if version.current}
    by_uid: dict[str, list[Version]] = defaultdict(list)
    for version in ledger.values():
        by_uid[version.sop_instance_uid].append(version)
    changes = Changes()
    for version in arriving:
        changes.arrivals.append(_take(version, ledger, by_uid[version.sop_instance_uid], changes))
    for version in ledger.values():
        if version.id is not None and version.current != (version.key in before):
            (changes.restored if version.current else changes.replaced).append(version)
    return changes


def _take(
    arriving: Version, ledger: dict[tuple[str, str], Version], same_uid: list[Version], changes: Changes
) -> Arrival:
    known = ledger.get(arriving.key)
    rivals = [version for version in same_uid if version.study == arriving.study]
    current = next((version for version in rivals if version.current), None)
    if known is not None:
        if known.discounted or current is None or current is known or arriving.received_at <= current.received_at:
            return Arrival.DUPLICATE
        current.current, known.current, known.received_at = False, True, arriving.received_at
        return Arrival.OTHER_VERSION
    if any((version.study, version.series) != (arriving.study, arriving.series) for version in same_uid):
        changes.elsewhere.append(arriving)
    # Of two that came at the same moment the one that is looked at later counts as the newer.
    arriving.current = current is None or arriving.received_at >= current.received_at
    if arriving.current and current is not None:
        current.current = False
    ledger[arriving.key] = arriving
    same_uid.append(arriving)
    changes.new.append(arriving)
    return Arrival.OTHER_VERSION if len(same_uid) > 1 else Arrival.NEW
