"""Write a label map as a DICOM Segmentation (PS3.3 A.51): BINARY, on the grid of its source images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.codes import ascii_text, code_item, concept, identify_private_scheme, long_string
from sr_writer.context import SEG_SERIES, ResultContext
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.regions import Areas, areas_by_slice, present_segments
from sr_writer.stand_ins import demand_grid, stand_ins
from study.errors import EncodingError
from study.imaging import Finding, LabelMap, ModelIdentity, ResultSet, Segment


def write_seg(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    areas: Areas | None = None,
) -> Dataset:
    """Return the label map as a BINARY Segmentation, ready to be saved.

    Empty frames and segments without a voxel are left out; the others are numbered from 1. Every frame has the plane of
    the source image that it refers to.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`.
    areas
        What `areas_by_slice` gives for the label map, where it was asked before.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If there is no label map, no voxel in it, or a value that no segment declares.
    """
    label_map = result_set.label_map
    if label_map is None:
        raise EncodingError("There is no label map to write a Segmentation of.")
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    demand_grid(label_map.affine, label_map.values.shape, sources)
    segments = present_segments(label_map, areas_by_slice(label_map) if areas is None else areas)
    if not segments:
        raise EncodingError("The label map has no voxel, so there is no Segmentation to write.")
    spacing = float(np.linalg.norm(label_map.affine[:3, 0]))
    segmentation = Segmentation(
        source_images=list(stand_ins(sources, range(len(sources)), spacing).values()),
        pixel_array=_renumbered(label_map, segments),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, segment, result_set, model, context) for number, segment in enumerate(segments, 1)
        ],
        series_instance_uid=context.uid(model, "series", "seg"),
        series_number=SEG_SERIES + context.position,
        sop_instance_uid=context.uid(model, "instance", "seg"),
        instance_number=1,
        manufacturer=long_string(model.manufacturer),
        manufacturer_model_name=long_string(model.name),
        software_versions=long_string(model.version),
        device_serial_number=long_string(model.serial),
        content_label="SEGMENTATION",
        content_description=long_string(f"{model.name} {model.version}"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        series_description=context.series_description(model, "segmentation"),
    )
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = f"{spacing:.10g}"  # of the whole grid, not of the frames that are left
    _set_dimension_uid(segmentation, context.uid(model, "dimensions", "seg"))
    set_equipment(segmentation, model)
    add_contributing_equipment(segmentation, model)
    set_times(segmentation, context, sources[0])
    identify_private_scheme(segmentation)
    set_identity(segmentation, sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(segmentation, sources[0])
    return segmentation


def tracking_of(segment: Segment, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return (key, Tracking ID) of a segment: those of the finding about it alone, where there is one."""
    for finding in findings:
        if finding.segment_values == (segment.value,):
            return finding.key, finding.label
    return f"segment-{segment.value}", segment.label


def _renumbered(label_map: LabelMap, segments: Sequence[Segment]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the label map with the values 1..N of the SEG; itself where it has them already."""
    if [segment.value for segment in segments] == list(range(1, len(segments) + 1)):
        return label_map.values
    numbers = np.zeros(int(np.iinfo(label_map.values.dtype).max) + 1, dtype=label_map.values.dtype)
    for number, segment in enumerate(segments, 1):
        numbers[segment.value] = number
    return numbers[label_map.values]


def _description(
    number: int, segment: Segment, result_set: ResultSet, model: ModelIdentity, context: ResultContext
) -> SegmentDescription:
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
        ),
        tracking_uid=context.tracking_uid(model, key),
        tracking_id=ascii_text(identifier),
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )
    if segment.laterality is not None:
        # A modifier of the type (PS3.3 C.8.20.4), which highdicom's description has no argument for
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = ItemSequence([code_item(segment.laterality)])
    return description


def _set_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """Replace highdicom's random Dimension Organization UID: the same inputs give the same bytes."""
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for dimension in segmentation.DimensionIndexSequence:
        dimension.DimensionOrganizationUID = uid
