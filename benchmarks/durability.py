"""What it costs to make an object durable, by the way in which that is done; no network, no DICOM.

    python -m benchmarks.durability [--runs 5] [--json FILE] [--folder DIR]

Each way writes the same objects in pieces of 128 KB, each object durable before the next begins; with four threads,
four at a time. The ways take turns, each on an empty folder, after the disk has come to rest. "Hilum" is the node's own
inbox, with its checks of free space and its checksums; the other ways are system calls alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.report import Spread, machine, print_machine, print_table, write_json
from scp.receiving.inbox import Inbox
from scp.receiving.reception_log import LONGEST_OBJECT
from tests.support.network import wait_until

SIZES: Mapping[str, tuple[int, int]] = {"512 KB": (2**19, 400), "8 KB": (2**13, 1500)}
"""Size of an object [bytes], and how many are written."""

THREADS = (1, 4)

_PIECE = 2**17
_LOG_BYTES = 2**25
_REST_SECONDS = 0.3

Put = Callable[[bytes], None]
"""Makes one object durable; used by one thread."""


@dataclass(frozen=True)
class Way:
    """One way to make objects durable: what it is, and what makes it ready in an empty folder, for one thread."""

    words: str
    open: Callable[[Path, ExitStack], Put]


def _write(descriptor: int, content: bytes) -> None:
    for start in range(0, len(content), _PIECE):
        os.write(descriptor, content[start : start + _PIECE])


def _files(folder: Path, finish: Callable[[int, int, Path], None]) -> Put:
    names, parent = count(), os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def put(content: bytes) -> None:
        path = folder / f"{next(names)}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        _write(descriptor, content)
        finish(descriptor, parent, path)
        os.close(descriptor)

    return put


def _fully(descriptor: int, parent: int, path: Path) -> None:
    os.fsync(descriptor)
    path.rename(path.with_suffix(".dcm"))
    os.fsync(parent)


def _renamed_first(descriptor: int, parent: int, path: Path) -> None:
    path = path.rename(path.with_suffix(".whole"))
    os.fdatasync(descriptor)
    os.fsync(parent)
    path.rename(path.with_suffix(".dcm"))


def _with_folder(descriptor: int, parent: int, _path: Path) -> None:
    os.fdatasync(descriptor)
    os.fsync(parent)


def _content_alone(descriptor: int, _parent: int, _path: Path) -> None:
    os.fdatasync(descriptor)


def _not_at_all(_descriptor: int, _parent: int, path: Path) -> None:
    path.rename(path.with_suffix(".dcm"))


def _log(folder: Path, *, again: bool) -> Put:
    """Append to one file; where it is written `again`, its blocks are there before the first object comes."""
    descriptor = os.open(folder / "log", os.O_RDWR | os.O_CREAT)
    if again:
        _write(descriptor, bytes(_LOG_BYTES))
        os.fsync(descriptor)
    at = 0

    def put(content: bytes) -> None:
        nonlocal at
        if again and at + len(content) > _LOG_BYTES:
            at = 0
        for start in range(0, len(content), _PIECE):
            os.pwrite(descriptor, content[start : start + _PIECE], at + start)
        os.fdatasync(descriptor)
        at += -(-len(content) // 4096) * 4096

    return put


def _inbox(folder: Path, log_bytes: int, held: ExitStack) -> Put:
    """Use the node's inbox, with logs that are ready."""
    inbox = Inbox(folder, 0, log_bytes)
    held.callback(inbox.close)
    logs = log_bytes // (2 * LONGEST_OBJECT)
    wait_until(lambda: len(_filled(folder)) == logs, 60, "the logs")

    def put(content: bytes) -> None:
        incoming = inbox.begin(b"")
        for start in range(0, len(content), _PIECE):
            incoming.write([content[start : start + _PIECE]])
        incoming.commit()

    return put


def _filled(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.log") if path.stat().st_size > LONGEST_OBJECT]


WAYS: Sequence[Way] = (
    Way("a file: fsync, rename, fsync of the folder", lambda folder, _held: _files(folder, _fully)),
    Way("a file: rename, fdatasync, fsync of the folder, rename", lambda folder, _held: _files(folder, _renamed_first)),
    Way("a file: fdatasync, fsync of the folder", lambda folder, _held: _files(folder, _with_folder)),
    Way("a file: fdatasync alone", lambda folder, _held: _files(folder, _content_alone)),
    Way("a log that grows: fdatasync", lambda folder, _held: _log(folder, again=False)),
    Way("a log that is written again: fdatasync", lambda folder, _held: _log(folder, again=True)),
    Way("a file, renamed and never synced (not durable)", lambda folder, _held: _files(folder, _not_at_all)),
    Way("Hilum without logs", lambda folder, held: _inbox(folder, 0, held)),
    Way("Hilum with logs", lambda folder, held: _inbox(folder, 2**29, held)),
)


def measure(way: Way, size: int, objects: int, threads: int, folder: Path) -> float:
    """Return how many objects of `size` bytes become durable in a second."""
    with ExitStack() as held:
        puts = []
        for number in range(threads):
            own = folder / str(number)
            own.mkdir(parents=True)
            puts.append(way.open(own, held))
        os.sync()
        return _rate(puts, size, objects)


def _rate(puts: Sequence[Put], size: int, objects: int) -> float:
    threads = len(puts)
    content, ready = os.urandom(size), threading.Barrier(threads + 1)

    def work(put: Put) -> float:
        ready.wait()
        for _ in range(objects // threads):
            put(content)
        return time.perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, put) for put in puts]
        ready.wait()
        began = time.perf_counter()
        ended = max(each.result() for each in working)
    return objects // threads * threads / (ended - began)


def run(runs: int, folder: Path | None) -> dict[tuple[str, int, str], Spread]:
    """Return objects a second by size, threads and way."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for name, (size, objects) in SIZES.items():
        for threads in THREADS:
            for _ in range(runs):
                for way in WAYS:
                    with tempfile.TemporaryDirectory(dir=folder) as own:
                        os.sync()
                        time.sleep(_REST_SECONDS)
                        rate = measure(way, size, objects, threads, Path(own))
                    found.setdefault((name, threads, way.words), []).append(rate)
    return {key: Spread.of(rates) for key, rates in found.items()}


def print_rates(found: Mapping[tuple[str, int, str], Spread]) -> None:
    """Print a Markdown table: a row for each way, a column for each size and number of threads."""
    columns = [(name, threads) for name in SIZES for threads in THREADS]
    print_table(
        ["objects a second, median (range)", *(f"{name}, {threads} at a time" for name, threads in columns)],
        [[way.words, *(found[name, threads, way.words].words(0) for name, threads in columns)] for way in WAYS],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure what it costs to make an object durable.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to write; its disk is what is measured")
    chosen = parser.parse_args(arguments)
    facts = machine()
    print_machine(facts)
    found = run(chosen.runs, chosen.folder)
    print_rates(found)
    rows: list[dict[str, Any]] = [
        {"size": name, "threads": threads, "way": way, **vars(spread)} for (name, threads, way), spread in found.items()
    ]
    write_json(chosen.json, {"machine": facts, "runs": chosen.runs, "rows": rows})


if __name__ == "__main__":
    main()
