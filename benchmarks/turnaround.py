"""From the last image's Success to SEG and SR in the PACS, step by step, beside other programs in one run.

    python -m benchmarks.turnaround [--runs 4] [--slices 500] [--study DIR] [--app-sdk VENV] [--set KEY=VALUE]
                                    [--patience SECONDS] [--json FILE]

`hilum serve` receives a study from DCMTK's ``storescu`` and sends its results to Orthanc; everything is real. Every run
sends the study under new UIDs to the same node, so the first run is the first study after the node's start and the
others find it warm. The quiet period is one second (`chain.QUIET_SECONDS`), and the totals are given with and without
it. The times are those that the node writes into its events and jobs, which `hilum show` prints too. Beside it run a
hand-written script (`script_peer`) and, where ``--app-sdk`` names its virtual environment, the MONAI Deploy App SDK
(`app_sdk_peer`). Neither writes a report, checks or sends anything.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chain import QUIET_SECONDS, TOTALS, WORDS, chain_of, words_of
from benchmarks.memory import high_water, resident, rested_runner
from benchmarks.peers import run_app_sdk, run_script, with_one_frame_of_reference
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
from benchmarks.studies import Study, copy_as_new, generate_thorax, real_chest, study_in
from db.engine import Database
from db.overview.queries import study_record
from study.entities import StudyRecord
from study.states import StudyState
from tests.support.network import storescu
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT

_LOOK_SECONDS = 0.2  # a look at the database costs processor time that the node is then short of
_LONGEST_WAIT = 300.0  # [s]
_ENDED = {StudyState.DELIVERED, StudyState.REFUSED, StudyState.FAILED, StudyState.NOT_SELECTED}


@dataclass(frozen=True)
class Figures:
    """What was measured of one study [s], [bytes].

    Parameters
    ----------
    sending
        How long ``storescu`` took, of each run.
    chains
        Seconds by step, of each run, the first study after the start first (`chain.chain_of`).
    script, app_sdk
        Seconds of the peers, of each run: their steps, "warm" without imports, "process" from start to end.
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
    app_sdk: tuple[dict[str, float], ...] = field(default=())

    @property
    def volumes_above_rest(self) -> float:
        """The runner's peak above what it holds at rest, in float32 volumes of the series."""
        return (self.runner_peak - self.runner_at_rest) / self.volume_bytes


def measure(
    study: Study,
    runs: int,
    folder: Path,
    patience: float = 0,
    *,
    app_sdk: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Figures:
    """Return the figures of `runs` turns of a study through a fresh node and a fresh Orthanc.

    Parameters
    ----------
    app_sdk
        The virtual environment of the App SDK; None leaves it out.
    settings
        Further keys of the node's configuration, by dotted name.
    """
    sending, chains, script, peers = [], [], [], []
    for_peer = None if app_sdk is None else with_one_frame_of_reference(study.paths, folder / "for_app_sdk")
    with ExitStack() as held:
        pacs = held.enter_context(running_orthanc(folder / "orthanc"))
        node = held.enter_context(running(node_with_pacs(folder / "node", pacs.dicom_port, settings or {})))
        runner = rested_runner(node)
        at_rest = resident(runner.pid)
        for number in range(runs):
            uid, paths = copy_as_new(study.paths, folder / "images")
            wait_for_idle_machine(patience)
            sending.append(send(node, paths))
            chains.append(chain_of(wait_for_the_end(node, uid)))
            script.append(run_script(folder / "images", folder / "script.dcm"))
            if app_sdk is not None and for_peer is not None:
                peers.append(run_app_sdk(app_sdk, for_peer, folder / f"by_app_sdk_{number}"))
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
        tuple(peers),
    )


def node_with_pacs(folder: Path, pacs_port: int, settings: Mapping[str, Any]) -> Node:
    """Return a node that sends SEG and SR to a PACS on a port of this machine."""
    peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "results": ["seg", "sr"]}
    return Node(folder, [peer], {"study.quiet_seconds": QUIET_SECONDS} | dict(settings))


def print_figures(figures: Figures) -> None:
    """Print the chain of a study, the peers beside it, and the runner's memory."""
    warm = figures.chains[1:] or figures.chains
    print(f"{figures.study}: {figures.slices} slices, {figures.volume_bytes / 1e6:.0f} MB as float32; seconds")
    rows = [
        [words_of(step), f"{first:.2f}" if first is not None else "", Spread.of(later).words(2)]
        for step, first, later in _steps(figures.chains[0], warm)
    ]
    rows += _rows_of("hand-written script, no SR, no sending: read, threshold, SEG", figures.script)
    rows += _rows_of("MONAI Deploy App SDK, no SR, no sending: load, select, volume, threshold, SEG", figures.app_sdk)
    print_table(["step", "first study", f"median of {len(warm)} more (range)"], rows)
    print(f"storescu sent it in {Spread.of(figures.sending).words(1)} s.")
    print(
        f"Runner: {figures.runner_at_rest / 1e6:.0f} MB at rest, {figures.runner_peak / 1e6:.0f} MB at its peak: "
        f"{figures.volumes_above_rest:.2f} float32 volumes more.\n"
    )


def _steps(
    first: Mapping[str, float], later: Sequence[Mapping[str, float]]
) -> list[tuple[str, float | None, list[float]]]:
    """Return each step with its seconds in the first study and in the later ones; what one lacks took it no time."""
    names = [step for step in {**first, **later[0]} if step not in TOTALS]
    return [(step, first.get(step), [each.get(step, 0.0) for each in later]) for step in (*names, *TOTALS)]


def _rows_of(peer: str, runs: Sequence[Mapping[str, float]]) -> list[list[str]]:
    """Return the rows of a peer; none where it was not measured."""
    if not runs:
        return []
    return [
        [peer, "", Spread.of([run["warm"] for run in runs]).words(2)],
        ["the same as a process of its own", "", Spread.of([run["process"] for run in runs]).words(2)],
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the figures for machines where asked."""
    parser = argparse.ArgumentParser(description="Measure the way of a study through the node, step by step.")
    parser.add_argument("--runs", type=int, default=4, help="how often each study is sent; the first finds a new node")
    parser.add_argument("--slices", type=int, default=500, help="of the generated thorax; 0 leaves it out")
    parser.add_argument("--study", type=Path, default=real_chest(), help="a folder with a chest CT to send as well")
    parser.add_argument("--app-sdk", type=Path, help="a virtual environment with monai-deploy-app-sdk, to run beside")
    parser.add_argument("--set", type=assignment, action="append", default=[], help="a key of Hilum's configuration")
    parser.add_argument("--patience", type=float, default=0, help="wait so long [s] for an idle machine at each turn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to work; its disk is part of what is measured")
    chosen = parser.parse_args(arguments)
    app_sdk = _usable(chosen.app_sdk)
    facts = machine()
    print_machine(facts)
    figures = []
    with needing_programs(), tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        for number, study in enumerate(_studies(chosen.study, chosen.slices, folder / "generated")):
            place = folder / str(number)
            figures.append(
                measure(study, chosen.runs, place, chosen.patience, app_sdk=app_sdk, settings=dict(chosen.set))
            )
            print_figures(figures[-1])
    write_json(chosen.json, _for_machines(facts, figures))


def _usable(app_sdk: Path | None) -> Path | None:
    """Return the environment of the App SDK where there is one; else say that it is left out."""
    if app_sdk is not None and (app_sdk / "bin" / "python").exists():
        return app_sdk.absolute()
    print("MONAI Deploy App SDK: not measured; --app-sdk names a virtual environment with monai-deploy-app-sdk, monai,")
    print("torch, highdicom and SimpleITK.")
    return None


def _studies(real: Path | None, slices: int, folder: Path) -> list[Study]:
    studies = [] if real is None else [study_in(real, "real chest CT")]
    return [*studies, generate_thorax(folder, slices)] if slices else studies


def send(node: Node, paths: Sequence[Path]) -> float:
    """Send images to a node by one storescu, and return how long that program took [s]."""
    started = time.perf_counter()
    command = storescu(node.port, *paths, calling="MODALITY")
    subprocess.run(command, check=True, capture_output=True, env=DCMTK_ENVIRONMENT)
    return time.perf_counter() - started


def wait_for_the_end(node: Node, study_instance_uid: str) -> StudyRecord:
    """Return what is known of a study once it is through.

    Raises
    ------
    SystemExit
        If that takes too long.
    """
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


def _for_machines(facts: Mapping[str, Any], figures: Sequence[Figures]) -> dict[str, Any]:
    return {
        "machine": facts,
        "quiet_seconds": QUIET_SECONDS,
        "steps": dict(WORDS),
        "studies": [asdict(study) | {"volumes_above_rest": round(study.volumes_above_rest, 3)} for study in figures],
    }


if __name__ == "__main__":
    main()
