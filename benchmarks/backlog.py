"""Reception and turnaround of a node that knows many studies, beside one that knows none; in turns, for `scaling`.

The studies lie in the index as they do once they are closed: images, a revision, events; those of every fifth study
with a job that is done, and SEG and SR that a PACS has. They are written by the database's own functions, once; each
turn starts the node anew on its folder and sends a few studies, of which the first is not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.chain import chain_of
from benchmarks.memory import plays, rested_runner
from benchmarks.report import Spread, print_table
from benchmarks.studies import Study, copy_as_new, generate_thorax
from benchmarks.turnaround import node_with_pacs, send, wait_for_the_end
from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database, UnitOfWork
from db.images.index import add_instances, generation
from db.work import jobs
from db.work.revisions import close_study
from study.entities import StoredInstance
from tests.support.databases import planned, results, stored
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc

IMAGES_EACH: Final = 4
ANALYSED_EVERY: Final = 5
_AT_ONCE: Final = 500
_SENT: Final = 3  # in each turn, the first of which is not counted
_OWNER: Final = "backlog"
_LEASE_SECONDS: Final = 600


@dataclass
class Side:
    """What was measured of a node with so many studies in its index.

    Parameters
    ----------
    rates
        Images per second, by the whole time of storescu.
    turnarounds
        From complete to the last result in the PACS, without the model [s].
    processor
        What all processes of the node but the runner worked for one study [s]: other programs change it little.
    """

    studies: int
    rates: list[float] = field(default_factory=list)
    turnarounds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def fill(database: Database, studies: int) -> None:
    """Put so many studies into the index, with results of every fifth delivered."""
    for start in range(0, studies, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, studies))
        with database.writing() as uow:
            images = {f"1.2.826.0.2.{number}": _images(f"1.2.826.0.2.{number}") for number in numbers}
            add_instances(uow, [image for each in images.values() for image in each])
            for number, (study, each) in enumerate(images.items()):
                _close(uow, study, each, analysed=number % ANALYSED_EVERY == 0)
            for delivery in outbox.lease_deliveries(uow, "pacs", _OWNER, _LEASE_SECONDS, 2 * _AT_ONCE):
                outbox.delivered(uow, delivery.id, _OWNER, 0)
            uow.commit()


def _images(study: str) -> list[StoredInstance]:
    return [stored(number, study=study, series=f"{study}.1") for number in range(1, IMAGES_EACH + 1)]


def _close(uow: UnitOfWork, study: str, images: Sequence[StoredInstance], *, analysed: bool) -> None:
    plan = [planned(images)] if analysed else []
    close_study(uow, study, plan, "no model takes a series of it", generation(uow, study))
    if not analysed:
        return
    job = jobs.lease_job(uow, _OWNER, _LEASE_SECONDS)
    assert job is not None
    made = results(f"{study}.{job.id}")
    owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
    jobs.finish_job(uow, job.id, job.attempt, made, owed, {})


def measure(studies: int, turns: int, slices: int, folder: Path) -> tuple[Side, Side]:
    """Return what was measured without a backlog and with one of so many studies."""
    sides = (Side(0), Side(studies))
    sent = generate_thorax(folder / "thorax", slices)
    for side in sides:
        _prepare(folder / str(side.studies) / "var", side.studies)
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            _take_turn(side, sent, folder / str(side.studies))
    return sides


def _prepare(data_dir: Path, studies: int) -> None:
    data_dir.mkdir(parents=True)
    database = Database.open(f"sqlite:///{data_dir / 'hilum.db'}")
    try:
        database.migrate()
        fill(database, studies)
    finally:
        database.close()


def _take_turn(side: Side, sent: Study, folder: Path) -> None:
    with ExitStack() as held:
        pacs = held.enter_context(running_orthanc(folder / "orthanc"))
        node = held.enter_context(running(node_with_pacs(folder, pacs.dicom_port, {})))
        rested_runner(node)
        for number in range(_SENT):
            uid, paths = copy_as_new(sent.paths, folder / "images")
            before = _worked(node)
            rate = len(paths) / send(node, paths)
            chain = chain_of(wait_for_the_end(node, uid))
            shutil.rmtree(folder / "images")
            if number:
                side.rates.append(rate)
                side.turnarounds.append(chain["from_complete_model_aside"])
                side.processor.append(_worked(node) - before)


def _worked(node: Node) -> float:
    """Return the processor time of the node's processes so far, without the runner's [s]."""
    spent = [process.cpu_times() for process in node.processes() if not plays(process, "runner")]
    return sum(times.user + times.system for times in spent)


def changes(sides: tuple[Side, Side]) -> tuple[float, float, float]:
    """Return what the backlog adds to the time of reception, to that of turnaround, and to processor time [%]."""
    without, beside = sides
    slower = Spread.of(without.rates).median / Spread.of(beside.rates).median
    longer = Spread.of(beside.turnarounds).median / Spread.of(without.turnarounds).median
    harder = Spread.of(beside.processor).median / Spread.of(without.processor).median
    return 100 * (slower - 1), 100 * (longer - 1), 100 * (harder - 1)


def print_sides(sides: tuple[Side, Side], studies: int) -> None:
    """Print both sides, and the difference."""
    analysed = studies // ANALYSED_EVERY
    print(f"A backlog of {studies} studies of {IMAGES_EACH} images, {analysed} of them delivered; medians (range)")
    rows = [
        [
            str(side.studies),
            Spread.of(side.rates).words(0),
            Spread.of(side.turnarounds).words(2),
            Spread.of(side.processor).words(2),
        ]
        for side in sides
    ]
    rows.append(["**what the backlog adds to the time**", *(f"{each:+.1f} %" for each in changes(sides))])
    columns = (
        *("studies in the index", "reception by one storescu [images/s]"),
        *("complete -> results stored, no model [s]", "processor time of the node but its runner, a study [s]"),
    )
    print_table(columns, rows)


def for_machines(sides: tuple[Side, Side]) -> Mapping[str, Any]:
    """Return both sides as JSON has them."""
    slower, longer, harder = changes(sides)
    return {
        "reception_slower_percent": round(slower, 2),
        "turnaround_longer_percent": round(longer, 2),
        "processor_time_more_percent": round(harder, 2),
        "without": asdict(sides[0]),
        "with": asdict(sides[1]),
    }
