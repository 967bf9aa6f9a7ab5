"""What becomes of a peer's report on what it was asked to commit itself to.

A report counts for a delivery that is still stored, and that was not sent again since its transaction began; however
late it comes, and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update

from db import records
from db.delivery import commitment_rows, deliveries, outbox
from db.engine import AnyQuery, AnyRow, UnitOfWork
from db.events import EventKind
from db.tables import CommitmentItemRow, CommitmentRow, DeliveryRow
from study.commitment import FAILED, CommitmentReport, CommitmentState, failure_words
from study.errors import Reason
from study.states import DeliveryState

Pause = Callable[[int], tuple[bool, float]]
"""Tells, for an object that failed so often, whether that is a problem, and after how long it is sent again [s]."""


@dataclass(frozen=True)
class Proven:
    """An object that a report proves to be kept by a peer."""

    study_instance_uid: str
    peer: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Settled:
    """What a report changed.

    Parameters
    ----------
    known
        Whether there is such a transaction.
    committed, failed
        How many deliveries it ended, and how many it has sent again.
    strange
        How many objects it names that the transaction is not about.
    """

    known: bool
    peer: str = ""
    committed: int = 0
    failed: int = 0
    strange: int = 0


def proven(uow: UnitOfWork, report: CommitmentReport) -> list[Proven]:
    """Return the objects that `settle` would count as delivered."""
    row = uow.execute(_transaction(report)).first()
    if row is None:
        return []
    committed = set(report.committed)
    return [
        Proven(item.study_instance_uid, item.peer, item.sop_instance_uid)
        for item in uow.execute(commitment_rows.items(row.id))
        if commitment_rows.is_about_this_sending(item) and commitment_rows.reference(item) in committed
    ]


def settle(uow: UnitOfWork, report: CommitmentReport, pause: Pause, withheld: Collection[str] = ()) -> Settled:
    """Act upon what a peer reported: what it committed itself to is delivered, what it does not keep is sent again.

    What it does not speak of stays open; what was withdrawn, replaced or sent again meanwhile is left alone.

    Parameters
    ----------
    withheld
        Models of which nothing may be sent again.
    """
    row = uow.execute(_transaction(report).with_for_update()).first()
    if row is None:
        return Settled(known=False)
    now = uow.now()
    items = uow.execute(commitment_rows.items(row.id).with_for_update(of=DeliveryRow)).all()
    ours = {commitment_rows.reference(item): item for item in items}
    committed = [ours[each] for each in report.committed if each in ours]
    failed = [(ours[each], number) for each, number in report.failed if each in ours]
    _write_down(uow, row.id, now, committed, failed)
    ended = [item for item in committed if commitment_rows.is_about_this_sending(item)]
    again = [(item, number) for item, number in failed if commitment_rows.is_about_this_sending(item)]
    _end(uow, now, ended, report.transaction_uid)
    _send_again(uow, now, again, pause)
    if again:
        outbox.keep_outdated(uow, DeliveryRow.id.in_([item.id for item, _ in again]))
        outbox.withhold(uow, withheld)
    strange = len(report.committed) + len(report.failed) - len(committed) - len(failed)
    return Settled(True, row.peer, len(ended), len(again), strange)


def _transaction(report: CommitmentReport) -> AnyQuery:
    return select(CommitmentRow.id, CommitmentRow.peer).where(CommitmentRow.transaction_uid == report.transaction_uid)


def _write_down(
    uow: UnitOfWork,
    commitment_id: int,
    now: datetime,
    committed: Sequence[AnyRow],
    failed: Sequence[tuple[AnyRow, int]],
) -> None:
    """Keep what the peer says of each object; its first word stands. The transaction ends with the last one."""
    of_this = CommitmentItemRow.commitment == commitment_id
    first = update(CommitmentItemRow).where(of_this, CommitmentItemRow.committed.is_(None))
    good = [item.id for item in committed]
    uow.execute(first.where(CommitmentItemRow.delivery.in_(good)).values(committed=True))
    for item, number in failed:
        uow.execute(first.where(CommitmentItemRow.delivery == item.id).values(committed=False, failure=number))
    unanswered = select(CommitmentItemRow.delivery).where(of_this, CommitmentItemRow.committed.is_(None)).exists()
    over = update(CommitmentRow).where(CommitmentRow.id == commitment_id, CommitmentRow.answered_at.is_(None))
    uow.execute(over.where(~unanswered).values(state=CommitmentState.ANSWERED.value, answered_at=now))


def _end(uow: UnitOfWork, now: datetime, items: Sequence[AnyRow], transaction_uid: str) -> None:
    for item in items:
        deliveries.move(uow, item.id, DeliveryState.DELIVERED, delivered_at=now, problem=False, reason=None)
    words = "{form} delivered to {peer}, which committed itself to keep it."
    commitment_rows.tell(uow, now, EventKind.DELIVERED, items, words, {"transaction_uid": transaction_uid})


def _send_again(uow: UnitOfWork, now: datetime, failed: Sequence[tuple[AnyRow, int]], pause: Pause) -> None:
    failures = commitment_rows.failures(uow, [item.id for item, _ in failed])
    for item, number in failed:
        count = failures.get(item.id, 1)
        problem, seconds = pause(count)
        words = f"{item.peer} stored it, and does not commit itself to keep it: {failure_words(number)}."
        numbers: dict[str, float | int | str] = {"failure": f"{number:04X}", "failures": count}
        deliveries.move(
            uow,
            item.id,
            DeliveryState.PENDING,
            next_attempt_at=now + timedelta(seconds=seconds),
            problem=problem,
            unsure=True,  # it had stored it: whoever takes the result back has it rejected there
            reason=records.reason_to_json(Reason(FAILED, words, numbers)),
        )
        told = "{form} is sent to {peer} again, which does not keep it: " + failure_words(number) + "."
        commitment_rows.tell(uow, now, EventKind.COMMITMENT_FAILED, [item], told, numbers)
