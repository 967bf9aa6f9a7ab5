"""One finding as a measurement group: region, numbers, and in words what limits them (PS3.16 TID 1411, TID 1501)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContentSequence,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.codes import concept
from sr_writer.context import ResultContext
from sr_writer.equipment import digest_parameter
from sr_writer.seg.describing import tracking_of
from sr_writer.sr.changes import change_items
from sr_writer.sr.regions import Outlined, image_regions
from sr_writer.sr.segment_reference import SegmentReference
from sr_writer.sr.statements import for_reading, remarks_on
from sr_writer.sr.stating import comment
from sr_writer.texts import ascii_text, long_string
from study.imaging import Finding, LabelMap, ModelIdentity, ResultSet
from study.imaging import Measurement as Measured

Group = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


def measurement_group(
    finding: Finding,
    place: Outlined | SegmentReference,
    label_map: LabelMap | None,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    remarks: Sequence[str] = (),
) -> Group:
    """Return the group of one finding.

    With a region, drawn or a segment of a Segmentation, it is TID 1411; without, as from a model that gives no label
    map, TID 1501, since a volumetric group must have a region. Volumes never stand in a planar group (TID 1410).

    Parameters
    ----------
    place
        Where the region is.
    sources
        Headers of the source images in slice order.
    remarks
        What else a reader must know of the group, in words.
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
    if isinstance(place, SegmentReference):
        segment = place.content(str(sources[0].SeriesInstanceUID))
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(**arguments, referenced_segment=segment)
    elif label_map is not None and place.slices:
        regions = list(image_regions(finding, place, label_map, sources))
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(**arguments, referenced_regions=regions)
    else:
        group = MeasurementsAndQualitativeEvaluations(**arguments)
    group[0].ContinuityOfContent = "SEPARATE"
    content = group[0].ContentSequence
    if finding.incomplete:
        content.append(
            CodeContentItem(concept(codes.EXTENT), concept(codes.INCOMPLETE), RelationshipTypeValues.CONTAINS)
        )
    for words in (*remarks_on(finding), *finding.earlier_notes, *remarks):
        content.append(comment(words))
    return group


def _measurement(measured: Measured) -> Measurement:
    short = for_reading(measured)
    written = Measurement(
        name=concept(short.name),
        value=short.value,
        unit=concept(short.unit),
        derivation=None if short.derivation is None else concept(short.derivation),
    )
    changes = list(change_items(short))
    if changes:
        item = written[0]
        item.ContentSequence = ContentSequence([*item.get("ContentSequence", ()), *changes])
    return written


def on_contours(finding: Finding, outlined: Outlined, result_set: ResultSet, *, is_segmented: bool) -> Iterator[str]:
    """Yield what a reader must know of the contours of a finding, in words.

    Parameters
    ----------
    is_segmented
        Whether the label map is written as a Segmentation too.
    """
    if not outlined.slices:
        return
    drawn, of_region = len(outlined.slices), outlined.slices_of_region
    selection = f"Contours are a selection: on {drawn} of {of_region} slices"
    whole = f"Contours are on {'all ' if drawn > 1 else ''}{drawn} slice{'s' if drawn > 1 else ''} of the region"
    yield f"{selection if drawn < of_region else whole}, the key image first; outer outlines, holes are not drawn."
    if is_segmented and result_set.label_map is not None:
        yield _where_the_whole_is(finding, result_set.label_map, result_set.findings)


def _where_the_whole_is(finding: Finding, segmented: LabelMap, findings: Sequence[Finding]) -> str:
    segments = [segment for segment in segmented.segments if segment.value in finding.segment_values]
    if len(segments) == 1 and tracking_of(segments[0], findings)[0] == finding.key:
        return "The whole region is the Segmentation's segment of the same Tracking UID."
    labels = ", ".join(segment.label for segment in segments)
    return f"The whole region is these segments of the Segmentation together: {labels}."
