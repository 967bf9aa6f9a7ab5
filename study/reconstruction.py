"""What is different between two series that a measurement depends on: thickness, spacing, kernel, contrast agent."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from study.headers import InstanceHeader
from study.objections import has_contrast
from study.words import quoted

_ALIKE = 0.1
"""By what part two lengths may differ and still count as alike."""

Headers = Sequence[InstanceHeader]


def differences(now: Headers, then: Headers) -> list[str]:
    """Return in words what is different in how two series were made: "slices of 5 mm then and 1 mm now".

    What only one of them states is no difference that anybody knows.
    """
    found = [
        _of_length("slices", [each.slice_thickness for each in now], [each.slice_thickness for each in then]),
        _of_length("pixels", [_pixel(each) for each in now], [_pixel(each) for each in then]),
        _of_text("convolution kernel", _kernel(now), _kernel(then)),
        _of_contrast(has_contrast(now), has_contrast(then)),
    ]
    return [words for words in found if words]


def _pixel(header: InstanceHeader) -> float | None:
    return max(header.pixel_spacing) if header.pixel_spacing else None


def _kernel(headers: Headers) -> str:
    return headers[0].convolution_kernel.strip() if headers else ""


def _of_length(what: str, now: Sequence[float | None], then: Sequence[float | None]) -> str:
    """Return the words on a length [mm] that differs by more than a tenth."""
    here, there = [each for each in now if each], [each for each in then if each]
    if not here or not there:
        return ""
    one, other = median(here), median(there)
    if abs(one - other) <= _ALIKE * max(one, other):
        return ""
    return f"{what} of {other:.3g} mm then and {one:.3g} mm now"


def _of_text(what: str, now: str, then: str) -> str:
    if not now or not then or now.casefold() == then.casefold():
        return ""
    return f'{what} "{quoted(then)}" then and "{quoted(now)}" now'


def _of_contrast(now: bool, then: bool) -> str:
    if now == then:
        return ""
    return "contrast agent stated for now alone" if now else "contrast agent stated for then alone"
