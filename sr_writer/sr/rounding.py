"""Numbers as a reader wants them: as many decimals as the unit deserves, and never fewer figures than say something."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Final

_DECIMALS: Final[Mapping[str, int]] = {
    "mL": 1,
    "cm3": 1,
    "mm3": 0,
    "L": 3,
    "mm": 1,
    "cm": 2,
    "mm2": 0,
    "cm2": 1,
    "[hnsf'U]": 1,
    "%": 1,
    "deg": 1,
    "s": 1,
    "ms": 1,
}
"""Decimals that a number in a unit of UCUM gets: what scanners resolve and models repeat, and no more."""

_UNITS: Final[Mapping[str, str]] = {"[hnsf'U]": "HU", "1": "", "[arb'U]": "a.u.", "deg": "degrees"}
"""Units that readers write otherwise than UCUM."""

_DECIMALS_OF_OTHERS: Final = 2
_FEWEST_FIGURES: Final = 3
_ALL_OF_IT: Final = Decimal(100)
_JUST_SHORT_OF_IT: Final = Decimal("0.01")
_PLAIN: Final = range(-6, 15)
"""Powers of ten that are written out."""


def rounded(value: float, unit: str) -> float:
    """Return a number rounded for reading; the exact one stands nowhere in a report.

    What lies behind the third figure or the unit's last decimal is noise of scanner and model: "-790.72284955052 HU"
    claims a precision that there is not. The integer part is never touched; where the unit's decimals leave fewer than
    three figures, more are kept, so that no number but zero becomes zero; and nothing short of 100 % becomes 100 %.

    Parameters
    ----------
    value
        Finite.
    unit
        Code Value in UCUM.
    """
    exact = Decimal(repr(float(value)))
    if not exact:
        return 0.0  # without the minus that a zero may have
    decimals = max(_DECIMALS.get(unit, _DECIMALS_OF_OTHERS), _FEWEST_FIGURES - 1 - exact.adjusted())
    if -int(exact.as_tuple().exponent) <= decimals:
        return float(exact)
    short = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    if unit == "%" and exact < _ALL_OF_IT == short:
        short = exact.quantize(_JUST_SHORT_OF_IT, ROUND_DOWN)
    return float(short)


def unit_words(code_value: str) -> str:
    """Return a unit as readers write it: "HU", "degrees"; an annotation of UCUM without its braces, "" for none.

    Parameters
    ----------
    code_value
        Code Value in UCUM.
    """
    if code_value.startswith("{") and code_value.endswith("}"):
        return code_value.strip("{}")
    return _UNITS.get(code_value, code_value)


def readable(value: float) -> str:
    """Return a rounded number in figures, without zeros that say nothing: "2890.1", "7", "0.0034", "1e-09"."""
    exact = Decimal(repr(float(value)))
    if exact and exact.adjusted() not in _PLAIN:
        return repr(float(value))
    plain = f"{exact:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
