"""A series may hold several stacks of slices: echoes, phases, reconstructions. Here it is taken apart, never mixed.

Some attributes never differ within one volume (HARD): the reconstruction kernel, the echo, the diffusion weighting, the
position in time, the component of a complex image, and any dimension that the image itself declares. Others may well
change within one volume (SOFT), and tell stacks apart only where the groups that they make overlap: same places, or
ranges along the normal that interleave. Some of these count onwards while a scan runs, so that each slice may have a
value of its own: where each place has equally many images, the first of each place make one stack, the second the next.
Times do so by same places alone, since neighbours in a gated or interleaved scan have different ones.

No attribute splits slices that each have a value of their own at a place of their own. What still has several images at
one place after all that is refused by `study.geometry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.headers import InstanceHeader
from study.places import Places
from study.words import quoted

Indices = NDArray[np.intp]
Value = Any
"""Of an attribute; compared, sorted and said by the attribute."""

_RELATIVE_TOLERANCE = 1e-3
_SAME_DIRECTION = 1e-2  # of each component of a gradient's direction
_LONGEST_DIRECTION = 10.0  # of a component; unit vectors are asked for


@dataclass(frozen=True)
class Stack:
    """Slices of one series that belong together, in the order in which they were given.

    Parameters
    ----------
    differs
        What tells the stack from the others of its series: an attribute and its value, in words; empty where the
        series is one stack.
    """

    headers: tuple[InstanceHeader, ...]
    differs: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """Return what tells the stack from the others: "Complex Image Component PHASE, Echo Time 4.6 ms"."""
        return ", ".join(f"{name} {value}" for name, value in self.differs)


def stacks(headers: Sequence[InstanceHeader]) -> tuple[Stack, ...]:
    """Return the stacks of one series, the first echo, the first position in time and the magnitude first.

    Parameters
    ----------
    headers
        Of slices: `InstanceHeader.slices` of each image. Their order changes nothing but the order within the stacks.
    """
    given = tuple(headers)
    attributes = [_Grouped(attribute, given) for attribute in (*_HARD, *_dimensions(given), *_SOFT)]
    telling = [attribute for attribute in attributes if len(attribute.values) > 1]
    found: list[Stack] = []
    _split(given, Places(given), telling, np.arange(len(given)), (), found)
    return tuple(found)


def _split(
    headers: Sequence[InstanceHeader],
    places: Places,
    attributes: Sequence[_Grouped],
    indices: Indices,
    differs: tuple[tuple[str, str], ...],
    found: list[Stack],
) -> None:
    """Add the stacks of some of the slices, told apart by the first attribute that does, then by those after it."""
    for rank, attribute in enumerate(attributes, start=1):
        parts = attribute.parts(indices, places)
        if len(parts) > 1:
            for tells, part in parts:
                _split(headers, places, attributes[rank:], part, (*differs, tells), found)
            return
    found.append(Stack(tuple(headers[index] for index in indices), differs))


@dataclass(frozen=True)
class _Attribute:
    """Something that may tell stacks apart.

    Parameters
    ----------
    of
        The value that a slice has; None, "" or () where it has none.
    order
        What values are sorted by; the stack of the first value comes first.
    say
        A value in words, among all the values that slices have.
    alike
        For each value the one that stands for it and for all that are nearly equal.
    soft
        Whether it may change within one volume.
    runs_on
        Whether it counts onwards while a scan runs.
    by_place_only
        Whether it tells stacks apart only where images share a place.
    """

    name: str
    of: Callable[[InstanceHeader], Value]
    order: Callable[[Value], Any]
    say: Callable[[Value, Sequence[Value]], str]
    alike: Callable[[set[Value]], dict[Value, Value]] = lambda values: {value: value for value in values}
    soft: bool = False
    runs_on: bool = False
    by_place_only: bool = False


class _Grouped:
    """The values of one attribute over the slices of a series."""

    def __init__(self, attribute: _Attribute, headers: Sequence[InstanceHeader]) -> None:
        given = [attribute.of(header) for header in headers]
        standing_for = attribute.alike(set(given))
        self.values = sorted(set(standing_for.values()), key=attribute.order)
        self._attribute = attribute
        code_of = {value: code for code, value in enumerate(self.values)}
        self._codes: Indices = np.array([code_of[standing_for[value]] for value in given], dtype=np.intp)

    def parts(self, indices: Indices, places: Places) -> list[tuple[tuple[str, str], Indices]]:
        """Return what some of the slices split into, with what tells each part in words; nothing if they do not."""
        codes = self._codes[indices]
        values = len(np.unique(codes))
        if values < 2 or (values == len(indices) and places.are_distinct(indices)):
            return []
        if not self._attribute.soft:
            return self._by_value(indices, codes)
        if not (places.are_shared(indices, codes) or places.interleave(indices, codes)):
            return []
        most = places.most_images(indices)
        if self._attribute.runs_on and values > most:
            return self._by_order(indices, codes, places, most)
        return self._by_value(indices, codes)

    def _by_value(self, indices: Indices, codes: Indices) -> list[tuple[tuple[str, str], Indices]]:
        return [
            ((self._attribute.name, self._attribute.say(self.values[code], self.values)), indices[codes == code])
            for code in np.unique(codes)
        ]

    def _by_order(
        self, indices: Indices, codes: Indices, places: Places, most: int
    ) -> list[tuple[tuple[str, str], Indices]]:
        """Split into the first of each place, the second of each, and so on, where each place has equally many."""
        ranks = places.ranks(indices, codes)
        if ranks is None:
            return [] if self._attribute.by_place_only else self._by_value(indices, codes)
        return [((self._attribute.name, f"{rank + 1} of {most}"), indices[ranks == rank]) for rank in range(most)]


def _number(name: str, field: str, unit: str = "", *, soft: bool = False, **kind: bool) -> _Attribute:
    def say(value: Value, _values: Sequence[Value]) -> str:
        return "not stated" if value is None else f"{value:.6g}{unit}"

    return _Attribute(
        name,
        attrgetter(field),
        order=lambda value: (value is None, value or 0),
        say=say,
        alike=_nearly_equal_numbers,
        soft=soft,
        **kind,
    )


def _nearly_equal_numbers(values: set[Value]) -> dict[Value, Value]:
    standing_for: dict[Value, Value] = {None: None} if None in values else {}
    last: float | None = None
    for value in sorted(value for value in values if value is not None):
        if last is None or value - last > _RELATIVE_TOLERANCE * abs(last):
            last = value
        standing_for[value] = last
    return standing_for


def _direction(header: InstanceHeader) -> tuple[float, ...]:
    given = header.gradient_orientation or ()
    return given if len(given) == 3 and max(map(abs, given)) <= _LONGEST_DIRECTION else ()


def _nearly_equal_directions(values: set[Value]) -> dict[Value, Value]:
    distinct = sorted(values)
    directions = np.array([value or (0.0, 0.0, 0.0) for value in distinct], dtype=np.float64)
    standing_for: dict[Value, Value] = {}
    for index, value in enumerate(distinct):
        if value not in standing_for:
            near = np.flatnonzero(np.abs(directions - directions[index]).max(axis=1) <= _SAME_DIRECTION)
            standing_for = {distinct[other]: value for other in near} | standing_for
    return standing_for


def _say_direction(value: Value, _values: Sequence[Value]) -> str:
    return "({})".format(", ".join(f"{part:.2f}" for part in value)) if value else "none"


def _text(name: str, field: str, *, soft: bool = False, first: str = "") -> _Attribute:
    return _Attribute(
        name,
        attrgetter(field),
        order=lambda value: (value != first, value),
        say=lambda value, _values: quoted(value) or "none",
        soft=soft,
    )


def _say_image_type(value: Value, values: Sequence[Value]) -> str:
    """Return the parts of an Image Type that not all have; the whole where it has no other."""
    common = set.intersection(*(set(other) for other in values))
    return " ".join(quoted(part) for part in value if part not in common) or quoted(" ".join(value)) or "none"


def _acquisition_time(header: InstanceHeader) -> str:
    """Return digits that sort as the times do; the offset from UTC is the same for one scanner's images."""
    given = header.acquisition_datetime or header.acquisition_date + header.acquisition_time
    return "".join(character for character in given[:26] if character in "0123456789.")


def _dimensions(headers: Sequence[InstanceHeader]) -> list[_Attribute]:
    """Return an attribute for each dimension that frames have and no field tells."""
    return [_dimension(label) for label in dict.fromkeys(label for header in headers for label in _indices(header))]


def _dimension(label: str) -> _Attribute:
    return _Attribute(
        quoted(label),
        lambda header: _indices(header).get(label),
        order=lambda value: (value is None, value or 0),
        say=lambda value, _values: "not stated" if value is None else str(value),
    )


def _indices(header: InstanceHeader) -> dict[str, int]:
    pairs = (dimension.rpartition("=") for dimension in header.dimensions)
    return {label: int(index) for label, _, index in pairs if index.isdecimal()}


_HARD = (
    _text("Stack ID", "stack_id"),
    _text("Complex Image Component", "complex_component", first="MAGNITUDE"),
    _text("Convolution Kernel", "convolution_kernel"),
    _number("Echo Time", "echo_time", " ms"),
    _number("Echo Number", "echo_number"),
    _number("Inversion Time", "inversion_time", " ms"),
    _number("Diffusion b-value", "b_value", " s/mm2"),
    _Attribute(
        "Diffusion Gradient Orientation",
        _direction,
        order=lambda value: value,
        say=_say_direction,
        alike=_nearly_equal_directions,
    ),
    _number("Temporal Position", "temporal_position"),
)
_SOFT = (
    _Attribute(
        "Image Type",
        lambda header: tuple(part.upper() for part in header.image_type),
        order=lambda value: (value[:1] != ("ORIGINAL",), value),
        say=_say_image_type,
        soft=True,
    ),
    _number("Slice Thickness", "slice_thickness", " mm", soft=True),
    _number("Flip Angle", "flip_angle", " degrees", soft=True),
    _text("Contrast/Bolus Agent", "contrast_bolus_agent", soft=True),
    _number("Acquisition Number", "acquisition_number", soft=True, runs_on=True),
    _number("Trigger Time", "trigger_time", " ms", soft=True, runs_on=True, by_place_only=True),
    _Attribute(
        "Acquisition Time",
        _acquisition_time,
        order=lambda value: value,
        say=lambda value, _values: value or "not stated",
        soft=True,
        runs_on=True,
        by_place_only=True,
    ),
)
