"""One finding as a measurement group: contours, numbers, and in words what limits them (PS3.16 TID 1411, TID 1501)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContentSequence,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.codes import ascii_text, concept, long_string
from sr_writer.context import ResultContext
from sr_writer.contours import Mask, outlines
from sr_writer.regions import Areas, slices_to_show
from study.errors import EncodingError
from study.imaging import Finding, LabelMap, ModelIdentity
from study.imaging import Measurement as Measured

Group = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, eq=False)
class Outlined:
    """Where a finding is drawn.

    Parameters
    ----------
    slices
        Indices of the slices with contours, the key image first.
    slices_of_region
        How many slices the region has.
    """

    slices: tuple[int, ...] = ()
    slices_of_region: int = 0


def where_to_outline(findings: Sequence[Finding], areas: Areas | None) -> list[Outlined]:
    """Choose the slices on which each finding is drawn; none where it has no voxel, or there is no label map."""
    chosen: list[Outlined] = []
    for finding in findings:
        values = [] if areas is None else [value for value in finding.segment_values if value < areas.shape[1]]
        if areas is None or not values or not finding.detected:
            chosen.append(Outlined())
            continue
        avoid = {
            other.slices[0]
            for earlier, other in zip(findings, chosen, strict=False)
            if other.slices and set(earlier.segment_values) & set(values)
        }
        slices, touched = slices_to_show(areas, values, avoid=avoid)
        chosen.append(Outlined(tuple(slices), touched))
    return chosen


def measurement_group(
    finding: Finding,
    outlined: Outlined,
    label_map: LabelMap | None,
    images: Mapping[int, Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    segmentation_is_written: bool,
) -> Group:
    """Return the group of one finding.

    With contours it is TID 1411 with SCOORDs, the form that viewers show; without, as from a model that gives no label
    map, TID 1501, since a volumetric group must have a region. Volumes never stand in a planar group (TID 1410).

    Parameters
    ----------
    images
        Stand-ins of the source images, by slice.
    """
    arguments: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(context.tracking_uid(model, finding.key), ascii_text(finding.label)),
        "finding_type": concept(finding.finding),
        "finding_sites": [FindingSite(concept(finding.site))],
        "algorithm_id": AlgorithmIdentification(long_string(model.name), long_string(model.version)),
        "measurements": [_measurement(each) for each in finding.measurements],
    }
    group: Group
    if label_map is not None and outlined.slices:
        regions = list(_regions(finding, outlined, label_map, images))
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(**arguments, referenced_regions=regions)
        group[0].ContentTemplateSequence[0].TemplateIdentifier = "1411"
    else:
        group = MeasurementsAndQualitativeEvaluations(**arguments)
    content = group[0].ContentSequence
    if finding.incomplete:
        content.append(
            CodeContentItem(concept(codes.EXTENT), concept(codes.INCOMPLETE), RelationshipTypeValues.CONTAINS)
        )
    for words in _comments(finding, outlined, label_map if segmentation_is_written else None):
        content.append(comment(words))
    return group


def not_detected(finding: Finding, model: ModelIdentity, context: ResultContext) -> CodeContentItem:
    """Return the statement that a finding was looked for and not found, with its own remarks below it.

    It belongs among the report's Qualitative Evaluations: a measurement group without a region leaves the whole
    viewport of OHIF blank.
    """
    item = CodeContentItem(concept(codes.DETECTION), concept(codes.NOT_DETECTED), RelationshipTypeValues.CONTAINS)
    tracking = TrackingIdentifier(context.tracking_uid(model, finding.key), ascii_text(finding.label))
    about = [
        CodeContentItem(concept(name), concept(value), RelationshipTypeValues.HAS_CONCEPT_MOD)
        for name, value in ((codes.FINDING, finding.finding), (codes.FINDING_SITE, finding.site))
    ]
    remarks = [comment(words, RelationshipTypeValues.HAS_PROPERTIES) for words in _comments(finding, Outlined(), None)]
    item.ContentSequence = ContentSequence([*tracking, *about, *remarks])
    return item


def comment(words: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS) -> TextContentItem:
    """Return a remark in words."""
    return TextContentItem(concept(codes.COMMENT), ascii_text(words), relationship)


def _measurement(measured: Measured) -> Measurement:
    if not math.isfinite(measured.value):
        raise EncodingError(f"The measurement {measured.name.meaning} is {measured.value}; it must be a number.")
    return Measurement(
        name=concept(measured.name),
        value=measured.value,
        unit=concept(measured.unit),
        derivation=None if measured.derivation is None else concept(measured.derivation),
    )


def _regions(
    finding: Finding, outlined: Outlined, label_map: LabelMap, images: Mapping[int, Dataset]
) -> Iterator[ImageRegion]:
    for index in outlined.slices:
        image = SourceImageForRegion(images[index].SOPClassUID, images[index].SOPInstanceUID)
        for points in outlines(_mask(label_map, index, finding.segment_values)):
            yield ImageRegion(GraphicTypeValues.POLYLINE, points, image)


def _mask(label_map: LabelMap, index: int, values: Sequence[int]) -> Mask:
    """Return bool (rows, columns), where a slice has one of the values."""
    mask: Mask = label_map.values[index] == values[0]
    for value in values[1:]:
        mask |= label_map.values[index] == value
    return mask


def _comments(finding: Finding, outlined: Outlined, segmented: LabelMap | None) -> Iterator[str]:
    """Yield what a reader must know of the finding, in words.

    Parameters
    ----------
    segmented
        The label map, where it is written as a Segmentation too.
    """
    if not finding.detected:
        yield "Not detected: the algorithm looked for it and found nothing in these images."
    if finding.incomplete:
        yield f"Incomplete: {finding.incomplete}"
    for omission in finding.omissions:
        yield f"{omission.name.meaning} left out: {omission.reason}"
    yield from finding.notes
    if outlined.slices:
        yield (
            f"Contours are a selection: on {len(outlined.slices)} of {outlined.slices_of_region} slices, the key "
            "image first; outer outlines, holes are not drawn."
        )
    if outlined.slices and segmented is not None:
        yield _where_the_whole_is(finding, segmented)


def _where_the_whole_is(finding: Finding, segmented: LabelMap) -> str:
    if len(finding.segment_values) == 1:
        return "The whole region is the Segmentation's segment of the same Tracking UID."
    labels = [segment.label for segment in segmented.segments if segment.value in finding.segment_values]
    return f"The whole region is these segments of the Segmentation together: {', '.join(labels)}."
