from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from sr_writer.region.outlines import MOST_OUTLINES, MOST_POINTS, outlines

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


def area(points: Points) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def filled(points: Points, shape: tuple[int, int]) -> Mask:
    """Draw an outline at 16 times the size and keep the pixels whose centre is inside: independent of the tracer."""
    scale = 16
    image = Image.new("1", (shape[1] * scale, shape[0] * scale))
    ImageDraw.Draw(image).polygon([(float(x) * scale - 0.5, float(y) * scale - 0.5) for x, y in points], fill=1)
    centres: Mask = np.asarray(image)[scale // 2 :: scale, scale // 2 :: scale]
    return centres


def disk(radius: float, centre: tuple[float, float], shape: tuple[int, int]) -> Mask:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside: Mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return inside


def test_one_pixel_is_outlined_around_its_centre_in_column_row_order() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 4] = True
    (points,) = outlines(mask)
    assert sorted(map(tuple, points[:-1])) == [(4.0, 1.5), (4.5, 1.0), (4.5, 2.0), (5.0, 1.5)]
    assert (points[0] == points[-1]).all()


def test_a_whole_image_is_outlined_within_its_borders() -> None:
    (points,) = outlines(np.ones((4, 6), dtype=bool))
    assert points.min() == 0.0
    assert tuple(points.max(axis=0)) == (6.0, 4.0)


def test_the_largest_piece_comes_first_and_crumbs_are_left_out() -> None:
    mask = disk(4, (10, 10), (60, 80)) | disk(12, (30, 50), (60, 80))
    mask[55, 5] = True
    found = outlines(mask)
    assert len(found) == 2
    assert area(found[0]) > area(found[1])


def test_never_more_outlines_than_allowed() -> None:
    mask = np.zeros((20, 60), dtype=bool)
    for index in range(7):
        mask[5:10, 8 * index + 1 : 8 * index + 5] = True
    assert len(outlines(mask)) == MOST_OUTLINES


def test_holes_are_not_outlined() -> None:
    ring = disk(20, (30, 30), (60, 60)) & ~disk(8, (30, 30), (60, 60))
    (points,) = outlines(ring)
    assert (filled(points, (60, 60)) == disk(20, (30, 30), (60, 60))).all()


def test_points_are_bounded_however_ragged_the_border_is() -> None:
    random = np.random.default_rng(1)
    ragged = ndimage.binary_opening(random.random((400, 400)) < 0.75) | disk(150, (200, 200), (400, 400))
    for points in outlines(ragged):
        assert 4 <= len(points) <= MOST_POINTS


@pytest.mark.parametrize("radius", [3.0, 20.5, 90.0])
def test_simplified_outlines_stay_within_half_a_pixel(radius: float) -> None:
    mask = disk(radius, (100, 110), (210, 220))
    (points,) = outlines(mask)
    differing = filled(points, mask.shape) != mask
    border = mask & ~ndimage.binary_erosion(mask) | ~mask & ndimage.binary_dilation(mask)
    assert not (differing & ~border).any()
    assert differing.sum() <= 0.02 * mask.sum()


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_every_outline_encloses_a_four_connected_piece(mask: Mask) -> None:
    labels, _ = ndimage.label(mask)
    for points in outlines(mask):
        assert (points[0] == points[-1]).all()
        assert len(points) >= 4
        inside = filled(points, mask.shape)
        pieces = np.unique(labels[inside & mask])
        assert inside.any()
        assert len(pieces) >= 1


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4), dtype=bool)) == []
