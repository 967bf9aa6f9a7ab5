"""How fast images are received, beside Orthanc and DCMTK's storescp, in one run on one disk.

    python -m benchmarks.ingest [--images 500] [--runs 5] [--patience SECONDS] [--json FILE] [--folder DIR]

Hilum is measured as it is used: `hilum serve` with all its roles, its indexer at work on what the receivers take in. No
analysis starts meanwhile, since the quiet period is an hour (`QUIET_SECONDS`). The sender is DCMTK's ``storescu
--max-send-pdu 131072`` with TCP_NODELAY=1, and so are the DCMTK-based servers (else they wait 40 ms an image on Nagle's
algorithm). Each run starts a server afresh on an empty folder, and turns go round the servers, so that the machine's
other work falls on all alike. Rates are medians. A rate counts from the first connection to the end of the last sender;
a run counts only if every image is then found in the server's index. "Durable" says whether the server syncs an image
before it answers Success.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

from benchmarks.memory import high_water, wait_until_idle
from benchmarks.report import machine, needing_programs, print_machine, print_table, wait_for_idle_machine, write_json
from tests.support.network import accepts_connections, free_port, storescu, wait_until
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.series import ct_series, save_series

ASSOCIATIONS = (1, 4)
RECEIVERS = 2
QUIET_SECONDS = 3600


@dataclass(frozen=True)
class Server:
    """Something that receives: how to start it on an empty folder, and what is known of it."""

    name: str
    durable: bool
    ae_title: str
    start: Callable[[Path], AbstractContextManager[RunningServer]]


@dataclass(frozen=True)
class RunningServer:
    """A server that runs: its port, how many images it holds, and its greatest memory [bytes] where it can be read."""

    port: int
    stored: Callable[[], int]
    peak_memory: Callable[[], int] | None


@dataclass(frozen=True)
class Row:
    """What was measured of one server with one number of associations."""

    server: str
    durable: bool
    associations: int
    images_per_second: float
    lowest: float
    highest: float
    peak_memory_mb: float


@contextmanager
def start_node(folder: Path) -> Iterator[RunningServer]:
    """Run ``hilum serve``, with `RECEIVERS` receiving processes; its memory is that of the largest of them."""
    settings = {"node.accept": "any", "node.receivers": RECEIVERS, "study.quiet_seconds": QUIET_SECONDS}
    with running(Node(folder, settings=settings)) as node:
        # A model loads after the node says that it is ready; its imports would share the processors with the first run.
        wait_until_idle(node.process_of("runner"))
        receivers = [process for process in node.processes() if "receiver" in process.cmdline()]
        yield RunningServer(
            node.port,
            stored=lambda: sum(record.summary.instances for record in node.records()),
            peak_memory=lambda: max(high_water(process.pid) for process in receivers),
        )


@contextmanager
def start_orthanc(folder: Path) -> Iterator[RunningServer]:
    """Run Orthanc as it comes: SQLite, its own syncing."""
    with running_orthanc(folder, ae_title="PACS", settings={"StableAge": 60}) as orthanc:
        yield RunningServer(
            orthanc.dicom_port,
            stored=lambda: int(orthanc.get("/statistics")["CountInstances"]),
            peak_memory=lambda: high_water(orthanc.process.pid),
        )


@contextmanager
def start_storescp(folder: Path) -> Iterator[RunningServer]:
    """Run DCMTK's storescp, which syncs nothing; its memory is that of processes which end with their associations."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [program("storescp", package="dcmtk"), "--fork", "-pdu", "131072", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=DCMTK_ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts_connections(port), what="storescp")
        yield RunningServer(port, stored=lambda: len(list(folder.iterdir())), peak_memory=None)
    finally:
        process.terminate()
        process.wait(timeout=30)


SERVERS = (
    Server(f"hilum ({RECEIVERS} receivers)", durable=True, ae_title="HILUM", start=start_node),
    Server("Orthanc (SQLite)", durable=True, ae_title="PACS", start=start_orthanc),
    Server("storescp --fork", durable=False, ae_title="ANY", start=start_storescp),
)


def make_images(folder: Path, count: int) -> list[Path]:
    """Write `count` CT images of 512 x 512 x 16 bit that do not compress, one series."""
    noise = np.random.default_rng(7).integers(-1000, 1000, (1, 512, 512), dtype=np.int16)
    study, series = str(generate_uid()), str(generate_uid())
    paths = []
    for number in range(count):
        images = ct_series(
            np.roll(noise, number, axis=2),
            study_instance_uid=study,
            series_instance_uid=series,
            instance_numbers=[number + 1],
        )
        (path,) = save_series(images, folder / "one")
        paths.append(path.rename(folder / f"{number:05d}.dcm"))
    return paths


def measure(
    server: Server, images: list[Path], associations: int, folder: Path, patience: float = 0
) -> tuple[float, int]:
    """Return images per second and the peak memory [bytes] of one run, 0 where that can not be read."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    with server.start(folder) as running:
        wait_for_idle_machine(patience)
        commands = [
            storescu(running.port, *images[number::associations], called=server.ae_title)
            for number in range(associations)
        ]
        started = time.perf_counter()
        senders = [subprocess.Popen(command, env=DCMTK_ENVIRONMENT) for command in commands]
        failed = [code for code in [sender.wait() for sender in senders] if code]
        seconds = time.perf_counter() - started
        if failed:
            raise SystemExit(f"storescu to {server.name} failed with {failed}: no figure is given")
        wait_until(lambda: running.stored() == len(images), 120, f"{server.name}: every image in its index")
        return len(images) / seconds, running.peak_memory() if running.peak_memory else 0


def run(images: list[Path], runs: int, folder: Path, patience: float = 0) -> list[Row]:
    """Return the medians of all servers with each number of associations."""
    rates: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], int] = {}
    for _ in range(runs):
        for associations in ASSOCIATIONS:
            for server in SERVERS:
                rate, peak = measure(server, images, associations, folder, patience)
                key = server.name, associations
                rates.setdefault(key, []).append(rate)
                memory[key] = max(peak, memory.get(key, 0))
    return [
        Row(
            server.name,
            server.durable,
            associations,
            images_per_second=round(statistics.median(rates[server.name, associations]), 1),
            lowest=round(min(rates[server.name, associations]), 1),
            highest=round(max(rates[server.name, associations]), 1),
            peak_memory_mb=round(memory[server.name, associations] / 1e6, 1),
        )
        for associations in ASSOCIATIONS
        for server in SERVERS
    ]


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table, with each rate as a ratio to Orthanc's."""
    of_orthanc = {row.associations: row.images_per_second for row in rows if row.server.startswith("Orthanc")}
    columns = ("receiver", "durable before Success", "associations", "images/s (range)", "of Orthanc", "memory [MB]")
    print_table(
        columns,
        [
            (
                row.server,
                "yes" if row.durable else "no",
                str(row.associations),
                f"{row.images_per_second:.0f} ({row.lowest:.0f}-{row.highest:.0f})",
                f"{row.images_per_second / of_orthanc[row.associations]:.2f}",
                f"{row.peak_memory_mb:.0f}" if row.peak_memory_mb else "not read",
            )
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure reception beside Orthanc and storescp.")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--patience", type=float, default=0, help="wait so long [s] for an idle machine at each turn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to receive; its disk is what is measured")
    chosen = parser.parse_args(arguments)
    facts = machine()
    print_machine(facts)
    with needing_programs(), tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        images = make_images(Path(folder) / "images", chosen.images)
        rows = run(images, chosen.runs, Path(folder) / "received", chosen.patience)
    print(f"{chosen.images} CT images of 512 x 512 x 16 bit, medians of {chosen.runs} runs")
    print_rows(rows)
    write_json(
        chosen.json,
        {
            "machine": facts,
            "images": chosen.images,
            "runs": chosen.runs,
            "quiet_seconds": QUIET_SECONDS,
            "rows": [asdict(row) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
