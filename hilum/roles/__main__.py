"""Entry of a role's process: ``python -m hilum.roles ROLE INDEX NAME=DESCRIPTOR...``, settings on standard input."""

from __future__ import annotations

import importlib
import sys

import structlog

from hilum.bells import Bells
from hilum.config import Settings
from hilum.journal import open_journal
from hilum.ownership import complaint
from hilum.processes import Station, StopSignal, announce_through, die_with_parent


def main(arguments: list[str]) -> int:
    """Run one role until it is told to stop; return the exit status."""
    role, index, *pairs = arguments
    die_with_parent()
    if foreign := complaint():
        sys.exit(foreign)
    descriptors = {name: int(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    settings = Settings.model_validate_json(sys.stdin.buffer.read())
    stop = StopSignal()
    stop.install()
    stop.watch(descriptors.pop("alive"))
    announce = announce_through(descriptors.pop("ready"))
    host = "" if settings.is_on_one_machine else settings.machine
    bells = Bells.inherited(descriptors, everybody_rings=settings.is_on_one_machine)
    station = Station(settings, stop, int(index), descriptors, announce, host, bells)
    open_journal(settings.data_dir / "logs", station.named(role), settings.node.log_level)
    run = importlib.import_module(f"hilum.roles.{role}").run
    try:
        run(station)
    except Exception:  # noqa: BLE001 - the edge of the process: logged with its stack before the restart
        structlog.get_logger().exception("role.failed", role=role)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
