"""What was taken back stays back: a delivery that a sender held meanwhile ends, and is rejected where it got there.

The Key Object that rejects it was written before, and stands by; whoever ends the delivery switches it on, or off.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import ColumnElement, select, update

from db.engine import AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import DeliveryRow, RejectionRow, ResultRow, WithdrawnRow
from study.errors import Reason
from study.states import DeliveryState, delivery_sources

REJECTION_POSITION: Final = 1_000_000
"""Where a Key Object that rejects results stands among the deliveries of its study and peer: after all else."""
UNHEEDED: Final = "RejectionUnheeded"

_STANDBY = DeliveryState.STANDBY.value
_THERE = frozenset({DeliveryState.STORED.value, DeliveryState.DELIVERED.value})
_LET_GO = [state.value for state in delivery_sources(DeliveryState.WITHDRAWN) - {DeliveryState.STANDBY}]
_MOST_NAMED = 10


def is_no_rejection() -> ColumnElement[bool]:
    """Tell whether a delivery brings a result or a report; what rejects one is owed whatever becomes of its job."""
    return DeliveryRow.position < REJECTION_POSITION


def withdrawn_among(uow: UnitOfWork, results: Collection[int]) -> frozenset[int]:
    """Return which of the results, by their keys, were taken back."""
    query = select(WithdrawnRow.result).where(WithdrawnRow.result.in_(list(results)))
    return frozenset(uow.execute(query).scalars())


def let_go(uow: UnitOfWork, *which: ColumnElement[bool]) -> None:
    """End those deliveries whose result was taken back while a sender held them, and that it holds no more.

    Where the peer stored the object, or may have, the Key Object on stand-by is sent now; else it is not needed.
    """
    query = (
        select(
            DeliveryRow.id, DeliveryRow.study, DeliveryRow.job, DeliveryRow.peer, DeliveryRow.state, DeliveryRow.unsure,
            ResultRow.form, RejectionRow.key_object,
        )
        .join(WithdrawnRow, WithdrawnRow.result == DeliveryRow.result)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .join(RejectionRow, RejectionRow.delivery == DeliveryRow.id, isouter=True)
        .where(*which, DeliveryRow.lease_owner.is_(None), DeliveryRow.state.in_(_LET_GO))
    )  # fmt: skip
    rows = uow.execute(query.with_for_update(of=DeliveryRow)).all()
    if not rows:
        return
    ended = update(DeliveryRow).where(DeliveryRow.id.in_([row.id for row in rows]))
    uow.execute(ended.values(state=DeliveryState.WITHDRAWN.value, problem=False))
    owed = [row for row in rows if row.state in _THERE or row.unsure]
    _switch(uow, owed, DeliveryState.PENDING)
    _switch(uow, [row for row in rows if row not in owed], DeliveryState.WITHDRAWN)
    record(uow, uow.now(), [_told(row) for row in owed])


def expire(uow: UnitOfWork, peer: str) -> None:
    """End those that a sender held when they were taken back and never let go of: it may have brought them there."""
    lost = select(WithdrawnRow.result).where(WithdrawnRow.result == DeliveryRow.result).exists()
    of_peer = (DeliveryRow.peer == peer, DeliveryRow.state == DeliveryState.PENDING.value)
    overdue = update(DeliveryRow).where(*of_peer, DeliveryRow.next_attempt_at <= uow.now(), lost)
    keys = list(uow.execute(overdue.values(lease_owner=None, unsure=True).returning(DeliveryRow.id)).scalars())
    if keys:
        let_go(uow, DeliveryRow.id.in_(keys))


def by_hand(uow: UnitOfWork, delivery_id: int, cause: Reason) -> Reason:
    """Return what a person must do since a peer does not take, or not heed, the rejection that a delivery brings it."""
    query = (
        select(DeliveryRow.peer, ResultRow.sop_instance_uid)
        .join(RejectionRow, RejectionRow.delivery == DeliveryRow.id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result)
        .where(RejectionRow.key_object == delivery_id)
        .order_by(ResultRow.id)
    )
    rows = uow.execute(query).all()
    return unheeded(rows[0].peer if rows else "the peer", [row.sop_instance_uid for row in rows], cause.words)


def unheeded(peer: str, sop_instance_uids: Sequence[str], cause: str) -> Reason:
    """Return that a person must have objects removed at a peer by hand, and why."""
    named = ", ".join(sop_instance_uids[:_MOST_NAMED]) + (", ..." if len(sop_instance_uids) > _MOST_NAMED else "")
    words = f"Have {len(sop_instance_uids)} object(s) removed at {peer} by hand, {named}: {cause}"
    return Reason(UNHEEDED, words, {"objects": len(sop_instance_uids)})


def _switch(uow: UnitOfWork, rows: Sequence[AnyRow], target: DeliveryState) -> None:
    keys = [row.key_object for row in rows if row.key_object is not None]
    on_call = update(DeliveryRow).where(DeliveryRow.id.in_(keys), DeliveryRow.state == _STANDBY)
    uow.execute(on_call.values(state=target.value, next_attempt_at=uow.now()))


def _told(row: AnyRow) -> NewEvent:
    got = "stored" if row.state in _THERE else "may have stored"
    words = f"{row.peer} {got} {row.form} while it was taken back: it is sent a rejection."
    return NewEvent(row.study, EventKind.REJECTION_OWED, words, {"peer": row.peer, "form": row.form}, row.job)
