"""That a bundle wrote into the images is noticed, whatever it wrote, and wherever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.series import _checksums
from study.imaging import SeriesVolume
from tests.support.series import axial_affine

SHAPES = [(3, 8, 6), (3, 5, 7)]
"""An even number of pixels in a slice, and an odd one."""


def volume_of(shape: tuple[int, int, int]) -> SeriesVolume:
    voxels = np.random.default_rng(3).normal(-800, 200, shape).astype(np.float32)
    return SeriesVolume(voxels, axial_affine(), ("2.25.1",) * shape[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_what_nobody_wrote_into_stays_the_same(shape: tuple[int, int, int]) -> None:
    assert _checksums(volume_of(shape), 1) == _checksums(volume_of(shape), 2)


@pytest.mark.parametrize("shape", SHAPES)
@given(st.data())
def test_every_voxel_counts_with_each_bit_and_its_place(shape: tuple[int, int, int], data: st.DataObject) -> None:
    volume = volume_of(shape)
    seen = _checksums(volume, 1)
    places = st.tuples(*(st.integers(0, length - 1) for length in shape))
    one, bit = data.draw(places), data.draw(st.integers(0, 31))
    volume.voxels.view(np.uint32)[one] ^= np.uint32(1 << bit)
    assert [before == now for before, now in zip(seen, _checksums(volume, 1), strict=True)] == [
        index != one[0] for index in range(shape[0])
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_moved_or_scaled_is_another_one(shape: tuple[int, int, int]) -> None:
    seen = _checksums(volume_of(shape), 1)
    voxels = volume_of(shape).voxels
    for changed in (voxels[:, ::-1], voxels[::-1], voxels[:, :, ::-1], voxels + 1024):
        volume = volume_of(shape)
        volume.voxels[...] = changed
        assert _checksums(volume, 1) != seen
