"""The lung model on phantoms: sides in patient coordinates, touching lungs, no lungs, the field of view."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from inference.bundle import LoadedBundle, load_bundle
from inference.catalog import ModelCard, find_bundle, read_card
from inference.running import run_bundle
from study.imaging import LabelMap, SeriesVolume
from tests.support.phantoms import LEFT, RIGHT, Point, Thorax, dice, grid_affine, thorax

L, P, S = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
R, A, I = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)  # noqa: E741 - inferior, as on every image

AXIAL: tuple[tuple[float, float, float], tuple[int, int, int]] = ((5.0, 3.0, 3.0), (60, 100, 124))

# Directions of (slice, row, column): the way an image's slices, rows (downwards) and columns (rightwards) go.
ORIENTATIONS: dict[str, tuple[Point, Point, Point]] = {
    "head first, supine": (S, P, L),
    "mirrored columns": (I, P, R),
    "mirrored rows": (I, A, L),
    "prone": (S, A, R),
    "feet first": (I, P, R),
    "feet first, prone": (I, A, L),
    "sagittal": (L, I, P),
    "sagittal, other way": (R, I, A),
    "coronal": (P, I, L),
    "coronal, other way": (A, I, R),
    "rows along the body": (P, L, I),
}


@cache
def card() -> ModelCard:
    return read_card("lung_ct", find_bundle("builtin:lung_ct"))


@cache
def bundle() -> LoadedBundle:
    return load_bundle(card().path, torch.device("cpu"))


def segment(volume: SeriesVolume) -> LabelMap:
    return run_bundle(bundle(), volume, card().segments)


def sampled(orientation: str, *, touching: bool = False, lungs: bool = True, trachea: bool = True) -> Thorax:
    directions = ORIENTATIONS[orientation]
    spacing, shape = zip(*(_along(direction) for direction in directions), strict=True)
    return thorax(grid_affine(directions, spacing, shape), shape, touching=touching, lungs=lungs, trachea=trachea)


def _along(direction: Point) -> tuple[float, int]:
    """Return spacing and size of the standard grid along a direction of the patient."""
    axis = {0: 2, 1: 1, 2: 0}[int(np.argmax(np.abs(direction)))]
    return AXIAL[0][axis], AXIAL[1][axis]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_lung_is_named_by_the_patient_not_by_the_array(orientation: str) -> None:
    phantom = sampled(orientation)
    found = segment(phantom.volume)
    assert found.values.shape == phantom.truth.shape
    assert found.values.dtype == np.uint8
    np.testing.assert_array_equal(found.affine, phantom.volume.affine)
    assert dice(found.values == RIGHT, phantom.truth == RIGHT) > 0.95
    assert dice(found.values == LEFT, phantom.truth == LEFT) > 0.95


def test_oblique_slices_keep_their_sides() -> None:
    angle = np.radians(12.0)
    tilted = (0.0, float(np.sin(angle)), float(np.cos(angle)))
    down = (0.0, float(np.cos(angle)), -float(np.sin(angle)))
    phantom = thorax(grid_affine((tilted, down, L), *AXIAL), AXIAL[1])
    found = segment(phantom.volume)
    assert dice(found.values == RIGHT, phantom.truth == RIGHT) > 0.95
    assert dice(found.values == LEFT, phantom.truth == LEFT) > 0.95


@pytest.mark.parametrize("trachea", [True, False])
def test_lungs_that_touch_are_parted(trachea: bool) -> None:
    phantom = sampled("head first, supine", touching=True, trachea=trachea)
    found = segment(phantom.volume)
    assert dice(found.values == RIGHT, phantom.truth == RIGHT) > 0.94
    assert dice(found.values == LEFT, phantom.truth == LEFT) > 0.94


def test_finer_voxels_give_the_same_lungs() -> None:
    shape = (54, 130, 176)
    phantom = thorax(grid_affine((S, P, L), (4.5, 2.0, 2.0), shape), shape, touching=True)
    found = segment(phantom.volume)
    assert dice(found.values == RIGHT, phantom.truth == RIGHT) > 0.95
    assert dice(found.values == LEFT, phantom.truth == LEFT) > 0.95


def test_trachea_and_bronchi_are_no_lung() -> None:
    shape = (64, 110, 170)
    affine = grid_affine((S, P, L), (3.0, 2.0, 2.0), shape)
    phantom = thorax(affine, shape)
    found = segment(phantom.volume)
    inverse = np.linalg.inv(affine)
    for point in [(0, 20, 90), (0, 20, 60), (0, 20, 30), (6, 20, 14), (-6, 20, 14), (12, 20, 8), (-12, 20, 8)]:
        index = np.rint(inverse @ (*point, 1))[:3].astype(int)
        assert phantom.volume.voxels[tuple(index)] < -900
        assert found.values[tuple(index)] == 0, point


def test_a_single_lung_is_named_by_the_body() -> None:
    phantom = sampled("head first, supine", trachea=False)
    voxels = np.where(phantom.truth == RIGHT, np.float32(40.0), phantom.volume.voxels)
    found = segment(SeriesVolume(voxels, phantom.volume.affine, phantom.volume.sop_instance_uids))
    assert not (found.values == RIGHT).any()
    assert dice(found.values == LEFT, phantom.truth == LEFT) > 0.95


def test_a_body_without_lungs_has_none() -> None:
    assert not segment(sampled("head first, supine", lungs=False).volume).values.any()


@pytest.mark.parametrize("value", [-1000.0, 0.0])
def test_an_empty_scan_has_no_lungs(value: float) -> None:
    affine = grid_affine((S, P, L), (5.0, 5.0, 5.0), (12, 20, 20))
    assert not segment(SeriesVolume(np.full((12, 20, 20), value, np.float32), affine, ("2.25.1",) * 12)).values.any()


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 5, 40), (10, 3, 3)])
def test_a_tiny_scan_does_not_fail(shape: tuple[int, int, int]) -> None:
    affine = grid_affine((S, P, L), (1.0, 0.7, 0.7), shape)
    values = np.random.default_rng(1).normal(-400, 400, shape).astype(np.float32)
    assert segment(SeriesVolume(values, affine, ("2.25.1",) * shape[0])).values.shape == shape


def test_lungs_cut_by_the_reconstruction_circle_are_kept() -> None:
    phantom = sampled("head first, supine")
    voxels = phantom.volume.voxels[:, :, 12:112].copy()  # 100 x 100 pixels of 3 mm: the circle cuts both lungs
    truth = phantom.truth[:, :, 12:112]
    affine = phantom.volume.affine.copy()
    affine[:3, 3] += 12 * affine[:3, 2]
    down, across = np.ogrid[:100, :100]
    blank = np.hypot(down - 49.5, across - 49.5) > 40  # a smaller field of view than the matrix
    voxels[:, blank] = -1024.0
    found = segment(SeriesVolume(voxels, affine, phantom.volume.sop_instance_uids))
    seen = truth * ~blank
    assert dice(found.values == RIGHT, seen == RIGHT) > 0.9
    assert dice(found.values == LEFT, seen == LEFT) > 0.9
