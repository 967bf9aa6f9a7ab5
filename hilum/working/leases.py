"""Under which name work is leased, and how what dead workers had leased is free again."""

from __future__ import annotations

import os
import socket

from db import jobs, notices, outbox
from db.engine import Database
from db.filestore import FileStore


def release_what_died(database: Database, store: FileStore, role: str = "") -> None:
    """Put the jobs and deliveries that this node's workers on this host had leased back into their queues.

    Parameters
    ----------
    role
        Only those of one role: its new process calls this, since the one before it is dead. Without it, those of all:
        the holder of the store's lock calls this, since nobody else of this node can be at work here.
    """
    prefix = _owner_prefix(store) + (f"{role}/" if role else "")
    with database.writing() as uow:
        jobs.release_orphans(uow, prefix)
        notices.release_orphans(uow, prefix)
        outbox.release_orphans(uow, prefix)
        uow.commit()


def owner(store: FileStore, role: str) -> str:
    """Return the name under which this process leases work; no other process has it."""
    return f"{_owner_prefix(store)}{role}/{os.getpid()}"


def worker_of(index: int) -> str:
    """Return what a keeper is called among those of its machine: each has a device, by its place in the list."""
    return f"keeper-{index}"


def index_of_worker(store: FileStore, owner_name: str) -> int | None:
    """Return the index of the keeper of this node and machine that a lease names; None where it is of another one."""
    role = owner_name.removeprefix(_owner_prefix(store)).partition("/")[0]
    number = role.removeprefix("keeper-")
    return int(number) if role not in (owner_name, number) and number.isdigit() else None


def _owner_prefix(store: FileStore) -> str:
    return f"{store.node_identity().device_uid}/{socket.gethostname()}/"
