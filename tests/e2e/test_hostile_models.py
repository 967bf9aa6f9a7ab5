"""Models that crash, hang, eat memory or give nonsense cost their own jobs, say why, and the next study is analysed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from study.entities import Job, StudyRecord
from study.states import JobState
from tests.support.hostile import HOSTILE, LOADS, THRESHOLD, entry, network
from tests.support.network import wait_until
from tests.support.node import Node, running
from tests.support.series import ct_series, save_series

DEADLINE, MEMORY_MB = 1, 1500
HANGING = {"loops", "stops_itself", "promises_more", "never_loads"}
"""Have the deadline; the others end before the usual one, however busy the machine is."""
LEFT_BEHIND = ["sleep", "86397"]

EXPECTED: Mapping[str, tuple[str, str]] = {
    "asks_to_exit": ("RunnerDied", "with status 3 (inference)"),
    "reads_nowhere": ("RunnerDied", "by signal 11 (inference)"),
    "loops": ("DeadlineExceeded", "longer than 1 s and was stopped (inference)"),
    "stops_itself": ("DeadlineExceeded", "longer than 1 s and was stopped (inference)"),
    "eats_memory": ("MemoryExceeded", "more than the 1500 MB that it may"),
    "closes_everything": ("RunnerDied", "closed the line to its keeper (inference)"),
    "babbles": ("RunnerDied", "said what is no answer (inference)"),
    "promises_more": ("DeadlineExceeded", "longer than 1 s and was stopped (inference)"),
    "leaves_children": ("RunnerDied", "by signal 6 (inference)"),
    "gives_nan": ("ModelOutputInvalid", "not finite"),
    "gives_other_shape": ("ModelOutputInvalid", "shape"),
    "gives_undeclared": ("ModelOutputInvalid", "label 7"),
    "never_loads": ("DeadlineExceeded", "longer than 1 s and was stopped (load)"),
    "dies_loading": ("RunnerDied", "by signal 6 (load)"),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Return a node with every hostile model, and an honest one at the end of the list."""
    folder = tmp_path_factory.mktemp("hostile")
    made = Node(folder / "node", settings={"inference.devices": ["cpu"], "inference.attempts": 1})
    limits: dict[str, dict[str, Any]] = {name: {"deadline_seconds": DEADLINE} for name in HANGING}
    limits["eats_memory"] = {"memory_mb": MEMORY_MB}
    entries = [entry(folder, name, network(body), limits.get(name)) for name, body in HOSTILE.items()]
    entries += [entry(folder, name, network(at_load=body), limits.get(name)) for name, body in LOADS.items()]
    entries.append(entry(folder, "honest", network(THRESHOLD), {"select.description_include": "."}))
    made.config.write_text(made.config.read_text() + "".join(entries))
    with running(made):
        yield made


def send(node: Node, folder: Path, description: str, number: int) -> None:
    voxels = np.full((8, 24, 24), -1000)
    voxels[2:6, 5:15, 5:15] = 40
    images = ct_series(
        voxels,
        attributes={"SeriesDescription": description},
        study_instance_uid=f"2.25.8000{number}",
        series_instance_uid=f"2.25.8000{number}.1",
    )
    node.send(save_series(images, folder)[0].parent)


def ended(node: Node, studies: int) -> list[StudyRecord]:
    """Return the records once no job of so many studies waits or runs."""
    found: list[StudyRecord] = []

    def all_ended() -> bool:
        found[:] = node.records()
        jobs = [job for record in found for job in record.jobs]
        settled = all(record.jobs and record.summary.state.value != "RECEIVING" for record in found)
        return (
            len(found) == studies and settled and all(job.ended_at and job.state is not JobState.QUEUED for job in jobs)
        )

    wait_until(all_ended, 400, f"the jobs of {studies} studies")
    return found


@pytest.mark.timeout(900)
def test_each_hostile_model_costs_its_own_job_and_says_why(node: Node, tmp_path: Path) -> None:
    send(node, tmp_path / "first", "hostile chest", 1)
    (record,) = ended(node, 1)
    jobs: dict[str, Job] = {job.model_name: job for job in record.jobs}
    assert set(jobs) - {"lung_ct"} == {*HOSTILE, *LOADS, "honest"} == {*EXPECTED, "honest"}
    seen = {
        name: (jobs[name].state, jobs[name].reason.code, jobs[name].reason.words)  # type: ignore[union-attr]
        for name in EXPECTED
    }
    wrong = {
        name: found
        for name, found in seen.items()
        if found[:2] != (JobState.FAILED, EXPECTED[name][0]) or EXPECTED[name][1] not in found[2]
    }
    assert wrong == {}
    assert jobs["honest"].state is JobState.DONE
    held = jobs["eats_memory"].details["memory_mb"]["host_peak"]
    assert MEMORY_MB < held < 3 * MEMORY_MB
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == LEFT_BEHIND]
    assert left == []

    send(node, tmp_path / "second", "a good chest", 2)
    send(node, tmp_path / "third", "another good chest", 3)
    records = ended(node, 3)
    good = sorted(
        (job for record in records for job in record.jobs if job.model_name == "honest"), key=lambda job: job.id
    )
    assert [job.state for job in good] == [JobState.DONE] * 3
    assert good[-1].details["model_was_warm"] is True
    assert "load" not in good[-1].details["seconds"]
