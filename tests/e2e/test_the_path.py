"""A study goes in by storescu; one SEG and one SR stand in Orthanc; everything in between is real."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from db.files.filestore import FileStore
from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from study.entities import Delivery, StudyRecord, StudySummary
from tests.support.network import free_port, wait_until
from tests.support.node import MODALITY, Node, results_of, running, study_in
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import program, shared
from tests.support.pictures import opened
from tests.support.series import axial_affine, ct_series, save_series

SLICES = 24
SCANNER = "SCANNER"
"""What is sent under this title goes to the second archive, too."""


def peer(name: str, orthanc_port: int, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "ae_title": name.upper(),
        "host": "127.0.0.1",
        "port": orthanc_port,
        "results": ["seg", "sr"],
    } | more


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    folder = tmp_path / "phantom"
    write_phantom_study(folder, datetime.now(UTC), SLICES)
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("archive") / "orthanc") as archive:
        yield archive


@pytest.fixture(scope="module")
def second_port() -> int:
    """Return where the second archive is, in those tests that run it."""
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc, second_port: int) -> Iterator[Node]:
    """Return one node for all of these tests, each with studies of its own."""
    program("storescu", package="dcmtk")
    second = peer("second", second_port, only_from=["scanner"])
    peers: list[Mapping[str, Any]] = [
        peer("pacs", orthanc.dicom_port),
        {"name": "scanner", "ae_title": SCANNER},
        second,
    ]
    with running(Node(tmp_path_factory.mktemp("serving") / "node", peers)) as node:
        yield node


@dataclass(frozen=True)
class Delivered:
    """A study whose results are in the archive."""

    folder: Path
    record: StudyRecord


@pytest.fixture(scope="module")
def delivered(node: Node, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp("delivered")
    write_phantom_study(folder, datetime.now(UTC), SLICES)
    node.send(folder, port=orthanc.dicom_port, called="PACS")
    node.send(folder)
    return Delivered(folder, node.wait_for_study(study_in(folder), "DELIVERED"))


def test_a_study_comes_in_and_its_results_stand_in_the_archive(
    node: Node, orthanc: Orthanc, delivered: Delivered
) -> None:
    record = delivered.record
    study = record.summary.study_instance_uid

    def in_archive(modality: str) -> list[str]:
        found = orthanc.instances(StudyInstanceUID=study, Modality=modality)
        return [instance["MainDicomTags"]["SOPInstanceUID"] for instance in found]

    assert (in_archive("SEG"), in_archive("SR")) == (results_of(record)["seg"], results_of(record)["sr"])
    assert len(in_archive("SEG")) == len(in_archive("SR")) == 1
    assert len(in_archive("CT")) == SLICES
    closed, ledger, *sent = FileStore(node.data_dir).read_manifest(study)
    known = [(result.sop_instance_uid, result.form, result.digest) for _, result in record.results]
    assert [(each["sop_instance_uid"], each["form"], each["digest"]) for each in ledger["objects"]] == known
    assert (closed["record"], closed["revision"]["number"], len(ledger["instances"])) == ("closed", 1, SLICES)
    assert [each["sop_instance_uid"] for each in ledger["deliveries"]] == [each[0] for each in known]
    assert [each["record"] for each in sent] == ["delivered", "delivered"]

    node.send(delivered.folder)
    orthanc_before = len(orthanc.instances(StudyInstanceUID=study))
    node.command("studies")
    again = node.wait_for_study(study, "DELIVERED")
    assert len(again.jobs) == 1
    assert results_of(again) == results_of(record)
    assert len(orthanc.instances(StudyInstanceUID=study)) == orthanc_before


def test_a_database_that_is_lost_is_made_anew_and_nothing_is_analysed_or_sent_twice(
    node: Node, orthanc: Orthanc, phantom: Path
) -> None:
    node.send(phantom)
    study = study_in(phantom)
    record = node.wait_for_study(study, "DELIVERED")
    others = states_of(node) - {(study, "DELIVERED")}
    node.kill()
    for path in node.data_dir.glob("hilum.db*"):
        path.unlink()
    node.start()
    late = pydicom.dcmread(next(phantom.rglob("*.dcm")))
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{study}.77")
    late.StudyInstanceUID, late.SeriesInstanceUID = f"{study}.1", f"{study}.2"
    save_series([late], node.folder / "another")
    node.send(node.folder / "another")
    node.wait_for_study(f"{study}.1", "REFUSED", "DELIVERED")
    after = node.wait_for_study(study, "DELIVERED")
    assert others <= states_of(node)
    assert [(job.id, job.attempt, job.ended_at) for job in after.jobs] == [
        (job.id, job.attempt, job.ended_at) for job in record.jobs
    ]
    assert (after.results, results_of(after)) == (record.results, results_of(record))
    assert "rebuilt" in [event.kind for event in after.events]
    assert len(orthanc.instances(StudyInstanceUID=study)) == len(record.deliveries)
    assert "delivered" not in [event.kind for event in after.events]


def states_of(node: Node) -> set[tuple[str, str]]:
    return {(each.summary.study_instance_uid, each.summary.state.value) for each in node.records()}


def test_the_commands_tell_what_happened(node: Node, delivered: Delivered, second_port: int, tmp_path: Path) -> None:
    record = delivered.record
    study = record.summary.study_instance_uid
    listed = json.loads(node.command("studies", "--json").stdout)
    known = states_of(node)
    assert {(entry["study_instance_uid"], entry["state"]) for entry in listed} == known
    assert [entry["instances"] for entry in listed if entry["study_instance_uid"] == study] == [SLICES]
    shown = json.loads(node.command("show", study, "--json").stdout)
    assert [job["state"] for job in shown["jobs"]] == ["DONE"]
    assert [(verdict["model"], verdict["outcome"]) for verdict in shown["verdicts"]] == [("lung_ct", "CHOSEN")]
    assert sorted(result["form"] for result in shown["results"]) == ["seg", "sr"]
    assert {delivery["status"] for result in shown["results"] for delivery in result["deliveries"]} == {"0000"}
    assert shown["events"] == sorted(shown["events"], key=lambda event: event["at"])
    plain = node.command("show", study[:-1]).stdout
    for text in ("DELIVERED", "lung_ct", *results_of(record)["seg"]):
        assert text in plain
    assert max(len(line) for line in plain.splitlines()) > 100  # lines are never wrapped where nobody looks on
    assert "answers C-ECHO" in node.command("echo", "pacs").stdout
    with running_orthanc(tmp_path / "second", ae_title="SECOND", dicom_port=second_port):
        doctor = node.command("doctor")
    assert "FAIL" not in doctor.stdout
    assert "peer pacs: PACS" in doctor.stdout


def test_an_archive_that_forwards_everything_back_starts_no_loop(
    node: Node, second_port: int, phantom: Path, tmp_path: Path
) -> None:
    here = {"hilum": Peer("hilum", "HILUM", "127.0.0.1", node.port)}
    with running_orthanc(
        tmp_path / "second",
        ae_title="SECOND",
        dicom_port=second_port,
        modalities=here,
        forward_everything_to="hilum",
    ) as orthanc:
        node.send(phantom, calling=SCANNER)
        study = study_in(phantom)
        record = node.wait_for_study(study, "DELIVERED")
        wait_until(lambda: summary_of(node, study).instances == SLICES + 2, 30, "the results come back")
        settled = node.wait_for_study(study, "DELIVERED")
        assert len(settled.jobs) == 1
        assert results_of(settled) == results_of(record)
        for modality in ("SEG", "SR"):
            assert len(orthanc.instances(StudyInstanceUID=study, Modality=modality)) == 1


def summary_of(node: Node, study: str) -> StudySummary:
    record = node.record_of(study)
    assert record is not None
    return record.summary


def test_a_late_slice_makes_a_new_revision_and_anything_else_none(
    node: Node, orthanc: Orthanc, phantom: Path, tmp_path: Path
) -> None:
    paths = sorted(phantom.iterdir())
    late = tmp_path / "late"
    late.mkdir()
    paths[-1].rename(late / paths[-1].name)
    node.send(phantom)
    study = study_in(phantom)
    node.wait_for_study(study, "DELIVERED")
    other = pydicom.dcmread(paths[0])
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = pydicom.uid.XRayRadiationDoseSRStorage
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    other.SeriesInstanceUID, other.Modality = pydicom.uid.generate_uid(), "SR"
    del other.PixelData, other.Rows, other.Columns
    dose = tmp_path / "dose"
    dose.mkdir()
    other.save_as(dose / "dose.dcm")
    node.send(dose)
    wait_until(lambda: summary_of(node, study).instances == SLICES, 30, "the dose report is indexed")
    unchanged = node.wait_for_study(study, "DELIVERED")
    assert (unchanged.revision, len(unchanged.jobs)) == (1, 1)
    node.send(late)
    wait_until(lambda: getattr(node.record_of(study), "revision", 0) == 2, 30, "a new revision")
    second = node.wait_for_study(study, "DELIVERED")
    assert [(job.current, job.state.value) for job in second.jobs] == [(False, "DONE"), (True, "DONE")]
    found = orthanc.instances(StudyInstanceUID=study, Modality="SEG")
    assert len(found) == 2  # one per revision, under different UIDs
    reports = [
        pydicom.dcmread(BytesIO(orthanc.get_bytes(f"/instances/{each['ID']}/file")))
        for each in orthanc.instances(StudyInstanceUID=study, Modality="SR")
        if each["MainDicomTags"]["SOPInstanceUID"] != other.SOPInstanceUID
    ]
    before, after = sorted(reports, key=lambda report: "PredecessorDocumentsSequence" in report)
    assert "PredecessorDocumentsSequence" not in before
    (series,) = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.SeriesInstanceUID == before.SeriesInstanceUID
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [before.SOPInstanceUID]


def test_a_peer_that_is_down_gets_everything_in_order_once_it_is_up(
    node: Node, second_port: int, phantom: Path, tmp_path: Path
) -> None:
    study = study_in(phantom)

    def owed() -> list[Delivery]:
        record = node.record_of(study)
        return [each for each in record.deliveries if each.peer == "second"] if record else []

    node.send(phantom, calling=SCANNER)
    node.wait_for_study(study, "REPORTED")
    wait_until(lambda: any(each.attempts > 1 for each in owed()), 30, "two attempts")
    node.stop()
    node.start()
    with running_orthanc(tmp_path / "second", ae_title="SECOND", dicom_port=second_port) as orthanc:
        node.wait_for_study(study, "DELIVERED")
        assert len(orthanc.instances(StudyInstanceUID=study)) == 2
        moments = {each.result.form: each.delivered_at for each in owed()}
        assert moments["seg"] is not None
        assert moments["sr"] is not None
        assert moments["seg"] <= moments["sr"]


def test_a_second_node_on_the_same_folder_is_refused(node: Node) -> None:
    second = node.command("serve", check=False)
    assert second.returncode == 1
    assert "StoreBusy" in second.stderr


@pytest.mark.parametrize(
    ("folder", "state", "codes", "words"),
    [
        ("ct_head_ge_tilted", "REFUSED", "NonUniformSpacing", "tilted by 18.5 degrees"),
        ("ct_head_philips_study", "REFUSED", "TargetNotInFieldOfView", "lung"),
        ("mr_philips_enhanced/1901_pcasl_classic", "NOT_SELECTED", "", ""),
    ],
)
def test_what_can_not_be_analysed_is_refused_in_words(
    node: Node, folder: str, state: str, codes: str, words: str
) -> None:
    images = shared("data", *folder.split("/"))
    node.send(images, check=False)
    record = node.wait_for_study(study_in(images), state)
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


def test_two_patients_in_one_study_are_refused(node: Node, tmp_path: Path) -> None:
    images = ct_series(np.full((40, 32, 32), 40), axial_affine())
    images[2].PatientID = "P2"
    save_series(images, tmp_path / "mixed")
    node.send(tmp_path / "mixed")
    record = node.wait_for_study(study_in(tmp_path / "mixed"), "REFUSED")
    assert record.jobs[0].reason is not None
    assert record.jobs[0].reason.code == "ConflictingIdentity"


def test_an_unknown_caller_is_rejected_and_logged(node: Node, delivered: Delivered) -> None:
    assert node.send(delivered.folder, calling="STRANGER", check=False).returncode != 0
    text = "".join(path.read_text() for path in (node.data_dir / "logs").glob("receiver*"))
    assert "STRANGER" in text
    assert node.send(delivered.folder, called="OTHER", check=False).returncode != 0
    assert node.send(delivered.folder, calling=MODALITY).returncode == 0


def test_a_study_is_drawn_and_one_without_results_is_not(node: Node, tmp_path: Path) -> None:
    phantom = [pydicom.dcmread(path) for path in write_phantom_study(tmp_path / "made", datetime.now(UTC), SLICES)]
    for image in phantom:
        image.AccessionNumber = "DRAWN"
    nothing = ct_series(
        np.full((40, 32, 32), 40), attributes={"AccessionNumber": "NOLUNGS"}, study_instance_uid="2.25.4001"
    )
    for name, images in (("phantom", phantom), ("nothing", nothing)):
        save_series(images, tmp_path / name)
        node.send(tmp_path / name)
    study = study_in(tmp_path / "phantom")
    missing = node.command("preview", "1.2.3", check=False)
    assert missing.returncode == 1
    assert "No study 1.2.3" in missing.stderr
    node.wait_for_study(study, "DELIVERED")
    node.wait_for_study("2.25.4001", "REFUSED")
    out = tmp_path / "out"
    drawn = node.command("preview", "DRAWN", "--out", str(out))
    paths = [Path(line) for line in drawn.stdout.splitlines()]
    assert {path.parent.parent for path in paths} == {out}  # a folder for each study
    out = paths[0].parent
    names = ["montage", "axial-1", "axial-2", "axial-3", "coronal", "sagittal"]
    assert [path.name for path in paths] == [f"lung_ct-{name}.png" for name in names]
    coronal = opened(out / "lung_ct-coronal.png").astype(int)
    green = np.argwhere(coronal[..., 1] - coronal[..., 2] > 20)
    blue = np.argwhere(coronal[..., 2] - coronal[..., 1] > 30)
    assert len(green) > 1000
    assert green[:, 1].mean() < blue[:, 1].mean()  # the right lung is on the left
    _demand_that_a_changed_result_is_noticed(node, study, tmp_path / "changed.dcm")
    refused = node.command("preview", "NOLUNGS", "--out", str(tmp_path / "none"), check=False)
    assert refused.returncode == 1
    assert "nothing to draw" in refused.stderr
    assert "lung_ct" in refused.stderr
    assert not (tmp_path / "none").exists()


def _demand_that_a_changed_result_is_noticed(node: Node, study: str, copy: Path) -> None:
    """A number that was changed later keeps every rule, and is not what the node made."""
    (path,) = (node.data_dir / "results" / study).glob("*/sr.dcm")
    report = pydicom.dcmread(path)
    report.save_as(copy)
    (sound,) = json.loads(node.command("check", str(copy), "--json").stdout)
    assert (sound["ok"], sound["compared"]) == (True, True)
    for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence:
        if item.ValueType == "NUM":
            item.MeasuredValueSequence[0].NumericValue = "9358.1"
    report.save_as(copy)
    (found,) = json.loads(node.command("check", str(copy), "--json", check=False).stdout)
    assert [reason["code"] for reason in found["reasons"]] == ["Copy"]
    assert "ContentSequence differs" in found["reasons"][0]["words"]
