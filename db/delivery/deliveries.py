"""One row of the outbox: found under its lease, and moved to another state."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from db.delivery import withdrawn
from db.engine import AnyRow, UnitOfWork
from db.tables import DeliveryRow, ResultRow
from study.errors import LeaseLost
from study.states import DeliveryState, delivery_sources


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
