"""The forms that a result can take, and which of them a destination is sent.

A form is a word of the configuration. What is encoded is a variant of it: the form with everything that changes its
bytes for one destination. Destinations that call for the same variant share one object, and every variant has UIDs of
its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final


class Form(StrEnum):
    """A kind of result object, in the order in which they are made and sent."""

    SEG = "seg"  # BINARY Segmentation
    SEG_LABELMAP = "seg_labelmap"  # Label Map Segmentation
    RTSTRUCT = "rtstruct"  # RT Structure Set
    SR = "sr"  # Comprehensive 3D SR, contours on key images
    SR_SEGMENTS = "sr_segments"  # Comprehensive 3D SR that refers to the segments of the Segmentation
    SR_COMPREHENSIVE = "sr_comprehensive"  # Comprehensive SR, contours on key images
    SC = "sc"  # Secondary Capture: pictures with the result drawn in
    PDF = "pdf"  # Encapsulated PDF of one page
    REFUSAL = "refusal"  # short report of what was not analysed, and why
    REJECTION = "rejection"  # Key Object Selection that rejects results which a person took back


SEGMENTATIONS: Final = (Form.SEG, Form.SEG_LABELMAP)
APART: Final = (Form.REFUSAL, Form.REJECTION)
"""What is no form of a result: it tells of one that is not there, or that was taken back."""
REPORTS: Final = (Form.SR, Form.SR_SEGMENTS, Form.SR_COMPREHENSIVE)

SOP_CLASSES: Final[Mapping[Form, str]] = {
    Form.SEG: "1.2.840.10008.5.1.4.1.1.66.4",
    Form.SEG_LABELMAP: "1.2.840.10008.5.1.4.1.1.66.7",
    Form.RTSTRUCT: "1.2.840.10008.5.1.4.1.1.481.3",
    Form.SR: "1.2.840.10008.5.1.4.1.1.88.34",
    Form.SR_SEGMENTS: "1.2.840.10008.5.1.4.1.1.88.34",
    Form.SR_COMPREHENSIVE: "1.2.840.10008.5.1.4.1.1.88.33",
    Form.SC: "1.2.840.10008.5.1.4.1.1.7",
    Form.PDF: "1.2.840.10008.5.1.4.1.1.104.1",
    Form.REFUSAL: "1.2.840.10008.5.1.4.1.1.88.11",
    Form.REJECTION: "1.2.840.10008.5.1.4.1.1.88.59",
}
"""The SOP Class of each form (PS3.4 B.5)."""

INSTEAD: Final[Mapping[Form, Form]] = {
    Form.SEG_LABELMAP: Form.SEG,
    Form.SR: Form.SR_COMPREHENSIVE,
    Form.SR_SEGMENTS: Form.SR_COMPREHENSIVE,
}
"""What a destination is sent that refuses the SOP Class of a form."""

_DOUBTED: Final = frozenset({Form.SEG_LABELMAP})
"""Forms that many destinations refuse: until one was stored, what would take its place is made too."""


class Acceptance(StrEnum):
    """What is known of a destination and a SOP Class."""

    ACCEPTED = "ACCEPTED"  # it accepts the presentation context
    STORED = "STORED"  # it stored an object of the class
    REFUSED = "REFUSED"  # it accepts no context for it, or answered that it does not take the class


@dataclass(frozen=True)
class Variant:
    """One object, or set of objects, to encode: a form, and what changes its bytes.

    Parameters
    ----------
    segmentation
        The Segmentation of the same set: for a report on segments the form that it refers to, for the others that
        speak of it `Form.SEG`, whichever it is; None where the set has none.
    description_prefix
        Begins the Series Description.
    most_frames
        Of one Segmentation object; None for any number.
    most_images
        Of a Secondary Capture series; None for one of each slice that has a finding.
    compressed
        Whether pixel data are compressed without loss, where the form allows it.
    """

    form: Form
    segmentation: Form | None = None
    description_prefix: str = ""
    most_frames: int | None = None
    most_images: int | None = None
    compressed: bool = False

    @property
    def key(self) -> str:
        """Return what tells it from all other variants; UIDs derive from it."""
        parts: list[str] = [self.form.value]
        if self.segmentation is not None:
            parts.append(f"of={self.segmentation.value}")
        if self.most_frames is not None:
            parts.append(f"frames={self.most_frames}")
        if self.most_images is not None:
            parts.append(f"images={self.most_images}")
        if self.compressed:
            parts.append("compressed")
        if self.description_prefix:  # the last one: it may hold anything
            parts.append(f"prefix={self.description_prefix}")
        return ";".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the variant as a JSON object."""
        return {
            "form": self.form.value,
            "segmentation": self.segmentation.value if self.segmentation else None,
            "description_prefix": self.description_prefix,
            "most_frames": self.most_frames,
            "most_images": self.most_images,
            "compressed": self.compressed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Variant:
        """Return the variant that `to_json` wrote."""
        segmentation = value["segmentation"]
        known = {"form": Form(value["form"]), "segmentation": Form(segmentation) if segmentation else None}
        return cls(**(dict(value) | known))


@dataclass(frozen=True)
class Wish:
    """What one destination is to be sent, as the configuration has it.

    Parameters
    ----------
    peer
        Its name; "" for results that are only kept here.
    """

    peer: str
    forms: tuple[Form, ...]
    description_prefix: str = ""
    most_frames: int | None = None
    most_images: int | None = None
    compressed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the wish as a JSON object."""
        return {
            "peer": self.peer,
            "forms": [form.value for form in self.forms],
            "description_prefix": self.description_prefix,
            "most_frames": self.most_frames,
            "most_images": self.most_images,
            "compressed": self.compressed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Wish:
        """Return the wish that `to_json` wrote."""
        return cls(**(dict(value) | {"forms": tuple(Form(form) for form in value["forms"])}))


@dataclass(frozen=True)
class Parcel:
    """What one destination gets of one result.

    Parameters
    ----------
    variants
        In the order of sending.
    stand_by
        What takes the place of some of them if the destination turns out to refuse a form: the whole parcel as it would
        then be; none where nothing is in doubt.
    replaced
        Forms that were wished for and are not sent, each with the form in its place.
    """

    peer: str
    variants: tuple[Variant, ...]
    stand_by: tuple[Variant, ...] = ()
    replaced: tuple[tuple[Form, Form], ...] = ()


def settle(wish: Wish, known: Mapping[str, Acceptance]) -> Parcel:
    """Return what a destination is sent of a result, by what is known of it.

    A refusal report is no part of a result: see `notice`.

    Parameters
    ----------
    known
        By SOP Class UID; what is absent was never tried.
    """
    refused = {form for form in wish.forms if known.get(SOP_CLASSES[form]) is Acceptance.REFUSED}
    doubted = {
        form for form in _DOUBTED & set(wish.forms) if known.get(SOP_CLASSES[form]) is not Acceptance.STORED
    } - refused
    forms, replaced = _replaced(wish.forms, refused)
    stand_by = _variants(wish, _replaced(wish.forms, refused | doubted)[0]) if doubted else ()
    return Parcel(wish.peer, _variants(wish, forms), stand_by, replaced)


def notice(wish: Wish) -> Variant | None:
    """Return the refusal report that a destination is sent where a model could not analyse a series; None for none."""
    if Form.REFUSAL not in wish.forms:
        return None
    return Variant(Form.REFUSAL, description_prefix=wish.description_prefix)


def owes_notice(wishes: Iterable[Wish]) -> bool:
    """Tell whether any destination wants to be told of what was not analysed."""
    return any(Form.REFUSAL in wish.forms for wish in wishes)


def all_variants(parcels: Iterable[Parcel]) -> tuple[Variant, ...]:
    """Return each variant that any of the parcels needs, once, Segmentations before what refers to them."""
    return in_order(variant for parcel in parcels for variant in (*parcel.variants, *parcel.stand_by))


def in_order(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return each variant once, in the order in which they are made: Segmentations before what refers to them."""
    order = list(Form)
    return tuple(sorted(set(variants), key=lambda variant: (order.index(variant.form), variant.key)))


def _replaced(forms: Sequence[Form], refused: set[Form]) -> tuple[tuple[Form, ...], tuple[tuple[Form, Form], ...]]:
    """Return the forms in order, refused ones replaced where something can take their place, and what was replaced."""
    changes = {form: INSTEAD[form] for form in forms if form in refused and form in INSTEAD}
    kept = {changes.get(form, form) for form in forms}
    return tuple(form for form in Form if form in kept), tuple(changes.items())


def _variants(wish: Wish, forms: Sequence[Form]) -> tuple[Variant, ...]:
    segmentation = next((form for form in SEGMENTATIONS if form in forms), None)
    return tuple(_variant(wish, form, segmentation) for form in forms if form not in APART)


def _variant(wish: Wish, form: Form, segmentation: Form | None) -> Variant:
    variant = Variant(form, description_prefix=wish.description_prefix)
    if form is Form.SR_SEGMENTS:
        # What it refers to is part of it, with all that makes that object another one
        return replace(
            variant,
            segmentation=segmentation,
            most_frames=wish.most_frames,
            compressed=wish.compressed and segmentation is Form.SEG_LABELMAP,
        )
    if form in REPORTS:
        return replace(variant, segmentation=Form.SEG if segmentation else None)
    if form in SEGMENTATIONS:
        compressed = wish.compressed and form is Form.SEG_LABELMAP  # single bits have no lossless encapsulation
        return replace(variant, most_frames=wish.most_frames, compressed=compressed)
    if form is Form.SC:
        return replace(variant, most_images=wish.most_images, compressed=wish.compressed)
    return variant


def segmentation_of(variant: Variant) -> Variant | None:
    """Return the variant of the Segmentation that a report on segments refers to; None for any other."""
    if variant.form is not Form.SR_SEGMENTS or variant.segmentation is None:
        return None
    return replace(variant, form=variant.segmentation, segmentation=None)
