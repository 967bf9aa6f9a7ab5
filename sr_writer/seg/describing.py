"""What a Segmentation says of its segments, and of itself where it is one of several (PS3.3 C.8.20.4, 10.9)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.codes import code_item, concept
from sr_writer.context import ResultContext
from sr_writer.equipment import algorithm_identification, name_and_version
from sr_writer.seg.objects import ObjectContent, Piece
from sr_writer.texts import ascii_text, long_string, with_end
from study.imaging import Finding, ModelIdentity, ResultSet, Segment


def tracking_of(segment: Segment, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return (key, Tracking ID) of a segment: those of the finding about it alone, where there is one."""
    for finding in findings:
        if finding.segment_values == (segment.value,):
            return finding.key, finding.label
    return f"segment-{segment.value}", segment.label


def segment_descriptions(
    content: ObjectContent, result_set: ResultSet, model: ModelIdentity, context: ResultContext
) -> list[SegmentDescription]:
    """Return what each segment of an object is, numbered from 1.

    A segment that is cut keeps its Tracking UID in every part; label and description say which part it is.
    """
    return [_description(number, piece, result_set, model, context) for number, piece in enumerate(content.pieces, 1)]


def content_description(content: ObjectContent, model: ModelIdentity) -> str:
    """Return what an object is: the model, and which of how many objects it is, and why there are several."""
    name = name_and_version(model)
    if content.count == 1:
        return name
    why = ", ".join(content.reasons)
    return with_end(name, f", {content.number} of {content.count} ({why})")


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
        algorithm_identification=algorithm_identification(model, context),
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
    description.SegmentLabel = with_end(description.SegmentLabel, f" (part {piece.part} of {piece.parts})")
    description.SegmentDescription = (
        f"Not the whole segment: part {piece.part} of {piece.parts}, from slice {first} to slice {last} of the source "
        "series, counted along the normal of the slices. The other parts are in other objects of this series, under "
        "the same Tracking UID."
    )


def _set_laterality(description: SegmentDescription, segment: Segment, laterality: Dataset) -> None:
    """Modify by a side what has one (PS3.3 C.8.20.4), which highdicom's description has no argument for."""
    if segment.side_is_of_region:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = ItemSequence([laterality])
    else:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = ItemSequence([laterality])
