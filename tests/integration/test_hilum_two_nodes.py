"""Two whole nodes on one PostgreSQL and one store: nothing is done twice, and one of them ends what the other began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.engine import Database
from db.tables import JobRow
from hilum.phantom import write_phantom_study
from hilum.working.leading import standing
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from tests.support.databases import empty_url
from tests.support.network import wait_until
from tests.support.node import MODALITY, Node
from tests.support.orthanc import Orthanc, running_orthanc

SLICES = 60
LEASE_SECONDS = 3


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as archive:
        yield archive


@pytest.fixture
def nodes(tmp_path: Path, orthanc: Orthanc) -> Iterator[tuple[Node, Node]]:
    """Give two nodes at work, the first of which leads."""
    settings: dict[str, Any] = {
        "database.url": empty_url("postgresql", tmp_path),
        "node.data_dir": str(tmp_path / "store"),
        "node.receivers": 1,
        "study.quiet_seconds": 2,
        "inference.lease_seconds": LEASE_SECONDS,
        "delivery.lease_seconds": LEASE_SECONDS,
    }
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port}
    made = [
        Node(tmp_path / name, [pacs | {"results": ["seg", "sr"]}], settings | {"node.machine": name})
        for name in ("one", "two")
    ]
    with ExitStack() as stack:
        for node in made:
            stack.callback(node.kill)
            node.start()
        yield made[0], made[1]


def send(node: Node, images: list[Path]) -> None:
    """Send images, all of which the node acknowledges."""
    peer = Peer("node", "HILUM", "127.0.0.1", node.port)
    assert [sent.error for sent in send_files(peer, MODALITY, images)] == [None] * len(images)


def runs_a_job(database: Database, machine: str) -> bool:
    with database.reading() as uow:
        held = uow.execute(select(JobRow.lease_owner).where(JobRow.state == "RUNNING")).scalars()
        return machine in {owner.split("/")[1] for owner in held}


def soon(condition: Callable[[], bool], seconds: float) -> bool:
    """Tell whether a condition comes true in so long."""
    try:
        wait_until(condition, seconds)
    except AssertionError:
        return False
    return True


def test_two_nodes_share_the_work_and_one_ends_what_the_other_began(
    nodes: tuple[Node, Node], orthanc: Orthanc, tmp_path: Path
) -> None:
    one, two = nodes
    with closing(Database.open(one.database_url)) as database:
        assert list(standing(database)) == ["indexer on one (two stands by)"]
        for studies in range(1, 9):
            images = write_phantom_study(tmp_path / f"study {studies}", datetime.now(UTC), SLICES)
            with ThreadPoolExecutor(2) as pool:  # it comes in halves, to both at the same time
                list(pool.map(send, nodes, (images[::2], images[1::2])))
            if soon(lambda: runs_a_job(database, "one"), 5):
                break
        else:
            raise AssertionError("one leaves all work to two")
        one.kill()
        send(two, write_phantom_study(tmp_path / "last", datetime.now(UTC), SLICES))
        records = two.wait_for_state("DELIVERED", studies=studies + 1)
        assert list(standing(database)) == ["indexer on two"]
    for record in records:
        assert record.summary.instances == SLICES
        assert [(job.state.value, job.crashes) for job in record.jobs] == [("DONE", 0)]
        for form in ("SEG", "SR"):
            found = orthanc.instances(StudyInstanceUID=record.summary.study_instance_uid, Modality=form)
            made = [result.sop_instance_uid for _, result in record.results if result.form == form.lower()]
            assert [each["MainDicomTags"]["SOPInstanceUID"] for each in found] == made
            assert len(made) == 1
    logs = "".join(path.read_text() for path in (tmp_path / "store" / "logs").glob("two-*"))
    assert logs.count('"event": "lead.standing_by"') == logs.count('"event": "lead.taken"') == 1
    assert two.command("studies").stdout.count("DELIVERED") == len(records)
    assert not (tmp_path / "store" / "hilum.db").exists()
