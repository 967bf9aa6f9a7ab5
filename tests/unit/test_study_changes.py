"""A result beside an earlier one: which numbers are compared, and why others are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from study import codes
from study.changes import compared
from study.codes import Code
from study.headers import InstanceHeader
from study.imaging import Assessment, EarlierSeries, Finding, Measurement, Omission, ResultSet
from study.reconstruction import differences
from tests.support.results import lungs, result_of

SPRING = EarlierSeries("1.2", "1.2.1", "20230511")
WINTER = EarlierSeries("1.3", "1.3.1", "20210302")
NOW = result_of(lungs((8, 24, 32)))


def values(finding: Finding) -> list[tuple[float, ...]]:
    return [tuple(each.value for each in measured.earlier) for measured in finding.measurements]


def of_then(*findings: Finding) -> ResultSet:
    return ResultSet(None, findings)


def test_each_number_stands_beside_the_same_one_of_each_study() -> None:
    right, _, both = NOW.findings
    then = replace(both, measurements=tuple(replace(each, value=each.value + 1) for each in both.measurements))
    made = compared(compared(NOW, of_then(right, then), SPRING), of_then(right), WINTER)
    assert values(made.findings[0]) == [(1700.25,) * 2, (-812.5,) * 2, (3.25,) * 2, (-921.0,) * 2]
    assert values(made.findings[2]) == [(3001.5,), (-811.5,), (4.25,), (-920.0,)]
    assert [each.series for each in made.findings[0].measurements[0].earlier] == [SPRING, WINTER]
    assert made.earlier == (SPRING, WINTER)
    assert np.shares_memory(made.label_map.values, NOW.label_map.values) if made.label_map and NOW.label_map else False


def test_what_is_not_whole_now_or_then_is_not_compared() -> None:
    right, left, _ = NOW.findings
    cut = replace(right, incomplete="incomplete: it reaches the first slice")
    made = compared(NOW, of_then(cut, left), SPRING)
    assert values(made.findings[0]) == [(), (), (), ()]
    words = "it is not whole in the images of then (it reaches the first slice)."
    assert made.findings[0].earlier_notes == (f"Not compared with the study of 2023-05-11: {words}",)
    assert (
        made.findings[1].earlier_notes[-1]
        == "Not compared with earlier studies: it is not whole in the present images."
    )


def test_what_was_left_out_then_says_why() -> None:
    right = NOW.findings[0]
    reason = "slices of 5 mm are thicker than 1.5 mm"
    then = replace(right, measurements=right.measurements[:2], omissions=(Omission(codes.LAA_950, reason),))
    made = compared(NOW, of_then(then), SPRING)
    assert values(made.findings[0]) == [(1700.25,), (-812.5,), (), ()]
    assert made.findings[0].earlier_notes == (
        f"LAA-950 is not compared with the study of 2023-05-11: {reason} (in the images of then).",
        "Perc15 is not compared with the study of 2023-05-11: it was not measured there (in the images of then).",
    )


def test_what_came_or_went_is_said() -> None:
    right = NOW.findings[0]
    gone = replace(right, detected=False, measurements=())
    assert compared(NOW, of_then(gone), SPRING).findings[0].earlier_notes == (
        "It was not detected in the study of 2023-05-11.",
    )
    absent = replace(NOW, findings=(gone,))
    assert compared(absent, of_then(right), SPRING).findings[0].earlier_notes == (
        "It was detected in the study of 2023-05-11.",
    )
    assert compared(absent, of_then(gone), SPRING).findings[0].earlier_notes == ()


def test_another_unit_or_derivation_is_another_number() -> None:
    fraction = Measurement(Code("10230-1", "LN", "Ejection fraction"), 55.0, codes.PERCENT)
    said = Assessment("ef", "Ejection fraction", codes.TISSUE, measurements=(fraction,))
    for other in (replace(fraction, unit=codes.MILLILITRE), replace(fraction, derivation=codes.MEAN)):
        then = ResultSet(None, (), assessments=(replace(said, measurements=(other,)),))
        made = compared(ResultSet(None, (), assessments=(said,)), then, SPRING)
        assert made.assessments[0].measurements[0].earlier == ()
    then = ResultSet(None, (), assessments=(replace(said, measurements=(replace(fraction, value=50.0),)),))
    made = compared(ResultSet(None, (), assessments=(said,)), then, SPRING)
    assert [each.value for each in made.assessments[0].measurements[0].earlier] == [50.0]


PLAIN = InstanceHeader("1", "1", "1", "1", slice_thickness=1.0, pixel_spacing=(0.7, 0.7), convolution_kernel="B31f")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, []),
        ({"slice_thickness": 1.05}, []),
        ({"slice_thickness": None, "convolution_kernel": "", "pixel_spacing": None}, []),
        ({"slice_thickness": 5.0}, ["slices of 5 mm then and 1 mm now"]),
        ({"pixel_spacing": (0.9, 0.9)}, ["pixels of 0.9 mm then and 0.7 mm now"]),
        ({"convolution_kernel": "b31F"}, []),
        ({"convolution_kernel": "B70f"}, ['convolution kernel "B70f" then and "B31f" now']),
        ({"contrast_bolus_agent": "Ultravist"}, ["contrast agent stated for then alone"]),
        ({"contrast_bolus_agent": "none"}, []),
    ],
)
def test_how_images_were_made_otherwise(values: dict[str, object], words: list[str]) -> None:
    then = replace(PLAIN, **values)  # type: ignore[arg-type]
    assert differences([PLAIN], [then]) == words
