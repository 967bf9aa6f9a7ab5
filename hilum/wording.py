"""Rules, codes and verdicts in words: the same in every command that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hilum.entries import ModelSettings
from inference.catalog import ModelCard
from study.codes import LABEL_SCHEME, TISSUE, Code
from study.entities import Verdict
from study.errors import Reason
from study.geometry import UnevenSpacing
from study.selection import SelectionRule
from study.states import VerdictOutcome
from study.words import allowed, uid_name

_OUTCOMES: Final = {
    VerdictOutcome.CHOSEN: "chosen",
    VerdictOutcome.ACCEPTED: "accepted",
    VerdictOutcome.REFUSED: "refused",
    VerdictOutcome.NOT_WANTED: "not wanted",
}
_ACCEPTED: Final = "it fits, and another is preferred"
_RANGES: Final = {
    "slices": ("slices", ""),
    "slice_thickness": ("Slice Thickness", " mm"),
    "slice_spacing": ("slice spacing", " mm"),
    "pixel_spacing": ("Pixel Spacing", " mm"),
    "echo_time": ("Echo Time", " ms"),
    "b_value": ("b-value", " s/mm2"),
}
_TEXTS: Final = {
    "body_part": "Body Part Examined {}",
    "description_include": "Series Description matches {}",
    "description_exclude": "Series Description does not match {}",
    "image_type_include": "Image Type has {}",
    "image_type_exclude": "Image Type has none of {}",
    "orientation": "orientation {}",
    "kernel_include": "Convolution Kernel matches {}",
    "kernel_exclude": "Convolution Kernel does not match {}",
    "view_position": "View Position {}",
    "image_laterality": "Image Laterality {}",
}


def reason_words(reason: Reason | None) -> str:
    """Return a refusal or failure on one line, with what helps: that is the site's to know, and in no report."""
    if reason is None:
        return ""
    remedy = reason.numbers.get("remedy")
    return f"{reason.code}: {reason.words}{f' Remedy: {remedy}.' if remedy else ''}"


def outcome_words(verdict: Verdict) -> str:
    """Return what a model says of a series in a word or two."""
    return _OUTCOMES[verdict.outcome]


def why_words(verdict: Verdict) -> str:
    """Return why a model says so: every reason with its code."""
    if verdict.outcome is VerdictOutcome.ACCEPTED:
        return _ACCEPTED
    return " ".join(reason_words(reason) for reason in verdict.reasons)


def place_words(verdict: Verdict) -> str:
    """Return which series, and which stack of it, a verdict is of."""
    number = "" if verdict.series_number is None else f" {verdict.series_number}"
    described = f' "{verdict.series_description}"' if verdict.series_description else ""
    named = f"{number}{described}" or f" {verdict.series_instance_uid}"
    return f"series{named}{f', {verdict.stack}' if verdict.stack else ''}"


def code_words(code: Code) -> str:
    """Return a code, its meaning last."""
    return f"{code.value} {code.scheme} {code.meaning}"


def rule_words(rule: SelectionRule) -> Iterator[str]:
    """Give what a rule asks of a series, one demand a line."""
    yield f"Modality {' or '.join(rule.modality)}"
    yield "a volume of parallel slices" if rule.form == "volume" else "a single image"
    for name, words in _TEXTS.items():
        values = getattr(rule, name)
        if values:
            yield words.format(", ".join(values))
    if rule.sop_classes:
        yield f"SOP Class {' or '.join(uid_name(uid) for uid in rule.sop_classes)}"
    for name, (what, unit) in _RANGES.items():
        limits = getattr(rule, name)
        if limits is not None:
            yield f"{what} {allowed(limits)}{unit}"
    if rule.contrast is not None:
        yield "with contrast agent" if rule.contrast else "without contrast agent"
    if rule.prefer:
        yield f"of several that fit: {', then '.join(word.replace('_', ' ') for word in rule.prefer)}"
    if rule.uneven_spacing is UnevenSpacing.RESAMPLE:
        yield "unevenly spaced slices are resampled"


def output_words(card: ModelCard) -> Iterator[str]:
    """Give what each part of a model's output stands for, with its code, one a line."""
    for segment in card.segments:
        generic = "  (generic code)" if segment.property_type == TISSUE else ""
        region = f" in {segment.region.meaning}" if segment.region else ""
        side = f", {segment.laterality.meaning}" if segment.laterality else ""
        yield f"{segment.value} {segment.label}: {code_words(segment.property_type)}{side}{region}{generic}"
    for entry in card.classes:
        private = "  (private code)" if entry.finding.scheme == LABEL_SCHEME else ""
        yield f"{entry.index} {entry.label}: {code_words(entry.finding)}{private}, from {entry.threshold:g} on"
    for number in card.numbers:
        yield f"{number.index} {number.label}: {code_words(number.name)} [{number.unit.value}]"


def priors_words(card: ModelCard) -> Iterator[str]:
    """Give which earlier studies a model compares with, one demand a line; nothing where it compares with none."""
    priors = card.priors
    if priors is None:
        return
    studies = "the latest earlier study" if priors.count == 1 else f"the {priors.count} latest earlier studies"
    yield f"{studies} of the patient, at most {priors.max_age_days} days older"
    if priors.input:
        yield f"handed to the bundle as {', '.join(priors.inputs)}"
    else:
        yield "what is measured is measured in them too, and the change is told"
    if priors.modality or priors.body_part:
        yield f"of Modality {' or '.join(priors.modality or card.rule.modality)}" + (
            f", Body Part Examined {' or '.join(priors.body_part)}" if priors.body_part else ""
        )
    yield f"waited for {priors.wait_seconds:g} s" + (", and not run without one" if priors.required else "")


def output_names(card: ModelCard) -> list[str]:
    """Return the names of a model's segments, classes or numbers."""
    labels = [segment.label for segment in card.segments]
    return labels + [entry.label for entry in card.classes] + [number.label for number in card.numbers]


def set_words(model: ModelSettings) -> str:
    """Return what a site has set of how a model runs, and what becomes of its results; "" where nothing."""
    told = [str(model.precision)] if model.precision else []
    told += ["compiled"] if model.compile else []
    told += ["deliver = false"] if not model.deliver else []
    told += [f"priority {model.priority}"] if model.priority else []
    return ", ".join(told)


def printable(text: str) -> str:
    """Return a stranger's text as it can be printed: what would move the cursor or hide letters is written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
