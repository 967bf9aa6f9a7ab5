from __future__ import annotations

import numpy as np
import pytest

from inference.evening import evened, nearest_given, on_slices

OFFSETS = (0.0, 1.0, 2.0, 4.5, 7.0, 8.0)


def test_a_linear_ramp_stays_one() -> None:
    voxels = np.empty((len(OFFSETS), 2, 3), dtype=np.float32)
    voxels[:] = 10.0 * np.array(OFFSETS)[:, None, None]
    even = evened(voxels, OFFSETS, 9)
    assert even.dtype == np.float32
    np.testing.assert_allclose(even[:, 0, 0], 10.0 * np.arange(9.0), rtol=1e-6)


def test_given_slices_that_lie_on_the_even_grid_are_kept() -> None:
    voxels = np.random.default_rng(1).normal(size=(len(OFFSETS), 4, 4)).astype(np.float32)
    even = evened(voxels, OFFSETS, 9)
    for given, index in ((0, 0), (1, 1), (2, 2), (4, 7), (5, 8)):
        np.testing.assert_allclose(even[index], voxels[given], rtol=1e-6)


def test_labels_go_to_the_slice_that_is_nearest() -> None:
    labels = np.arange(9, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), dtype=np.uint8)
    assert on_slices(labels, OFFSETS)[:, 0, 0].tolist() == pytest.approx([0, 1, 2, 4, 7, 8])
    assert nearest_given(OFFSETS, 9).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5]
