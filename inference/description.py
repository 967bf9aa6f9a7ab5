"""What may be said of a model besides its bundle's own metadata: which series it is for, what its output means.

The same words stand in two places: in an object ``hilum`` of the bundle's ``metadata.json``, written by who made the
bundle, and in the ``[[models]]`` entry of the site's configuration, which wins. docs/models.md explains each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.codes import ALGORITHM_FAMILIES, ARTIFICIAL_INTELLIGENCE, Code
from study.geometry import UnevenSpacing
from study.selection import PREFERENCES, SelectionRule

Kind = Literal["segmentation", "classification", "measurement"]
Measure = Literal["volume", "mean_attenuation", "laa_950", "percentile_15"]
"""What the node can measure of a segment, by the names that a description uses."""

PROJECTIONS: Final = frozenset({"CR", "DX", "MG", "RG", "IO", "PX", "RF", "XA"})
"""Modalities whose images stand alone: a model gets one image, not a volume."""

_FEW_IMAGES: Final = (1.0, 16.0)  # each image of a series is looked at and reported for itself
_LARGEST_LABEL: Final = 65535
_COLOUR = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_CODE_PARTS: Final = ("value", "scheme", "meaning")
_SCHEMES: Final = frozenset({"SCT", "DCM", "LN", "UCUM", "NCIt", "UMLS", "RADLEX", "FMA", "MDC", "NEU", "IBSI", "I10"})
"""Coding Scheme Designators that results use (PS3.16 8); private ones begin with 99."""


def _code(given: object) -> object:
    if isinstance(given, Code):
        return given
    parts = [given.get(part) for part in _CODE_PARTS] if isinstance(given, Mapping) else given
    if not isinstance(parts, list | tuple) or len(parts) != 3 or not all(isinstance(p, str) and p for p in parts):
        raise ValueError('a code is three texts: ["value", "scheme", "meaning"]')
    longest = (16, 16, 64)
    for part, most, name in zip(parts, longest, _CODE_PARTS, strict=True):
        if len(part) > most or not all(" " <= character <= "}" and character != "\\" for character in part):
            raise ValueError(f"the {name} of a code is printable ASCII of at most {most} characters")
    if parts[1] not in _SCHEMES and not parts[1].startswith("99"):
        raise ValueError(
            f'the scheme "{parts[1]}" is none of {", ".join(sorted(_SCHEMES))}, 99...; a code is ["value", "scheme", '
            '"meaning"], as ["10200004", "SCT", "Liver"]'
        )
    return Code(*parts)


def _colour(given: object) -> object:
    found = _COLOUR.fullmatch(given) if isinstance(given, str) else None
    return tuple(int(part, 16) for part in found.groups()) if found else given


def texts(given: object) -> object:
    """Read one text as a list of one."""
    return (given,) if isinstance(given, str) else given


def _range(given: object) -> object:
    """Read [lowest, highest]; TOML has no null, so "" stands for an open end."""
    if isinstance(given, list | tuple) and len(given) == 2:
        return tuple(None if end in ("", None) else end for end in given)
    return given


def _ordered(given: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = given
    if low is not None and high is not None and low > high:
        raise ValueError(f"the range runs from {low:g} down to {high:g}; write [lowest, highest]")
    return given


def _printable(text: str) -> str:
    if not text.strip() or not all(" " <= character <= "}" and character != "\\" for character in text):
        raise ValueError("is read in reports of any character set: printable ASCII without backslash only")
    return text.strip()


CodeField = Annotated[Code, BeforeValidator(_code)]
Colour = Annotated[
    tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ],
    BeforeValidator(_colour),
]
Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]
Range = Annotated[tuple[float | None, float | None], BeforeValidator(_range), AfterValidator(_ordered)]
Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Described(BaseModel):
    """A table of a description: frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Select(Described):
    """Which series the model is for (`study.selection.SelectionRule`); what is not said is not asked."""

    modality: Texts = ()
    sop_classes: Texts = ()
    form: Literal["volume", "image"] | None = None
    body_part: Texts = ()
    description_include: Texts = ()
    description_exclude: Texts = ()
    image_type_include: Texts = ()
    image_type_exclude: Texts | None = None
    orientation: Annotated[tuple[Literal["axial", "coronal", "sagittal"], ...], BeforeValidator(texts)] = ()
    slices: Range | None = None
    slice_thickness: Range | None = None
    slice_spacing: Range | None = None
    pixel_spacing: Range | None = None
    echo_time: Range | None = None
    b_value: Range | None = None
    contrast: bool | None = None
    kernel_include: Texts = ()
    kernel_exclude: Texts = ()
    view_position: Texts = ()
    image_laterality: Texts = ()
    prefer: Annotated[tuple[str, ...], BeforeValidator(texts)] = PREFERENCES
    uneven_spacing: UnevenSpacing = UnevenSpacing.REFUSE

    @model_validator(mode="after")
    def _is_a_rule(self) -> Select:
        self.rule(("CT",))
        return self

    def rule(self, modality: tuple[str, ...]) -> SelectionRule:
        """Return the rule, for `modality` where none is said.

        Raises
        ------
        ValueError
            If a word or a regular expression in it is none.
        """
        said = {name: value for name in self.model_fields_set if (value := getattr(self, name)) not in (None, ())}
        chosen = self.modality or modality
        if not chosen:
            raise ValueError('nothing says which modality the model is for; give [models.select] modality = "CT"')
        form = self.form or ("image" if set(chosen) <= PROJECTIONS else "volume")
        few = {"slices": _FEW_IMAGES} if form == "image" else {}
        return SelectionRule(**(few | said | {"modality": chosen, "form": form}))


class Priors(Described):
    """Which earlier studies of the same patient a model is given beside the series that it analyses.

    Parameters
    ----------
    modality
        Modality of their series; that of `select` where it is not said.
    body_part
        Body Part Examined, any of these; spaces and underscores do not count; that of `select` where it is not said.
    count
        The most of them, the latest ones.
    max_age_days
        How much older than the study they may be [days].
    wait_seconds
        How long an analysis waits for them, once its own series is complete [s].
    required
        Whether the model is of no use without one: then a study without is refused.
    input
        The key under which the bundle's own transforms get them; "" for none: each is analysed by itself, and what is
        measured is compared.
    """

    modality: Texts = ()
    body_part: Texts = ()
    count: int = Field(default=1, ge=1, le=5)
    max_age_days: int = Field(default=1825, ge=1, le=36_500)
    wait_seconds: float = Field(default=120, ge=0, le=3_600)
    required: bool = False
    input: Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9_]{0,31})?$")] = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the keys under which the bundle gets them, the latest first: "prior", "prior_2"; none by default."""
        further = (f"{self.input}_{number}" for number in range(2, self.count + 1))
        return (self.input, *further) if self.input else ()


class SegmentDescription(Described):
    """What one value of a label map, or one channel, stands for (PS3.3 C.8.20.4)."""

    value: int = Field(ge=1, le=_LARGEST_LABEL)
    label: Label
    key: Key | None = None
    category: CodeField | None = None
    type: CodeField | None = None
    laterality: CodeField | None = None
    region: CodeField | None = None
    colour: Colour | None = None


class FindingDescription(Described):
    """A region of several segments that the report speaks of."""

    key: Key
    label: Label
    type: CodeField
    site: CodeField | None = None
    segments: Annotated[tuple[str, ...], Field(min_length=1)]


class ClassDescription(Described):
    """One class of a classification; `index` is its place in the output, 0 and up."""

    index: int = Field(ge=0)
    label: Label
    key: Key | None = None
    type: CodeField | None = None
    site: CodeField | None = None
    threshold: float = Field(default=0.5, ge=0, le=1)


class NumberDescription(Described):
    """One number that a model gives; `index` is its place in the output, 0 and up."""

    index: int = Field(ge=0)
    label: Label
    key: Key | None = None
    name: CodeField
    unit: CodeField
    derivation: CodeField | None = None
    type: CodeField | None = None
    site: CodeField | None = None
    range: Range | None = None


class ModelDescription(Described):
    """All that may be said of a model; everything has a default, and what is missing is asked for where needed."""

    kind: Kind | None = None
    title: Annotated[str, Field(max_length=40), AfterValidator(lambda text: _printable(text) if text else text)] = ""
    target: str = ""
    algorithm_family: str = ARTIFICIAL_INTELLIGENCE.value
    select: Select = Select()
    segments: tuple[SegmentDescription, ...] = ()
    findings: tuple[FindingDescription, ...] = ()
    measures: Annotated[tuple[Measure, ...], BeforeValidator(texts)] | None = None
    classes: tuple[ClassDescription, ...] = ()
    measurements: tuple[NumberDescription, ...] = ()
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    exclusive: bool | None = None
    priors: Priors | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelDescription:
        known = [code.value for code in ALGORITHM_FAMILIES]
        if self.algorithm_family not in known:
            raise ValueError(f"algorithm_family is one of {', '.join(known)} (CID 7162)")
        _demand_distinct("segments: each value", [segment.value for segment in self.segments])
        _demand_distinct("classes: each index", [entry.index for entry in self.classes])
        _demand_distinct("measurements: each index", [entry.index for entry in self.measurements])
        return self

    def over(self, other: ModelDescription) -> ModelDescription:
        """Return this description with what it does not say taken from `other`; within `select` key by key."""
        said = {name: getattr(self, name) for name in self.model_fields_set & set(ModelDescription.model_fields)}
        select = {name: getattr(other.select, name) for name in other.select.model_fields_set}
        select |= {name: getattr(self.select, name) for name in self.select.model_fields_set}
        merged = {name: getattr(other, name) for name in other.model_fields_set} | said | {"select": Select(**select)}
        return ModelDescription(**merged)


def family_of(description: ModelDescription) -> Code:
    """Return what kind of algorithm the model is (CID 7162)."""
    return next(code for code in ALGORITHM_FAMILIES if code.value == description.algorithm_family)


def _demand_distinct(what: str, values: list[int]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what} may occur once only")
