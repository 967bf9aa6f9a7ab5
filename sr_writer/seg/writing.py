"""Write a label map as DICOM Segmentations (PS3.3 A.51): BINARY or LABELMAP, on the grid of their source images.

highdicom makes each object on a small plane in which every segment occurs once: modules, segments, shared functional
groups. The frames, which are what takes time, are put in afterwards: their functional groups by `sr_writer.seg.frames`,
their pixels by `sr_writer.seg.pixels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from highdicom.seg import Segmentation, SegmentationTypeValues
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from sr_writer.codes import identify_private_schemes
from sr_writer.context import ResultContext
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.region.areas import Areas, areas_by_slice, overlap, present_segments
from sr_writer.seg.describing import content_description, segment_descriptions
from sr_writer.seg.frames import Frame, SourceReferences, binary_frames, label_map_frames, set_frames
from sr_writer.seg.objects import ObjectContent, binary_objects, label_map_objects
from sr_writer.seg.pixels import bit_frames, label_frames, native, run_length_encoded, segments_overlap
from sr_writer.source.carrying import set_element, tag_of
from sr_writer.source.grid import demand_grid, slice_step
from sr_writer.source.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.source.stand_ins import plane
from sr_writer.texts import long_string
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import LabelMap, ModelIdentity, ResultSet

BINARY = Variant(Form.SEG)

_UNDEFINED = 0xFFFFFFFF
_BACKGROUND = 0
"""The pixel value of a label map that is no segment."""


@dataclass(frozen=True, eq=False)
class _Making:
    """All that the objects of one variant have in common."""

    result_set: ResultSet
    label_map: LabelMap
    sources: Sequence[Dataset]
    model: ModelIdentity
    context: ResultContext
    variant: Variant

    @property
    def is_label_map(self) -> bool:
        return self.variant.form is Form.SEG_LABELMAP

    @cached_property
    def references(self) -> SourceReferences:
        """Return what is said of the source images."""
        return SourceReferences(self.sources)


def write_seg(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    areas: Areas | None = None,
    variant: Variant = BINARY,
) -> list[Dataset]:
    """Return the label map as Segmentations of one series, ready to be saved: one object, as a rule.

    Segments without a voxel are left out; the others are numbered from 1 in each object. Every frame has the plane of
    the source image that it refers to. A BINARY object has a frame for each segment on each slice that has it. A
    LABELMAP object has one for every slice from the first with a voxel to the last; where segments overlap, each layer
    has objects of its own. No object has more frames than the variant allows; a segment is cut only where it alone has
    more, and says so.

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
    areas = areas_by_slice(label_map) if areas is None else areas
    making = _Making(result_set, label_map, sources, model, context, variant)
    return [_object(making, content) for content in _contents(making, areas)]


def _contents(making: _Making, areas: Areas) -> list[ObjectContent]:
    segments = present_segments(making.label_map, areas)
    if not segments:
        raise EncodingError("The label map has no voxel, so there is no Segmentation to write.")
    most = making.variant.most_frames
    if not making.is_label_map:
        return binary_objects(making.label_map, segments, areas, most)
    overlapping = overlap(making.label_map)
    return label_map_objects(making.label_map, segments, areas, most, overlapping=overlapping)


def _object(making: _Making, content: ObjectContent) -> Dataset:
    """Return one Segmentation object."""
    model, context, source = making.model, making.context, making.sources[0]
    segmentation = _without_frames(making, content)
    frames = label_map_frames(content) if making.is_label_map else binary_frames(content)
    identify_private_schemes(segmentation)
    set_frames(segmentation, frames, making.references)
    segmentation.Rows, segmentation.Columns = making.label_map.values.shape[1:]
    for element in making.references.of_object:
        set_element(segmentation, element)
    _set_spacing(segmentation, making.label_map, frames)
    _set_dimension_uid(segmentation, _uid(making, "dimensions", content))
    set_equipment(segmentation, model)
    add_contributing_equipment(segmentation, model)
    set_times(segmentation, context, source)
    _set_pixels(segmentation, making, content, frames)
    set_identity(segmentation, source, allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(segmentation, source)
    return segmentation


def _without_frames(making: _Making, content: ObjectContent) -> Dataset:
    """Return what highdicom makes of one row of pixels with each segment of an object once."""
    model, context, variant = making.model, making.context, making.variant
    numbers = np.arange(1, len(content.pieces) + 1, dtype=np.uint16)
    made = Segmentation(
        source_images=[plane(making.sources[0], len(numbers), slice_step(making.label_map))],
        pixel_array=numbers.reshape(1, 1, -1),
        segmentation_type=SegmentationTypeValues.LABELMAP if making.is_label_map else SegmentationTypeValues.BINARY,
        segment_descriptions=segment_descriptions(content, making.result_set, model, context),
        series_instance_uid=context.uid(model, "series", variant),
        series_number=context.series_number(variant.form),
        sop_instance_uid=_uid(making, "instance", content),
        instance_number=content.number,
        manufacturer=long_string(model.manufacturer),
        manufacturer_model_name=long_string(model.name),
        software_versions=long_string(model.version),
        device_serial_number=long_string(model.serial),
        content_label="SEGMENTATION",
        content_description=content_description(content, model),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        series_description=context.series_description(model, "segmentation", variant),
    )
    made.ContentCreatorName = ""  # Type 2: nobody in person (PS3.3 10.9)
    # Its tables of frames are those of the stand-in, so it goes on as plain elements
    segmentation = Dataset()
    segmentation.update(made)
    return segmentation


def _uid(making: _Making, role: str, content: ObjectContent) -> str:
    """Return a UID of one object of the series."""
    numbered = role if content.number == 1 else f"{role}:{content.number}"
    return making.context.uid(making.model, numbered, making.variant)


def _set_pixels(segmentation: Dataset, making: _Making, content: ObjectContent, frames: Sequence[Frame]) -> None:
    if not making.is_label_map:
        segmentation.SegmentsOverlap = "YES" if segments_overlap(making.label_map, content) else "NO"
        _set_pixel_data(segmentation, "OB", bit_frames(making.label_map, content, frames))
        return
    _put_background_last(segmentation)
    set_element(segmentation, DataElement(tag_of("PixelPaddingValue"), "US", _BACKGROUND))
    planes = label_frames(making.label_map, content, frames)
    if making.variant.compressed:
        _set_pixel_data(segmentation, "OB", run_length_encoded(planes), encapsulated=True)
        segmentation.file_meta = FileMetaDataset()
        segmentation.file_meta.TransferSyntaxUID = RLELossless
    else:
        _set_pixel_data(segmentation, "OB" if segmentation.BitsAllocated == 8 else "OW", native(planes))


def _set_pixel_data(segmentation: Dataset, vr: str, content: bytes | bytearray, *, encapsulated: bool = False) -> None:
    length = _UNDEFINED if encapsulated else len(content)
    value = cast(bytes, content)  # what reads like bytes is not copied to be some
    set_element(segmentation, RawDataElement(tag_of("PixelData"), vr, length, value, 0, False, True))


def _put_background_last(segmentation: Dataset) -> None:
    """Describe the background, value 0, after all segments; highdicom describes it before them.

    The standard wants each pixel value described, in any order (PS3.3 C.8.20.2.3.3). Viewers that count descriptions
    from 1 in place of reading the Segment Number then still give each segment its own name and colour.
    """
    background, *segments = segmentation.SegmentSequence
    segmentation.SegmentSequence = ItemSequence([*segments, background])


def _set_spacing(segmentation: Dataset, label_map: LabelMap, frames: Sequence[Frame]) -> None:
    """Say how far apart the slices of the whole grid are [mm], not those of the frames that are left.

    Unevenly spaced slices have no such distance. Frames that differ by their place alone, without a gap, are a volume
    (PS3.3 C.7.6.17.3).
    """
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if label_map.offsets:
        measures.pop("SpacingBetweenSlices", None)
        return
    measures.SpacingBetweenSlices = f"{slice_step(label_map):.10g}"
    steps = set(np.diff([frame.slice_index for frame in frames]).tolist())
    if steps == {-1} and len({frame.segment_number for frame in frames}) == 1:
        segmentation.DimensionOrganizationType = "3D"


def _set_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """Replace highdicom's random Dimension Organization UID: the same inputs give the same bytes.

    Each object has its own: each counts its own frames.
    """
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for dimension in segmentation.DimensionIndexSequence:
        dimension.DimensionOrganizationUID = uid
