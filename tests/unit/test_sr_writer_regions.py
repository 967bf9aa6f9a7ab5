"""Which slices a report shows, and that many structures keep it lean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_writer.reading.report import read_report
from sr_writer.region.areas import (
    FEWEST_SLICES,
    MOST_SLICES,
    MOST_SLICES_OF_ALL,
    evenly,
    slices_each,
    slices_to_show,
)
from sr_writer.results import write_results
from study.codes import ANATOMICAL_STRUCTURE, MILLILITRE, VOLUME, Code
from study.imaging import Finding, LabelMap, Measurement, ResultSet, Segment
from tests.support.results import CONTEXT, MODEL, headers_on_disk
from tests.support.series import axial_affine

STRUCTURES = 104
SHAPE = (30, 64, 64)


def many() -> ResultSet:
    """Return a result with a box for each of many structures."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    codes = [Code(f"S{index}", "SCT", f"Structure {index}") for index in range(STRUCTURES + 1)]
    findings, segments = [], []
    for value in range(1, STRUCTURES + 1):
        row, column = divmod(value - 1, 11)
        values[value % 7 + 1 : value % 7 + 22, 1 + 6 * row : 5 + 6 * row, 5 * column : 5 * column + 4] = value
        segments.append(Segment(value, f"Structure {value}", ANATOMICAL_STRUCTURE, codes[value]))
        volume = Measurement(VOLUME, 1.5 * value, MILLILITRE)
        findings.append(Finding(f"s{value}", f"Structure {value}", codes[value], codes[0], (value,), (volume,)))
    return ResultSet(LabelMap(values, axial_affine(), tuple(segments)), tuple(findings))


def test_many_structures_keep_the_report_lean(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    _, report = write_results(many(), sources, MODEL, CONTEXT, tmp_path)
    assert report.size < 350_000
    findings = read_report(tmp_path / "sr.dcm").findings
    assert len(findings) == STRUCTURES
    for finding in findings:
        assert len({contour.image for contour in finding.contours}) == FEWEST_SLICES
        assert f"Contours are a selection: on {FEWEST_SLICES} of 21 slices" in " ".join(finding.remarks)


@given(regions=st.integers(0, 300))
def test_the_slices_of_all_regions_are_bounded(regions: int) -> None:
    each = slices_each(regions)
    assert FEWEST_SLICES <= each <= MOST_SLICES
    assert regions * each <= max(MOST_SLICES_OF_ALL, FEWEST_SLICES * regions)


@given(
    areas=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    most=st.integers(FEWEST_SLICES, MOST_SLICES),
    avoid=st.sets(st.integers(0, 59)),
)
def test_slices_shown_are_of_the_region_and_not_too_many(areas: list[int], most: int, avoid: set[int]) -> None:
    region = np.array(areas, dtype=np.int64)
    shown, touched = slices_to_show(region, most, avoid)
    assert touched == np.count_nonzero(region)
    assert len(set(shown)) == len(shown) <= most
    assert all(region[index] for index in shown)
    assert len(shown) >= min(FEWEST_SLICES, touched)
    if touched:
        free = [area for index, area in enumerate(areas) if index not in avoid and area]
        assert region[shown[0]] == max(free or areas)


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (0, 3, [])])
def test_evenly_keeps_the_ends(count: int, most: int, expected: list[int]) -> None:
    assert evenly(list(range(count)), most) == expected
