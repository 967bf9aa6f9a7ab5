"""What one process of a store does at a time: who leads, who stands by, and what a whole node holds of its store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from db.engine import Database
from db.files.filestore import FileStore
from db.leading import LOOK_SECONDS, Lead, candidates
from hilum.config import Settings
from hilum.rebuilding import is_ready, prepare
from hilum.terminal import say
from study.errors import DatabaseUnavailable, StoreBusy

log = structlog.get_logger()

NODE: Final = "hilum-serve"
"""What a whole node is called among the workers of its machine."""

_AT_WORK: Final = "node"
_PATIENCE_SECONDS: Final = 15.0  # what a dead process held is free a moment later, of a dead machine after 12 s


def lead_of(settings: Settings, database: Database, role: str) -> Lead:
    """Return the lead of what only one process of the store may do; its log says who has it.

    Use it in a `with` block, and do what it is for only while it is held.
    """
    machine, told = settings.machine, {"role": role, "machine": settings.machine}
    was_held = False

    def tell(held: bool) -> None:
        nonlocal was_held
        if held:
            log.info("lead.taken", **told)
        elif was_held:
            log.warning("lead.lost", **told)
        else:
            log.info("lead.standing_by", **told, leader=_leader(database, role))
        was_held = held

    return Lead(database, settings.data_dir / "locks", role, machine, on_change=tell)


def _leader(database: Database, role: str) -> str:
    try:
        found = [machine for name, machine, held in candidates(database) if held and name == role]
    except DatabaseUnavailable:
        return "the database does not answer"
    return ", ".join(found) or "another process of this machine"


def standing(database: Database) -> Iterator[str]:
    """Give a line for each role that only one process of the store has at a time: who leads, and who stands by."""
    roles: dict[str, dict[bool, list[str]]] = {}
    for role, machine, held in candidates(database):
        if role.partition(" ")[0] != _AT_WORK:
            roles.setdefault(role, {True: [], False: []})[held].append(machine)
    for role, machines in roles.items():
        by = f" ({', '.join(machines[False])} stands by)" if machines[False] else ""
        yield f"{role} on {', '.join(machines[True]) or 'no machine'}{by}"


@contextmanager
def occupied(
    settings: Settings, store: FileStore, database: Database, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold what a whole node needs of its store, with a database that `hilum.rebuilding.prepare` made ready.

    On SQLite that is the whole store; on PostgreSQL it is shared with nodes of other machines, each of another name.

    Raises
    ------
    StoreBusy
        If another node holds it, or a node of another version is at work.
    DatabaseUnavailable
        If the database does not answer.
    SchemaMismatch
        If a newer program made the database.
    """
    if settings.is_on_one_machine:
        with store.lock():
            prepare(database, store, say, is_stopped)
            yield
        return
    database.now()  # one that does not answer is told as such, and not as busy
    machine, locks = settings.machine, settings.data_dir / "locks"
    with (
        store.lock(shared=True),
        store.lock_of(NODE, machine),
        Lead(database, locks, f"node {machine}", machine) as name,
    ):
        if not name.wait(_PATIENCE_SECONDS):
            raise StoreBusy(
                f"Another hilum serve on this database is called {machine}; give each machine its own node.machine."
            )
        _prepare_alone(settings, store, database, is_stopped)
        with sharing(settings, store, database):
            yield


@contextmanager
def alone(settings: Settings, store: FileStore, database: Database) -> Iterator[None]:
    """Hold store and database while nothing else of the node runs, on this machine or another.

    Raises
    ------
    StoreBusy
        If anything of it runs.
    DatabaseUnavailable
        If the database does not answer.
    """
    with store.lock():
        if settings.is_on_one_machine:
            yield
            return
        database.now()
        with Lead(database, settings.data_dir / "locks", _AT_WORK, settings.machine) as lead:
            if not lead.wait(_PATIENCE_SECONDS):
                raise StoreBusy("Another process works with this database; stop hilum serve on all machines.")
            yield


@contextmanager
def sharing(settings: Settings, store: FileStore, database: Database) -> Iterator[None]:
    """Keep others from migrating a PostgreSQL database while this process works with it.

    Raises
    ------
    StoreBusy
        If it is being migrated, or those that work with it have another store.
    """
    serial = store.node_identity().serial
    bearer = f"{serial} {settings.machine}"
    with Lead(database, settings.data_dir / "locks", _AT_WORK, bearer, shared=True) as lead:
        if not lead.wait(_PATIENCE_SECONDS):
            raise StoreBusy("The database is being migrated, or does not answer; try again in a minute.")
        for name, other, _ in candidates(database):
            if name == _AT_WORK and not other.startswith(f"{serial} "):
                raise StoreBusy(
                    f"The machine {other.partition(' ')[2]} works with this database on another store than "
                    f"{store.root}: is the shared folder mounted here?"
                )
        yield


def _prepare_alone(settings: Settings, store: FileStore, database: Database, is_stopped: Callable[[], bool]) -> None:
    if is_ready(database, store):
        return
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with Lead(database, settings.data_dir / "locks", _AT_WORK, settings.machine) as alone:
        while not alone.wait(LOOK_SECONDS):
            if is_ready(database, store):  # another that was started with this one was faster
                return
            if time.monotonic() > deadline:
                raise StoreBusy(
                    "Programs of another version work with this database, or another machine just makes it ready. "
                    "For a new version stop hilum serve on all machines, then start it."
                )
        prepare(database, store, say, is_stopped)
