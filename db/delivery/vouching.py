"""What peers ask us to commit ourselves to, from the request to the report that they have taken.

What we answer for is exempt from retention from the transaction on in which the answer is settled, before the peer
hears of it: it may erase what it sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update

from db import records
from db.engine import UnitOfWork
from db.tables import InstanceRow, VouchRow
from study.commitment import CommitmentReport, CommitmentRequest, Reference
from study.entities import StoredInstance

MOST_OPEN: Final = 200
"""As many requests of a peer are taken over at most, until it has heard the answers."""

_CHUNK = 500  # SOP Instance UIDs in one query


@dataclass(frozen=True)
class Vouch:
    """A peer's request that is not answered yet.

    Parameters
    ----------
    received_at
        By the receiver's clock.
    age_seconds
        Since it was entered, by the database's clock [s].
    attempts
        How often it was taken up, this time included.
    report
        What we answer; None until that is settled.
    """

    id: int
    peer: str
    request: CommitmentRequest
    received_at: datetime
    age_seconds: float
    attempts: int
    report: CommitmentReport | None


@dataclass(frozen=True)
class Held:
    """A version of an instance that the index has, with its key."""

    key: int
    instance: StoredInstance


def enter(uow: UnitOfWork, message: str, peer: str, request: CommitmentRequest, received_at: datetime) -> bool:
    """Take a request over from the spool; tell whether it was not there yet.

    Parameters
    ----------
    message
        Its name in the spool.
    """
    uow.serialise("vouch")
    if uow.execute(select(VouchRow.id).where(VouchRow.message == message)).first() is not None:
        return False
    now = uow.now()
    row = {
        "message": message,
        "peer": peer,
        "transaction_uid": request.transaction_uid,
        "received_at": received_at,
        "entered_at": now,
        "attempts": 0,
        "next_attempt_at": now,
        "wanted": [_reference_json(reference) for reference in request.references],
        "report": None,
    }
    uow.execute(insert(VouchRow), [row])
    return True


def is_full(uow: UnitOfWork, peer: str) -> bool:
    """Tell whether the peer has as many open requests as are taken over."""
    count: int = uow.execute(select(func.count()).where(VouchRow.peer == peer)).scalar_one()
    return count >= MOST_OPEN


def is_due(uow: UnitOfWork, peer: str) -> bool:
    """Tell whether `take` would find something: a look without a lock, for who looks often."""
    due = select(VouchRow.id).where(VouchRow.peer == peer, VouchRow.next_attempt_at <= uow.now())
    return uow.execute(due.limit(1)).first() is not None


def seconds_until_due(uow: UnitOfWork, peer: str) -> float | None:
    """Return in how long the next request that waits for its time falls due to `peer` [s]; None where none does."""
    now = uow.now()
    waiting = select(func.min(VouchRow.next_attempt_at)).where(VouchRow.peer == peer, VouchRow.next_attempt_at > now)
    due: datetime | None = uow.execute(waiting).scalar_one()
    return None if due is None else (due - now).total_seconds()


def take(uow: UnitOfWork, peer: str, lease_seconds: float) -> Vouch | None:
    """Return the request of `peer` that is due longest, which nobody else is given for `lease_seconds` [s]."""
    uow.serialise("vouch")
    now = uow.now()
    due = select(VouchRow.id).where(VouchRow.peer == peer, VouchRow.next_attempt_at <= now)
    key = uow.execute(due.order_by(VouchRow.next_attempt_at, VouchRow.id).limit(1)).scalar_one_or_none()
    if key is None:
        return None
    leased = update(VouchRow).where(VouchRow.id == key)
    until = now + timedelta(seconds=lease_seconds)
    uow.execute(leased.values(next_attempt_at=until, attempts=VouchRow.attempts + 1))
    row = uow.execute(select(*VouchRow.__table__.c).where(VouchRow.id == key)).one()
    return Vouch(
        id=row.id,
        peer=row.peer,
        request=CommitmentRequest(row.transaction_uid, tuple(_reference(each) for each in row.wanted)),
        received_at=row.received_at,
        age_seconds=(now - row.entered_at).total_seconds(),
        attempts=row.attempts,
        report=None if row.report is None else _report(row.transaction_uid, row.report),
    )


def versions(uow: UnitOfWork, sop_instance_uids: Sequence[str]) -> dict[str, list[Held]]:
    """Return every version, current or kept, that the index has of these instances, whatever study they are in."""
    found: dict[str, list[Held]] = {}
    for chunk in _chunks(sop_instance_uids):
        query = records.instances().add_columns(InstanceRow.id).where(InstanceRow.sop_instance_uid.in_(chunk))
        for row in uow.execute(query.order_by(InstanceRow.id)):
            instance = records.instance_of(row)
            found.setdefault(instance.header.sop_instance_uid, []).append(Held(row.id, instance))
    return found


def exempt(uow: UnitOfWork, keys: Collection[int]) -> frozenset[int]:
    """Keep these instances for good from now on; return those of them that are still there."""
    now, there = uow.now(), set[int]()
    for chunk in _chunks(sorted(keys)):
        uow.execute(
            update(InstanceRow)
            .where(InstanceRow.id.in_(chunk), InstanceRow.vouched_at.is_(None))
            .values(vouched_at=now)
        )
        there.update(uow.execute(select(InstanceRow.id).where(InstanceRow.id.in_(chunk))).scalars())
    return frozenset(there)


def settle(uow: UnitOfWork, vouch_id: int, report: CommitmentReport) -> None:
    """Put on record what we answer: from now on that is what the peer is told, however often."""
    content = {
        "committed": [_reference_json(reference) for reference in report.committed],
        "failed": [_reference_json(reference) | {"failure": reason} for reference, reason in report.failed],
    }
    uow.execute(update(VouchRow).where(VouchRow.id == vouch_id).values(report=content))


def postpone(uow: UnitOfWork, vouch_id: int, seconds: float) -> None:
    """Let the request wait for `seconds` [s]."""
    until = uow.now() + timedelta(seconds=seconds)
    uow.execute(update(VouchRow).where(VouchRow.id == vouch_id).values(next_attempt_at=until))


def hurry(uow: UnitOfWork) -> None:
    """Have every request taken up at once: for the start of a sender, after one that may have died over it."""
    uow.execute(update(VouchRow).values(next_attempt_at=uow.now()))


def end(uow: UnitOfWork, vouch_id: int) -> None:
    """Forget a request that was answered, or given up; what we answered for stays exempt from retention."""
    uow.execute(delete(VouchRow).where(VouchRow.id == vouch_id))


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield list(values[start : start + _CHUNK])


def _reference_json(reference: Reference) -> dict[str, Any]:
    return {"sop_class_uid": reference.sop_class_uid, "sop_instance_uid": reference.sop_instance_uid}


def _reference(value: dict[str, Any]) -> Reference:
    return Reference(value["sop_class_uid"], value["sop_instance_uid"])


def _report(transaction_uid: str, value: dict[str, Any]) -> CommitmentReport:
    return CommitmentReport(
        transaction_uid,
        tuple(_reference(each) for each in value["committed"]),
        tuple((_reference(each), each["failure"]) for each in value["failed"]),
    )
