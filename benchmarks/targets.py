"""The targets, and what was measured beside each: one table at the end of ``python -m benchmarks``."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.report import print_table

RECEIVER_MB: Final = 150
RUNNER_VOLUMES: Final = 3.0
LUNG_CT_MS: Final = 10.0
BACKLOG_PERCENT: Final = 5.0
_NOISE: Final = 0.95
"""Of what is to stay the same: one run to the next differs by so much."""
_LINEAR: Final = 1.1
_APP_SDK_WARM: Final = 2.1  # [s]; 500 slices, on the machine of the target, where it was not measured beside the node
_APP_SDK_PROCESS: Final = 5.5  # [s]
_MOST_SLICES: Final = 500

Figures = Mapping[str, Any]
"""What each benchmark wrote as JSON, by its name; None where it failed."""


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured in words, and whether it is met; None where it was not measured."""

    target: str
    measured: str
    met: bool | None

    @property
    def words(self) -> str:
        """Return ``met``, ``not met`` or ``not measured``."""
        return "not measured" if self.met is None else "met" if self.met else "**not met**"


def verdicts(figures: Figures) -> list[Verdict]:
    """Return all targets with their verdicts."""
    return [
        *_of_reception(figures.get("ct"), figures.get("mr"), figures.get("multiframe")),
        *_of_turnaround(figures.get("turnaround")),
        _of_slices(figures.get("scaling")),
        *_of_backlog(figures.get("backlog")),
        _of_lung_ct(figures.get("lung_ct")),
    ]


def print_verdicts(found: Sequence[Verdict]) -> None:
    """Print the table."""
    print_table(("target", "measured", ""), [(each.target, each.measured, each.words) for each in found])


def for_machines(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the table as JSON has it."""
    return [asdict(each) for each in found]


def _of_reception(ct: Figures | None, mr: Figures | None, multiframe: Figures | None) -> list[Verdict]:
    log, storescp, orthanc = "bare loop, log", "storescp", "Orthanc"
    return [
        *(
            _at_least(least, _ratio(ct, other, count), f"CT images, {words} at {count} association{'s'[: count > 1]}")
            for words, other, bounds in (
                ("of Orthanc", orthanc, {1: 3.0, 4: 2.5}),
                ("of a bare loop with the same syncs", log, {1: 0.85, 4: 0.85}),
                ("of storescp, which syncs nothing", storescp, {1: 0.6, 4: 0.6}),
            )
            for count, least in bounds.items()
        ),
        _at_least(_NOISE, _spreading(ct), "CT images, 64 associations: of the total with 4 (1 less 5 % for noise)"),
        _at_least(3.0, _ratio(mr, orthanc, 1), "small MR images, of Orthanc"),
        _at_least(0.6, _ratio(multiframe, storescp, 1), "one 1-GB multi-frame object, of storescp"),
        *(
            _at_most(RECEIVER_MB, _receiver_memory(each), f"a receiver's peak memory, {words} [MB]", digits=0)
            for words, each in (("CT", ct), ("MR", mr), ("multi-frame", multiframe))
        ),
    ]


def _of_turnaround(figures: Figures | None) -> list[Verdict]:
    study = _longest_study(figures)
    span = None if study is None else statistics.median([run["from_complete_model_aside"] for run in _warm(study)])
    beside = [] if study is None else study["app_sdk"]
    warm = statistics.median([run["warm"] for run in beside]) if beside else _APP_SDK_WARM
    process = statistics.median([run["process"] for run in beside]) if beside else _APP_SDK_PROCESS
    of = "measured beside it" if beside else "on the machine of the target"
    what = f"{study['slices'] if study else _MOST_SLICES} slices, complete to results stored, model aside [s]"
    return [
        _at_most(_APP_SDK_WARM, span, what),
        _at_most(warm, span, f"the same, less than the App SDK takes for the SEG alone, warm ({of})"),
        _at_most(process / 3, span, f"the same, a third of the App SDK's process ({of})"),
        *(
            _at_most(
                RUNNER_VOLUMES, each["volumes_above_rest"], f"runner above rest, {each['slices']} slices [volumes]"
            )
            for each in (figures or {}).get("studies", [])
        ),
    ]


def _of_slices(figures: Figures | None) -> Verdict:
    costs = {cost["slices"]: cost["milliseconds_a_slice"] for cost in (figures or {}).get("costs", [])}
    most, middle = max(costs, default=0), min((each for each in costs if each >= _MOST_SLICES), default=0)
    growth = costs[most] / costs[middle] if most > middle > 0 else None
    return _at_most(_LINEAR, growth, f"cost is linear: a slice of {most or 'many'}, of one of {middle or 'fewer'}")


def _of_backlog(figures: Figures | None) -> list[Verdict]:
    sides = (figures or {}).get("sides") or {}
    return [
        _at_most(BACKLOG_PERCENT, sides.get("reception_slower_percent"), "a backlog of studies: reception [+ %]"),
        _at_most(BACKLOG_PERCENT, sides.get("turnaround_longer_percent"), "a backlog of studies: turnaround [+ %]"),
    ]


def _of_lung_ct(figures: Figures | None) -> Verdict:
    taken = None if figures is None else [1000 * sum(run.values()) / figures["slices"] for run in figures["runs"]]
    return _at_most(LUNG_CT_MS, statistics.median(taken) if taken else None, "builtin:lung_ct, all of it [ms a slice]")


def _at_least(bound: float, measured: float | None, what: str, digits: int = 2) -> Verdict:
    return _judged(operator.ge, "at least", bound, measured, what, digits)


def _at_most(bound: float, measured: float | None, what: str, digits: int = 2) -> Verdict:
    return _judged(operator.le, "at most", bound, measured, what, digits)


def _judged(
    holds: Callable[[float, float], bool], words: str, bound: float, measured: float | None, what: str, digits: int
) -> Verdict:
    target = f"{what}: {words} {bound:.{digits}f}"
    if measured is None:
        return Verdict(target, "", None)
    return Verdict(target, f"{measured:.{digits}f}", holds(measured, bound))


def _rate(figures: Figures | None, server: str, associations: int) -> float | None:
    rows = (figures or {}).get("rows", [])
    found = [row for row in rows if row["server"].startswith(server) and row["associations"] == associations]
    return found[0]["images_per_second"] if found else None


def _ratio(figures: Figures | None, other: str, associations: int) -> float | None:
    ours, theirs = _rate(figures, "hilum", associations), _rate(figures, other, associations)
    return ours / theirs if ours and theirs else None


def _spreading(figures: Figures | None) -> float | None:
    many, few = _rate(figures, "hilum", 64), _rate(figures, "hilum", 4)
    return many / few if many and few else None


def _receiver_memory(figures: Figures | None) -> float | None:
    rows = (figures or {}).get("rows", [])
    return max((row["peak_memory_mb"] for row in rows if row["server"].startswith("hilum")), default=None)


def _longest_study(figures: Figures | None) -> dict[str, Any] | None:
    studies: list[dict[str, Any]] = (figures or {}).get("studies", [])
    return max(studies, key=lambda each: int(each["slices"]), default=None)


def _warm(study: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the chains of the studies that did not come first after the node's start; of a single one itself."""
    chains: list[dict[str, float]] = study["chains"]
    return chains[1:] or chains
