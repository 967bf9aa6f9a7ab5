"""What is known of each peer and SOP Class: whether it takes objects of it, at the address where it was asked."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, insert, select, update

from db.engine import UnitOfWork
from db.tables import AcceptanceRow
from study.forms import Acceptance


def known(uow: UnitOfWork, peer: str, address: str) -> dict[str, Acceptance]:
    """Return what is known of a peer by SOP Class UID; what is absent was never tried."""
    query = select(AcceptanceRow.sop_class_uid, AcceptanceRow.state).where(
        AcceptanceRow.peer == peer, AcceptanceRow.address == address
    )
    return {row.sop_class_uid: Acceptance(row.state) for row in uow.execute(query)}


def learn(uow: UnitOfWork, peer: str, address: str, found: Mapping[str, Acceptance]) -> dict[str, Acceptance]:
    """Remember what was found out of a peer by SOP Class UID, and return what is new of it.

    A class of which an object was stored stays one: that it is accepted too says less.
    """
    uow.serialise(f"acceptance {peer}")
    before = known(uow, peer, address)
    news = {
        uid: state
        for uid, state in found.items()
        if before.get(uid) is not state and not (before.get(uid) is Acceptance.STORED and state is Acceptance.ACCEPTED)
    }
    now = uow.now()
    fresh = [
        {"peer": peer, "address": address, "sop_class_uid": uid, "state": state.value, "at": now}
        for uid, state in news.items()
        if uid not in before
    ]
    if fresh:
        uow.execute(insert(AcceptanceRow), fresh)
    changed = [{"uid": uid, "to": state.value} for uid, state in news.items() if uid in before]
    if changed:
        change = update(AcceptanceRow).where(
            AcceptanceRow.peer == peer,
            AcceptanceRow.address == address,
            AcceptanceRow.sop_class_uid == bindparam("uid"),
        )
        uow.execute(change.values(state=bindparam("to"), at=now), changed)
    return news
