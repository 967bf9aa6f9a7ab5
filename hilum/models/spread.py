"""How values are spread: the figures of a list of numbers that a person compares from week to week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The figures of `n` values; percentiles lie between neighbouring values in proportion."""

    n: int
    median: float
    low: float  # 5th percentile
    high: float  # 95th percentile
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the figures of some values; None of none."""
        if not values:
            return None
        if len(values) == 1:
            return cls(1, *(float(values[0]),) * 5)
        twentieths = quantiles(values, n=20, method="inclusive")
        return cls(len(values), median(values), twentieths[0], twentieths[-1], min(values), max(values))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        names = {"low": "percentile_5", "high": "percentile_95"}
        return {names.get(name, name): _short(value) for name, value in asdict(self).items()}


def spread_json(spread: Spread | None) -> dict[str, Any] | None:
    """Return the figures as JSON has them; None where there are none."""
    return None if spread is None else spread.to_json()


def digits(value: float) -> str:
    """Return a number with the three digits, or all before its point, that tell values of a kind apart."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def middle(spread: Spread | None) -> str:
    """Return the median, and between which values nine of ten lie; "" where there is none."""
    return "" if spread is None else f"{digits(spread.median)} ({digits(spread.low)} to {digits(spread.high)})"


def _short(value: float) -> float:
    """Return a value without the digits that it owes to arithmetic."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
