"""What a Segmentation says of its segments, and of itself where it is one of several (PS3.3 C.8.20.4, 10.9)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.codes import LONGEST, ascii_text, code_item, concept, long_string
from sr_writer.context import ResultContext
from sr_writer.equipment import DIGEST
from sr_writer.seg.parts import Part, Piece
from study.codes import ANATOMICAL_STRUCTURE, TISSUE
from study.imaging import Finding, ModelIdentity, ResultSet, Segment

_ANATOMY = frozenset({ANATOMICAL_STRUCTURE.value, TISSUE.value})
"""Categories of what has a place in the body by itself, and a side if it is one of two (CID 7150)."""


def tracking_of(segment: Segment, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return (key, Tracking ID) of a segment: those of the finding about it alone, where there is one."""
    for finding in findings:
        if finding.segment_values == (segment.value,):
            return finding.key, finding.label
    return f"segment-{segment.value}", segment.label


def segment_descriptions(
    part: Part, result_set: ResultSet, model: ModelIdentity, context: ResultContext
) -> list[SegmentDescription]:
    """Return what each segment of an object is, numbered from 1.

    A segment that is cut keeps its Tracking UID in every part; label and description say which part it is.
    """
    return [_description(number, piece, result_set, model, context) for number, piece in enumerate(part.pieces, 1)]


def content_description(part: Part, model: ModelIdentity) -> str:
    """Return what an object is: the model, and which of how many objects it is, and why there are several."""
    name = f"{model.name} {model.version}"
    if part.count == 1:
        return long_string(name[:LONGEST])
    why = ", ".join(part.reasons)
    return _with_end(name, f", {part.number} of {part.count} ({why})")


def _with_end(text: str, end: str) -> str:
    """Return both, the text cut so that the end stands there whole (VR LO)."""
    return long_string(text[: LONGEST - len(end)] + end)


def _description(
    number: int, piece: Piece, result_set: ResultSet, model: ModelIdentity, context: ResultContext
) -> SegmentDescription:
    segment = piece.segment
    key, identifier = tracking_of(segment, result_set.findings)
    description = SegmentDescription(
        segment_number=number,
        segment_label=long_string(segment.label),
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.property_type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=long_string(model.name),
            family=concept(context.algorithm_family),
            version=long_string(model.version),
            source=long_string(model.manufacturer),
            parameters={DIGEST: model.digest},
        ),
        tracking_uid=context.tracking_uid(model, key),
        tracking_id=ascii_text(identifier),
        display_color=CIELabColor.from_rgb(*segment.rgb),
        anatomic_regions=None if segment.region is None else [concept(segment.region)],
    )
    if segment.laterality is not None:
        _set_laterality(description, segment, code_item(segment.laterality))
    if piece.parts > 1:
        _say_cut(description, piece)
    return description


def _say_cut(description: Dataset, piece: Piece) -> None:
    """Say that this is not the whole segment: in the label, which every viewer shows, and at length."""
    first, last = int(piece.slices[0]) + 1, int(piece.slices[-1]) + 1
    description.SegmentLabel = _with_end(description.SegmentLabel, f" (part {piece.part} of {piece.parts})")
    description.SegmentDescription = (
        f"Not the whole segment: part {piece.part} of {piece.parts}, from slice {first} to slice {last} of the source "
        "series, counted along the normal of the slices. The other parts are in other objects of this series, under "
        "the same Tracking UID."
    )


def _set_laterality(description: SegmentDescription, segment: Segment, laterality: Dataset) -> None:
    """Modify by a side what has one (PS3.3 C.8.20.4), which highdicom's description has no argument for.

    A kidney has a side. A tumour has none, but the lung that it is in has: where a region is given, the side of what is
    no anatomy itself is the region's.
    """
    if segment.region is None or segment.category.value in _ANATOMY:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = ItemSequence([laterality])
    else:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = ItemSequence([laterality])
