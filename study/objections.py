"""What speaks against images by a rule, with the value that they have and the one that is asked for.

Two sorts: objections to the kind of images, which are simply not what the model is for, and objections to images of its
kind, which it can not be given. Every rule that fails is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from study.errors import Reason
from study.functional_groups import MULTI_FRAME_CLASSES
from study.geometry import in_plane_directions
from study.headers import InstanceHeader
from study.patterns import occurs
from study.rule import ORIENTATIONS, Range, SelectionRule
from study.words import allowed, listed, quoted, spanned, uid_name

Headers = Sequence[InstanceHeader]

_LIMIT_TOLERANCE = 1e-3  # of a limit; a header has 2.9999993 mm where its protocol has 3
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_NO_AGENT = frozenset({"", "NONE", "NO", "N", "0", "-", "NIL", "WITHOUT", "NOT GIVEN"})  # as sites write it


def to_image(header: InstanceHeader, rule: SelectionRule) -> tuple[tuple[str, str], ...]:
    """Return why an image is no part of a series for the model: a code of `to_images`, and the value that says so."""
    found = []
    of_modality = header.modality.upper() in _upper(rule.modality)
    if not of_modality:
        found.append(("OtherModality", header.modality))
    # Where the rule names no classes they follow from the modality, and there is no more to say of another one.
    if header.sop_class_uid not in rule.classes and (of_modality or rule.sop_classes):
        found.append(("OtherSOPClass", uid_name(header.sop_class_uid)))
    types = _upper(header.image_type)
    excluded = types & _upper(rule.image_type_exclude)
    if excluded:
        found.append(("ExcludedImageType", ", ".join(sorted(excluded))))
    if rule.image_type_include and not types & _upper(rule.image_type_include):
        found.append(("OtherImageType", ", ".join(header.image_type)))
    return tuple(found)


def to_images(objections: Iterable[tuple[str, str]], rule: SelectionRule) -> list[Reason]:
    """Return what `to_image` found in a series, each code once."""
    words = {
        "OtherModality": f"The modality is {{}}, the model is for {' or '.join(rule.modality)}.",
        "OtherSOPClass": "The series holds objects of another kind than the model reads: {}.",
        "ExcludedImageType": "The Image Type holds {}, which the model leaves out.",
        "OtherImageType": f"The Image Type is {{}}, the model is for {' or '.join(rule.image_type_include)}.",
    }
    values: dict[str, set[str]] = {}
    for code, value in objections:
        values.setdefault(code, set()).add(value)
    return [
        Reason(code, words[code].replace("{}", listed(sorted(values[code])), 1)) for code in words if code in values
    ]


def to_series(headers: Headers, rule: SelectionRule) -> list[Reason]:
    """Return why a series is not the model's kind, by what is said of it as a whole."""
    descriptions = [header.series_description for header in headers]
    found = [
        _none_of(
            "OtherBodyPart",
            "Body Part Examined",
            [header.body_part_examined for header in headers],
            rule.body_part,
            _without_gaps,
        ),
        _lacks("OtherDescription", "Series Description", descriptions, rule.description_include),
        _holds("ExcludedDescription", "Series Description", descriptions, rule.description_exclude),
    ]
    return [reason for reason in found if reason is not None]


def to_stack(headers: Headers, rule: SelectionRule) -> list[Reason]:
    """Return why slices or images of a fitting series are not the model's kind."""
    kernels = [header.convolution_kernel for header in headers]
    views = [header.view_position for header in headers]
    sides = [header.image_laterality for header in headers]
    found = [
        _other_orientation(headers, rule),
        _other_contrast(headers, rule),
        _lacks("OtherKernel", "Convolution Kernel", kernels, rule.kernel_include),
        _holds("ExcludedKernel", "Convolution Kernel", kernels, rule.kernel_exclude),
        _none_of("OtherViewPosition", "View Position", views, rule.view_position, str.upper),
        _none_of("OtherLaterality", "Image Laterality", sides, rule.image_laterality, str.upper),
        _beyond("OtherEchoTime", "Echo Time", "ms", _each(header.echo_time for header in headers), rule.echo_time),
        _beyond("OtherBValue", "Diffusion b-value", "s/mm2", _each(h.b_value for h in headers), rule.b_value),
    ]
    return [reason for reason in found if reason is not None]


def to_multi_frame(headers: Headers) -> list[Reason]:
    """Return what is wrong with images of several frames, which then can not be told apart."""
    reasons = []
    unknown = [header for header in headers if _frames_are_unknown(header)]
    if unknown:
        frames = sum(header.number_of_frames for header in unknown)
        names = listed(sorted({uid_name(header.sop_class_uid) for header in unknown}))
        words = (
            f"Of {len(unknown)} multi-frame image(s) ({names}, {frames} frames) it is not known what each frame is: an "
            "earlier version received them, or their functional groups are incomplete. Send the series again, or as "
            "single-frame images."
        )
        reasons.append(Reason("FramesNotIndexed", words, {"images": len(unknown), "frames": frames}))
    several = [header for header in headers if header.number_of_frames > 1 and not _frames_are_unknown(header)]
    if several:
        names = listed(sorted({uid_name(header.sop_class_uid) for header in several}))
        words = f"{len(several)} image(s) have several frames, which the node does not read of {names}."
        reasons.append(Reason("MultiFrameImages", words, {"images": len(several)}))
    return reasons


def _frames_are_unknown(header: InstanceHeader) -> bool:
    return header.sop_class_uid in MULTI_FRAME_CLASSES and header.frame_number is None and not header.frames


def to_pixels(headers: Headers, decodable: Callable[[str], bool]) -> list[Reason]:
    """Return why the pixels can not be read: colour, or a Transfer Syntax that no decoder reads."""
    reasons = []
    colours = sum(header.samples_per_pixel != 1 for header in headers)
    if colours:
        words = f"{colours} of {len(headers)} images are in colour or do not say Samples per Pixel."
        reasons.append(Reason("ColourImages", words, {"images": colours}))
    syntaxes = Counter(header.transfer_syntax_uid for header in headers)
    for uid, count in sorted(syntaxes.items()):
        if not decodable(uid):
            words = (
                f"No installed decoder reads the Transfer Syntax {uid_name(uid)} ({quoted(uid)}) of {count} images. "
                "Send them uncompressed."
            )
            reasons.append(
                Reason("UnsupportedTransferSyntax", words, {"transfer_syntax_uid": quoted(uid), "images": count})
            )
    return reasons


def to_count(count: int, rule: SelectionRule, fewest: int) -> list[Reason]:
    """Return what is wrong with how many slices or images there are, of which `fewest` are needed in any case."""
    low, high = rule.slices or (None, None)
    fewest = max(fewest, int(np.ceil(low or 0)))
    what = "slice(s)" if rule.form == "volume" else "image(s)"
    noun = "Slices" if rule.form == "volume" else "Images"
    if count < fewest:
        words = f"The series has {count} {what}, the model needs {fewest}."
        return [Reason(f"TooFew{noun}", words, {"slices": count, "fewest": fewest})]
    if high is not None and count > high:
        words = f"The series has {count} {what}, the model takes {high:g} at most."
        return [Reason(f"TooMany{noun}", words, {"slices": count, "most": high})]
    return []


def to_sizes(headers: Headers, rule: SelectionRule, spacing_mm: float | None) -> list[Reason]:
    """Return which sizes are beyond what the model takes.

    Parameters
    ----------
    spacing_mm
        The usual distance of the slices; None where there is none to speak of.
    """
    thicknesses = [(header.slice_thickness,) if (header.slice_thickness or 0) > 0 else None for header in headers]
    pixels = [header.pixel_spacing for header in headers]
    found = [
        _beyond("SliceThicknessOutOfRange", "Slice Thickness", "mm", thicknesses, rule.slice_thickness, _THICK),
        _beyond("PixelSpacingOutOfRange", "Pixel Spacing", "mm", pixels, rule.pixel_spacing, _WIDE),
    ]
    if spacing_mm is not None:
        found.append(
            _beyond("SliceSpacingOutOfRange", "spacing of slices", "mm", [(spacing_mm,)], rule.slice_spacing, _APART)
        )
    return [reason for reason in found if reason is not None]


def to_pixel_attributes(header: InstanceHeader) -> list[Reason]:
    """Return what a single image does not say of its pixels."""
    lacking = [
        name for name, value in (("Rows", header.rows), ("Columns", header.columns)) if value is None or value < 1
    ]
    if not lacking:
        return []
    words = f"The image has no usable {' and '.join(lacking)}."
    return [Reason("MissingPixelAttributes", words, {"attributes": ", ".join(lacking)})]


_THICK = "The slices are {} mm thick"
_APART = "The slices are {} mm apart"
_WIDE = "The pixels are {} mm wide"


def _beyond(
    code: str,
    name: str,
    unit: str,
    values: Sequence[Sequence[float | None] | None],
    limits: Range | None,
    said: str = "",
) -> Reason | None:
    """Return an objection where not all values of each image are within limits; `said` puts them into words."""
    if limits is None:
        return None
    low, high = limits
    stated = [part for part in values if part and None not in part]
    given = [value for part in stated for value in part if value is not None]
    tail = f", the model takes {allowed(limits)} {unit}."
    numbers: dict[str, float | int | str] = {}
    if low is not None:
        numbers["at_least"] = low
    if high is not None:
        numbers["at_most"] = high
    lacking = len(values) - len(stated)
    if lacking:
        return Reason(code, f"{lacking} of {len(values)} images do not state their {name}{tail}", numbers)
    if _is_within(min(given), max(given), limits):
        return None
    words = (said or f"The {name} is {{}} {unit}").format(spanned(min(given), max(given)))
    return Reason(code, words + tail, {"smallest": round(min(given), 4), "largest": round(max(given), 4), **numbers})


def _each(values: Iterable[float | None]) -> list[tuple[float | None]]:
    return [(value,) for value in values]


def _is_within(smallest: float, largest: float, limits: Range) -> bool:
    low, high = limits
    above = low is None or smallest >= low - _LIMIT_TOLERANCE * abs(low)
    return above and (high is None or largest <= high + _LIMIT_TOLERANCE * abs(high))


def _upper(texts: Iterable[str]) -> set[str]:
    return {text.upper() for text in texts}


def _without_gaps(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).upper()


def _none_of(
    code: str, name: str, values: Iterable[str], wanted: Sequence[str], reduced: Callable[[str], str]
) -> Reason | None:
    given = sorted(set(values))
    if not wanted or {reduced(value) for value in given} & {reduced(value) for value in wanted}:
        return None
    return Reason(code, f"The {name} is {listed(given)}, the model is for {' or '.join(wanted)}.")


def _lacks(code: str, name: str, values: Iterable[str], patterns: Sequence[str]) -> Reason | None:
    given = sorted(set(values))
    if not patterns or any(occurs(pattern, given) for pattern in patterns):
        return None
    return Reason(code, f"The {name} is {listed(given)}, the model wants one with {' or '.join(patterns)}.")


def _holds(code: str, name: str, values: Iterable[str], patterns: Sequence[str]) -> Reason | None:
    given = sorted(set(values))
    found = [pattern for pattern in patterns if occurs(pattern, given)]
    if not found:
        return None
    return Reason(code, f"The {name} is {listed(given)}, the model leaves out {' and '.join(found)}.")


def has_contrast(headers: Headers) -> bool:
    """Tell whether any of the images states that a contrast agent was given."""
    return any(header.contrast_bolus_agent.strip(" .").upper() not in _NO_AGENT for header in headers)


def _other_contrast(headers: Headers, rule: SelectionRule) -> Reason | None:
    if rule.contrast is None or has_contrast(headers) == rule.contrast:
        return None
    agents = sorted({header.contrast_bolus_agent for header in headers})
    wanted = "with a contrast agent" if rule.contrast else "without a contrast agent"
    return Reason("OtherContrast", f"The Contrast/Bolus Agent is {listed(agents)}, the model is for images {wanted}.")


def _other_orientation(headers: Headers, rule: SelectionRule) -> Reason | None:
    if not rule.orientation:
        return None
    found = Counter(orientation for header in headers if (orientation := orientation_of(header)) is not None)
    if not found or {name for name, _ in found} & set(rule.orientation):  # where none is stated, the geometry says so
        return None
    (name, degrees), _ = found.most_common(1)[0]
    oblique = f", {degrees:g} degrees oblique" if degrees >= 1 else ""
    words = f"The slices are {name}{oblique}, the model is for {' or '.join(rule.orientation)}."
    return Reason("OtherOrientation", words, {"orientation": name, "degrees": degrees})


def orientation_of(header: InstanceHeader) -> tuple[str, float] | None:
    """Return which orientation a slice is nearest to, and how far off it its normal is [degrees]; None if unknown."""
    directions = in_plane_directions(header)
    if directions is None:
        return None
    normal = np.abs(np.cross(*directions))
    length = float(np.linalg.norm(normal))
    if length < 0.5:
        return None
    name = max(ORIENTATIONS, key=lambda word: normal[_AXES[word]])
    cosine = min(float(normal[_AXES[name]]) / length, 1.0)
    return name, round(float(np.degrees(np.arccos(cosine))), 1)
