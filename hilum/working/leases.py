"""Under which name work is leased, and how what dead workers had leased is free again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from db.delivery import outbox
from db.engine import Database
from db.files.filestore import FileStore
from db.work import jobs, notices


@contextmanager
def place_of(database: Database, store: FileStore, machine: str, worker: str) -> Iterator[None]:
    """Hold a worker's place on a machine; what the one who held it before had leased is back in its queue.

    Nobody else may free it: whoever holds the place is alive.

    Parameters
    ----------
    machine
        `hilum.config.Settings.machine`.
    worker
        "sender", or `worker_of` a keeper.

    Raises
    ------
    StoreBusy
        If another process holds the place.
    """
    with store.lock_of(worker, machine):
        _release(database, f"{_owner_prefix(store, machine)}{worker}/")
        yield


def owner(store: FileStore, machine: str, worker: str) -> str:
    """Return the name under which this process leases work; no other process has it."""
    return f"{_owner_prefix(store, machine)}{worker}/{os.getpid()}"


def worker_of(index: int) -> str:
    """Return what a keeper is called among those of its machine: each has a device, by its place in the list."""
    return f"keeper-{index}"


def index_of_worker(store: FileStore, machine: str, owner_name: str) -> int | None:
    """Return the index of the keeper of this node and machine that a lease names; None where it is of another one."""
    worker = owner_name.removeprefix(_owner_prefix(store, machine)).partition("/")[0]
    number = worker.removeprefix("keeper-")
    return int(number) if worker not in (owner_name, number) and number.isdigit() else None


def _release(database: Database, prefix: str) -> None:
    with database.writing() as uow:
        jobs.release_orphans(uow, prefix)
        notices.release_orphans(uow, prefix)
        outbox.release_orphans(uow, prefix)
        uow.commit()


def _owner_prefix(store: FileStore, machine: str) -> str:
    return f"{store.node_identity().device_uid}/{machine}/"
