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


def children_left() -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == CHILD]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Return a node with two workers on the processor and one slow model."""
    made = Node(tmp_path / "node", settings={"inference.devices": ["cpu", "cpu"]})
    slow = entry(tmp_path, "slow", network(SLOW), {"select.description_include": "."})
    urgent = '[[urgent]]\nname = "emergency"\ndepartment = "^emergency"\n'
    made.config.write_text(made.config.read_text() + slow + urgent)
    with running(made):
        yield made


def study(folder: Path, number: int, department: str = "Ward 7") -> NDArray[np.bool_]:
    """Save a study with blocks of its own, and return where they are."""
    blocks = np.random.default_rng(number).random(SHAPE) > 0.7
    images = ct_series(
        np.where(blocks, 100, -1000),
        axial_affine(),
        attributes={"SeriesDescription": "blocks", "InstitutionalDepartmentName": department},
        study_instance_uid=f"2.25.7000{number}",
        series_instance_uid=f"2.25.7000{number}.1",
    )
    save_series(images, folder)
    return blocks


def slow_jobs(node: Node) -> dict[str, Job]:
    """Return the slow model's jobs by the end of the Study Instance UID."""
    return {
        record.summary.study_instance_uid[-1]: job
        for record in node.records()
        for job in record.jobs
        if job.model_name == "slow"
    }


def all_done(node: Node, studies: int) -> dict[str, Job]:
    wait_until(
        lambda: [job.state for job in slow_jobs(node).values()] == [JobState.DONE] * studies, 120, "the slow jobs"
    )
    return slow_jobs(node)


def mask(node: Node, record: StudyRecord, folder: Path) -> NDArray[np.bool_]:
    (path,) = [node.data_dir / result.path for _, result in record.results if result.form == "seg"]
    folder.mkdir()
    return dcmqi_label_map(path, axial_affine(), SHAPE, folder) > 0


def test_two_at_once_never_mix_and_a_killed_worker_loses_nothing(node: Node, tmp_path: Path) -> None:
    blocks = {str(number): study(tmp_path / "sent" / str(number), number) for number in (1, 2)}
    node.send(tmp_path / "sent")

    def both_run() -> bool:
        return [job.state for job in slow_jobs(node).values()] == [JobState.RUNNING] * 2

    wait_until(both_run, 60, "both studies under way at once")
    node.process_of("runner").kill()
    node.process_of("keeper").kill()
    done = all_done(node, 2)
    assert sum(job.crashes + job.interruptions for job in done.values()) >= 1
    for record in node.records():
        number = record.summary.study_instance_uid[-1]
        np.testing.assert_array_equal(mask(node, record, tmp_path / f"mask{number}"), blocks[number])
        seg = [pydicom.dcmread(node.data_dir / result.path) for _, result in record.results if result.form == "seg"]
        assert [each.StudyInstanceUID for each in seg] == [record.summary.study_instance_uid]


def test_an_urgent_study_goes_before_those_that_wait(node: Node, tmp_path: Path) -> None:
    for number in range(1, 6):
        study(tmp_path / str(number), number)
    study(tmp_path / "9", 9, "Emergency department")
    for number in range(1, 6):
        node.send(tmp_path / str(number))
    wait_until(lambda: len(slow_jobs(node)) == 5, 60, "five jobs")
    node.send(tmp_path / "9")
    done = all_done(node, 6)
    started = sorted(done, key=lambda number: done[number].started_at or done[number].created_at)
    running_before = [n for n in started if (done[n].started_at or 0) < done["9"].created_at]  # type: ignore[operator]
    assert started.index("9") == len(running_before)
    assert started.index("9") < 5, "nothing waited, so nothing was proven"
    assert done["9"].priority == 100


def test_what_a_model_started_ends_with_its_keeper(tmp_path: Path) -> None:
    made = Node(tmp_path / "node")
    parent = entry(tmp_path, "parent", network(PARENT), {"select.description_include": "."})
    made.config.write_text(made.config.read_text() + parent)
    with running(made) as node:
        study(tmp_path / "1", 1)
        node.send(tmp_path / "1")
        wait_until(lambda: len(children_left()) == 1, 60, "the model's own process")
        node.process_of("keeper").kill()
        wait_until(lambda: not children_left(), 20, "its end")


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
        wait_until(lambda: len(slow_jobs(node)) == 1, 30, "the job")
        assert [(job.state, job.attempt) for job in slow_jobs(node).values()] == [(JobState.QUEUED, 0)]
        assert "FAIL device" in node.command("doctor", check=False).stdout
