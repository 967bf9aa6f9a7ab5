"""What receives in the benchmark: Hilum, Orthanc, DCMTK's storescp, and a bare loop, each on an empty folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.bare_loop import SYNCS
from benchmarks.memory import high_water, plays, rested_runner
from db.engine import Database
from db.overview.queries import list_studies
from tests.support.network import accepts_connections, free_port, wait_until
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT, REPOSITORY, program

RECEIVERS = 2
QUIET_SECONDS = 3600

_PEAK_OF_CHILDREN: Final = """
import resource, signal, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
print(process.pid, flush=True)
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
process.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a program and says at its end what it, or one of its children, held at most: a process keeps the peak of the
one that it was before `exec`, so this benchmark's own would be counted if it started the program itself."""


@dataclass(frozen=True)
class RunningServer:
    """A server that runs.

    Parameters
    ----------
    processes
        Those that accept connections.
    stored
        Returns how many images are in its index.
    peak_memory
        Returns the most that a receiving process has held [bytes]; asked last, since it may end the server.
    """

    port: int
    processes: list[psutil.Process]
    stored: Callable[[], int]
    peak_memory: Callable[[], int]


@dataclass(frozen=True)
class Server:
    """Something that receives: how to start it on an empty folder, and what is known of it."""

    name: str
    durable: bool
    ae_title: str
    start: Callable[[Path], AbstractContextManager[RunningServer]]


def servers(settings: Mapping[str, Any] | None = None) -> tuple[Server, ...]:
    """Return all that are measured; `settings` are further keys of Hilum's configuration, by dotted name."""
    receivers = (settings or {}).get("node.receivers", RECEIVERS)
    bare = [Server(f"bare loop, {sync}", True, "ANY", partial(start_bare_loop, sync=sync)) for sync in SYNCS]
    return (
        Server(f"hilum ({receivers} receivers)", True, "HILUM", partial(start_node, settings=settings or {})),
        Server("Orthanc (SQLite)", True, "PACS", start_orthanc),
        *bare,
        Server("storescp --fork", False, "ANY", start_storescp),
    )


@contextmanager
def start_node(folder: Path, settings: Mapping[str, Any]) -> Iterator[RunningServer]:
    """Run ``hilum serve``, with `RECEIVERS` receiving processes; its memory is that of the largest of them."""
    defaults = {
        "node.accept": "any",
        "node.receivers": RECEIVERS,
        "node.reception_log_mb": 512,
        "study.quiet_seconds": QUIET_SECONDS,
    }
    with running(Node(folder, settings=defaults | dict(settings))) as node:
        # A model loads after the node says that it is ready; its imports would share the processors with the first run.
        rested_runner(node)
        receivers = [process for process in node.processes() if plays(process, "receiver")]
        database = Database.open(node.database_url)
        try:
            yield RunningServer(
                node.port,
                receivers,
                stored=lambda: _indexed(database),
                peak_memory=lambda: max(high_water(process.pid) for process in receivers),
            )
        finally:
            database.close()


@contextmanager
def start_orthanc(folder: Path) -> Iterator[RunningServer]:
    """Run Orthanc as it comes: SQLite, its own syncing."""
    with running_orthanc(folder, ae_title="PACS", settings={"StableAge": 60}) as orthanc:
        yield RunningServer(
            orthanc.dicom_port,
            [psutil.Process(orthanc.process.pid)],
            stored=lambda: int(orthanc.get("/statistics")["CountInstances"]),
            peak_memory=lambda: high_water(orthanc.process.pid),
        )


@contextmanager
def start_storescp(folder: Path) -> Iterator[RunningServer]:
    """Run DCMTK's storescp, which syncs nothing."""
    folder.mkdir(parents=True)
    command = [program("storescp", package="dcmtk"), "--fork", "-pdu", "131072", "-od", str(folder)]
    with _forking(command, free_port(), lambda: len(list(folder.iterdir()))) as server:
        yield server


@contextmanager
def start_bare_loop(folder: Path, sync: str) -> Iterator[RunningServer]:
    """Run the bare loop, with one of its ways of syncing."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", str(folder), sync]
    with _forking(command, free_port(), partial(_counted, folder)) as server:
        yield server


@contextmanager
def _forking(command: list[str], port: int, stored: Callable[[], int]) -> Iterator[RunningServer]:
    """Run a server that forks for each connection; the port is its last argument."""
    watched = [sys.executable, "-c", _PEAK_OF_CHILDREN, *command, str(port)]
    process = subprocess.Popen(
        watched,
        env=DCMTK_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        text=True,
    )
    assert process.stdout is not None
    try:
        server = psutil.Process(int(process.stdout.readline()))
        wait_until(lambda: accepts_connections(port), what=command[0])
        yield RunningServer(port, [server], stored, partial(_end_and_ask, process))
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def _end_and_ask(process: subprocess.Popen[str]) -> int:
    """End a server, and return the most that it or one of its children held [bytes]."""
    process.terminate()
    assert process.stdout is not None
    return int(process.stdout.read().split()[-1]) * 1024


def _indexed(database: Database) -> int:
    with database.reading() as uow:
        return sum(summary.instances for summary in list_studies(uow))


def _counted(folder: Path) -> int:
    return sum(int(path.read_text() or 0) for path in (folder / "counts").iterdir())
