"""A study goes in by storescu; one SEG and one SR stand in Orthanc; everything in between is real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from db.filestore import FileStore
from hilum.phantom import write_phantom_study
from scp.requesting import Peer
from tests.support.network import free_port, wait_until
from tests.support.node import MODALITY, Node, results_of, running
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import program, shared
from tests.support.series import axial_affine, ct_series, save_series

SLICES = 60


def pacs(orthanc_port: int) -> dict[str, object]:
    return {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc_port, "results": ["seg", "sr"]}


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    folder = tmp_path / "phantom"
    write_phantom_study(folder, datetime.now(UTC), SLICES)
    return folder


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as archive:
        yield archive


@pytest.fixture
def node(tmp_path: Path, orthanc: Orthanc) -> Iterator[Node]:
    program("storescu", package="dcmtk")
    with running(Node(tmp_path / "node", [pacs(orthanc.dicom_port)])) as node:
        yield node


def test_a_study_comes_in_and_its_results_stand_in_the_archive(node: Node, orthanc: Orthanc, phantom: Path) -> None:
    node.send(phantom, port=orthanc.dicom_port, called="PACS")
    node.send(phantom)
    (record,) = node.wait_for_state("DELIVERED")
    study = record.summary.study_instance_uid

    def in_archive(modality: str) -> list[str]:
        found = orthanc.instances(StudyInstanceUID=study, Modality=modality)
        return [instance["MainDicomTags"]["SOPInstanceUID"] for instance in found]

    assert (in_archive("SEG"), in_archive("SR")) == (results_of(record)["seg"], results_of(record)["sr"])
    assert len(in_archive("SEG")) == len(in_archive("SR")) == 1
    assert len(in_archive("CT")) == SLICES
    closed, ledger, *delivered = FileStore(node.data_dir).read_manifest(study)
    known = [(result.sop_instance_uid, result.form, result.digest) for _, result in record.results]
    assert [(each["sop_instance_uid"], each["form"], each["digest"]) for each in ledger["objects"]] == known
    assert (closed["record"], closed["revision"]["number"], len(ledger["instances"])) == ("closed", 1, SLICES)
    assert [each["sop_instance_uid"] for each in ledger["deliveries"]] == [each[0] for each in known]
    assert [each["record"] for each in delivered] == ["delivered", "delivered"]

    node.send(phantom)
    orthanc_before = len(orthanc.instances(StudyInstanceUID=study))
    node.command("studies")
    (again,) = node.wait_for_state("DELIVERED")
    assert len(again.jobs) == 1
    assert results_of(again) == results_of(record)
    assert len(orthanc.instances(StudyInstanceUID=study)) == orthanc_before


def test_a_database_that_is_lost_is_made_anew_and_nothing_is_analysed_or_sent_twice(
    node: Node, orthanc: Orthanc, phantom: Path
) -> None:
    node.send(phantom)
    (record,) = node.wait_for_state("DELIVERED")
    study = record.summary.study_instance_uid
    node.kill()
    for path in node.data_dir.glob("hilum.db*"):
        path.unlink()
    node.start()
    late = pydicom.dcmread(next(phantom.rglob("*.dcm")))
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{study}.77")
    late.StudyInstanceUID, late.SeriesInstanceUID = f"{study}.1", f"{study}.2"
    save_series([late], node.folder / "another")
    node.send(node.folder / "another")
    again = {each.summary.study_instance_uid: each for each in node.wait_for_state("REFUSED", "DELIVERED", studies=2)}
    after = again[study]
    assert [(job.id, job.attempt, job.ended_at) for job in after.jobs] == [
        (job.id, job.attempt, job.ended_at) for job in record.jobs
    ]
    assert (after.results, results_of(after)) == (record.results, results_of(record))
    assert "rebuilt" in [event.kind for event in after.events]
    assert len(orthanc.instances(StudyInstanceUID=study)) == len(record.deliveries)
    assert "delivered" not in [event.kind for event in after.events]


def test_the_commands_tell_what_happened(node: Node, phantom: Path) -> None:
    node.send(phantom)
    (record,) = node.wait_for_state("DELIVERED")
    study = record.summary.study_instance_uid
    listed = json.loads(node.command("studies", "--json").stdout)
    assert [(entry["study_instance_uid"], entry["state"], entry["instances"]) for entry in listed] == [
        (study, "DELIVERED", SLICES)
    ]
    shown = json.loads(node.command("show", study, "--json").stdout)
    assert [job["state"] for job in shown["jobs"]] == ["DONE"]
    assert [(verdict["model"], verdict["outcome"]) for verdict in shown["verdicts"]] == [("lung_ct", "CHOSEN")]
    assert sorted(result["form"] for result in shown["results"]) == ["seg", "sr"]
    assert {delivery["status"] for result in shown["results"] for delivery in result["deliveries"]} == {"0000"}
    assert shown["events"] == sorted(shown["events"], key=lambda event: event["at"])
    plain = node.command("show", study[:30]).stdout
    for text in ("DELIVERED", "lung_ct", *results_of(record)["seg"]):
        assert text in plain
    assert max(len(line) for line in plain.splitlines()) > 100  # lines are never wrapped where nobody looks on
    assert "answers C-ECHO" in node.command("echo", "pacs").stdout
    doctor = node.command("doctor")
    assert "FAIL" not in doctor.stdout
    assert "peer pacs: PACS" in doctor.stdout


def test_an_archive_that_forwards_everything_back_starts_no_loop(tmp_path: Path, phantom: Path) -> None:
    port = free_port()
    here = Peer("hilum", "HILUM", "127.0.0.1", port)
    archive = running_orthanc(tmp_path / "orthanc", modalities={"hilum": here}, forward_everything_to="hilum")
    with archive as orthanc:
        node = Node(tmp_path / "node", [pacs(orthanc.dicom_port)], {"node.port": port})
        with running(node):
            node.send(phantom)
            (record,) = node.wait_for_state("DELIVERED")
            study = record.summary.study_instance_uid
            wait_until(lambda: node.records()[0].summary.instances == SLICES + 2, 30, "the results come back")
            (settled,) = node.wait_for_state("DELIVERED")
            assert len(settled.jobs) == 1
            assert results_of(settled) == results_of(record)
            for modality in ("SEG", "SR"):
                assert len(orthanc.instances(StudyInstanceUID=study, Modality=modality)) == 1


def test_a_late_slice_makes_a_new_revision_and_anything_else_none(
    node: Node, orthanc: Orthanc, phantom: Path, tmp_path: Path
) -> None:
    paths = sorted(phantom.iterdir())
    late = tmp_path / "late"
    late.mkdir()
    paths[-1].rename(late / paths[-1].name)
    node.send(phantom)
    (first,) = node.wait_for_state("DELIVERED")
    other = pydicom.dcmread(paths[0])
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = pydicom.uid.XRayRadiationDoseSRStorage
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    other.SeriesInstanceUID, other.Modality = pydicom.uid.generate_uid(), "SR"
    del other.PixelData, other.Rows, other.Columns
    dose = tmp_path / "dose"
    dose.mkdir()
    other.save_as(dose / "dose.dcm")
    node.send(dose)
    wait_until(lambda: node.records()[0].summary.instances == SLICES, 30, "the dose report is indexed")
    (unchanged,) = node.wait_for_state("DELIVERED")
    assert (unchanged.revision, len(unchanged.jobs)) == (1, 1)
    node.send(late)
    wait_until(lambda: node.records()[0].revision == 2, 30, "a new revision")
    (second,) = node.wait_for_state("DELIVERED")
    assert [(job.current, job.state.value) for job in second.jobs] == [(False, "DONE"), (True, "DONE")]
    found = orthanc.instances(StudyInstanceUID=first.summary.study_instance_uid, Modality="SEG")
    assert len(found) == 2  # one per revision, under different UIDs
    reports = [
        pydicom.dcmread(BytesIO(orthanc.get_bytes(f"/instances/{each['ID']}/file")))
        for each in orthanc.instances(StudyInstanceUID=first.summary.study_instance_uid, Modality="SR")
        if each["MainDicomTags"]["SOPInstanceUID"] != other.SOPInstanceUID
    ]
    before, after = sorted(reports, key=lambda report: "PredecessorDocumentsSequence" in report)
    assert "PredecessorDocumentsSequence" not in before
    (series,) = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.SeriesInstanceUID == before.SeriesInstanceUID
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [before.SOPInstanceUID]


def test_a_peer_that_is_down_gets_everything_in_order_once_it_is_up(tmp_path: Path, phantom: Path) -> None:
    port = free_port()
    with running(Node(tmp_path / "node", [pacs(port)])) as node:
        node.send(phantom)
        node.wait_for_state("REPORTED")
        wait_until(lambda: any(d.attempts > 1 for d in node.records()[0].deliveries), 30, "two attempts")
        node.stop()
        node.start()
        with running_orthanc(tmp_path / "orthanc", dicom_port=port) as orthanc:
            (record,) = node.wait_for_state("DELIVERED")
            assert len(orthanc.instances(StudyInstanceUID=record.summary.study_instance_uid)) == 2
            moments = {delivery.result.form: delivery.delivered_at for delivery in record.deliveries}
            assert moments["seg"] is not None
            assert moments["sr"] is not None
            assert moments["seg"] <= moments["sr"]


def test_a_second_node_on_the_same_folder_is_refused(node: Node) -> None:
    second = node.command("serve", check=False)
    assert second.returncode == 1
    assert "StoreBusy" in second.stderr


@pytest.mark.parametrize(
    ("folder", "settings", "state", "codes", "words"),
    [
        ("ct_head_ge_tilted", {}, "REFUSED", "NonUniformSpacing", "tilted by 18.5 degrees"),
        ("ct_head_philips_study", {}, "REFUSED", "TargetNotInFieldOfView", "lung"),
        ("mr_philips_enhanced/1901_pcasl_classic", {}, "NOT_SELECTED", "", ""),
        (
            "ct_chest_lidc_0314",
            {"geometry.frame_of_reference": "strict"},
            "REFUSED",
            "InconsistentFrameOfReference",
            "275 Frames of Reference",
        ),
    ],
)
def test_what_can_not_be_analysed_is_refused_in_words(
    tmp_path: Path, folder: str, settings: dict[str, str], state: str, codes: str, words: str
) -> None:
    images = shared("data", *folder.split("/"))
    program("storescu", package="dcmtk")
    with running(Node(tmp_path / "node", settings=settings)) as node:
        node.send(images, check=False)
        (record,) = node.wait_for_state(state)
        if codes:
            (job,) = record.jobs
            assert job.reason is not None
            assert job.reason.code == codes
            assert words in job.reason.words
            shown = json.loads(node.command("show", record.summary.study_instance_uid, "--json").stdout)
            assert shown["reason"]["code"] == codes
            assert shown["reason"]["words"] == job.reason.words
        else:
            assert not record.jobs


def test_two_patients_in_one_study_are_refused(tmp_path: Path) -> None:
    program("storescu", package="dcmtk")
    voxels = np.full((40, 32, 32), 40)
    images = ct_series(voxels, axial_affine())
    images[2].PatientID = "P2"
    save_series(images, tmp_path / "mixed")
    with running(Node(tmp_path / "node")) as node:
        node.send(tmp_path / "mixed")
        (record,) = node.wait_for_state("REFUSED")
        assert record.jobs[0].reason is not None
        assert record.jobs[0].reason.code == "ConflictingIdentity"


def test_an_unknown_caller_is_rejected_and_logged(node: Node, phantom: Path) -> None:
    assert node.send(phantom, calling="STRANGER", check=False).returncode != 0
    text = "".join(path.read_text() for path in (node.data_dir / "logs").glob("receiver*"))
    assert "STRANGER" in text
    assert node.send(phantom, called="OTHER", check=False).returncode != 0
    assert node.send(phantom, calling=MODALITY).returncode == 0
