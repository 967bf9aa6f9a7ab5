"""A real chest CT through the real node into Orthanc; programs that others wrote judge what stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.planning import read_cards
from inference.analysis import Analyst
from sr_writer.reading.report import read_report
from study.geometry import FrameOfReferencePolicy
from study.headers import InstanceHeader
from study.selection import select
from tests.support.node import Node, running
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import shared
from tests.support.validators import (
    dcentvfy_errors,
    dciodvfy_errors,
    dcmqi_label_map,
    dcmqi_numbers,
    dcmqi_report,
    sr_validator_errors,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Send the study to Orthanc and to the node, and fetch what the node put beside it."""
    images = shared("data", "ct_chest_lidc_0314")
    folder = tmp_path_factory.mktemp("chest")
    with running_orthanc(folder / "orthanc") as orthanc:
        peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port}
        with running(Node(folder / "node", [peer | {"results": ["seg", "sr"]}])) as node:
            node.send(images, port=orthanc.dicom_port, called="PACS")
            node.send(images)
            (record,) = node.wait_for_state("DELIVERED", seconds=180)
            node.send(images)  # once more: still one of each
            assert len(node.records()[0].jobs) == 1
            yield fetched(orthanc, record.summary.study_instance_uid, folder / "fetched")


def fetched(orthanc: Orthanc, study: str, folder: Path) -> dict[str, Path]:
    found = {}
    for modality in ("SEG", "SR"):
        (path,) = orthanc.download(folder, StudyInstanceUID=study, Modality=modality)
        found[modality] = path
    return found


def test_validators_find_no_error(results: dict[str, Path]) -> None:
    assert dciodvfy_errors(results["SEG"], "Segmentation") == []
    assert dciodvfy_errors(results["SR"], "Comprehensive3DSR") == []
    assert dcentvfy_errors(results["SEG"], results["SR"]) == []
    assert sr_validator_errors(results["SR"]) == []


def test_dcmqi_reads_the_mask_and_the_numbers_that_the_model_gave(results: dict[str, Path], tmp_path: Path) -> None:
    card = read_cards(Settings(models={"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct")}))["lung_ct"]
    paths = {}
    headers = []
    for path in sorted(shared("data", "ct_chest_lidc_0314").glob("*.dcm")):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        headers.append(InstanceHeader.of(dataset, str(dataset.file_meta.TransferSyntaxUID)))
        paths[headers[-1].sop_instance_uid] = path
    chosen = select({"ct": headers}, card.rule, FrameOfReferencePolicy.BY_POSITION).chosen
    assert chosen is not None
    assert chosen.geometry is not None
    ordered = [paths[header.sop_instance_uid] for header in chosen.headers]
    analysis = Analyst("cpu").analyse(card, ordered, chosen.headers, chosen.geometry)
    expected = analysis.result_set.label_map
    assert expected is not None
    found = dcmqi_label_map(results["SEG"], expected.affine, expected.values.shape, tmp_path)
    assert (found == expected.values).all()
    groups = dcmqi_report(results["SR"], tmp_path)["Measurements"]
    numbers = {group["TrackingIdentifier"]: dcmqi_numbers(group) for group in groups}
    for finding in analysis.result_set.findings:
        for read, each in zip(numbers[finding.label], finding.measurements, strict=True):
            assert (read[0], read[2]) == (each.name.value, each.unit.value)
            # Rounded for reading: half of the last decimal of mL, HU and %
            assert abs(read[1] - each.value) <= 0.05 + 1e-9


def test_the_report_says_that_the_frames_of_reference_differ(results: dict[str, Path]) -> None:
    assert "275 Frames of Reference" in " ".join(read_report(results["SR"]).limits)
    for path in results.values():
        assert "not for diagnostic use" in pydicom.dcmread(path).SeriesDescription
