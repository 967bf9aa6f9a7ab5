"""A study is compared with two earlier ones that the PACS holds, and not with a third of a contradictory patient."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from study.entities import StudyRecord
from tests.support.network import free_port, wait_until
from tests.support.node import Node, results_of, running
from tests.support.orthanc import running_orthanc
from tests.support.validators import dciodvfy_errors

SLICES = 24
NOW = datetime.now(UTC)
BORN = "19500601"
EARLIER = {"spring": (200, 0.97, BORN), "other": (300, 1.0, "19010101"), "winter": (400, 0.94, BORN)}
"""Of each earlier study: how many days ago, how large its pixels are in part of today's, whose it is."""


def write_study(folder: Path, days: int, scale: float, birth_date: str) -> str:
    """Write a phantom of so many days ago, and return its Study Instance UID."""
    uid = ""
    for path in write_phantom_study(folder, NOW - timedelta(days=days), SLICES):
        image = pydicom.dcmread(path)
        image.PixelSpacing = [float(value) * scale for value in image.PixelSpacing]
        image.PatientBirthDate = birth_date
        image.save_as(path)
        uid = str(image.StudyInstanceUID)
    return uid


def items_of(item: Dataset) -> list[Dataset]:
    """Return a content item and all below it."""
    return [item, *(each for below in item.get("ContentSequence", ()) for each in items_of(below))]


def meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if "ConceptNameCodeSequence" in item else ""


def number(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def test_two_earlier_studies_are_compared_and_a_contradictory_one_is_refused(tmp_path: Path) -> None:
    port = free_port()
    uids = {name: write_study(tmp_path / name, *about) for name, about in EARLIER.items()}
    today = write_study(tmp_path / "today", 0, 1.0, BORN)
    with running_orthanc(tmp_path / "orthanc", modalities={"hilum": Peer("h", "HILUM", "127.0.0.1", port)}) as orthanc:
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port}
        scanner = {"name": "scanner", "ae_title": "SCANNER", "archive": "pacs"}
        settings = {"node.port": port, "study.quiet_seconds": 60, "study.settle_seconds": 0.5}
        node = Node(tmp_path / "node", [scanner, pacs | {"results": ["seg", "sr"]}], settings)
        node.config.write_text(node.config.read_text() + "[models.priors]\ncount = 2\n")
        for folder in (*uids, "today"):
            node.send(tmp_path / folder, port=orthanc.dicom_port, called="PACS")
        with running(node):
            node.send(tmp_path / "today", calling="SCANNER")
            wait_until(lambda: state_of(node, today) == "DELIVERED", 120, "the results")
            record = record_of(node, today)
            assert [each.state.value for each in record.jobs] == ["DONE"]
            shown = json.loads(node.command("show", today, "--json").stdout)
            plain = node.command("show", today).stdout
            studies = {each.summary.study_instance_uid for each in node.records()}
            assert [job for each in node.records() for job in each.jobs if job.study_instance_uid != today] == []
        (sr,) = orthanc.download(tmp_path / "sr", SOPInstanceUID=results_of(record)["sr"][0])
        report = pydicom.dcmread(sr)
    assert studies == {today, uids["spring"], uids["winter"]}  # nothing was fetched of another patient
    found = {each["study_instance_uid"]: each for search in shown["prior_searches"] for each in search["studies"]}
    assert (found[uids["spring"]]["outcome"], found[uids["winter"]]["outcome"]) == ("HERE", "HERE")
    assert found[uids["other"]]["reason"]["code"] == "ConflictingIdentity"
    assert "ConflictingIdentity" in plain
    assert dciodvfy_errors(sr, "Comprehensive3DSR") == []
    says_what_changed(report)
    others = {str(item.StudyInstanceUID): item for item in report.PertinentOtherEvidenceSequence}
    assert set(others) == {uids["spring"], uids["winter"]}
    assert {str(item.StudyInstanceUID) for item in report.CurrentRequestedProcedureEvidenceSequence} == {today}


def says_what_changed(report: Dataset) -> None:
    """Hold the numbers of a report against the sizes that the phantoms were given."""
    days = {name: (NOW - timedelta(days=about[0])).strftime("%Y-%m-%d") for name, about in EARLIER.items()}
    words = " ".join(str(item.TextValue) for item in items_of(report) if "TextValue" in item)
    assert f"Not compared with the study of {days['other']}" in words
    volumes = [item for item in items_of(report) if item.get("ValueType") == "NUM" and meaning(item) == "Volume"]
    assert len(volumes) >= 2
    for volume in volumes:
        comparisons = [item for item in volume.ContentSequence if meaning(item) == "Comparison with an earlier study"]
        assert len(comparisons) == 2
        for name, comparison in zip(("spring", "winter"), comparisons, strict=True):
            numbers = {meaning(item): number(item) for item in comparison.ContentSequence}
            then, now = numbers["Value in an earlier study"], number(volume)
            assert days[name] in str(comparison.TextValue)
            assert then / now == pytest.approx(EARLIER[name][1] ** 2, rel=0.01)
            assert numbers["Change since an earlier study"] == pytest.approx(now - then)
            relative = numbers["Relative change since an earlier study"]
            assert relative == pytest.approx(100 * (now - then) / then, abs=0.051)


def record_of(node: Node, study: str) -> StudyRecord:
    (found,) = (each for each in node.records() if each.summary.study_instance_uid == study)
    return found


def state_of(node: Node, study: str) -> str:
    return next((each.summary.state.value for each in node.records() if each.summary.study_instance_uid == study), "")
