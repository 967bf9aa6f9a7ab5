"""Several workers: studies side by side that never mix, urgent ones first, and workers killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from numpy.typing import NDArray

from study.entities import Job, StudyRecord
from study.states import JobState
from tests.support.hostile import entry, network
from tests.support.network import wait_until
from tests.support.node import Node, running
from tests.support.series import axial_affine, ct_series, save_series
from tests.support.validators import dcmqi_label_map

SHAPE = (8, 24, 20)
SLOW = "time.sleep(4)\n        return (image > 0).float()"


PARENT = "subprocess.Popen(['sleep', '86396'], start_new_session=True)\n        time.sleep(60)"
CHILD = ["sleep", "86396"]


def children_left() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == CHILD]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Return a node with two workers on the processor, a slow model, and one that starts a process of its own."""
    folder = tmp_path_factory.mktemp("workers")
    made = Node(folder / "node", settings={"inference.devices": ["cpu", "cpu"]})
    slow = entry(folder, "slow", network(SLOW), {"select.description_include": "blocks"})
    parent = entry(folder, "parent", network(PARENT), {"select.description_include": "family"})
    urgent = '[[urgent]]\nname = "emergency"\ndepartment = "^emergency"\n'
    made.config.write_text(made.config.read_text() + slow + parent + urgent)
    with running(made):
        yield made


def study(folder: Path, number: int, department: str = "Ward 7", description: str = "blocks") -> NDArray[np.bool_]:
    """Save a study with blocks of its own, and return where they are."""
    blocks = np.random.default_rng(number).random(SHAPE) > 0.7
    images = ct_series(
        np.where(blocks, 100, -1000),
        axial_affine(),
        attributes={"SeriesDescription": description, "InstitutionalDepartmentName": department},
        study_instance_uid=f"2.25.7000{number}",
        series_instance_uid=f"2.25.7000{number}.1",
    )
    save_series(images, folder)
    return blocks


def test_each_role_has_a_bell_of_its_own_and_a_process_that_runs_models_has_none(node: Node) -> None:
    given = [
        (command[command.index("hilum.roles") + 1], [each for each in command if each.startswith(("bell=", "ring-"))])
        for process in node.processes()
        if "hilum.roles" in (command := process.cmdline())
    ]
    bells = [each for _, descriptors in given for each in descriptors if each.startswith("bell=")]
    assert len(bells) == len(set(bells)) == 4  # indexer, two keepers, sender
    rung = {role: {each.partition("=")[0] for each in descriptors} for role, descriptors in given}
    assert rung["receiver"] == {"ring-indexer-0", "ring-keeper-0", "ring-keeper-1", "ring-sender-0"}
    assert not rung["runner"]


def slow_jobs(node: Node, numbers: str) -> dict[str, Job]:
    """Return the slow model's jobs on studies of these numbers, by the number."""
    records = {number: node.record_of(f"2.25.7000{number}") for number in numbers}
    found = {number: record.jobs for number, record in records.items() if record is not None}
    return {number: job for number, jobs in found.items() for job in jobs if job.model_name == "slow"}


def all_done(node: Node, numbers: str) -> dict[str, Job]:
    def done() -> bool:
        return [job.state for job in slow_jobs(node, numbers).values()] == [JobState.DONE] * len(numbers)

    wait_until(done, 120, "the slow jobs")
    return slow_jobs(node, numbers)


def mask(node: Node, record: StudyRecord, folder: Path) -> NDArray[np.bool_]:
    (path,) = [node.data_dir / result.path for _, result in record.results if result.form == "seg"]
    folder.mkdir()
    return dcmqi_label_map(path, axial_affine(), SHAPE, folder) > 0


def test_two_at_once_never_mix_and_a_killed_worker_loses_nothing(node: Node, tmp_path: Path) -> None:
    blocks = {str(number): study(tmp_path / "sent" / str(number), number) for number in (1, 2)}
    node.send(tmp_path / "sent")

    def both_run() -> bool:
        return [job.state for job in slow_jobs(node, "12").values()] == [JobState.RUNNING] * 2

    wait_until(both_run, 60, "both studies under way at once")
    node.process_of("runner").kill()
    node.process_of("keeper").kill()
    done = all_done(node, "12")
    assert sum(job.crashes + job.interruptions for job in done.values()) >= 1
    for number, truth in blocks.items():
        record = node.record_of(f"2.25.7000{number}")
        assert record is not None
        np.testing.assert_array_equal(mask(node, record, tmp_path / f"mask{number}"), truth)
        seg = [pydicom.dcmread(node.data_dir / result.path) for _, result in record.results if result.form == "seg"]
        assert [each.StudyInstanceUID for each in seg] == [record.summary.study_instance_uid]


def test_an_urgent_study_goes_before_those_that_wait(node: Node, tmp_path: Path) -> None:
    waiting = "34567"
    for number in waiting:
        study(tmp_path / "waiting" / number, int(number))
    study(tmp_path / "9", 9, "Emergency department")
    node.send(tmp_path / "waiting")
    wait_until(lambda: len(slow_jobs(node, waiting)) == 5, 60, "five jobs")
    node.send(tmp_path / "9")
    done = all_done(node, f"{waiting}9")
    started = sorted(done, key=lambda number: done[number].started_at or done[number].created_at)
    running_before = [n for n in started if (done[n].started_at or 0) < done["9"].created_at]  # type: ignore[operator]
    assert started.index("9") == len(running_before)
    assert started.index("9") < 5, "nothing waited, so nothing was proven"
    assert done["9"].priority == 100


def test_what_a_model_started_ends_with_its_keeper(node: Node, tmp_path: Path) -> None:
    study(tmp_path / "8", 8, description="family")
    node.send(tmp_path / "8")
    wait_until(lambda: len(children_left()) == 1, 60, "the model's own process")
    (child,) = children_left()
    keeper = child.parents()[1]  # of the runner, which is its parent
    assert keeper in node.processes()
    keeper.kill()
    wait_until(lambda: child not in children_left(), 20, "its end")


def test_jobs_wait_for_a_device_that_is_not_there(tmp_path: Path) -> None:
    made = Node(tmp_path / "node", settings={"inference.devices": ["cuda:9"]})
    made.config.write_text(
        made.config.read_text() + entry(tmp_path, "slow", network(), {"select.description_include": "."})
    )
    with running(made) as node:
        study(tmp_path / "1", 1)
        node.send(tmp_path / "1")
        logs = node.data_dir / "logs"
        wait_until(lambda: any("device.unusable" in log.read_text() for log in logs.glob("keeper-*")), 60, "the log")
        wait_until(lambda: len(slow_jobs(node, "1")) == 1, 30, "the job")
        assert [(job.state, job.attempt) for job in slow_jobs(node, "1").values()] == [(JobState.QUEUED, 0)]
        assert "FAIL device" in node.command("doctor", check=False).stdout
