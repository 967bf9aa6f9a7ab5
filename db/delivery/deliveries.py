"""One row of the outbox: found under its lease, and moved to another state."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from db.delivery import withdrawn
from db.engine import AnyRow, UnitOfWork
from db.tables import DeliveryRow, ResultRow
from study.errors import LeaseLost
from study.states import DeliveryState, delivery_sources


@dataclass(frozen=True)
class Exchange:
    """When an object went out and when its answer had come: by `time.monotonic` of the sender's process [s]."""

    sent: float
    answered: float

    def moments(self, now: datetime) -> dict[str, str]:
        """Return both as times of the clock that says that it is `now`, for the journal."""
        since = time.monotonic()
        readings = {"sent_at": self.sent, "answered_at": self.answered}
        times = {name: now - timedelta(seconds=since - reading) for name, reading in readings.items()}
        return {name: at.isoformat(timespec="milliseconds") for name, at in times.items()}


def held(uow: UnitOfWork, delivery_id: int, owner: str) -> AnyRow:
    """Return the delivery that `owner` holds, and keep other transactions from changing it.

    Raises
    ------
    LeaseLost
        If it is not this sender's any more.
    """
    query = (
        select(
            DeliveryRow.id,
            DeliveryRow.study,
            DeliveryRow.job,
            DeliveryRow.result,
            DeliveryRow.peer,
            DeliveryRow.position,
            DeliveryRow.state,
            DeliveryRow.problem,
            DeliveryRow.doubted,
            DeliveryRow.reason,
        )
        .where(
            DeliveryRow.id == delivery_id,
            DeliveryRow.lease_owner == owner,
            DeliveryRow.state == DeliveryState.PENDING.value,
        )
        .with_for_update()
    )
    row = uow.execute(query).first()
    if row is None:
        raise LeaseLost("The delivery is another sender's by now.")
    return row


def move(uow: UnitOfWork, delivery_id: int, target: DeliveryState, **values: Any) -> None:  # noqa: ANN401 - column values
    """Let a delivery that nobody holds any more be in the state `target`, if it may go there from where it is.

    One whose result was taken back meanwhile ends there.
    """
    sources = [state.value for state in delivery_sources(target)]
    change = update(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.state.in_(sources))
    uow.execute(change.values(state=target.value, lease_owner=None, **values))
    withdrawn.let_go(uow, DeliveryRow.id == delivery_id)


def doubt(uow: UnitOfWork, delivery_id: int, owner: str) -> None:
    """Note that the peer may hold what `owner` sent it, though it did not say so: its answer never came."""
    theirs = update(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.lease_owner == owner)
    uow.execute(theirs.values(unsure=True))


def form_of(uow: UnitOfWork, result: int) -> str:
    """Return the form of a result, by its key."""
    form: str = uow.execute(select(ResultRow.form).where(ResultRow.id == result)).scalar_one()
    return form
