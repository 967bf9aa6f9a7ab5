"""Ends of the node that are counted or asked for: what `tests.chaos.rounds` does not look at, by the node's record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hilum.phantom import write_phantom_study
from scp.requesting import Peer
from scp.sender import send_files
from study.entities import StudyRecord
from tests.chaos.modality import digest_of
from tests.support.network import free_port, wait_until
from tests.support.node import MODALITY, Node
from tests.support.orthanc import Orthanc, running_orthanc

SLICES = 60


class Modality:
    """Sends images and remembers which of them the node acknowledged."""

    def __init__(self, node: Node, images: list[Path]) -> None:
        self._node = node
        self._images = images
        self.acknowledged: list[Path] = []

    def send(self) -> bool:
        """Send what is not acknowledged yet, until the node breaks off; tell whether all is acknowledged."""
        left = [image for image in self._images if image not in self.acknowledged]
        for sent in send_files(Peer("node", "HILUM", "127.0.0.1", self._node.port), MODALITY, left):
            if sent.error is not None:
                return False
            self.acknowledged.append(sent.path)
        return True


def pacs(port: int) -> dict[str, object]:
    return {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_phantom_study(tmp_path / "phantom", datetime.now(UTC), SLICES)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def node(tmp_path: Path, port: int) -> Iterator[Node]:
    node = Node(tmp_path / "node", [pacs(port)], {"study.quiet_seconds": 3})
    try:
        yield node.start()
    finally:
        node.kill()


def kept(node: Node) -> set[str]:
    """Return the digests of every data set under the node's folders."""
    places = [node.data_dir / "inbox", node.data_dir / "store"]
    return {digest_of(path) for place in places for path in place.rglob("*.dcm")}


def demand_nothing_lost(node: Node, modality: Modality) -> None:
    assert {digest_of(path) for path in modality.acknowledged} <= kept(node)


def demand_one_result_each(orthanc: Orthanc, record: StudyRecord) -> None:
    assert [job.state.value for job in record.jobs] == ["DONE"]
    study = record.summary.study_instance_uid
    for form in ("SEG", "SR"):
        found = orthanc.instances(StudyInstanceUID=study, Modality=form)
        known = [result.sop_instance_uid for _, result in record.results if result.form == form.lower()]
        assert [instance["MainDicomTags"]["SOPInstanceUID"] for instance in found] == known
        assert len(known) == 1


def finish(node: Node, modality: Modality, tmp_path: Path, port: int) -> StudyRecord:
    """Let the node recover, send the rest, and demand that all ends well."""
    node.start()
    modality.send()
    assert len(modality.acknowledged) == SLICES
    with running_orthanc(tmp_path / "orthanc", dicom_port=port) as orthanc:
        (record,) = node.wait_for_state("DELIVERED")
        assert record.summary.instances == SLICES
        demand_nothing_lost(node, modality)
        demand_one_result_each(orthanc, record)
    return record


def test_killed_while_the_study_is_analysed(node: Node, images: list[Path], tmp_path: Path, port: int) -> None:
    """All at once: the job goes back to the queue, and an interruption from outside never counts against it."""
    modality = Modality(node, images)
    modality.send()
    wait_until(lambda: _state(node) in {"PROCESSING", "REPORTED"}, 60, "PROCESSING")
    node.kill()
    record = finish(node, modality, tmp_path, port)
    assert all(job.crashes == 0 for job in record.jobs)


def test_stopped_while_the_study_is_analysed(node: Node, images: list[Path], tmp_path: Path, port: int) -> None:
    """SIGTERM: the node ends by itself, and the job goes back to the queue without counting against it."""
    modality = Modality(node, images)
    modality.send()
    wait_until(lambda: _state(node) == "PROCESSING", 60, "PROCESSING")
    assert node.stop() == 0
    record = finish(node, modality, tmp_path, port)
    assert [(job.crashes, job.interruptions) for job in record.jobs] == [(0, 1)]


def test_a_result_whose_acknowledgement_was_lost_is_there_once(
    node: Node, images: list[Path], tmp_path: Path, port: int
) -> None:
    """The peer stored it, the node died before it could write that down: it sends the same bytes again."""
    modality = Modality(node, images)
    modality.send()
    with running_orthanc(tmp_path / "orthanc", dicom_port=port) as orthanc:
        (record,) = node.wait_for_state("DELIVERED")
        node.kill()
        forget_deliveries(node)
        node.start()
        wait_until(lambda: _state(node) == "DELIVERED", 60, "delivered again")
        demand_one_result_each(orthanc, record)


def test_every_role_that_is_killed_is_started_again(node: Node, images: list[Path], tmp_path: Path, port: int) -> None:
    for role in ("receiver", "indexer", "keeper", "runner", "sender"):
        # The runner goes with its keeper: a new keeper's runner may still be on its way.
        wait_until(lambda role=role: _has_role(node, role), 30, f"a {role}")  # type: ignore[misc]  # its default
        victim = node.process_of(role)
        victim.kill()
        victim.wait(20)
        wait_until(lambda role=role: _has_role(node, role), 30, f"another {role}")  # type: ignore[misc]  # its default
    modality = Modality(node, images)
    wait_until(modality.send, 30, "all is acknowledged")
    with running_orthanc(tmp_path / "orthanc", dicom_port=port) as orthanc:
        (record,) = node.wait_for_state("DELIVERED")
        demand_one_result_each(orthanc, record)


def forget_deliveries(node: Node) -> None:
    """Make the node's database as it was before the deliveries were written down."""
    import sqlite3

    with sqlite3.connect(node.data_dir / "hilum.db") as database:
        database.execute(
            "UPDATE delivery SET state = 'PENDING', next_attempt_at = delivered_at, delivered_at = NULL, status = NULL"
        )
    database.close()


def _has_role(node: Node, role: str) -> bool:
    try:
        node.process_of(role)
    except AssertionError:
        return False
    return True


def _state(node: Node) -> str:
    records = node.records()
    return records[0].summary.state.value if records else ""
