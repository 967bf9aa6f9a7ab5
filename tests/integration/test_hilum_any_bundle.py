"""Any bundle on any series: from files and an entry of the configuration to the SEG and SR that a reader finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from sr_writer.reading.content_tree import descendants
from study.errors import BundleInvalid
from study.frames import frame_number_of
from study.states import VerdictOutcome
from tests.support.blocks import LIVER, LIVER_HU, ORIENTATIONS, POSITIONS, SPLEEN, SPLEEN_HU, blocks, grid
from tests.support.bundles import BLOCKS_NET, blocks_bundle, overlapping_bundle, zoo_bundle
from tests.support.enhanced import enhanced_image
from tests.support.phantoms import dice
from tests.support.series import ct_series
from tests.support.site import entry, site

pytestmark = pytest.mark.filterwarnings("ignore:inverse has been called:UserWarning")


def found_in(segmentation: Dataset, number: int, shape: tuple[int, ...], order: Mapping[Any, int]) -> NDArray[np.bool_]:
    """Return where a segment is, (slices, rows, columns), by the images that its frames refer to.

    Parameters
    ----------
    order
        The slice of each image or frame.
    """
    mask = np.zeros(shape, dtype=bool)
    pixels = segmentation.pixel_array.reshape(-1, *shape[1:])
    for frame, plane in zip(segmentation.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            source = frame.DerivationImageSequence[0].SourceImageSequence[0]
            number_of_frame = source.get("ReferencedFrameNumber")
            key = str(source.ReferencedSOPInstanceUID), None if number_of_frame is None else int(number_of_frame)
            mask[order[key]] |= plane.astype(bool)
    return mask


def texts(report: Dataset) -> list[str]:
    return [str(item.TextValue) for item in descendants(report) if "TextValue" in item]


def numbers(report: Dataset) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for item in descendants(report):
        if item.get("ValueType") == "NUM":
            name = str(item.ConceptNameCodeSequence[0].CodeMeaning)
            found.setdefault(name, []).append(float(item.MeasuredValueSequence[0].NumericValue))
    return found


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_block_is_on_its_own_slices_and_side(orientation: str, tmp_path: Path) -> None:
    affine, shape = grid(orientation)
    voxels, truth = blocks(affine, shape)
    series = ct_series(voxels, affine, attributes={"PatientPosition": POSITIONS[orientation]})
    made = site(tmp_path, series[::-1], entry(blocks_bundle(tmp_path / "blocks")))
    (job,) = made.plan.jobs
    assert job.refusal is None
    results = made.run(job)
    segmentation = results["seg"]
    order = {(str(image.SOPInstanceUID), None): index for index, image in enumerate(series)}
    assert [str(item.SegmentLabel) for item in segmentation.SegmentSequence] == ["Liver", "Spleen"]
    for number, value in ((1, LIVER), (2, SPLEEN)):
        mask = found_in(segmentation, number, truth.shape, order)
        assert dice(mask, truth == value) > 0.93
        for axis in range(3):
            assert dice(np.flip(mask, axis), truth == value) < 0.5
    millilitres = float((truth == SPLEEN).sum()) * 2.0 * 1.2 * 1.0 / 1000
    assert min(abs(volume - millilitres) for volume in numbers(results["sr"])["Volume"]) < 0.08 * millilitres
    for result in results.values():
        assert job.model_digest in str(result.ContributingEquipmentSequence)
    assert f"bundle_sha256={job.model_digest}" in texts(results["sr"])
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert job.model_digest in algorithm.AlgorithmParameters


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_frames_of_an_enhanced_image_are_segmented_alike(modality: str, tmp_path: Path) -> None:
    affine, shape = grid("coronal")
    voxels, truth = blocks(affine, shape)
    shuffled = [int(index) for index in np.random.default_rng(8).permutation(len(voxels))]
    image = enhanced_image(voxels, affine, shuffled, modality)
    model = entry(blocks_bundle(tmp_path / "blocks", modality=modality), measures=["volume"])
    made = site(tmp_path, [image], model)
    (job,) = made.plan.jobs
    assert job.refusal is None
    results = made.run(job)
    order = {(str(image.SOPInstanceUID), frame + 1): index for frame, index in enumerate(shuffled)}
    for number, value in ((1, LIVER), (2, SPLEEN)):
        assert dice(found_in(results["seg"], number, truth.shape, order), truth == value) > 0.93
    volume = segread(made.settings.data_dir / "results" / job.model_name / "seg.dcm").get_volume(
        combine_segments=True, relabel=True
    )
    assert volume.array.max() == SPLEEN


def test_overlapping_channels_become_overlapping_segments(tmp_path: Path) -> None:
    affine, shape = grid("axial, feet first, supine")
    voxels, truth = blocks(affine, shape)
    series = ct_series(voxels, affine)
    made = site(tmp_path, series, entry(overlapping_bundle(tmp_path / "overlapping")))
    results = made.run(made.plan.jobs[0])
    order = {(str(image.SOPInstanceUID), None): index for index, image in enumerate(series)}
    whole, part = (found_in(results["seg"], number, truth.shape, order) for number in (1, 2))
    assert dice(whole, truth > 0) > 0.9
    assert dice(part, truth == SPLEEN) > 0.9
    assert (part & whole).sum() == part.sum()
    volumes = numbers(results["sr"])["Volume"]
    assert volumes[0] == pytest.approx(whole.sum() * 2.4 / 1000, abs=0.05)  # rounded for reading
    assert volumes[1] == pytest.approx(part.sum() * 2.4 / 1000, abs=0.05)


CLASSIFIER = """
import torch

class Net(torch.nn.Module):
    '''Whether the first or the last half of the columns is brighter.'''

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image):
        half = image.shape[2] // 2
        means = [part.flatten(1).mean(1) for part in (image[:, :, :half], image[:, :, half:])]
        return torch.stack(means, dim=1) * self.scale
"""
SIDES = {"type": "probabilities", "format": "classes", "channel_def": {"0": "bright_first", "1": "bright_last"}}
RADIOGRAPH: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "Modality": "DX",
    "ImageType": ["ORIGINAL", "PRIMARY"],
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "FrameOfReferenceUID": None,
    "PixelSpacing": None,
    "SliceThickness": None,
    "RescaleIntercept": "0",
    "BodyPartExamined": "CHEST",
}


def classifier(folder: Path, **arguments: object) -> Path:
    given: dict[str, Any] = {
        "network": CLASSIFIER,
        "weights": {"scale": torch.ones(1)},
        "preprocessing": [{"_target_": "ScaleIntensityd", "keys": "image"}],
        "postprocessing": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
        "output": SIDES,
    }
    return zoo_bundle(folder, **(given | arguments))


@pytest.mark.parametrize(("interpretation", "first"), [("MONOCHROME2", True), ("MONOCHROME1", False)])
def test_a_radiograph_is_classified_into_a_report(interpretation: str, first: bool, tmp_path: Path) -> None:
    stored = np.zeros((1, 30, 40))
    stored[:, :, :20] = 3000
    image = ct_series(stored - 1024, attributes=RADIOGRAPH | {"PhotometricInterpretation": interpretation})
    bundle = classifier(tmp_path / "sides", modality="X-ray", spatial_shape=["*", "*"])
    classes = [
        {
            "index": 0,
            "label": "Bright right",
            "type": ["1", "99SITE", "Bright right"],
            "site": ["39607008", "SCT", "Lung"],
        },
        {"index": 1, "label": "Bright left", "type": ["2", "99SITE", "Bright left"]},
    ]
    made = site(tmp_path, image, entry(bundle, classes=classes, select={"body_part": ["chest"]}))
    (job,) = made.plan.jobs
    assert job.refusal is None
    results = made.run(job)
    assert set(results) == {"sr"}
    certainties = numbers(results["sr"])["Certainty of Finding"]
    expected = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum() * 100
    assert certainties == pytest.approx(list(expected if first else expected[::-1]), abs=0.1)
    decisions = [
        str(item.ConceptCodeSequence[0].CodeMeaning)
        for item in descendants(results["sr"])
        if "ConceptCodeSequence" in item and "etect" in str(item.ConceptNameCodeSequence[0].CodeMeaning)
    ]
    assert decisions == (["Detected", "Not detected"] if first else ["Not detected", "Detected"])
    assert any("MONOCHROME1" in text for text in texts(results["sr"])) is not first
    evidence = results["sr"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image[0].SOPInstanceUID


def test_each_view_of_a_series_is_classified_for_itself(tmp_path: Path) -> None:
    stored = np.zeros((3, 30, 40))
    stored[0, :, :20] = stored[1, :, 20:] = stored[2, :, :20] = 3000
    images = ct_series(stored - 1024, attributes=RADIOGRAPH)
    for image, view in zip(images, ("PA", "PA", "LL"), strict=True):
        image.ViewPosition = view
    bundle = classifier(tmp_path / "sides", modality="X-ray", spatial_shape=["*", "*"])
    made = site(tmp_path, images, entry(bundle, select={"view_position": ["PA"]}))
    (job,) = made.plan.jobs
    assert job.sop_instance_uids == tuple(str(image.SOPInstanceUID) for image in images[:2])
    certainties = numbers(made.run(job)["sr"])["Certainty of Finding"]
    assert len(certainties) == 4
    assert certainties[0] == pytest.approx(certainties[3])
    assert certainties[0] > 70
    assert certainties[1] < 30


def test_a_volume_is_classified(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, supine")
    voxels, _ = blocks(affine, shape)
    bundle = classifier(
        tmp_path / "sides", postprocessing=[{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    )
    made = site(tmp_path, ct_series(voxels, affine), entry(bundle))
    results = made.run(made.plan.jobs[0])
    assert set(results) == {"sr"}
    assert len(numbers(results["sr"])["Certainty of Finding"]) == 2


def test_measured_numbers_stand_in_the_report(tmp_path: Path) -> None:
    affine, shape = grid("sagittal")
    voxels, _ = blocks(affine, shape)
    bundle = classifier(tmp_path / "numbers", postprocessing=[])
    number = {"index": 1, "label": "Ejection fraction", "name": ["10230-1", "LN", "Left ventricular Ejection fraction"]}
    measured = [number | {"unit": ["%", "UCUM", "percent"]}]
    made = site(tmp_path, ct_series(voxels, affine), entry(bundle, kind="measurement", measurements=measured))
    results = made.run(made.plan.jobs[0])
    scaled = (voxels - voxels.min()) / np.ptp(voxels)
    columns = voxels.shape[2] // 2
    assert numbers(results["sr"])["Left ventricular Ejection fraction"] == pytest.approx(
        [float(scaled[:, :, columns:].mean())],
        abs=5e-5,  # rounded for reading
    )


def test_uneven_slices_are_refused_unless_the_model_allows_it(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, supine")
    voxels, truth = blocks(affine, shape)
    series = ct_series(voxels, affine)
    places = [index * 2.0 + (0.5 if index % 3 == 1 else 0.0) for index in range(len(series))]
    for image, place in zip(series, places, strict=True):
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], round(affine[2, 3] + place, 3)]
    bundle = blocks_bundle(tmp_path / "blocks")
    refused = site(tmp_path / "a", series, entry(bundle)).plan.jobs[0].refusal
    assert refused is not None
    assert refused.code == "NonUniformSpacing"
    made = site(tmp_path / "b", series, entry(bundle, select={"uneven_spacing": "resample"}))
    (job,) = made.plan.jobs
    assert job.refusal is None
    results = made.run(job)
    assert any("uneven" in text for text in texts(results["sr"]))
    order = {(str(image.SOPInstanceUID), None): index for index, image in enumerate(series)}
    for number, value in ((1, LIVER), (2, SPLEEN)):
        assert dice(found_in(results["seg"], number, truth.shape, order), truth == value) > 0.85


def test_a_bundle_that_writes_into_its_input_does_not_change_what_is_measured(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, supine")
    voxels, _ = blocks(affine, shape)
    bundle = blocks_bundle(
        tmp_path / "in_place",
        preprocessing=[{"_target_": "scripts.net.Halve", "keys": "image"}],
        weights={"levels": torch.tensor([0.0, 0.25, 0.5])},
        network=BLOCKS_NET
        + """
from monai.transforms import MapTransform

class Halve(MapTransform):
    def __call__(self, data):
        for key in self.keys:
            data[key].div_(800)
        return data
""",
    )
    made = site(tmp_path, ct_series(voxels, affine), entry(bundle))
    results = made.run(made.plan.jobs[0])
    assert sorted(numbers(results["sr"])["Attenuation Coefficient"]) == pytest.approx([LIVER_HU, SPLEEN_HU])


def test_the_side_of_a_structure_stands_in_both_results(tmp_path: Path) -> None:
    affine, shape = grid("coronal")
    voxels, _ = blocks(affine, shape)
    left = ["7771000", "SCT", "Left"]
    kidney = {"value": 1, "label": "Left kidney", "type": ["64033007", "SCT", "Kidney"], "laterality": left}
    made = site(tmp_path, ct_series(voxels, affine), entry(blocks_bundle(tmp_path / "blocks"), segments=[kidney]))
    results = made.run(made.plan.jobs[0])
    modifier = results["seg"].SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert modifier.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    sides = [
        str(item.ConceptCodeSequence[0].CodeValue)
        for item in descendants(results["sr"])
        if str(item.ConceptNameCodeSequence[0].CodeMeaning) == "Laterality"
    ]
    assert sides == ["7771000"]


def test_two_models_that_want_one_study_have_each_their_own_job_and_results(tmp_path: Path) -> None:
    affine, shape = grid("coronal")
    voxels, _ = blocks(affine, shape)
    models = entry(blocks_bundle(tmp_path / "blocks")), entry(classifier(tmp_path / "sides"))
    made = site(tmp_path, ct_series(voxels, affine), *models)
    first, second = made.plan.jobs
    assert (first.model_name, second.model_name) == ("blocks", "sides")
    results = [made.run(job)["sr"] for job in (first, second)]
    assert len({str(report.SeriesInstanceUID) for report in results}) == 2
    assert len({int(report.SeriesNumber) for report in results}) == 2


def test_echoes_of_one_series_are_never_mixed(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, supine")
    voxels, truth = blocks(affine, shape)
    attributes = {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}
    first = ct_series(voxels, affine, attributes=attributes | {"EchoTime": "5"})
    uids: dict[str, Any] = {
        "study_instance_uid": str(first[0].StudyInstanceUID),
        "series_instance_uid": str(first[0].SeriesInstanceUID),
    }
    second = ct_series(np.zeros_like(voxels), affine, attributes=attributes | {"EchoTime": "20"}, **uids)
    for image in second:
        image.FrameOfReferenceUID = first[0].FrameOfReferenceUID
    mixed = [image for pair in zip(first, second, strict=True) for image in pair]
    bundle = blocks_bundle(tmp_path / "blocks", modality="MRI")
    made = site(tmp_path, mixed, entry(bundle, select={"echo_time": ["", 10]}))
    (job,) = made.plan.jobs
    assert set(job.sop_instance_uids) == {str(image.SOPInstanceUID) for image in first}
    outcomes = {verdict.stack: verdict.outcome for verdict in made.plan.verdicts}
    assert set(outcomes.values()) == {VerdictOutcome.CHOSEN, VerdictOutcome.NOT_WANTED}
    results = made.run(job)
    assert any("Echo Time" in text for text in texts(results["sr"]))
    order = {(str(image.SOPInstanceUID), None): index for index, image in enumerate(first)}
    assert dice(found_in(results["seg"], 2, truth.shape, order), truth == SPLEEN) > 0.93


def test_a_bundle_that_changed_is_refused_with_both_digests(tmp_path: Path) -> None:
    affine, shape = grid("coronal")
    voxels, _ = blocks(affine, shape)
    bundle = blocks_bundle(tmp_path / "blocks")
    model = entry(bundle)
    good = site(tmp_path / "a", ct_series(voxels, affine), model)
    (bundle / "scripts" / "net.py").write_text("raise SystemExit\n")
    changed = site(tmp_path / "b", ct_series(voxels, affine), model).plan.jobs[0]
    assert changed.refusal is not None
    assert changed.refusal.code == "BundleChanged"
    assert str(model.digest) in changed.refusal.words
    assert changed.model_digest in changed.refusal.words
    with pytest.raises(BundleInvalid, match=str(model.digest)):
        good.run(good.plan.jobs[0])


def test_every_rule_that_a_series_breaks_is_told_with_its_number(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, supine")
    voxels, _ = blocks(affine, shape)
    series = ct_series(voxels[:9], affine)
    del series[4]
    for image in series:
        image.FrameOfReferenceUID = generate_uid()
    rules = {"slices": [20, 400], "slice_thickness": [0.5, 1.5]}
    (job,) = site(tmp_path, series, entry(blocks_bundle(tmp_path / "blocks"), select=rules)).plan.jobs
    assert job.refusal is not None
    for number in ("8", "20", "2 mm", "1.5", "4.00", "8 Frames"):
        assert number in job.refusal.words, (number, job.refusal.words)


def test_frames_are_named_one_by_one() -> None:
    affine, shape = grid("coronal")
    voxels, _ = blocks(affine, shape)
    assert frame_number_of(enhanced_image(voxels, affine, range(len(voxels)))) is None
