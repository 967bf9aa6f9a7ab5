"""Each destination gets the forms that it takes, another one in the place of what it refuses, and word of refusals."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.misc import is_dicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt

from hilum.phantom import write_phantom_study
from study.entities import StudyRecord
from study.forms import SOP_CLASSES, Form
from tests.support.network import accepts_connections, free_port, wait_until
from tests.support.node import Node, running, study_in
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT, program

SLICES = 24
EVERY_FORM = ["seg_labelmap", "rtstruct", "sr", "sr_segments", "sr_comprehensive", "sc", "pdf", "refusal"]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom_study(folder, datetime.now(UTC), SLICES)
    return folder


def peer(name: str, port: int, results: Sequence[str], **rules: object) -> dict[str, Any]:
    return {"name": name, "ae_title": name.upper(), "host": "127.0.0.1", "port": port, "results": results} | rules


@contextmanager
def old_archive(folder: Path, port: int) -> Iterator[Path]:
    """Run DCMTK's storescp, of a release that knows no Label Map Segmentation and refuses what it does not know."""
    folder.mkdir()
    command = [program("storescp", package="dcmtk"), "-od", str(folder), "-aet", "OLD", str(port)]
    with subprocess.Popen(command, env=DCMTK_ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: accepts_connections(port), 20, "storescp")
            yield folder
        finally:
            process.terminate()


@contextmanager
def two_faced_archive(port: int, refused: str) -> Iterator[list[str]]:
    """Run an archive that accepts every context, and answers an object of one class that it does not take it."""
    stored: list[str] = []

    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPClassUID == refused:
            return 0x0122
        stored.append(str(event.request.AffectedSOPClassUID))
        return 0x0000

    entity = AE("FACES")
    for sop_class in {*SOP_CLASSES.values(), "1.2.840.10008.1.1"}:
        entity.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
    server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    try:
        yield stored
    finally:
        server.shutdown()


@dataclass(frozen=True)
class Everybody:
    """A node with archives that differ in what they take."""

    node: Node
    orthanc: Orthanc
    old: Path
    faces: list[str]
    """The SOP Classes of what the two-faced archive stored."""


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everybody]:
    folder, old_port, faces_port = tmp_path_factory.mktemp("everybody"), free_port(), free_port()
    with (
        running_orthanc(folder / "orthanc") as orthanc,
        old_archive(folder / "old", old_port) as old,
        two_faced_archive(faces_port, SOP_CLASSES[Form.SEG_LABELMAP]) as stored,
    ):
        peers: list[Mapping[str, Any]] = [
            peer("pacs", orthanc.dicom_port, EVERY_FORM, transfer_syntaxes=["rle", "explicit"], sc_max_images=3),
            peer("old", old_port, ["seg_labelmap", "sr_segments"], series_description_prefix="AI: "),
            peer("faces", faces_port, ["seg_labelmap", "sr"]),
            peer("other", free_port(), ["seg"], only_from=["pacs"]),
        ]
        with running(Node(folder / "node", peers)) as node:
            yield Everybody(node, orthanc, old, stored)


def deliveries(record: StudyRecord, name: str) -> list[tuple[str, str]]:
    return [(each.result.form, each.state.value) for each in record.deliveries if each.peer == name]


def in_archive(orthanc: Orthanc, study: str) -> list[str]:
    """Return the SOP Class of each object that the archive has of a study, images apart."""
    found = []
    for instance in orthanc.instances(StudyInstanceUID=study):
        tags = orthanc.get(f"/instances/{instance['ID']}/simplified-tags")
        if tags["Modality"] != "CT":
            found.append(tags["SOPClassUID"])
    return found


def test_one_result_goes_to_each_destination_in_the_forms_that_it_takes(everybody: Everybody, phantom: Path) -> None:
    node, orthanc, stored = everybody.node, everybody.orthanc, everybody.faces
    node.send(phantom)
    record = node.wait_for_study(study_in(phantom), "DELIVERED", "FAILED")
    assert record.summary.state == "DELIVERED", record.summary.reason
    shown = node.command("show", record.summary.study_instance_uid).stdout
    doctor = node.command("doctor", check=False).stdout

    # Orthanc takes all of them
    study = record.summary.study_instance_uid
    classes = in_archive(orthanc, study)
    expected = [SOP_CLASSES[Form(form)] for form in EVERY_FORM if form != "refusal"]
    assert set(classes) == set(expected)
    assert classes.count(SOP_CLASSES[Form.SC]) == 3
    assert ("seg", "STANDBY") in deliveries(record, "pacs")
    # What refuses the SOP Class was asked before anything was encoded
    assert deliveries(record, "old") == [("seg", "DELIVERED"), ("sr_segments", "DELIVERED")]
    seg, report = sorted(
        (dcmread(path) for path in everybody.old.iterdir() if is_dicom(path)), key=lambda d: d.Modality
    )
    assert seg.SOPClassUID == SOP_CLASSES[Form.SEG]
    assert seg.SeriesDescription.startswith("AI: ")
    evidence = json.dumps(report.to_json_dict())
    assert seg.SOPInstanceUID in evidence
    assert "old refuses seg_labelmap: seg is made for it instead" in shown
    assert "peer old results: refuses seg_labelmap" in doctor
    # What accepts the context and refuses the object is sent what stood by
    assert deliveries(record, "faces") == [("seg_labelmap", "REPLACED"), ("sr", "DELIVERED"), ("seg", "DELIVERED")]
    assert sorted(stored) == sorted([SOP_CLASSES[Form.SEG], SOP_CLASSES[Form.SR]])
    # And a rule keeps results from where they do not belong
    assert deliveries(record, "other") == []


def test_a_study_that_can_not_be_analysed_is_told_to_the_archive(everybody: Everybody, tmp_path: Path) -> None:
    node, orthanc = everybody.node, everybody.orthanc
    broken = tmp_path / "broken"
    paths = write_phantom_study(broken, datetime.now(UTC), SLICES)
    paths[SLICES // 2].unlink()  # they are in the order of their positions
    node.send(broken)
    study = study_in(broken)

    def told() -> bool:
        record = node.record_of(study)
        return record is not None and ("refusal", "DELIVERED") in deliveries(record, "pacs")

    node.wait_for_study(study, "REFUSED")
    wait_until(told, 60, "the refusal is delivered")
    record = node.wait_for_study(study, "REFUSED")
    assert in_archive(orthanc, study) == [SOP_CLASSES[Form.REFUSAL]]
    (report,) = orthanc.download(tmp_path / "told", StudyInstanceUID=study, Modality="SR")
    dump = program("dsrdump", package="dcmtk")
    text = subprocess.run([dump, "+Pl", str(report)], check=True, capture_output=True, text=True).stdout
    assert record.summary.reason is not None
    assert record.summary.reason.code == "MissingSlices"
    assert "not analysed" in text.lower()
    assert str(record.summary.reason.words)[:40] in " ".join(text.split())
