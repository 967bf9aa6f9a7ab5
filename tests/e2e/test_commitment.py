"""Delivered means committed, by whole nodes: an Orthanc in both roles, and an archive that answers after a crash."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from study.forms import SOP_CLASSES, Form
from study.states import DeliveryState
from tests.support.commitment import commitment_peer, everything_committed, report
from tests.support.network import free_port, wait_until
from tests.support.node import Node, running
from tests.support.orthanc import Orthanc, running_orthanc

SLICES = 24


def peer(name: str, ae_title: str, port: int, **more: object) -> dict[str, Any]:
    return {"name": name, "ae_title": ae_title, "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]} | more


def post(orthanc: Orthanc, path: str, content: object) -> Any:  # noqa: ANN401 - JSON
    request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}{path}", data=json.dumps(content).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def states(node: Node, name: str) -> set[DeliveryState]:
    return {each.state for record in node.records() for each in record.deliveries if each.peer == name}


def test_results_and_images_are_committed_across_a_crash(tmp_path: Path) -> None:
    port = free_port()
    write_phantom_study(tmp_path / "phantom", datetime.now(UTC), SLICES)
    us = {"hilum": Peer("hilum", "HILUM", "127.0.0.1", port)}
    stores = [SOP_CLASSES[Form.SEG], SOP_CLASSES[Form.SR]]
    with (
        running_orthanc(tmp_path / "orthanc", modalities=us) as orthanc,
        commitment_peer("SLOW", stores=stores) as slow,
    ):
        peers: list[Mapping[str, Any]] = [
            peer("pacs", "PACS", orthanc.dicom_port, commitment=True, vouch=True),
            peer("slow", "SLOW", slow.port, commitment=True),
        ]
        node = Node(tmp_path / "node", peers, {"node.port": port, "delivery.commitment_seconds": 600})
        with running(node):
            node.send(tmp_path / "phantom", port=orthanc.dicom_port, called="PACS")
            (study,) = orthanc.get("/studies")
            sent = post(orthanc, "/modalities/hilum/store", {"Resources": [study], "StorageCommitment": True})
            transaction = sent["StorageCommitmentTransactionUID"]
            (record,) = node.wait_for_state("REPORTED")
            wait_until(lambda: states(node, "pacs") == {DeliveryState.DELIVERED}, 60, "Orthanc's commitment")
            wait_until(lambda: bool(slow.asked), 60, "the request to the other archive")
            assert states(node, "slow") == {DeliveryState.STORED}
            wait_until(
                lambda: orthanc.get(f"/storage-commitment/{transaction}")["Status"] == "Success", 60, "our commitment"
            )
            assert "asked 1 time(s) whether it is kept" in node.command("show", study_of(node)).stdout
            node.kill()
        with running(node):
            answer, event_type = everything_committed(slow.asked[0])
            assert report(port, answer, event_type, calling="SLOW") == 0x0000
            (record,) = node.wait_for_state("DELIVERED")
            assert len(slow.asked) == 1
            assert sum("committed itself to keep it" in event.words for event in record.events) == 4


def study_of(node: Node) -> str:
    (record,) = node.records()
    return record.summary.study_instance_uid
