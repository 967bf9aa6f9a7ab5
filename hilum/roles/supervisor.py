"""Supervisor as a process of its own, for whoever starts a node as a child (the demo, tests, benchmarks)."""

from __future__ import annotations

from hilum.processes import Station
from hilum.supervisor import Supervisor


def run(station: Station) -> None:
    """Serve until told to stop."""
    Supervisor(station.settings, lambda host, port: station.announce({"host": host, "port": port})).run(station.stop)
