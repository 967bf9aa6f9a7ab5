"""Numbers are short for reading, and still say what they said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.valuerep import DSfloat

from sr_writer.sr.rounding import readable, rounded, unit_words

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
UNITS = st.sampled_from(["mL", "[hnsf'U]", "%", "mm", "mm3", "1", "g/mL"])


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (2890.1234, "mL", "2890.1"),
        (1700.25, "mL", "1700.3"),
        (0.034567, "mL", "0.0346"),
        (-790.72284955052, "[hnsf'U]", "-790.7"),
        (-0.04, "[hnsf'U]", "-0.04"),
        (7.000000000000001, "%", "7"),
        (93.44, "%", "93.4"),
        (3.2512, "%", "3.25"),
        (99.97, "%", "99.97"),
        (99.9999999, "%", "99.99"),
        (100.0, "%", "100"),
        (100.04, "%", "100"),
        (12.345, "mm", "12.3"),
        (1234567.8, "mm3", "1234568"),
        (104.0, "1", "104"),
        (12345.0, "g/mL", "12345"),
        (2.718281828, "g/mL", "2.72"),
        (0.0, "mL", "0"),
        (-0.0, "mL", "0"),
        (3.4567e-9, "mL", "3.46e-09"),
        (1e22, "mL", "1e+22"),
    ],
)
def test_numbers_read_well(value: float, unit: str, expected: str) -> None:
    assert readable(rounded(value, unit)) == expected


@given(value=NUMBERS, unit=UNITS)
def test_only_zero_becomes_zero_and_nothing_moves_far(value: float, unit: str) -> None:
    short = rounded(value, unit)
    assert (short == 0) == (value == 0)
    assert math.isfinite(short)
    assert short == 0 or math.copysign(1, short) == math.copysign(1, value)
    assert abs(short - value) <= 5.0001e-3 * abs(value)


@given(value=NUMBERS, unit=UNITS)
def test_every_number_fits_a_decimal_string(value: float, unit: str) -> None:
    text = str(DSfloat(rounded(value, unit), auto_format=True))
    assert len(text) <= 16
    assert (float(text) == 0) == (value == 0)


@given(value=st.floats(0, 100, exclude_max=True))
def test_nothing_short_of_all_becomes_all(value: float) -> None:
    assert rounded(value, "%") < 100


@given(value=NUMBERS, unit=UNITS)
def test_rounding_twice_changes_nothing(value: float, unit: str) -> None:
    once = rounded(value, unit)
    assert rounded(once, unit) == once


@given(value=NUMBERS)
def test_figures_give_the_number_back(value: float) -> None:
    assert float(readable(value)) == value


@pytest.mark.parametrize(
    ("unit", "words"),
    [("mL", "mL"), ("[hnsf'U]", "HU"), ("1", ""), ("[arb'U]", "a.u."), ("deg", "degrees"), ("{score}", "score")],
)
def test_units_are_written_as_readers_write_them(unit: str, words: str) -> None:
    assert unit_words(unit) == words
