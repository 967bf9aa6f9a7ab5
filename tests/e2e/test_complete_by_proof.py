"""A study comes in with images missing; the node, killed meanwhile, has them fetched, and starts once all is proven."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pydicom

from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from study.entities import StudyRecord
from tests.support.network import free_port, wait_until
from tests.support.node import Node, running
from tests.support.orthanc import running_orthanc

SLICES, WITHHELD, SETTLE = 24, 7, 1.0


def event(record: StudyRecord, kind: str) -> tuple[datetime, str]:
    (found,) = (event for event in record.events if event.kind == kind)
    return found.at, found.words


def test_what_is_missing_is_fetched_and_a_proven_study_starts_at_once(tmp_path: Path) -> None:
    port = free_port()
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        write_phantom_study(folder, datetime.now(UTC), SLICES)
    with running_orthanc(tmp_path / "orthanc", modalities={"hilum": Peer("h", "HILUM", "127.0.0.1", port)}) as orthanc:
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port}
        scanner = {"name": "scanner", "ae_title": "SCANNER", "archive": "pacs"}
        settings = {"node.port": port, "study.quiet_seconds": 120, "study.settle_seconds": SETTLE}
        node = Node(tmp_path / "node", [scanner, pacs | {"results": ["seg", "sr"]}], settings)
        for folder in (first, second):
            node.send(folder, port=orthanc.dicom_port, called="PACS")
        withheld = sorted(first.glob("*.dcm"))[8 : 8 + WITHHELD]
        uids = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in withheld}
        for path in withheld:
            path.unlink()

        with running(node):
            # What was fetched, or about to be, when the archivist dies is found missing again
            archivist = node.process_of("archivist")
            archivist.suspend()
            node.send(first, calling="SCANNER")
            wait_until(lambda: bool(node.records()), 30, "the study")
            shown = json.loads(node.command("show", node.records()[0].summary.study_instance_uid, "--json").stdout)
            assert shown["completeness"]["archive"] == "pacs"
            archivist.kill()
            (record,) = node.wait_for_state("DELIVERED")
            assert event(record, "complete")[1] == f"Complete: {SLICES} instance(s) in 1 series, proven by pacs."
            fetched = event(record, "missing_fetched")[1]
            assert fetched.startswith(f"{WITHHELD} instance(s) were missing, and were fetched from pacs by C-GET: ")
            assert all(uid in fetched for uid in uids)
            (job,) = record.jobs
            plain = node.command("show", record.summary.study_instance_uid).stdout
            assert f"{SLICES} of {SLICES} are here; proven to be all" in plain

            # The study that is all here: from the last image's Success to the start of its job
            node.send(second, calling="SCANNER")
            sent = datetime.now(UTC)
            latest = max(node.wait_for_state("DELIVERED", studies=2), key=lambda each: each.summary.last_received_at)
            (job,) = latest.jobs
            assert job.started_at is not None
            took = (job.started_at - latest.summary.last_received_at).total_seconds()
            print(f"from the last image to the start of its job: {took:.2f} s, of which {SETTLE:g} s settling")
            assert latest.summary.last_received_at <= sent
            assert SETTLE < took < SETTLE + 3
            assert not [event for event in latest.events if event.kind.startswith("missing")]
            found = orthanc.instances(StudyInstanceUID=latest.summary.study_instance_uid, Modality="SEG")
            assert len(found) == 1
