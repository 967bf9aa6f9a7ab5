"""A trained bundle of others, added by the command, runs in the node on a real chest CT and gives its own mask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid

from inference.bundle import load_bundle
from inference.catalog import digest_of, read_card
from inference.decoding import read_series
from inference.running import run_bundle
from study.entities import StudyRecord
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import LabelMap
from study.states import VerdictOutcome
from tests.support.node import Node, running, study_in
from tests.support.peers import shared
from tests.support.series import save_series
from tests.support.validators import dcmqi_label_map

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:monai.transforms.spatial.dictionary Orientationd:FutureWarning"),
]

SLICES = slice(150, 162)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dozen slices of the chest."""
    paths = sorted(shared("data", "ct_chest_lidc_0314").glob("*.dcm"))
    headers = [InstanceHeader.of(pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    folder = tmp_path_factory.mktemp("images")
    for index in assess(headers, FrameOfReferencePolicy.BY_POSITION).order[SLICES]:
        shutil.copy(paths[index], folder)
    return folder


def own_mask(bundle: Path, images: Path) -> LabelMap:
    """Return what the bundle makes of the images; that MONAI's own run gives the same is tested beside the runner."""
    paths = sorted(images.glob("*.dcm"))
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    headers = [InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID) for dataset in found]
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    ordered = [headers[index] for index in geometry.order]
    volume = read_series([paths[index] for index in geometry.order], ordered, geometry.affine).volume
    card = read_card("lung_ct_unet", bundle)
    return run_bundle(load_bundle(bundle, torch.device("cpu")), volume, card.segments)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Return a node whose configuration the bundle was added to by the command, and that runs."""
    made = Node(tmp_path_factory.mktemp("added") / "node")
    made.config.write_text("# the site's own words stay\n" + made.config.read_text())
    before = made.config.read_text()
    shutil.copytree(shared("bundles", "lung_ct_unet"), made.folder / "models" / "lung_ct_unet")
    said = made.command("models", "add", str(made.folder / "models" / "lung_ct_unet")).stdout
    assert digest_of(made.folder / "models" / "lung_ct_unet") in said
    assert made.config.read_text().startswith(before)
    assert 'bundle = "models/lung_ct_unet"' in made.config.read_text()
    with running(made):
        yield made


def verdicts(record: StudyRecord) -> dict[str, VerdictOutcome]:
    return {verdict.model_name: verdict.outcome for verdict in record.verdicts}


def test_an_added_bundle_runs_beside_the_shipped_model(node: Node, images: Path, tmp_path: Path) -> None:
    tried = node.command("models", "test", str(images)).stdout
    assert "lung_ct_unet" in tried
    node.send(images)
    record = node.wait_for_study(study_in(images), "DELIVERED", seconds=180)
    assert verdicts(record) == {"lung_ct": VerdictOutcome.CHOSEN, "lung_ct_unet": VerdictOutcome.CHOSEN}
    assert sorted(job.model_name for job in record.jobs) == ["lung_ct", "lung_ct_unet"]
    (job,) = [job for job in record.jobs if job.model_name == "lung_ct_unet"]
    paths = {result.form: node.data_dir / result.path for job_id, result in record.results if job_id == job.id}
    bundle = node.folder / "models" / "lung_ct_unet"
    expected = own_mask(bundle, images)
    assert expected.values.any()
    found = dcmqi_label_map(paths["seg"], expected.affine, expected.values.shape, tmp_path)
    np.testing.assert_array_equal(found, expected.values)
    for path in paths.values():
        assert job.model_digest in str(pydicom.dcmread(path).ContributingEquipmentSequence)
    shown = node.command("show", record.summary.study_instance_uid).stdout
    assert "lung_ct_unet" in shown
    assert "chosen" in shown


def as_another_study(images: Path, folder: Path) -> Path:
    """Save the images under other UIDs, and return their folder."""
    study, series = generate_uid(), generate_uid()
    found = [pydicom.dcmread(path) for path in sorted(images.glob("*.dcm"))]
    for image in found:
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return save_series(found, folder)[0].parent


def test_a_bundle_that_changed_is_refused_and_the_others_go_on(node: Node, images: Path, tmp_path: Path) -> None:
    node.stop()
    bundle = node.folder / "models" / "lung_ct_unet"
    approved = digest_of(bundle)
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text("import os\n")
    doctor = node.command("doctor", check=False)
    assert doctor.returncode == 1
    assert approved in doctor.stdout
    node.start()
    other = as_another_study(images, tmp_path / "other")
    node.send(other)
    record = node.wait_for_study(study_in(other), "DELIVERED", "REFUSED", seconds=180)
    jobs = {job.model_name: job for job in record.jobs}
    assert jobs["lung_ct"].state.value == "DONE"
    reason = jobs["lung_ct_unet"].reason
    assert reason is not None
    assert reason.code == "BundleChanged"
    assert approved in reason.words
    assert digest_of(bundle) in reason.words
