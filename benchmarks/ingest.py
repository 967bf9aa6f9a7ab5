"""How fast images are received, beside Orthanc, DCMTK's storescp and a bare receive loop, in one run on one disk.

    python -m benchmarks.ingest [--size ct|mr|multiframe] [--images N] [--associations 1,4,64] [--runs 5]
                                [--set KEY=VALUE] [--patience SECONDS] [--json FILE] [--folder DIR]

Hilum is measured as it is used: `hilum serve` with all its roles, its indexer at work on what the receivers take in. No
analysis starts meanwhile, since the quiet period is an hour (`QUIET_SECONDS`). The sender is DCMTK's ``storescu
--max-send-pdu 131072`` with TCP_NODELAY=1, and so are the DCMTK-based servers (else they wait 40 ms an image on Nagle's
algorithm). Each run starts a server afresh on an empty folder, and turns go round the servers, so that the machine's
other work falls on all alike. Rates are medians. A rate counts from when the senders are connected to the end of the
last; a run counts only if every image is then found in the server's index. How long that takes after the last sender is
"index". "Durable" says whether the server syncs an image before it answers Success. The bare loop (`bare_loop`) checks
nothing: it is what Python can reach, once with a file for each image, once with a log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.images import SIZES
from benchmarks.receivers import QUIET_SECONDS, RunningServer, Server, servers
from benchmarks.report import (
    Spread,
    assignment,
    machine,
    needing_programs,
    print_machine,
    print_table,
    wait_for_idle_machine,
    write_json,
)
from tests.support.network import storescu, wait_until
from tests.support.peers import DCMTK_ENVIRONMENT

ASSOCIATIONS = (1, 4)
_LOOK_SECONDS = 0.002
_ACCEPT_SECONDS = 0.02
_LONGEST_WAIT = 600.0  # [s]
_ESTABLISHED = "01"


@dataclass(frozen=True)
class Turn:
    """One run of one server.

    Parameters
    ----------
    seconds
        From when the senders are connected to the end of the last.
    index_seconds
        From there until every image was in the index; a look at it costs some time too.
    peak_memory
        Of the largest receiving process [bytes].
    """

    seconds: float
    index_seconds: float
    peak_memory: int


@dataclass(frozen=True)
class Row:
    """What was measured of one server with one number of associations."""

    server: str
    durable: bool
    associations: int
    images_per_second: float
    lowest: float
    highest: float
    megabytes_per_second: float
    index_seconds: float
    peak_memory_mb: float


def measure(server: Server, images: list[Path], associations: int, folder: Path, patience: float = 0) -> Turn:
    """Return what one run took.

    Raises
    ------
    SystemExit
        If a sender failed.
    AssertionError
        If an image did not come into the index.
    """
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    with server.start(folder) as running:
        wait_for_idle_machine(patience)
        seconds = send(running, server, images, associations)
        ended = time.perf_counter()
        wait_until(lambda: running.stored() == len(images), _LONGEST_WAIT, f"{server.name}: every image in its index")
        indexed = time.perf_counter() - ended
        return Turn(seconds, indexed, running.peak_memory())


def send(running: RunningServer, server: Server, images: list[Path], associations: int) -> float:
    """Send the images by several senders at once; return how long that took once all were connected [s].

    A sender's own start, and its look through its files, take as long as a hundred images. So each is held once it is
    connected, before it has a context to send in, and all go on together.

    Raises
    ------
    SystemExit
        If a sender failed.
    """
    folder = images[0].parent
    senders: list[subprocess.Popen[bytes]] = []
    for number in range(associations):
        share = (path.name for path in images[number::associations])
        command = storescu(running.port, *share, called=server.ae_title)
        with standing_still(
            rotated(running.processes, number)
        ):  # else it may have sent several images before it is held
            senders.append(subprocess.Popen(command, env=DCMTK_ENVIRONMENT, cwd=folder))
            while connections(running.port) < len(senders) and senders[-1].poll() is None:
                time.sleep(_LOOK_SECONDS)
            senders[-1].send_signal(signal.SIGSTOP)
        time.sleep(_ACCEPT_SECONDS)  # so that each is accepted before the next one comes
    started = time.perf_counter()
    for sender in senders:
        sender.send_signal(signal.SIGCONT)
    failed = [code for code in [sender.wait() for sender in senders] if code]
    if failed:
        raise SystemExit(f"storescu to {server.name} failed with {failed}: no figure is given")
    return time.perf_counter() - started


@contextmanager
def standing_still(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Hold processes for the time of the block; the first of them goes on first."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def rotated(processes: Sequence[psutil.Process], by: int) -> list[psutil.Process]:
    """Return the processes beginning with another one: who goes on first takes the connection that waits.

    Several that wait in `accept` take turns by themselves; several that were held would not.
    """
    first = by % len(processes)
    return [*processes[first:], *processes[:first]]


def connections(port: int) -> int:
    """Return how many are connected to the port of 127.0.0.1."""
    senders = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(fields[2] == f"0100007F:{port:04X}" and fields[3] == _ESTABLISHED for fields in senders)


def run(
    measured: Sequence[Server],
    images: list[Path],
    associations: Sequence[int],
    runs: int,
    folder: Path,
    patience: float = 0,
) -> list[Row]:
    """Return the medians of all servers with each number of associations."""
    turns: dict[tuple[int, Server], list[Turn]] = {}
    for _ in range(runs):
        for count in associations:
            for server in measured:
                turns.setdefault((count, server), []).append(measure(server, images, count, folder, patience))
    size = sum(path.stat().st_size for path in images)
    return [_row(server, count, taken, len(images), size) for (count, server), taken in turns.items()]


def _row(server: Server, associations: int, turns: Sequence[Turn], images: int, size: int) -> Row:
    rate = Spread.of([images / turn.seconds for turn in turns])
    return Row(
        server.name,
        server.durable,
        associations,
        images_per_second=round(rate.median, 3),
        lowest=round(rate.lowest, 3),
        highest=round(rate.highest, 3),
        megabytes_per_second=round(rate.median * size / images / 1e6, 1),
        index_seconds=round(Spread.of([turn.index_seconds for turn in turns]).median, 3),
        peak_memory_mb=round(max(turn.peak_memory for turn in turns) / 1e6, 1),
    )


def ratio(rows: Sequence[Row], one: str, other: str, associations: int) -> float | None:
    """Return the rate of a server as a ratio to another's; None where one was not measured.

    Parameters
    ----------
    one, other
        How their names begin.
    """
    rates = [
        next(
            (row.images_per_second for row in rows if row.server.startswith(name) and row.associations == associations),
            0,
        )
        for name in (one, other)
    ]
    return rates[0] / rates[1] if all(rates) else None


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table, with each rate as a ratio to Orthanc's and to the bare loops'."""
    columns = (
        *("receiver", "durable before Success", "associations", "images/s (range)", "MB/s"),
        *("of Orthanc", "of bare loop, file", "of bare loop, log", "of storescp", "index [s]", "memory [MB]"),
    )
    print_table(columns, [_cells(row, rows) for row in rows])
    print_spreading(rows)


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    digits = 0 if row.images_per_second >= 10 else 2
    beside = [
        ratio(rows, row.server, other, row.associations)
        for other in ("Orthanc", "bare loop, file", "bare loop, log", "storescp")
    ]
    return [
        row.server,
        "yes" if row.durable else "no",
        str(row.associations),
        f"{row.images_per_second:.{digits}f} ({row.lowest:.{digits}f}-{row.highest:.{digits}f})",
        f"{row.megabytes_per_second:.0f}",
        *("" if each is None else f"{each:.2f}" for each in beside),
        f"{row.index_seconds:.2f}",
        f"{row.peak_memory_mb:.0f}",
    ]


def print_spreading(rows: Sequence[Row]) -> None:
    """Print what more associations than four do to each server's total, where that was measured."""
    rates = {(row.server, row.associations): row.images_per_second for row in rows}
    for (server, associations), rate in rates.items():
        if associations > 4 and (server, 4) in rates:
            print(f"{server}: {rate / rates[server, 4]:.2f} of its total with 4 associations at {associations}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure reception beside Orthanc, storescp and a bare loop.")
    parser.add_argument("--size", choices=SIZES, default="ct")
    parser.add_argument("--images", type=int, help="how many; by default 500 (ct), 20000 (mr), 1 (multiframe)")
    parser.add_argument("--associations", help="how many at once, as 1,4,64; one for a single object, else 1,4")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--set", type=assignment, action="append", default=[], help="a key of Hilum's configuration")
    parser.add_argument("--only", help="of the servers, those with this in their name")
    parser.add_argument("--patience", type=float, default=0, help="wait so long [s] for an idle machine at each turn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to receive; its disk is what is measured")
    chosen = parser.parse_args(arguments)
    size, settings = SIZES[chosen.size], dict(chosen.set)
    count = chosen.images or size.images
    associations = [int(each) for each in chosen.associations.split(",")] if chosen.associations else ASSOCIATIONS
    measured = [server for server in servers(settings) if (chosen.only or "") in server.name]
    facts = machine()
    print_machine(facts)
    with needing_programs(), tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        images = size.make(Path(folder) / "images", count)
        possible = [each for each in associations if each <= count]
        rows = run(measured, images, possible, chosen.runs, Path(folder) / "received", chosen.patience)
    print(f"{count} {size.words}, medians of {chosen.runs} runs" + _told(settings))
    print_rows(rows)
    facts_of_run = {"size": chosen.size, "images": count, "runs": chosen.runs, "quiet_seconds": QUIET_SECONDS}
    write_json(
        chosen.json, {"machine": facts, **facts_of_run, "settings": settings, "rows": [asdict(row) for row in rows]}
    )


def _told(settings: Mapping[str, Any]) -> str:
    return "".join(f"; {key} = {value}" for key, value in settings.items())


if __name__ == "__main__":
    main()
