"""How fast images are received, beside Orthanc and DCMTK's storescp, in one run on one disk.

    python -m benchmarks.ingest [--images 500] [--runs 5] [--json FILE] [--folder DIR]

The sender is DCMTK's ``storescu --max-send-pdu 131072`` with TCP_NODELAY=1 (else its programs wait 40 ms an image on
Nagle's algorithm). Each run starts a server afresh on an empty folder, and turns go round the servers, so that the
machine's other work falls on all alike. Rates are medians. A rate counts from the first connection to the end of the
last sender; "durable" says whether the server syncs an image before it answers Success.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from pydicom.uid import generate_uid

from scp.listening import open_listening_socket
from tests.support.network import accepts_connections, free_port, receiver_process, storescu, wait_until
from tests.support.orthanc import running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.series import ct_series, save_series

ASSOCIATIONS = (1, 4)
RECEIVERS = 2


@dataclass(frozen=True)
class Server:
    """Something that receives: how to start it on an empty folder, and what is known of it."""

    name: str
    durable: bool
    ae_title: str
    start: Callable[[Path], AbstractContextManager[RunningServer]]


@dataclass(frozen=True)
class RunningServer:
    """A server that runs: its port, how many images it holds, and its processes' greatest memory [bytes]."""

    port: int
    stored: Callable[[], int]
    peak_memory: Callable[[], int]


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
    """Run the node's receivers, `RECEIVERS` processes on one port."""
    with ExitStack() as stack:
        listening = stack.enter_context(open_listening_socket("127.0.0.1", 0))
        processes = [
            stack.enter_context(receiver_process(listening, folder / str(number))) for number in range(RECEIVERS)
        ]
        yield RunningServer(
            listening.getsockname()[1],
            stored=lambda: len(list(folder.glob("*/*.dcm"))),
            peak_memory=lambda: max(_peak_memory(process.pid) for process in processes),
        )


@contextmanager
def start_orthanc(folder: Path) -> Iterator[RunningServer]:
    """Run Orthanc as it comes: SQLite, its own syncing."""
    with running_orthanc(folder, ae_title="PACS", settings={"StableAge": 60}) as orthanc:
        yield RunningServer(
            orthanc.dicom_port,
            stored=lambda: int(orthanc.get("/statistics")["CountInstances"]),
            peak_memory=lambda: _peak_memory(orthanc.process.pid),
        )


@contextmanager
def start_storescp(folder: Path) -> Iterator[RunningServer]:
    """Run DCMTK's storescp, a process for each association, which syncs nothing."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [program("storescp", package="dcmtk"), "--fork", "-pdu", "131072", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=DCMTK_ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts_connections(port), what="storescp")
        yield RunningServer(
            port, stored=lambda: len(list(folder.iterdir())), peak_memory=lambda: _peak_memory(process.pid)
        )
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


def measure(server: Server, images: list[Path], associations: int, folder: Path) -> tuple[float, int]:
    """Return images per second and the peak memory [bytes] of one run."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    with server.start(folder) as running:
        commands = [
            storescu(running.port, *images[number::associations], called=server.ae_title)
            for number in range(associations)
        ]
        started = time.perf_counter()
        senders = [subprocess.Popen(command, env=DCMTK_ENVIRONMENT) for command in commands]
        failed = [code for code in [sender.wait() for sender in senders] if code]
        seconds = time.perf_counter() - started
        if failed or running.stored() != len(images):
            raise SystemExit(f"{server.name} stored {running.stored()} of {len(images)}: no figure is given")
        return len(images) / seconds, running.peak_memory()


def run(images: list[Path], runs: int, folder: Path) -> list[Row]:
    """Return the medians of all servers with each number of associations."""
    rates: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], int] = {}
    for _ in range(runs):
        for associations in ASSOCIATIONS:
            for server in SERVERS:
                rate, peak = measure(server, images, associations, folder)
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


def print_table(rows: list[Row]) -> None:
    """Print the rows as a Markdown table, with each rate as a ratio to Orthanc's."""
    of_orthanc = {row.associations: row.images_per_second for row in rows if row.server.startswith("Orthanc")}
    print("| receiver | durable before Success | associations | images/s | lowest-highest | of Orthanc | memory [MB] |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = row.images_per_second / of_orthanc[row.associations]
        print(
            f"| {row.server} | {'yes' if row.durable else 'no'} | {row.associations} | {row.images_per_second:.0f} "
            f"| {row.lowest:.0f}-{row.highest:.0f} | {ratio:.2f} | {row.peak_memory_mb:.0f} |"
        )


def main() -> None:
    """Measure, print the table, and write it for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure reception beside Orthanc and storescp.")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to receive; its disk is what is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        images = make_images(Path(folder) / "images", arguments.images)
        rows = run(images, arguments.runs, Path(folder) / "received")
    print(
        f"{arguments.images} CT images of 512 x 512 x 16 bit, medians of {arguments.runs} runs, {os.cpu_count()} cores"
    )
    print_table(rows)
    if arguments.json:
        figures = {
            "images": arguments.images,
            "runs": arguments.runs,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def _peak_memory(pid: int) -> int:
    """Return the greatest resident memory of a process and its children so far [bytes]."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(_high_water(process.pid) for process in processes)


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
