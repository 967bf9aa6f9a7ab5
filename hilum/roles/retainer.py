"""Retainer: removes what ``[retention]`` lets go, where the configuration has it remove anything. One per store."""

from __future__ import annotations

import time

from db.engine import Database
from db.files.filestore import FileStore
from hilum.outages import keep_at
from hilum.processes import Station, yield_to_reception
from hilum.retaining import Retainer
from hilum.working.leading import lead_of

_LOOK_SECONDS = 60.0
_GLANCE_SECONDS = 5.0  # at the disk
_REST_AFTER_CRASH_SECONDS = 60.0
_MEGABYTE = 1_000_000


def run(station: Station) -> None:
    """Look every minute, and as soon as the disk is below its reserve, until told to stop."""
    yield_to_reception()
    settings = station.settings
    database = Database.open(settings.database_url)
    database.check_schema()
    store = FileStore(settings.data_dir)
    retainer = Retainer(settings, database, store, station.stop)
    with lead_of(settings, database, "retainer") as lead:
        station.announce({})
        next_look = time.monotonic()

        def turn() -> None:
            nonlocal next_look
            is_short = store.free_bytes() < settings.node.disk_reserve_mb * _MEGABYTE
            if lead.is_held and (is_short or time.monotonic() >= next_look):
                while retainer.turn() and lead.is_held:
                    pass
                next_look = time.monotonic() + _LOOK_SECONDS
            station.stop.wait(_GLANCE_SECONDS)

        keep_at(turn, station.stop, "retention.turn_crashed", _REST_AFTER_CRASH_SECONDS)
    database.close()
