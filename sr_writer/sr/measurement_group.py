"""One finding as a measurement group: contours, numbers, and in words what limits them (PS3.16 TID 1411, TID 1501)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForRegion,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.codes import ascii_text, concept, long_string
from sr_writer.context import ResultContext
from sr_writer.equipment import digest_parameter
from sr_writer.region.areas import Areas, areas_of_region, slices_each, slices_to_show
from sr_writer.region.outlines import outlines
from sr_writer.source.images import frame_numbers
from sr_writer.sr.statements import comment, demand_finite, remarks_on
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


def where_to_outline(findings: Sequence[Finding], label_map: LabelMap | None, areas: Areas | None) -> list[Outlined]:
    """Choose the slices on which each finding is drawn; none where it has no voxel, or there is no label map.

    Parameters
    ----------
    areas
        What `areas_by_slice` gives for the label map.
    """
    if label_map is None or areas is None:
        return [Outlined()] * len(findings)
    regions = [_region(finding, label_map, areas) for finding in findings]
    most = slices_each(sum(bool(region.any()) for region in regions))
    chosen: list[Outlined] = []
    for finding, region in zip(findings, regions, strict=True):
        avoid = {
            other.slices[0]
            for earlier, other in zip(findings, chosen, strict=False)
            if other.slices and set(earlier.segment_values) & set(finding.segment_values)
        }
        slices, touched = slices_to_show(region, most, avoid)
        chosen.append(Outlined(tuple(slices), touched))
    return chosen


def _region(finding: Finding, label_map: LabelMap, areas: Areas) -> Areas:
    values = [value for value in finding.segment_values if value < areas.shape[1]]
    return areas_of_region(label_map, areas, values if finding.detected else [])


def measurement_group(
    finding: Finding,
    outlined: Outlined,
    label_map: LabelMap | None,
    sources: Sequence[Dataset],
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
    sources
        Headers of the source images in slice order.
    """
    arguments: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(context.tracking_uid(model, finding.key), ascii_text(finding.label)),
        "finding_type": concept(finding.finding),
        "finding_sites": [
            FindingSite(concept(finding.site), None if finding.laterality is None else concept(finding.laterality))
        ],
        "algorithm_id": AlgorithmIdentification(
            long_string(model.name), long_string(model.version), [digest_parameter(model)]
        ),
        "measurements": [_measurement(each) for each in finding.measurements],
    }
    group: Group
    if label_map is not None and outlined.slices:
        regions = list(_regions(finding, outlined, label_map, sources))
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


def _measurement(measured: Measured) -> Measurement:
    demand_finite(measured)
    return Measurement(
        name=concept(measured.name),
        value=measured.value,
        unit=concept(measured.unit),
        derivation=None if measured.derivation is None else concept(measured.derivation),
    )


def _regions(
    finding: Finding, outlined: Outlined, label_map: LabelMap, sources: Sequence[Dataset]
) -> Iterator[ImageRegion]:
    for index in outlined.slices:
        source = sources[index]
        image = SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, frame_numbers(source))
        for points in outlines(label_map.mask(index, finding.segment_values)):
            yield ImageRegion(GraphicTypeValues.POLYLINE, points, image)


def _comments(finding: Finding, outlined: Outlined, segmented: LabelMap | None) -> Iterator[str]:
    """Yield what a reader must know of the finding, in words.

    Parameters
    ----------
    segmented
        The label map, where it is written as a Segmentation too.
    """
    yield from remarks_on(finding)
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
