from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from sr_writer.reading import structure_set
from sr_writer.reading.structure_set import area_within
from sr_writer.region.outlines import MOST_OUTLINES, MOST_POINTS, outlines, simplified
from sr_writer.rtstruct import polygons as tracing
from sr_writer.rtstruct.polygons import polygons

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


def plainly_simplified(points: Points, tolerance: float) -> Points:
    """Douglas and Peucker's method as it is told: chord after chord."""
    far = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    keep, waiting = {0, far, len(points) - 1}, [(0, far), (far, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        run, rise = points[last] - points[first]
        columns, rows = (points[first + 1 : last] - points[first]).T
        away = np.abs(run * rows - rise * columns)
        if len(away) and away.max() > tolerance * float(np.hypot(run, rise)):
            middle = first + 1 + int(away.argmax())
            keep.add(middle)
            waiting += [(first, middle), (middle, last)]
    return points[sorted(keep)]


@pytest.mark.parametrize("most", [6, 40, MOST_POINTS])
def test_outlines_are_simplified_by_the_method_that_is_told(most: int) -> None:
    random = np.random.default_rng(4)
    for _ in range(6):
        angles = np.linspace(0, 2 * np.pi, random.integers(8, 300))
        radii = random.uniform(20, 25 + random.integers(1, 60), len(angles))
        points = np.round(2 * np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)) / 2
        points[-1] = points[0]
        tolerance = 0.35
        while len(expected := plainly_simplified(points, tolerance)) > most:
            tolerance *= 1.25
        np.testing.assert_array_equal(simplified(points, most), expected)


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4), dtype=bool)) == []


# What gives a region back exactly, for an RT Structure Set


def winding(points: Points, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return how often a polygon goes around each pixel centre, from the angles that it is seen under."""
    rows, columns = np.indices(shape)
    away = points[:, 0, None, None] - columns + 1j * (points[:, 1, None, None] - rows)
    turns = np.angle(np.roll(away, -1, axis=0) / away).sum(axis=0) / (2 * np.pi)
    result: NDArray[np.int64] = np.rint(turns).astype(np.int64)
    return result


@pytest.mark.parametrize("cut_from", [0, tracing.CUT_FROM])
@settings(max_examples=40)
@given(mask=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), fill=st.just(True)))
def test_polygons_hold_the_pixels_of_the_region_by_every_rule(mask: Mask, cut_from: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "CUT_FROM", cut_from)
        found = polygons(mask)
    assert len(found) == ndimage.label(mask)[1]
    # Once around each pixel of the region and never around another: joined or cancelling, even-odd or not, the same
    assert (np.sum([winding(points, mask.shape) for points in found], axis=0) == mask).all()
    assert (np.sum([structure_set.filled(points, mask.shape) for points in found], axis=0) == mask).all()


@settings(max_examples=40)
@given(mask=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), fill=st.just(True)))
def test_points_rounded_to_whole_pixels_are_pixels_of_the_region(mask: Mask) -> None:
    for points in polygons(mask):
        columns, rows = np.rint(points).astype(int).T
        assert mask[rows, columns].all()


def test_a_ring_with_an_island_in_its_hole_is_two_polygons() -> None:
    rows, columns = np.ogrid[:40, :50]
    distance = (rows - 20) ** 2 + (columns - 25) ** 2
    ring, island = (distance < 18**2) & (distance > 9**2), distance < 3**2
    found = polygons(ring | island)
    assert [area_within(points) for points in found] == pytest.approx([ring.sum(), island.sum()], rel=0.01)


def test_holes_below_each_other_are_let_in_one_from_the_other() -> None:
    mask = np.ones((11, 9), dtype=bool)
    mask[2:4, 2:7] = mask[6:9, 3:5] = mask[6, 6] = False
    (points,) = polygons(mask)
    assert (winding(points, mask.shape) == mask).all()


@pytest.mark.parametrize("side", [1, 3, 9])
def test_a_small_square_keeps_its_area(side: int) -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[2 : 2 + side, 1 : 1 + side] = True
    (points,) = polygons(mask)
    assert len(points) == 4
    assert area_within(points) == pytest.approx(side**2, rel=0.005)


@pytest.mark.parametrize("radius", [6.0, 20.5, 90.0])
def test_a_disk_keeps_its_area_and_has_no_idle_points(radius: float) -> None:
    rows, columns = np.ogrid[:200, :200]
    mask = (rows - 99) ** 2 + (columns - 99) ** 2 < radius**2
    (points,) = polygons(mask)
    assert area_within(points) == pytest.approx(mask.sum(), rel=0.008)
    assert len(points) < 6.5 * radius
    # ... and no steps: it turns by a right angle nowhere
    ways = np.diff(np.vstack([points, points[:2]]), axis=0)
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    assert (ways[:-1] * ways[1:]).sum(axis=1).min() > 0.5
