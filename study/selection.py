"""Which series of a study fits a model? Headers and a rule in; a verdict on each, and the one to run on, out.

A series is taken apart into stacks of slices (`study.stacks`), and each is judged for itself. One that is simply not
what the model is for is not wanted; one of the model's kind that can not be analysed is refused; in both cases with
every rule that fails. Odd objects beside the slices, a localizer for instance, are left out, and the notes say so.

When several fit, the words of the rule's `prefer` decide, the first first: original images before derived ones, the
thinnest slices, the most slices, the latest acquisition. Then the highest Series Number wins, then the first stack of a
series (magnitude before phase, the first echo, the first position in time), then the greatest Series Instance UID: the
choice never depends on the order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from study import objections
from study.errors import Reason, StudyRefused
from study.geometry import FEWEST_SLICES, FrameOfReferencePolicy, VolumeGeometry, assess, places_along_normal
from study.headers import InstanceHeader
from study.rule import ORIENTATIONS, PREFERENCES, Form, Range, SelectionRule
from study.spacing import distinct, gaps_of
from study.stacks import Stack, stacks
from study.verdicts import Selection, SeriesVerdict, acquired_at, merged, nearness, preference
from study.words import quoted

__all__ = ["ORIENTATIONS", "PREFERENCES", "Form", "Range", "Selection", "SelectionRule", "SeriesVerdict", "select"]

Headers = Sequence[InstanceHeader]

_LOWEST_NUMBER = -(2**31)  # of a Series Number, an IS (PS3.5 6.2)


def select(
    series: Mapping[str, Sequence[InstanceHeader]],
    rule: SelectionRule,
    policy: FrameOfReferencePolicy,
    decodable: Callable[[str], bool] = lambda _uid: True,
    incomplete: Mapping[str, Reason] = MappingProxyType({}),
) -> Selection:
    """Choose the series of a study, or the stack of one, that the model runs on.

    Parameters
    ----------
    series
        The current headers of each series, by Series Instance UID.
    decodable
        Tells whether pixel data in a Transfer Syntax can be read.
    incomplete
        Why a series can not be analysed though what is here of it might be, by its UID: there is more of it.
    """
    judge = _Judge(rule, policy, decodable)
    judged = (verdict for uid, headers in sorted(series.items()) for verdict in judge.series(uid, headers))
    verdicts = tuple(_with(verdict, incomplete.get(verdict.series_instance_uid)) for verdict in judged)
    accepted = [verdict for verdict in verdicts if verdict.accepted]
    if accepted:
        return Selection(verdicts, max(accepted, key=lambda verdict: preference(verdict, rule)), None)
    wanted = [verdict for verdict in verdicts if verdict.wanted]
    return Selection(verdicts, None, max(wanted, key=nearness, default=None))


def _with(verdict: SeriesVerdict, incomplete: Reason | None) -> SeriesVerdict:
    """Return a verdict with what is missing of its series before all that follows from it."""
    if incomplete is None or not verdict.wanted:
        return verdict
    return replace(verdict, reasons=(incomplete, *verdict.reasons))


@dataclass(frozen=True)
class _Judge:
    rule: SelectionRule
    policy: FrameOfReferencePolicy
    decodable: Callable[[str], bool]

    def series(self, uid: str, headers: Headers) -> list[SeriesVerdict]:
        """Return the verdicts on a series."""
        if not headers:
            return [SeriesVerdict(uid, wanted=False, reasons=(Reason("NoImages", "The series holds no images."),))]
        ordered = sorted(headers, key=_in_order)
        if self.rule.form == "volume":
            ordered = [piece for header in ordered for piece in header.slices()]
        first = ordered[0]
        of_series: dict[str, Any] = {
            "series_instance_uid": uid,
            "series_number": first.series_number,
            "series_description": first.series_description,
            "acquired_at": acquired_at(ordered),
        }
        return merged([replace(verdict, **of_series) for verdict in self._of_series(ordered)])

    def _of_series(self, headers: Headers) -> list[SeriesVerdict]:
        against = [objections.to_image(header, self.rule) for header in headers]
        kept = [header for header, found in zip(headers, against, strict=True) if not found]
        to_series = objections.to_series(kept or headers, self.rule)
        if not kept or to_series:
            to_images = [] if kept else objections.to_images((pair for found in against for pair in found), self.rule)
            reasons = [*to_images, *to_series, *self._to_each_stack(kept or headers)]
            return [_verdict(kept or headers, wanted=False, reasons=reasons)]
        notes = _left_out([", ".join(value for _, value in found) for found in against if found], len(headers))
        return self._of_images(kept, notes) if self.rule.form == "image" else self._of_volume(kept, notes)

    def _to_each_stack(self, headers: Headers) -> list[Reason]:
        """Return what speaks against every stack of a series that is not wanted anyway."""
        found = [objections.to_stack(stack.headers, self.rule) for stack in stacks(headers)]
        common = set.intersection(*({reason.code for reason in reasons} for reasons in found))
        return [reason for reason in found[0] if reason.code in common]

    def _of_volume(self, headers: Headers, notes: Sequence[str]) -> list[SeriesVerdict]:
        unread = objections.to_multi_frame(headers)
        if unread:
            reasons = [*unread, *objections.to_pixels(headers, self.decodable)]
            return [_verdict(headers, wanted=True, reasons=reasons)]
        found = stacks(headers)
        return [
            replace(self._of_stack(stack, (*notes, *_of_several(stack, found))), stack_position=position)
            for position, stack in enumerate(found)
        ]

    def _of_stack(self, stack: Stack, notes: Sequence[str]) -> SeriesVerdict:
        """Return the verdict on slices that belong together."""
        to_kind = objections.to_stack(stack.headers, self.rule)
        if to_kind:
            return _verdict(stack.headers, wanted=False, reasons=to_kind, stack=stack.words)
        geometry, bent = self._geometry(stack.headers)
        reasons = [
            *objections.to_count(len(stack.headers), self.rule, FEWEST_SLICES),
            *objections.to_pixels(stack.headers, self.decodable),
            *objections.to_sizes(stack.headers, self.rule, _usual_spacing(stack.headers, geometry, bent)),
            *(reason for reason in bent if reason.code != "TooFewSlices"),  # which the count says by the rule
        ]
        if reasons or geometry is None:
            return _verdict(stack.headers, wanted=True, reasons=reasons, stack=stack.words)
        ordered = [stack.headers[index] for index in geometry.order]
        notes = (*geometry.notes, *notes)
        geometry = replace(geometry, order=tuple(range(len(ordered))), notes=tuple(notes))
        accepted = _verdict(ordered, wanted=True, stack=stack.words, notes=notes)
        return replace(accepted, geometry=geometry)

    def _geometry(self, headers: Headers) -> tuple[VolumeGeometry | None, tuple[Reason, ...]]:
        try:
            return assess(headers, self.policy, uneven_spacing=self.rule.uneven_spacing), ()
        except StudyRefused as refusal:
            return None, refusal.reasons

    def _of_images(self, headers: Headers, notes: Sequence[str]) -> list[SeriesVerdict]:
        """Return the verdict on images that stand alone, each judged by its own attributes."""
        kinds = [objections.to_stack([header], self.rule) for header in headers]
        fitting = [header for header, found in zip(headers, kinds, strict=True) if not found]
        if not fitting:
            return [_verdict(headers, wanted=False, reasons=_each_once(kinds))]
        faults = [self._faults(header) for header in fitting]
        sound = [header for header, found in zip(fitting, faults, strict=True) if not found]
        if not sound:
            return [_verdict(fitting, wanted=True, reasons=_each_once(faults))]
        left_out = [reasons[0].words for reasons in (*kinds, *faults) if reasons]
        notes = [*notes, *_left_out(left_out, len(headers))]
        counted = objections.to_count(len(sound), self.rule, fewest=1)
        return [_verdict(sound, wanted=True, reasons=counted, notes=() if counted else notes)]

    def _faults(self, header: InstanceHeader) -> list[Reason]:
        return [
            *objections.to_multi_frame([header]),
            *objections.to_pixel_attributes(header),
            *objections.to_pixels([header], self.decodable),
            *objections.to_sizes([header], self.rule, None),
        ]


def _verdict(
    headers: Headers, *, wanted: bool, reasons: Iterable[Reason] = (), stack: str = "", notes: Sequence[str] = ()
) -> SeriesVerdict:
    return SeriesVerdict("", wanted, tuple(reasons), tuple(headers), stack=stack, notes=tuple(notes))


def _in_order(header: InstanceHeader) -> tuple[int, int, str]:
    numbers = (header.acquisition_number, header.instance_number)
    acquisition, instance = (_LOWEST_NUMBER if number is None else number for number in numbers)
    return acquisition, instance, header.sop_instance_uid


def _left_out(values: Iterable[str], images: int) -> list[str]:
    counts = sorted(Counter(values).items())
    return [f"{count} of {images} objects of the series were left out ({quoted(value)})." for value, count in counts]


def _of_several(stack: Stack, found: Sequence[Stack]) -> list[str]:
    """Return the note on which stack of a series was analysed."""
    if len(found) < 2:
        return []
    names = dict.fromkeys(name for other in found for name, _ in other.differs)
    return [f"The series holds {len(found)} stacks that differ in {', '.join(names)}; analysed: {stack.words}."]


def _each_once(reasons: Iterable[Sequence[Reason]]) -> list[Reason]:
    """Return the reasons against single images, those that read alike once."""
    return list({(reason.code, reason.words): reason for found in reasons for reason in found}.values())


def _usual_spacing(headers: Headers, geometry: VolumeGeometry | None, bent: Sequence[Reason]) -> float | None:
    """Return the distance of slices [mm], also where they form no volume; None where there is none to speak of."""
    if geometry is not None:
        return geometry.spacing[0]
    if any(reason.code in {"MixedOrientation", "InvalidOrientation", "MissingGeometry"} for reason in bent):
        return None
    gaps = gaps_of(distinct(np.sort(places_along_normal(headers))))
    return None if gaps is None else gaps.usual
