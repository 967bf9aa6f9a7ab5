from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.orientation import from_monai, to_monai

SHAPE = (3, 4, 5)


def test_a_voxel_keeps_its_value_and_its_place_in_the_patient() -> None:
    voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    affine = np.array([[0.1, 0.2, 0.9, -7.0], [0.3, 0.8, -0.1, 11.0], [2.0, 0.1, 0.05, -300.0], [0, 0, 0, 1.0]])
    array, ras = to_monai(voxels, affine)
    assert array.shape == (5, 4, 3)
    for index in np.ndindex(SHAPE):
        assert array[index[::-1]] == voxels[index]
        lps = affine @ (*index, 1)
        np.testing.assert_allclose(ras @ (*index[::-1], 1), lps * (-1, -1, 1, 1))


def test_an_axial_head_first_scan_runs_left_posterior_superior() -> None:
    affine = np.array([[0, 0, 0.7, 0], [0, 0.8, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]])
    _, ras = to_monai(np.zeros(SHAPE), affine)
    np.testing.assert_allclose(np.diag(ras)[:3], (-0.7, -0.8, 2.0))


@given(st.lists(st.floats(-50, 50), min_size=12, max_size=12))
@settings(deadline=None, max_examples=50)
def test_there_and_back_changes_nothing(numbers: list[float]) -> None:
    affine = np.vstack([np.reshape(numbers, (3, 4)), (0, 0, 0, 1)])
    voxels = np.random.default_rng(0).normal(size=SHAPE)
    array, back = from_monai(*to_monai(voxels, affine))
    np.testing.assert_array_equal(array, voxels)
    np.testing.assert_allclose(back, affine)
    assert np.shares_memory(array, voxels)
