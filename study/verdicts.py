"""What a rule says of the series of a study, which of several that fit is preferred, and which refusal is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from study.errors import Reason
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.rule import SelectionRule

_LOWEST_NUMBER = -(2**31)  # of a Series Number, an IS (PS3.5 6.2)
_NOT_READ = frozenset({"FramesNotIndexed", "MultiFrameImages", "ColourImages", "UnsupportedTransferSyntax"})


@dataclass(frozen=True, eq=False)
class SeriesVerdict:
    """What a rule says of one series, or of one stack of it.

    Parameters
    ----------
    wanted
        Whether the model is meant for such images at all; False is no refusal, they are simply not its kind.
    reasons
        Every rule that makes it not wanted, or keeps it from being analysed; empty where it is accepted.
    headers
        Of the slices or images that the verdict is about, without those that are left out; in slice order where a
        volume is accepted.
    geometry
        The grid of `headers`, where a volume is accepted.
    stack
        What tells the stack from the others of its series, in words; "" where the series is one.
    stack_position
        Which of the series' stacks it is, 0 and up.
    acquired_at
        When the series was acquired last, as digits that sort; the same for each of its stacks, so that it is their
        order, not their time, that decides among them.
    notes
        What a reader of the results must know of the images, in words; also those of the geometry.
    """

    series_instance_uid: str
    wanted: bool
    reasons: tuple[Reason, ...]
    headers: tuple[InstanceHeader, ...] = ()
    geometry: VolumeGeometry | None = None
    stack: str = ""
    stack_position: int = 0
    series_number: int | None = None
    series_description: str = ""
    acquired_at: str = ""
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Tell whether the model may run on it."""
        return self.wanted and not self.reasons


@dataclass(frozen=True, eq=False)
class Selection:
    """What a rule says of a study: a verdict on each series or stack, and the one that was chosen, if any.

    Parameters
    ----------
    verdicts
        By Series Instance UID, then in the order of the stacks. Stacks of one series that the same words speak against
        share one.
    refused
        The wanted one that came nearest, where none is accepted; None where one is, or none is wanted.
    """

    verdicts: tuple[SeriesVerdict, ...]
    chosen: SeriesVerdict | None
    refused: SeriesVerdict | None

    @property
    def refusal(self) -> tuple[Reason, ...]:
        """Return why no wanted series can be analysed."""
        return self.refused.reasons if self.refused else ()


def merged(verdicts: Sequence[SeriesVerdict]) -> list[SeriesVerdict]:
    """Return a series' verdicts, with one for all stacks that the same words speak against: there may be hundreds."""
    alike: dict[tuple[object, ...], list[SeriesVerdict]] = {}
    for verdict in verdicts:
        said = tuple((reason.code, reason.words) for reason in verdict.reasons)
        key = (verdict.stack_position,) if verdict.accepted else (verdict.wanted, said)
        alike.setdefault(key, []).append(verdict)
    return [_joined(group, len(verdicts)) for group in alike.values()]


def _joined(group: Sequence[SeriesVerdict], stacks_in_all: int) -> SeriesVerdict:
    first = group[0]
    if len(group) == 1:
        return first
    headers = tuple(header for verdict in group for header in verdict.headers)
    if len(group) < stacks_in_all:
        return replace(first, headers=headers, stack=f"{len(group)} of {stacks_in_all} stacks")
    return replace(first, headers=headers, stack=f"each of {stacks_in_all} stacks" if first.wanted else "")


def preference(verdict: SeriesVerdict, rule: SelectionRule) -> tuple[Any, ...]:
    """Return what accepted verdicts are sorted by: the greatest is chosen."""
    number = verdict.series_number
    return (
        *(_PREFERRED[word](verdict) for word in rule.prefer),
        _LOWEST_NUMBER if number is None else number,
        -verdict.stack_position,
        verdict.series_instance_uid,
    )


def _is_original(verdict: SeriesVerdict) -> bool:
    return "ORIGINAL" in verdict.headers[0].image_type[:1]


def _thinness(verdict: SeriesVerdict) -> float:
    """Return a number that is larger for thinner slices; the spacing stands in for a thickness that is not stated."""
    thickness = verdict.headers[0].slice_thickness
    if thickness is not None and thickness > 0:
        return -thickness
    return -verdict.geometry.spacing[0] if verdict.geometry else 0.0


def acquired_at(headers: Sequence[InstanceHeader]) -> str:
    """Return digits that sort as the last acquisition of a series does, by its date where no acquisition has one."""
    acquired = (h.acquisition_datetime or h.acquisition_date + h.acquisition_time for h in headers)
    latest = max(map(_digits, acquired), default="")
    return latest or max((_digits(h.series_date + h.series_time) for h in headers), default="")


def _digits(moment: str) -> str:
    """Return a DT, or a DA and a TM, without its offset from UTC and the separators of old (PS3.5 6.2)."""
    return re.sub(r"[^0-9]", "", re.split(r"[+-]", moment)[0])


_PREFERRED: Mapping[str, Callable[[SeriesVerdict], Any]] = {
    "original": _is_original,
    "thinnest": _thinness,
    "most_slices": lambda verdict: len(verdict.headers),
    "latest": lambda verdict: verdict.acquired_at,
}


def nearness(verdict: SeriesVerdict) -> tuple[bool, int, str, int]:
    """Order refused series by how near they came: those that were read as slices first, then the largest."""
    frames = sum(header.number_of_frames for header in verdict.headers)
    readable = not _NOT_READ & {reason.code for reason in verdict.reasons}
    return readable, frames, verdict.series_instance_uid, -verdict.stack_position
