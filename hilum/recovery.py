"""After a crash: what a dead node had leased is free again, since the lock on its data directory is ours."""

from __future__ import annotations

from db import jobs, outbox
from db.engine import Database
from db.filestore import FileStore


def release_what_died(database: Database, store: FileStore) -> None:
    """Put the jobs and deliveries that this node had leased back into their queues.

    Only the holder of the store's lock may call this: nobody of this node can be at work then.
    """
    prefix = owner_prefix(store)
    with database.writing() as uow:
        jobs.release_orphans(uow, prefix)
        outbox.release_orphans(uow, prefix)
        uow.commit()


def owner_prefix(store: FileStore) -> str:
    """Return what the name of every worker of this node begins with."""
    return f"{store.node_identity().device_uid}/"
