"""Ends of the node that are counted or asked for: what `tests.chaos.rounds` does not look at, by the node's record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from study.entities import Delivery, StudyRecord
from tests.chaos.modality import digest_of, digests_below
from tests.support.network import wait_until
from tests.support.node import MODALITY, Node, running, study_in
from tests.support.orthanc import Orthanc, running_orthanc

SLICES = 24


class Modality:
    """Sends images and remembers which of them the node acknowledged."""

    def __init__(self, node: Node, images: list[Path]) -> None:
        self._node = node
        self._images = images
        self.study = study_in(images[0].parent)
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


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("archive") / "orthanc") as archive:
        yield archive


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[Node]:
    """Return one node for all of these tests, each with a study of its own."""
    folder = tmp_path_factory.mktemp("killed") / "node"
    with running(Node(folder, [pacs(orthanc.dicom_port)], {"study.quiet_seconds": 2})) as node:
        yield node


@pytest.fixture(scope="module")
def delivered(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Modality:
    """Return the sender of a study whose results are in the archive: from here on the runner has its model loaded."""
    modality = Modality(node, write_phantom_study(tmp_path_factory.mktemp("delivered"), datetime.now(UTC), SLICES))
    assert modality.send()
    node.wait_for_study(modality.study, "DELIVERED")
    return modality


@pytest.fixture
def modality(node: Node, tmp_path: Path) -> Modality:
    return Modality(node, write_phantom_study(tmp_path / "phantom", datetime.now(UTC), SLICES))


def kept(node: Node) -> set[str]:
    """Return the digests of every data set under the node's folders."""
    return set(digests_below([node.data_dir / "inbox", node.data_dir / "store"]))


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


def bring_into_the_model(node: Node, modality: Modality) -> None:
    """Send the study, and return while it is analysed, by a runner that gets no further."""
    wait_until(lambda: _has_role(node, "runner"), 30, "a runner")
    node.process_of("runner").suspend()
    assert modality.send()

    def is_analysed() -> bool:
        record = node.record_of(modality.study)
        return record is not None and [job.state.value for job in record.jobs] == ["RUNNING"]

    wait_until(is_analysed, 60, "its job under way")


def finish(node: Node, modality: Modality, orthanc: Orthanc) -> StudyRecord:
    """Let the node recover, and demand that all ends well."""
    node.start()
    record = node.wait_for_study(modality.study, "DELIVERED")
    assert record.summary.instances == len(modality.acknowledged) == SLICES
    demand_nothing_lost(node, modality)
    demand_one_result_each(orthanc, record)
    return record


@pytest.mark.usefixtures("delivered")
def test_killed_while_the_study_is_analysed(node: Node, modality: Modality, orthanc: Orthanc) -> None:
    """All at once: the job goes back to the queue, and an interruption from outside never counts against it."""
    bring_into_the_model(node, modality)
    node.kill()
    record = finish(node, modality, orthanc)
    assert [job.crashes for job in record.jobs] == [0]
    assert record.jobs[0].attempt > 1


@pytest.mark.usefixtures("delivered")
def test_stopped_while_the_study_is_analysed(node: Node, modality: Modality, orthanc: Orthanc) -> None:
    """SIGTERM: the node ends by itself, and the job goes back to the queue without counting against it."""
    bring_into_the_model(node, modality)
    assert node.stop() == 0
    record = finish(node, modality, orthanc)
    assert [(job.crashes, job.interruptions) for job in record.jobs] == [(0, 1)]


def test_a_result_whose_acknowledgement_was_lost_is_there_once(
    node: Node, delivered: Modality, orthanc: Orthanc
) -> None:
    """The peer stored it, the node died before it could write that down: it sends the same bytes again."""
    node.kill()
    forget_deliveries(node)
    assert {each.state.value for each in deliveries(node, delivered)} == {"PENDING"}
    node.start()

    def sent_again() -> bool:
        return {each.state.value for each in deliveries(node, delivered)} == {"DELIVERED"}

    wait_until(sent_again, 60, "delivered again")
    demand_one_result_each(orthanc, node.wait_for_study(delivered.study, "DELIVERED"))


def test_every_role_that_is_killed_is_started_again(node: Node, modality: Modality, orthanc: Orthanc) -> None:
    for role in ("receiver", "indexer", "keeper", "runner", "sender"):
        # The runner goes with its keeper: a new keeper's runner may still be on its way.
        wait_until(lambda role=role: _has_role(node, role), 30, f"a {role}")  # type: ignore[misc]  # its default
        victim = node.process_of(role)
        victim.kill()
        victim.wait(20)
        wait_until(lambda role=role: _has_role(node, role), 30, f"another {role}")  # type: ignore[misc]  # its default
    wait_until(modality.send, 30, "all is acknowledged")
    demand_one_result_each(orthanc, node.wait_for_study(modality.study, "DELIVERED"))


def deliveries(node: Node, modality: Modality) -> tuple[Delivery, ...]:
    record = node.record_of(modality.study)
    assert record is not None
    return tuple(record.deliveries)


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
