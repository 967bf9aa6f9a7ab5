"""Write a label map as a DICOM Segmentation (PS3.3 A.51): BINARY, on the grid of its source images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.codes import LONGEST, ascii_text, code_item, concept, identify_private_schemes, long_string
from sr_writer.context import ResultContext
from sr_writer.equipment import DIGEST, add_contributing_equipment, set_equipment, set_times
from sr_writer.region.areas import Areas, areas_by_slice, overlap, present_segments
from sr_writer.source.grid import demand_grid, slice_step
from sr_writer.source.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.source.stand_ins import planes, put_real_planes
from study.codes import ANATOMICAL_STRUCTURE, TISSUE
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import Finding, LabelMap, Labels, ModelIdentity, ResultSet, Segment

BINARY = Variant(Form.SEG)

_ANATOMY = frozenset({ANATOMICAL_STRUCTURE.value, TISSUE.value})
"""Categories of what has a place in the body by itself, and a side if it is one of two (CID 7150)."""


def write_seg(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    areas: Areas | None = None,
    variant: Variant = BINARY,
) -> Dataset:
    """Return the label map as a BINARY Segmentation, ready to be saved.

    Empty frames and segments without a voxel are left out; the others are numbered from 1. Every frame has the plane of
    the source image that it refers to.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    areas
        What `areas_by_slice` gives for the label map, where it was asked before.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If there is no label map, no voxel in it, a value that no segment declares, or the source images have no place
        in the patient.
    """
    label_map = result_set.label_map
    if label_map is None:
        raise EncodingError("There is no label map to write a Segmentation of.")
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    demand_grid(label_map, sources)
    segments = present_segments(label_map, areas_by_slice(label_map) if areas is None else areas)
    if not segments:
        raise EncodingError("The label map has no voxel, so there is no Segmentation to write.")
    step = slice_step(label_map)
    segmentation = Segmentation(
        source_images=planes(sources, len(label_map.layers), step),
        pixel_array=_renumbered(label_map, segments),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, segment, result_set, model, context) for number, segment in enumerate(segments, 1)
        ],
        series_instance_uid=context.uid(model, "series", variant),
        series_number=context.series_number(variant.form),
        sop_instance_uid=context.uid(model, "instance", variant),
        instance_number=1,
        manufacturer=long_string(model.manufacturer),
        manufacturer_model_name=long_string(model.name),
        software_versions=long_string(model.version),
        device_serial_number=long_string(model.serial),
        content_label="SEGMENTATION",
        content_description=long_string(f"{model.name} {model.version}"[:LONGEST]),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        series_description=context.series_description(model, "segmentation", variant),
    )
    segmentation.ContentCreatorName = ""  # Type 2: nobody in person (PS3.3 10.9)
    put_real_planes(segmentation, sources, len(label_map.layers))
    segmentation.SegmentsOverlap = "YES" if overlap(label_map) else "NO"
    _set_spacing(segmentation, None if label_map.offsets else step)
    _set_dimension_uid(segmentation, context.uid(model, "dimensions", variant))
    set_equipment(segmentation, model)
    add_contributing_equipment(segmentation, model)
    set_times(segmentation, context, sources[0])
    identify_private_schemes(segmentation)
    set_identity(segmentation, sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(segmentation, sources[0])
    return segmentation


def tracking_of(segment: Segment, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return (key, Tracking ID) of a segment: those of the finding about it alone, where there is one."""
    for finding in findings:
        if finding.segment_values == (segment.value,):
            return finding.key, finding.label
    return f"segment-{segment.value}", segment.label


def _renumbered(label_map: LabelMap, segments: Sequence[Segment]) -> Labels:
    """Return (layers x slices, rows, columns): the layers one after the other, with the values 1..N of the SEG."""
    numbers = {segment.value: number for number, segment in enumerate(segments, 1)}
    as_they_are = all(value == number for value, number in numbers.items())
    layers = [layer if as_they_are else _mapped(layer, numbers) for layer in label_map.layers]
    return layers[0] if len(layers) == 1 else cast(Labels, np.concatenate(layers))


def _mapped(layer: Labels, numbers: dict[int, int]) -> Labels:
    table = np.zeros(int(np.iinfo(layer.dtype).max) + 1, dtype=layer.dtype)
    for value, number in numbers.items():
        if value < len(table):
            table[value] = number
    return table[layer]


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
            parameters={DIGEST: model.digest},
        ),
        tracking_uid=context.tracking_uid(model, key),
        tracking_id=ascii_text(identifier),
        display_color=CIELabColor.from_rgb(*segment.rgb),
        anatomic_regions=None if segment.region is None else [concept(segment.region)],
    )
    if segment.laterality is not None:
        _set_laterality(description, segment, code_item(segment.laterality))
    return description


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


def _set_spacing(segmentation: Dataset, spacing: float | None) -> None:
    """Say how far apart the slices of the whole grid are [mm], not those of the frames that are left; None if unevenly.

    highdicom saw made-up planes, and speaks of theirs.
    """
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if spacing is None:
        measures.pop("SpacingBetweenSlices", None)
        segmentation.pop("DimensionOrganizationType", None)
    else:
        measures.SpacingBetweenSlices = f"{spacing:.10g}"


def _set_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """Replace highdicom's random Dimension Organization UID: the same inputs give the same bytes."""
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for dimension in segmentation.DimensionIndexSequence:
        dimension.DimensionOrganizationUID = uid
