"""The shipped lung model beside a trained network, on a whole chest CT with volume loss of the right lung."""

from __future__ import annotations

from pathlib import Path

import cc3d
import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray

from inference.analysis import Analysis, Analyst
from inference.bundle import load_bundle
from inference.catalog import find_bundle, read_card
from inference.decoding import read_series
from inference.running import run_bundle
from study.codes import ANATOMICAL_STRUCTURE, ATTENUATION, LAA_950, PERCENTILE_15, VOLUME, Code
from study.errors import TargetNotInFieldOfView
from study.geometry import FrameOfReferencePolicy, VolumeGeometry, assess
from study.headers import InstanceHeader
from study.imaging import Segment, SeriesVolume
from tests.support.peers import shared
from tests.support.phantoms import LEFT, RIGHT, dice

# What torch and MONAI have to say of the bundle of others: weights as TorchScript, and a default that it relies on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:monai.transforms.spatial.dictionary Orientationd:FutureWarning"),
]

CARD = read_card("lung_ct", find_bundle("builtin:lung_ct"))
LUNG = Segment(1, "Lung", ANATOMICAL_STRUCTURE, Code("39607008", "SCT", "Lung"))
SMALLEST_SHARE = 0.05
EVERY_FOURTH = slice(None, None, 4)
"""The network sees each slice by itself: a quarter of them, from top to bottom, say the same."""

# Placed by hand in the lumen, in LPS [mm].
TRACHEA = (
    (-13.5, 119.1, -414.8), (-14.3, 130.1, -424.8), (-14.3, 142.6, -439.8), (-15.1, 158.2, -454.8),
    (-19.0, 165.2, -469.8), (-18.2, 166.0, -473.8), (-19.8, 167.6, -477.8), (-19.8, 167.6, -481.8),
    (-19.0, 167.6, -485.8), (-15.8, 170.7, -489.8),
)  # fmt: skip
RIGHT_MAIN_BRONCHUS = (
    (-29.1, 176.9, -489.8), (-35.4, 177.7, -497.8), (-34.6, 177.7, -501.8), (-38.5, 177.7, -505.8),
)  # fmt: skip
LEFT_MAIN_BRONCHUS = (
    (-15.1, 173.0, -493.8), (-13.5, 172.2, -497.8), (-10.4, 172.2, -501.8), (-8.0, 173.8, -505.8),
    (-4.9, 175.4, -509.8), (-0.2, 175.4, -513.8), (6.0, 176.9, -517.8), (17.8, 173.8, -521.8),
)  # fmt: skip


def series(folder: Path) -> tuple[list[Path], list[InstanceHeader]]:
    paths = sorted(path for path in folder.iterdir() if path.name != "LICENSE")
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    return paths, [InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID) for dataset in found]


def in_order(folder: Path) -> tuple[list[Path], list[InstanceHeader], VolumeGeometry]:
    paths, headers = series(folder)
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    return [paths[index] for index in geometry.order], [headers[index] for index in geometry.order], geometry


def analyse(folder: Path) -> tuple[Analysis, VolumeGeometry]:
    paths, headers, geometry = in_order(folder)
    return Analyst().analyse(CARD, paths, headers, geometry, geometry.notes), geometry


@pytest.fixture(scope="module")
def chest() -> tuple[Analysis, VolumeGeometry]:
    return analyse(shared("data", "ct_chest_lidc_0314"))


@pytest.fixture(scope="module")
def volume() -> SeriesVolume:
    paths, headers, geometry = in_order(shared("data", "ct_chest_lidc_0314"))
    return read_series(paths, headers, geometry.affine).volume


def labels_of(analysis: Analysis) -> NDArray[np.uint8]:
    assert analysis.result_set.label_map is not None
    return analysis.result_set.label_map.values.astype(np.uint8)


@pytest.fixture(scope="module")
def reference(
    chest: tuple[Analysis, VolumeGeometry], volume: SeriesVolume
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both lungs by the trained network, right one first, in `EVERY_FOURTH` slice.

    A lung is a component over 5 % of the largest.
    """
    bundle = load_bundle(shared("bundles", "lung_ct_unet"), torch.device("cpu"))
    transforms = list(bundle.postprocessing.transforms)
    bundle.postprocessing.transforms = tuple(
        step for step in transforms if type(step).__name__ != "KeepLargestConnectedComponentd"
    )
    affine = volume.affine @ np.diag([float(EVERY_FOURTH.step), 1.0, 1.0, 1.0])
    part = SeriesVolume(volume.voxels[EVERY_FOURTH], affine, volume.sop_instance_uids[EVERY_FOURTH])
    mask = run_bundle(bundle, part, [LUNG]).values
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    sizes = np.bincount(components.ravel())[1:]
    kept = [label for label in range(1, count + 1) if sizes[label - 1] > SMALLEST_SHARE * sizes.max()]
    assert len(kept) == 2
    columns = np.arange(mask.shape[2])
    centres = {label: float(np.average(columns, weights=(components == label).sum((0, 1)))) for label in kept}
    assert chest[1].affine[0, 2] > 0  # columns run to the patient's left
    right, left = sorted(kept, key=lambda label: centres[label])
    return components == right, components == left


@pytest.mark.timeout(1200)  # the network takes minutes on two busy cores
def test_the_lungs_agree_with_a_trained_network(
    chest: tuple[Analysis, VolumeGeometry], reference: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> None:
    values = labels_of(chest[0])[EVERY_FOURTH]
    right, left = reference
    assert dice(values > 0, right | left) >= 0.975
    assert dice(values == RIGHT, right) >= 0.96
    assert dice(values == LEFT, left) >= 0.96


@pytest.mark.parametrize("airway", [TRACHEA, RIGHT_MAIN_BRONCHUS, LEFT_MAIN_BRONCHUS])
def test_trachea_and_main_bronchi_are_no_lung(
    chest: tuple[Analysis, VolumeGeometry], volume: SeriesVolume, airway: tuple[tuple[float, float, float], ...]
) -> None:
    analysis, geometry = chest
    inverse = np.linalg.inv(geometry.affine)
    for point in airway:
        slice_, row, column = np.rint(inverse @ (*point, 1.0))[:3].astype(int)
        around = np.s_[slice_ - 1 : slice_ + 2, row - 1 : row + 2, column - 1 : column + 2]
        assert volume.voxels[around].max() < -800, point  # the point does lie in air
        assert not labels_of(analysis)[around].any(), point


def test_the_report_of_the_chest_says_what_can_be_said(chest: tuple[Analysis, VolumeGeometry]) -> None:
    findings = {finding.key: finding for finding in chest[0].result_set.findings}
    for finding in findings.values():
        assert not finding.incomplete
        assert {measurement.name for measurement in finding.measurements} == {VOLUME, ATTENUATION}
        assert {omission.name for omission in finding.omissions} == {LAA_950, PERCENTILE_15}
        assert all('kernel "D" is sharp' in omission.reason for omission in finding.omissions)
    volumes = {key: finding.measurements[0].value for key, finding in findings.items()}
    assert volumes["right_lung"] < 0.6 * volumes["left_lung"]
    assert "Frames of Reference" in chest[0].result_set.limits[0]


def test_a_head_has_no_lungs() -> None:
    with pytest.raises(TargetNotInFieldOfView, match="lungs"):
        analyse(shared("data", "ct_head_philips_study", "S2010"))


def test_a_tilted_head_has_no_lungs_either() -> None:
    paths, headers = series(shared("data", "ct_head_ge_tilted"))
    order = np.argsort([(header.image_position_patient or (0.0,))[-1] for header in headers])
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = 5.0, 0.5, 0.5
    geometry = VolumeGeometry(tuple(range(len(paths))), affine, (5.0, 0.5, 0.5), "2.25.1")
    with pytest.raises(TargetNotInFieldOfView):
        Analyst().analyse(CARD, [paths[index] for index in order], [headers[index] for index in order], geometry)
