"""What peers stored and have still to commit themselves to: which of them is asked for what, and when.

A stored delivery is due at its `next_attempt_at`: then the peer is asked for it in a new transaction, which is in the
database before the peer hears of it. What comes of the answer is in `db.delivery.settlements`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, insert, select, update

from db import records
from db.delivery import commitment_rows, deliveries
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import CommitmentItemRow, CommitmentRow, DeliveryRow
from study.commitment import FAILED, CommitmentRequest, CommitmentState, Standing
from study.errors import Reason
from study.states import DeliveryState

MOST_AT_ONCE: Final = 500
"""As many objects does a transaction name at most."""

UNPROVEN: Final = "Unproven"

_GATHER_SECONDS = 0.3  # what is stored within so long is asked for together
_STORED = DeliveryState.STORED.value


@dataclass(frozen=True)
class Patience:
    """How long an answer is waited for.

    Parameters
    ----------
    seconds
        Until the peer is asked again [s].
    attempts
        So many requests without an answer, and it counts as unproven.
    slow_seconds
        Until it is asked again from then on [s].
    """

    seconds: float
    attempts: int
    slow_seconds: float


@dataclass(frozen=True)
class Begun:
    """A transaction that is on record, and of which the peer has yet to hear.

    Parameters
    ----------
    unproven
        How many of its objects count as unproven.
    """

    id: int
    request: CommitmentRequest
    unproven: int


def stored(
    uow: UnitOfWork, delivery_id: int, owner: str, status: int, exchange: deliveries.Exchange | None = None
) -> None:
    """Let the delivery wait for the peer's commitment: it answered that it stored the object.

    Where a commitment failed before, that stands against it until the peer commits itself.

    Parameters
    ----------
    exchange
        When it was sent and answered, for the journal.

    Raises
    ------
    LeaseLost
        If the delivery is not this sender's any more.
    """
    held, now = deliveries.held(uow, delivery_id, owner), uow.now()
    has_failed = (held.reason or {}).get("code") == FAILED
    values: dict[str, Any] = {} if has_failed else {"problem": False, "reason": None}
    due = now + timedelta(seconds=_GATHER_SECONDS)
    deliveries.move(uow, held.id, DeliveryState.STORED, stored_at=now, status=status, next_attempt_at=due, **values)
    form = deliveries.form_of(uow, held.result)
    words = f"{form} stored by {held.peer}, which is asked to commit itself to keep it."
    numbers = {"peer": held.peer, "form": form, "status": status} | (exchange.moments(now) if exchange else {})
    record(uow, now, [NewEvent(held.study, EventKind.DELIVERY_STORED, words, numbers, held.job)])


def is_due(uow: UnitOfWork, peer: str) -> bool:
    """Tell whether `begin` would find something: a look without a lock, for who looks often."""
    return uow.execute(_due(peer, uow.now()).limit(1)).first() is not None


def seconds_until_due(uow: UnitOfWork, peer: str) -> float | None:
    """Return in how long the peer is to be asked for the next object [s]; None where for none."""
    now = uow.now()
    waiting = select(func.min(DeliveryRow.next_attempt_at)).where(
        DeliveryRow.peer == peer, DeliveryRow.state == _STORED, DeliveryRow.next_attempt_at > now
    )
    due: datetime | None = uow.execute(waiting).scalar_one()
    return None if due is None else (due - now).total_seconds()


def begin(uow: UnitOfWork, peer: str, transaction_uid: str, patience: Patience) -> Begun | None:
    """Begin a transaction about what is due at `peer`, at most `MOST_AT_ONCE` objects; None where nothing is.

    What the peer was asked for often enough without an answer counts as unproven from now on.
    """
    uow.serialise(f"commitment {peer}")  # two senders of one peer would each ask for the same objects
    if not is_due(uow, peer):
        return None
    now = uow.now()
    soon = _due(peer, now + timedelta(seconds=_GATHER_SECONDS)).limit(MOST_AT_ONCE)
    rows = uow.execute(soon.with_for_update(of=DeliveryRow)).all()
    asked = commitment_rows.asked(uow, [row.id for row in rows])
    overdue = [row for row in rows if asked.get(row.id, 0) >= patience.attempts]
    others = [row for row in rows if asked.get(row.id, 0) < patience.attempts]
    _mark_unproven(uow, now, overdue, patience.attempts)
    commitment = _add(uow, peer, transaction_uid, now, rows)
    _ask_again(uow, others, now + timedelta(seconds=patience.seconds))
    _ask_again(uow, overdue, now + timedelta(seconds=max(patience.seconds, patience.slow_seconds)))
    references = tuple(commitment_rows.reference(row) for row in rows)
    return Begun(commitment, CommitmentRequest(transaction_uid, references), len(overdue))


def not_reached(uow: UnitOfWork, peer: str, reason: Reason, seconds: float, *, problem: bool) -> None:
    """Let what is due at the peer wait for `seconds` [s], since it could not even be asked, and put `reason` on record.

    Parameters
    ----------
    problem
        Whether it looks as if a person must act.
    """
    now = uow.now()
    rows = uow.execute(_due(peer, now).with_for_update(of=DeliveryRow)).all()
    _ask_again(uow, rows, now + timedelta(seconds=seconds))
    _blame(uow, now, rows, reason, problem=problem)


def refused(uow: UnitOfWork, commitment_id: int, reason: Reason, seconds: float, *, problem: bool) -> None:
    """End a transaction that the peer did not take: it is asked again in `seconds` [s], and `reason` is on record.

    A report that comes all the same still counts.

    Parameters
    ----------
    problem
        Whether it looks as if a person must act.
    """
    now = uow.now()
    ended = update(CommitmentRow).where(
        CommitmentRow.id == commitment_id, CommitmentRow.state == CommitmentState.OPEN.value
    )
    uow.execute(ended.values(state=CommitmentState.REFUSED.value, reason=records.reason_to_json(reason)))
    items = uow.execute(commitment_rows.items(commitment_id).with_for_update(of=DeliveryRow)).all()
    rows = [item for item in items if commitment_rows.is_about_this_sending(item)]
    _ask_again(uow, rows, now + timedelta(seconds=seconds))
    _blame(uow, now, rows, reason, problem=problem)


def unanswered(uow: UnitOfWork, commitment_id: int, reason: Reason) -> None:
    """Put on record that nothing came back to a request; the peer may have it, and its report is awaited as ever."""
    told = update(CommitmentRow).where(CommitmentRow.id == commitment_id)
    uow.execute(told.values(reason=records.reason_to_json(reason)))
    items = uow.execute(commitment_rows.items(commitment_id).with_for_update(of=DeliveryRow)).all()
    rows = [item for item in items if commitment_rows.is_about_this_sending(item) and item.reason is None]
    _blame(uow, uow.now(), rows, reason, problem=False)


def ask_now(uow: UnitOfWork, study: int) -> int:
    """Have peers asked at once to commit themselves to what they stored of a study, by its key; return how many."""
    which = update(DeliveryRow).where(DeliveryRow.study == study, DeliveryRow.state == _STORED)
    return len(uow.execute(which.values(next_attempt_at=uow.now()).returning(DeliveryRow.id)).all())


def stop_asking(uow: UnitOfWork, peers: Collection[str]) -> int:
    """Count as delivered what these peers stored: the site asks them for no commitment any more.

    Returns
    -------
    int
        How many deliveries that ends.
    """
    now = uow.now()
    query = commitment_rows.owed().where(DeliveryRow.peer.in_(list(peers)), DeliveryRow.state == _STORED)
    rows = uow.execute(query.with_for_update(of=DeliveryRow)).all()
    for row in rows:
        deliveries.move(uow, row.id, DeliveryState.DELIVERED, delivered_at=now, problem=False, reason=None)
    words = "{form} counts as delivered to {peer}, which stored it: its commitment is not asked for any more."
    commitment_rows.tell(uow, now, EventKind.DELIVERED, rows, words)
    return len(rows)


def standings(uow: UnitOfWork, delivery_ids: Sequence[int]) -> dict[int, Standing]:
    """Return how far peers have come with committing themselves to deliveries; those never asked for are left out."""
    asked = commitment_rows.asked(uow, delivery_ids)
    failures = commitment_rows.failures(uow, delivery_ids)
    query = (
        select(
            CommitmentItemRow.delivery, CommitmentRow.transaction_uid, CommitmentRow.state, CommitmentRow.requested_at
        )
        .join(CommitmentRow, CommitmentRow.id == CommitmentItemRow.commitment)
        .where(CommitmentItemRow.delivery.in_(list(delivery_ids)))
        .order_by(CommitmentItemRow.commitment)
    )
    return {
        row.delivery: Standing(
            transaction_uid=row.transaction_uid,
            state=CommitmentState(row.state),
            requested_at=row.requested_at,
            asked=asked.get(row.delivery, 0),
            failures=failures.get(row.delivery, 0),
        )
        for row in uow.execute(query)
    }


def _due(peer: str, until: datetime) -> AnyQuery:
    return (
        commitment_rows.owed()
        .where(DeliveryRow.peer == peer, DeliveryRow.state == _STORED, DeliveryRow.next_attempt_at <= until)
        .order_by(DeliveryRow.next_attempt_at, DeliveryRow.id)
    )


def _add(uow: UnitOfWork, peer: str, transaction_uid: str, now: datetime, rows: Sequence[AnyRow]) -> int:
    values = {"transaction_uid": transaction_uid, "peer": peer, "state": CommitmentState.OPEN.value}
    added = insert(CommitmentRow).values(values | {"requested_at": now}).returning(CommitmentRow.id)
    key: int = uow.execute(added).scalar_one()
    items = [{"commitment": key, "delivery": row.id, "attempt": row.attempts} for row in rows]
    uow.execute(insert(CommitmentItemRow), items)
    return key


def _ask_again(uow: UnitOfWork, rows: Sequence[AnyRow], at: datetime) -> None:
    if rows:
        which = update(DeliveryRow).where(DeliveryRow.id.in_([row.id for row in rows]), DeliveryRow.state == _STORED)
        uow.execute(which.values(next_attempt_at=at))


def _mark_unproven(uow: UnitOfWork, now: datetime, rows: Sequence[AnyRow], attempts: int) -> None:
    for peer in {row.peer for row in rows}:
        words = (
            f"{peer} stored it, and has not said whether it keeps it, though asked {attempts} times. There, allow our "
            "AE title storage commitment, and enter the host and port to report to; hilum retry asks at once."
        )
        _blame(uow, now, rows, Reason(UNPROVEN, words, {"asked": attempts}), problem=True)


def _blame(uow: UnitOfWork, now: datetime, rows: Sequence[AnyRow], reason: Reason, *, problem: bool) -> None:
    """Put on record why deliveries are still not committed; the journal tells it once while the reason stays the same.

    What was a problem stays one until the peer commits itself.
    """
    if not rows:
        return
    which = update(DeliveryRow).where(DeliveryRow.id.in_([row.id for row in rows]), DeliveryRow.state == _STORED)
    uow.execute(which.values(reason=records.reason_to_json(reason)))
    if problem:
        uow.execute(which.values(problem=True))
    news = [row for row in rows if (row.reason or {}).get("code") != reason.code]
    words = "{form} is not committed by {peer} yet: " + reason.words
    commitment_rows.tell(uow, now, EventKind.COMMITMENT_UNPROVEN, news, words, {"code": reason.code})
