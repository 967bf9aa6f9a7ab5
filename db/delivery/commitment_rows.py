"""Rows of storage commitment: what transactions are about, and how often a peer was asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind, NewEvent, record
from db.tables import CommitmentItemRow, CommitmentRow, DeliveryRow, ResultRow, StudyRow
from study.commitment import CommitmentState, Reference
from study.states import DeliveryState


def owed() -> AnyQuery:
    """Return the query of deliveries with the objects that they are about."""
    return select(
        DeliveryRow.id,
        DeliveryRow.study,
        DeliveryRow.job,
        DeliveryRow.peer,
        DeliveryRow.state,
        DeliveryRow.attempts,
        DeliveryRow.reason,
        ResultRow.form,
        ResultRow.sop_class_uid,
        ResultRow.sop_instance_uid,
    ).join(ResultRow, ResultRow.id == DeliveryRow.result)


def items(commitment_id: int) -> AnyQuery:
    """Return the query of what a transaction is about: rows of `owed`, with the study and the attempt asked for."""
    return (
        owed()
        .add_columns(StudyRow.study_instance_uid, CommitmentItemRow.attempt)
        .join(CommitmentItemRow, CommitmentItemRow.delivery == DeliveryRow.id)
        .join(StudyRow, StudyRow.id == DeliveryRow.study)
        .where(CommitmentItemRow.commitment == commitment_id)
        .order_by(DeliveryRow.id)
    )


def is_about_this_sending(item: AnyRow) -> bool:
    """Tell whether a row of `items` is still stored, and was not sent again since it was asked for."""
    return bool(item.state == DeliveryState.STORED.value and item.attempt == item.attempts)


def reference(row: AnyRow) -> Reference:
    """Return the object of a row of `owed`."""
    return Reference(row.sop_class_uid, row.sop_instance_uid)


def asked(uow: UnitOfWork, delivery_ids: Sequence[int]) -> dict[int, int]:
    """Return in how many transactions, refused ones left out, each delivery was asked for since it was stored last."""
    query = (
        select(CommitmentItemRow.delivery, func.count().label("times"))
        .join(CommitmentRow, CommitmentRow.id == CommitmentItemRow.commitment)
        .join(DeliveryRow, DeliveryRow.id == CommitmentItemRow.delivery)
        .where(
            CommitmentItemRow.delivery.in_(list(delivery_ids)),
            CommitmentItemRow.attempt == DeliveryRow.attempts,
            CommitmentRow.state != CommitmentState.REFUSED.value,
        )
        .group_by(CommitmentItemRow.delivery)
    )
    return {row.delivery: row.times for row in uow.execute(query)}


def failures(uow: UnitOfWork, delivery_ids: Sequence[int]) -> dict[int, int]:
    """Return how often the peer answered of each delivery that it does not keep the object; never: left out."""
    query = (
        select(CommitmentItemRow.delivery, func.count().label("times"))
        .where(CommitmentItemRow.delivery.in_(list(delivery_ids)), ~CommitmentItemRow.committed)
        .group_by(CommitmentItemRow.delivery)
    )
    return {row.delivery: row.times for row in uow.execute(query)}


def tell(
    uow: UnitOfWork,
    now: datetime,
    kind: EventKind,
    rows: Sequence[AnyRow],
    words: str,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Write an event for each row of `owed`; `words` may name its ``{form}`` and ``{peer}``."""
    events = [
        NewEvent(
            row.study,
            kind,
            words.replace("{form}", row.form).replace("{peer}", row.peer),
            {"peer": row.peer, "form": row.form, **(numbers or {})},
            row.job,
        )
        for row in rows
    ]
    record(uow, now, events)
