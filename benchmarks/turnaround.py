"""From the last image's Success to SEG and SR in the PACS, step by step, beside a hand-written script in one run.

    python -m benchmarks.turnaround [--runs 4] [--slices 500] [--study DIR] [--patience SECONDS] [--json FILE]

`hilum serve` receives a study from DCMTK's ``storescu`` and sends its results to Orthanc; everything is real. Every run
sends the study under new UIDs to the same node, so the first run is the first study after the node's start and the
others find it warm. The quiet period is one second (`QUIET_SECONDS`), and the totals are given with and without it. The
times are those that the node writes into its events, jobs and deliveries; a delivery's time is taken after the PACS
answered Success and the ledger was synced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.memory import high_water, resident, wait_until_idle
from benchmarks.report import (
    Spread,
    machine,
    needing_programs,
    print_machine,
    print_table,
    wait_for_idle_machine,
    write_json,
)
from benchmarks.studies import Study, copy_as_new, generate_thorax, real_chest, study_in
from db.engine import Database
from db.overview.queries import study_record
from study.entities import StudyRecord
from study.states import StudyState
from tests.support.network import storescu
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT

QUIET_SECONDS = 1.0

_LOOK_SECONDS = 0.2  # a look at the database costs processor time that the node is then short of
_LONGEST_WAIT = 300.0  # [s]
_ENDED = {StudyState.DELIVERED, StudyState.REFUSED, StudyState.FAILED, StudyState.NOT_SELECTED}

STEPS: Mapping[str, str] = {
    "complete": f"last image stored -> study complete (quiet period {QUIET_SECONDS:g} s)",
    "start": "complete -> job started",
    "decode": "read and decode into a volume",
    "preprocess": "preprocessing",
    "inference": "inference (the model)",
    "postprocess": "postprocessing",
    "measure": "measure",
    "encode": "encode, write and check SEG and SR",
    "rest": "rest of the job: hand over, verify, commit",
    "seg": "job done -> SEG stored in the PACS",
    "sr": "SEG stored -> SR stored in the PACS",
    "total": "**total from the last image**",
    "beyond_quiet": "**the same without the quiet period**",
    "model_aside": "**the same, and without the inference**",
}
"""The chain in its order: the key in JSON, and how the table calls it."""


@dataclass(frozen=True)
class Figures:
    """What was measured of one study [s], [bytes].

    Parameters
    ----------
    sending
        How long ``storescu`` took, of each run.
    chains
        Seconds by step of `STEPS`, of each run, the first study after the start first.
    script
        Seconds of the hand-written script, of each run: its steps, and "process" from start to end.
    runner_at_rest, runner_peak
        Resident memory of the runner with its models loaded, and the most that it held.
    """

    study: str
    slices: int
    volume_bytes: int
    sending: tuple[float, ...]
    chains: tuple[dict[str, float], ...]
    script: tuple[dict[str, float], ...]
    runner_at_rest: int
    runner_peak: int

    @property
    def volumes_above_rest(self) -> float:
        """The runner's peak above what it holds at rest, in float32 volumes of the series."""
        return (self.runner_peak - self.runner_at_rest) / self.volume_bytes


def chain_of(record: StudyRecord) -> dict[str, float]:
    """Return the seconds of each step of `STEPS`.

    Raises
    ------
    SystemExit
        If the study did not come through with one job, one SEG and one SR.
    """
    summary = record.summary
    stored = {delivery.result.form: delivery.delivered_at for delivery in record.deliveries}
    jobs = [job for job in record.jobs if job.started_at and job.ended_at]
    if summary.state is not StudyState.DELIVERED or len(jobs) != 1 or set(stored) != {"seg", "sr"}:
        reason = f": {summary.reason.code}: {summary.reason.words}" if summary.reason else ""
        raise SystemExit(f"the study ended as {summary.state.value}{reason}: no figure is given")
    (job,) = jobs
    complete = next(event.at for event in record.events if event.kind == "complete")
    spent: dict[str, float] = job.details["seconds"]
    working = sum(spent.values())
    total = _seconds(summary.last_received_at, stored["sr"])
    return {
        "complete": _seconds(summary.last_received_at, complete),
        "start": _seconds(complete, job.started_at),
        **spent,
        "rest": _seconds(job.started_at, job.ended_at) - working,
        "seg": _seconds(job.ended_at, stored["seg"]),
        "sr": _seconds(stored["seg"], stored["sr"]),
        "total": total,
        "beyond_quiet": total - QUIET_SECONDS,
        "model_aside": total - QUIET_SECONDS - spent["inference"],
    }


def measure(study: Study, runs: int, folder: Path, patience: float = 0) -> Figures:
    """Return the figures of `runs` turns of a study through a fresh node and a fresh Orthanc."""
    sending, chains, script = [], [], []
    with running_orthanc(folder / "orthanc") as pacs:
        peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.dicom_port}
        node = Node(folder / "node", [peer | {"results": ["seg", "sr"]}], {"study.quiet_seconds": QUIET_SECONDS})
        with running(node):
            runner = node.process_of("runner")
            wait_until_idle(runner)
            at_rest = resident(runner.pid)
            for _ in range(runs):
                uid, paths = copy_as_new(study.paths, folder / "images")
                wait_for_idle_machine(patience)
                sending.append(_send(node, paths))
                chains.append(chain_of(_wait_for_the_end(node, uid)))
                script.append(run_script(folder / "images", folder / "script.dcm"))
                shutil.rmtree(folder / "images")
            peak = high_water(runner.pid)
    return Figures(
        study.name,
        len(study.paths),
        study.volume_bytes,
        tuple(sending),
        tuple(chains),
        tuple(script),
        at_rest,
        peak,
    )


def run_script(images: Path, output: Path) -> dict[str, float]:
    """Return the seconds of the hand-written script on a folder, by step and as a process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.script_peer", str(images), str(output)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    process = time.perf_counter() - started
    steps: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return {**steps, "warm": steps["read"] + steps["threshold"] + steps["seg"], "process": process}


def print_figures(figures: Figures) -> None:
    """Print the chain of a study, the script beside it, and the runner's memory."""
    warm = figures.chains[1:] or figures.chains
    print(f"{figures.study}: {figures.slices} slices, {figures.volume_bytes / 1e6:.0f} MB as float32; seconds")
    rows = [
        [words, f"{figures.chains[0][key]:.2f}", Spread.of([chain[key] for chain in warm]).words(2)]
        for key, words in STEPS.items()
    ]
    script = {key: Spread.of([run[key] for run in figures.script]).words(2) for key in figures.script[0]}
    rows += [
        ["hand-written script, no SR, no sending: read, threshold, SEG", "", script["warm"]],
        ["the same as a process of its own", "", script["process"]],
    ]
    print_table(["step", "first study", f"median of {len(warm)} more (range)"], rows)
    print(f"storescu sent it in {Spread.of(figures.sending).words(1)} s.")
    print(
        f"Runner: {figures.runner_at_rest / 1e6:.0f} MB at rest, {figures.runner_peak / 1e6:.0f} MB at its peak: "
        f"{figures.volumes_above_rest:.2f} float32 volumes more.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure the way of a study through the node, step by step.")
    parser.add_argument("--runs", type=int, default=4, help="how often each study is sent; the first finds a new node")
    parser.add_argument("--slices", type=int, default=500, help="of the generated thorax; 0 leaves it out")
    parser.add_argument("--study", type=Path, default=real_chest(), help="a folder with a chest CT to send as well")
    parser.add_argument("--patience", type=float, default=0, help="wait so long [s] for an idle machine at each turn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to work; its disk is part of what is measured")
    chosen = parser.parse_args(arguments)
    facts = machine()
    print_machine(facts)
    figures = []
    with needing_programs(), tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        for number, study in enumerate(_studies(chosen.study, chosen.slices, folder / "generated")):
            figures.append(measure(study, chosen.runs, folder / str(number), chosen.patience))
            print_figures(figures[-1])
    write_json(chosen.json, _for_machines(facts, figures))


def _studies(real: Path | None, slices: int, folder: Path) -> list[Study]:
    studies = [] if real is None else [study_in(real, "real chest CT")]
    return [*studies, generate_thorax(folder, slices)] if slices else studies


def _send(node: Node, paths: Sequence[Path]) -> float:
    started = time.perf_counter()
    command = storescu(node.port, *paths, calling="MODALITY")
    subprocess.run(command, check=True, capture_output=True, env=DCMTK_ENVIRONMENT)
    return time.perf_counter() - started


def _wait_for_the_end(node: Node, study_instance_uid: str) -> StudyRecord:
    database = Database.open(f"sqlite:///{node.data_dir / 'hilum.db'}")
    deadline = time.monotonic() + _LONGEST_WAIT
    try:
        while time.monotonic() < deadline:
            with database.reading() as uow:
                record = study_record(uow, study_instance_uid)
            if record is not None and record.summary.state in _ENDED:
                return record
            time.sleep(_LOOK_SECONDS)
    finally:
        database.close()
    raise SystemExit(f"the study did not come through within {_LONGEST_WAIT:g} s: no figure is given")


def _seconds(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None:
        raise SystemExit("the node did not write down a time: no figure is given")
    return (end - start).total_seconds()


def _for_machines(facts: Mapping[str, Any], figures: Sequence[Figures]) -> dict[str, Any]:
    return {
        "machine": facts,
        "quiet_seconds": QUIET_SECONDS,
        "steps": STEPS,
        "studies": [asdict(study) | {"volumes_above_rest": round(study.volumes_above_rest, 3)} for study in figures],
    }


if __name__ == "__main__":
    main()
