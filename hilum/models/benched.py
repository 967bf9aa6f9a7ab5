"""What was measured of a model: as tables for a person, and as JSON for a program (docs/json.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hilum.course import device_words, how, in_order, peaks, shortage
from hilum.models.bench import Apart, Bench
from hilum.models.spread import digits, spread_json
from hilum.terminal import say, show_table

_UNMEASURED: Final = (
    "writing and checking the results, the database, delivery, and what other jobs cost that run at the same time"
)


def show_bench(bench: Bench) -> None:
    """Print what was measured, for a person."""
    for words in _about(bench):
        say(words)
    show_table("Seconds", ("Step", "Median", "Lowest", "Highest", "Runs"), _rows_of_steps(bench))
    for words in _beside(bench):
        say(words)
    _show_apart(bench.apart)
    say(f"not measured: {_UNMEASURED}")


def bench_json(bench: Bench) -> dict[str, Any]:
    """Return what was measured as ``hilum models bench --json`` prints it."""
    return {
        "model": bench.card.name,
        "digest": bench.card.digest,
        "slices": len(bench.picked.paths),
        "seconds": {step: spread_json(spread) for step, spread in bench.steps.items()},
        "memory_mb": bench.peaks,
        "forward": {
            "seconds": round(bench.forward_seconds, 4),
            "calls": bench.forward_calls,
            "inference_seconds": round(bench.inference_seconds, 4),
            "share": round(bench.share, 4),
        },
        "difference": apart_json(bench.apart),
        "runs": list(bench.runs),
        "not_measured": _UNMEASURED,
    }


def apart_json(apart: Apart) -> dict[str, Any]:
    """Return how far a result is from plain float32, as JSON has it."""
    labels = apart.labels
    return {
        "voxels": None
        if labels is None
        else {"differing": labels.differing, "held": labels.held, "share": labels.share},
        "dice": None if labels is None else labels.dice,
        "probability": apart.probability,
        "decisions": apart.decisions,
        "measurements": list(apart.numbers),
    }


def _about(bench: Bench) -> Iterator[str]:
    card, last = bench.card, bench.runs[-1]
    count = len(bench.picked.paths)
    yield f"{card.name} {card.version} on {bench.picked.words}: {count} slice{'' if count == 1 else 's'}"
    runs = f"{len(bench.runs)} run{'' if len(bench.runs) == 1 else 's'}"
    yield f"{runs} {device_words(last)}: {how(last['running'])}"
    yield from dict.fromkeys(words for run in bench.runs for words in shortage(run))


def _rows_of_steps(bench: Bench) -> Iterator[tuple[str, ...]]:
    steps = bench.steps
    for step in (*in_order({step: spread for step, spread in steps.items() if step != "all"}), "all"):
        spread = steps[step]
        yield step, digits(spread.median), digits(spread.lowest), digits(spread.highest), str(spread.n)


def _beside(bench: Bench) -> Iterator[str]:
    if peak := peaks(bench.peaks):
        yield peak
    forwards = f"{bench.forward_calls} forward{'' if bench.forward_calls == 1 else 's'}"
    yield (
        f"the network alone: {digits(bench.forward_seconds)} s in {forwards}, {bench.share:.0%} of "
        f"the {digits(bench.inference_seconds)} s of inference (of a further run, which is timed forward by forward)"
    )


def _show_apart(apart: Apart) -> None:
    say("difference from the bundle as it stands, in plain float32:")
    for words in _apart(apart):
        say(f"  {words}")
    if apart.labels is not None:
        show_table("Segments", ("Segment", "Dice"), [(label, _dice(dice)) for label, dice in apart.labels.dice.items()])
    if apart.numbers:
        show_table(
            "Measurements",
            ("Finding", "Measurement", "Unit", "Value", "In float32", "Difference"),
            list(_rows_of_numbers(apart)),
        )


def _apart(apart: Apart) -> Iterator[str]:
    if apart.labels is not None:
        yield (
            f"{apart.labels.differing} of {apart.labels.held} voxels with a label have another one "
            f"({apart.labels.share:.4%})"
        )
    if apart.probability is not None:
        yield f"the largest difference of a probability is {apart.probability:.2g}"
        yield f"{apart.decisions} class(es) are decided otherwise"


def _dice(dice: float | None) -> str:
    return "not found in either" if dice is None else f"{dice:.6f}"


def _rows_of_numbers(apart: Apart) -> Iterator[tuple[str, ...]]:
    for each in apart.numbers:
        value, plain = each["value"], each["plain"]
        gap = "" if value is None or plain is None else f"{value - plain:.3g}"
        told = ("none" if number is None else f"{number:.6g}" for number in (value, plain))
        yield (each["finding"], each["name"], each["unit"], *told, gap)
