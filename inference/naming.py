"""What a model's output means, in labels and codes: from its description, the built-in tables, or its label names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from inference.description import ClassDescription, ModelDescription, NumberDescription, SegmentDescription
from inference.metadata import Metadata
from inference.structures import Structure, find_in, segments_of
from study.codes import ANATOMICAL_STRUCTURE, LABEL_SCHEME, TISSUE, Code
from study.colours import colour_of
from study.imaging import Segment

_LONGEST_LABEL = 64
_LONGEST_CODE = 16


@dataclass(frozen=True)
class PlannedFinding:
    """A region that the report speaks of; the fields are those of `study.imaging.Finding`."""

    key: str
    label: str
    finding: Code
    site: Code
    segment_values: tuple[int, ...]
    laterality: Code | None = None


@dataclass(frozen=True)
class PlannedClass:
    """One class of a classification.

    Parameters
    ----------
    index
        Its place in the output, 0 and up.
    threshold
        From which probability on it is taken as present, where classes do not exclude each other.
    """

    index: int
    key: str
    label: str
    finding: Code
    site: Code | None
    threshold: float


@dataclass(frozen=True)
class PlannedNumber:
    """One number of a measurement, at a place of the output, with the range in which it means something."""

    index: int
    key: str
    label: str
    name: Code
    unit: Code
    derivation: Code | None
    finding: Code
    site: Code | None
    low: float | None
    high: float | None


class Vocabulary:
    """Names for a model's output; `hints` tells afterwards what could be said better, and how."""

    def __init__(self, metadata: Metadata, description: ModelDescription, bundle: str) -> None:
        self._metadata = metadata
        self._description = description
        self._bundle = bundle
        self.hints: list[str] = []
        self.background_first: bool | None = None

    def segments(self) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
        """Return the segments by value, and the stable name of each.

        Raises
        ------
        ValueError
            If nothing names the labels, two have the same name, or a name can not be written into a result.
        """
        self._metadata.demand_background_at_zero()
        described = self._described_segments()
        if not described:
            raise ValueError(
                "nothing says what the labels mean: give the metadata's output a channel_def, or the entry "
                "[[models.segments]] with value and label"
            )
        segments = tuple(self._segment(place, entry) for place, entry in enumerate(described))
        keys = tuple(entry.key or key_of(entry.label) for entry in described)
        _demand_distinct(keys)
        generic = [segment.label for segment in segments if segment.property_type == TISSUE]
        if generic:
            self.hints.append(
                f"{', '.join(generic[:5])}{' ...' if len(generic) > 5 else ''}: written with the general code Tissue; "
                "give [[models.segments]] with value, label and type for a better one"
            )
        return segments, keys

    def findings(self, segments: tuple[Segment, ...], keys: tuple[str, ...]) -> tuple[PlannedFinding, ...]:
        """Return what the report speaks of: each segment, then the regions of several that the description names."""
        values = dict(zip(keys, (segment.value for segment in segments), strict=True))
        planned = [
            PlannedFinding(
                key,
                segment.label,
                segment.property_type,
                segment.region or segment.property_type,
                (segment.value,),
                segment.laterality,
            )
            for key, segment in zip(keys, segments, strict=True)
        ]
        for entry in self._description.findings:
            unknown = set(entry.segments) - set(values)
            if unknown:
                raise ValueError(f"the finding {entry.key} is of segments that there are not: {', '.join(unknown)}")
            own = tuple(values[key] for key in entry.segments)
            planned.append(PlannedFinding(entry.key, entry.label, entry.type, entry.site or entry.type, own))
        _demand_distinct([finding.key for finding in planned])
        return tuple(planned)

    def classes(self) -> tuple[PlannedClass, ...]:
        """Return the classes by their place in the output; ValueError where nothing names them."""
        described = self._description.classes or [
            ClassDescription(index=index, label=_readable(name)) for index, name in self._metadata.channels().items()
        ]
        if not described:
            raise ValueError(
                "nothing names the classes: give the metadata's output a channel_def, or the entry [[models.classes]] "
                "with index and label"
            )
        indices = sorted(entry.index for entry in described)
        if indices != list(range(len(indices))):
            raise ValueError(f"the classes are numbered {indices}; the output's places are 0, 1, 2, ...")
        uncoded = [entry.label for entry in described if entry.type is None]
        if uncoded:
            self.hints.append(
                f"{', '.join(uncoded[:5])}: written with private codes; give [[models.classes]] with index, label and "
                "type for better ones"
            )
        planned = tuple(self._class(entry) for entry in sorted(described, key=lambda entry: entry.index))
        _demand_distinct([entry.key for entry in planned])
        exclusive = self._description.exclusive or self._description.activation == "softmax"
        if exclusive and any("threshold" in entry.model_fields_set for entry in described):
            raise ValueError(
                "a threshold has no effect on classes that exclude each other, of which the most probable is taken; "
                "leave it out, or say exclusive = false"
            )
        return planned

    def numbers(self) -> tuple[PlannedNumber, ...]:
        """Return the numbers by their place in the output; ValueError where the description has none."""
        described = self._description.measurements
        if not described:
            raise ValueError(
                "nothing says what is measured: give [[models.measurements]] with index, label, name, unit"
            )
        planned = tuple(_number(entry) for entry in sorted(described, key=lambda entry: entry.index))
        _demand_distinct([entry.key for entry in planned])
        return planned

    def _described_segments(self) -> list[SegmentDescription]:
        """Return one description for each value: what is said of it, else a name from tables or metadata."""
        said = {entry.value: entry for entry in self._description.segments}
        named = dict(segments_of(self._bundle) or segments_of(self._metadata.name) or ())
        of_tables = bool(named)
        named = named or self._metadata.labels()
        if self._description.segments and not named.keys() & said.keys():
            named = {}
        values = sorted({*said, *named})
        if not of_tables and set(named) - set(said):
            self.background_first = self._metadata.background_first
        return [said.get(value) or self._from_name(value, named[value]) for value in values]

    def _from_name(self, value: int, name: str) -> SegmentDescription:
        known = self._known(name)
        return SegmentDescription(value=value, label=known.label if known else _readable(name))

    def _segment(self, place: int, entry: SegmentDescription) -> Segment:
        # The table's sides and regions belong to the table's type: none of them is mixed with a type that was given.
        known = (self._known(entry.label) or _UNKNOWN) if entry.type is None else None
        return Segment(
            value=entry.value,
            label=entry.label,
            category=entry.category or (known.category if known else ANATOMICAL_STRUCTURE),
            property_type=entry.type or (known.property_type if known else TISSUE),
            laterality=entry.laterality or (known.laterality if known else None),
            region=entry.region or (known.region if known else None),
            rgb=entry.colour or (known.rgb if known and known is not _UNKNOWN else colour_of(place)),
        )

    def _known(self, label: str) -> Structure | None:
        return find_in(self._bundle, label) or find_in(self._metadata.name, label)

    def _class(self, entry: ClassDescription) -> PlannedClass:
        known = self._known(entry.label)
        code = entry.type or (known.property_type if known else _private_code(entry.label))
        return PlannedClass(
            entry.index, entry.key or key_of(entry.label), entry.label, code, entry.site, entry.threshold
        )


_UNKNOWN = Structure("", TISSUE, TISSUE, None, None, colour_of(0))


def key_of(label: str) -> str:
    """Return the stable name of a label: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:64] or "unnamed"


def _readable(name: str) -> str:
    """Return a label name of a bundle as it can stand in a result.

    Raises
    ------
    ValueError
        If it can not.
    """
    text = " ".join(name.replace("_", " ").split())
    if not text or len(text) > _LONGEST_LABEL or not all(" " <= character <= "}" for character in text):
        raise ValueError(
            f"the label name {name[:40]!a} can not be written into a result (1 to {_LONGEST_LABEL} ASCII "
            "characters); give [[models.segments]] or [[models.classes]] with a label"
        )
    return text.replace("\\", "/")


def _number(entry: NumberDescription) -> PlannedNumber:
    low, high = entry.range or (None, None)
    finding = entry.type or entry.name
    key = entry.key or key_of(entry.label)
    return PlannedNumber(
        entry.index, key, entry.label, entry.name, entry.unit, entry.derivation, finding, entry.site, low, high
    )


def _private_code(label: str) -> Code:
    return Code(hashlib.sha256(label.encode()).hexdigest()[:_LONGEST_CODE].upper(), LABEL_SCHEME, label)


def _demand_distinct(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f'two parts of the output are called "{key}"; give them different labels or keys')
        seen.add(key)
