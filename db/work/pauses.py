"""What the node leaves until a person lets it go on: analyses, or deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from db.engine import UnitOfWork
from db.tables import PauseRow
from study.states import Halted


@dataclass(frozen=True)
class Pause:
    """Since when something is paused, and why; "" where nobody said it."""

    since: datetime
    words: str


def begin(uow: UnitOfWork, what: Halted, words: str) -> Pause:
    """Have analyses or deliveries wait from now on, and return the pause; one that is there already stays as it is."""
    uow.serialise("pause")
    if what not in pauses(uow):
        uow.execute(insert(PauseRow), [{"kind": what.value, "since": uow.now(), "words": words}])
    return pauses(uow)[what]


def end(uow: UnitOfWork, what: Halted) -> Pause | None:
    """Let analyses or deliveries go on; return the pause that ended, None where there was none."""
    uow.serialise("pause")
    ended = pauses(uow).get(what)
    uow.execute(delete(PauseRow).where(PauseRow.kind == what.value))
    return ended


def pauses(uow: UnitOfWork) -> dict[Halted, Pause]:
    """Return what is paused."""
    query = select(PauseRow.kind, PauseRow.since, PauseRow.words)
    found = {row.kind: Pause(row.since, row.words) for row in uow.execute(query)}
    return {what: found[what.value] for what in Halted if what.value in found}


def is_paused(uow: UnitOfWork, what: Halted) -> bool:
    """Tell whether analyses or deliveries wait: a look that takes no lock."""
    return uow.execute(select(PauseRow.kind).where(PauseRow.kind == what.value)).first() is not None
