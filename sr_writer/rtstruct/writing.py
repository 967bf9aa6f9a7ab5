"""Write a label map as an RT Structure Set (PS3.3 A.19): a region of interest for each segment, as contours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import RTStructureSetStorage
from scipy import ndimage

from sr_writer.codes import identify_private_schemes
from sr_writer.context import ResultContext
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.material import Material
from sr_writer.region.areas import Areas, present_segments
from sr_writer.rtstruct.contours import contour_items, plane_of
from sr_writer.rtstruct.describing import contoured_item, observation_item, roi_item
from sr_writer.source.grid import demand_grid
from sr_writer.source.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.source.images import instance_items
from sr_writer.texts import ascii_text, long_string, with_end
from study.forms import Variant
from study.imaging import LabelMap, ModelIdentity, ResultSet, Segment

_STUDY = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, and still what a reference to a study says that it is."""
_LONGEST_TEXT = 1024  # characters of VR ST (PS3.5 6.2)
_CUT = "..."

Contours = Mapping[int, Sequence[Dataset]]
"""Items of a Contour Sequence by label map value."""


def write_structure_sets(material: Material, variant: Variant) -> list[Dataset]:
    """Return a label map as an RT Structure Set, unapproved, ready to be saved; none where no segment has a voxel.

    Regions of interest have the numbers, names and colours of the Segmentation's segments; segments without a voxel are
    left out. Each contour lies in the plane of the source image that it refers to.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If the label map has a value that no segment declares, or the source images have no place in the patient.
    """
    label_map, areas = material.result_set.label_map, material.areas
    if label_map is None or areas is None or not material.has_voxels:
        return []
    sources, model, context = material.sources, material.model, material.context
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    demand_grid(label_map, sources)
    segments = present_segments(label_map, areas)
    structure_set = Dataset()
    structure_set.SOPClassUID = RTStructureSetStorage
    structure_set.SOPInstanceUID = context.uid(model, "instance", variant)
    _set_series(structure_set, model, context, variant)
    _set_references(structure_set, sources)
    _set_regions(structure_set, segments, contours(label_map, segments, areas, sources), material)
    _set_names(structure_set, material, variant)
    set_equipment(structure_set, model)
    add_contributing_equipment(structure_set, model)
    _set_times(structure_set, context, sources[0])
    identify_private_schemes(structure_set)
    set_identity(structure_set, sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(structure_set, sources[0])
    return [structure_set]


def contours(label_map: LabelMap, segments: Sequence[Segment], areas: Areas, sources: Sequence[Dataset]) -> Contours:
    """Return the contours of each segment, slice by slice in slice order.

    Parameters
    ----------
    areas
        What `areas_by_slice` gives.
    """
    found: dict[int, list[Dataset]] = {segment.value: [] for segment in segments}
    values = np.array(sorted(found))
    for index in map(int, np.flatnonzero(areas[:, values].any(axis=1))):
        plane = plane_of(sources[index])
        shown = [int(value) for value in values if areas[index, value]]
        for layer in label_map.layers:
            image = layer[index]
            boxes = ndimage.find_objects(image, max_label=shown[-1])
            for value in shown:
                box = boxes[value - 1]
                if box is not None:
                    found[value] += contour_items(image[box] == value, (box[0].start, box[1].start), plane)
    return found


def _set_series(structure_set: Dataset, model: ModelIdentity, context: ResultContext, variant: Variant) -> None:
    """Make it a series of its own (RT Series Module, PS3.3 C.8.8.1)."""
    structure_set.Modality = "RTSTRUCT"
    structure_set.SeriesInstanceUID = context.uid(model, "series", variant)
    structure_set.SeriesNumber = context.series_number(variant.form)
    structure_set.SeriesDescription = context.series_description(model, "structure set", variant)
    structure_set.InstanceNumber = 1
    structure_set.OperatorsName = ""  # Type 2: nobody


def _set_references(structure_set: Dataset, sources: Sequence[Dataset]) -> None:
    """Refer to the source series and each of its images, in the Frame of Reference of the first one.

    Slices may have Frames of Reference of their own; as in the Segmentation the first one's stands for all.
    """
    first = sources[0]
    structure_set.FrameOfReferenceUID = first.FrameOfReferenceUID
    structure_set.PositionReferenceIndicator = ""
    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = ItemSequence(instance_items(sources))
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = ItemSequence([series])
    frame_of_reference = Dataset()
    frame_of_reference.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame_of_reference.RTReferencedStudySequence = ItemSequence([study])
    structure_set.ReferencedFrameOfReferenceSequence = ItemSequence([frame_of_reference])


def _set_regions(structure_set: Dataset, segments: Sequence[Segment], drawn: Contours, material: Material) -> None:
    """Describe each region where the standard has it: definition, contours, what it is (PS3.3 C.8.8.5, .6 and .8)."""
    numbered = list(zip(range(1, len(segments) + 1), segments, names(segments), strict=True))
    frame_of_reference, result = structure_set.FrameOfReferenceUID, material.result_set
    structure_set.StructureSetROISequence = ItemSequence(
        [
            roi_item(number, name, frame_of_reference, _remarks(segment, result), material.model, material.context)
            for number, segment, name in numbered
        ]
    )
    structure_set.ROIContourSequence = ItemSequence(
        [contoured_item(number, segment, drawn[segment.value]) for number, segment, _ in numbered]
    )
    structure_set.RTROIObservationsSequence = ItemSequence(
        [observation_item(number, segment) for number, segment, _ in numbered]
    )


def names(segments: Sequence[Segment]) -> list[str]:
    """Return the ROI Name of each segment: its label, with its number where several have the same one.

    Readers find regions by their names, and many do not tell capitals.
    """
    labels = [long_string(segment.label) for segment in segments]
    times = Counter(label.casefold() for label in labels)
    return [
        label if times[label.casefold()] == 1 else with_end(label, f" [{number}]")
        for number, label in enumerate(labels, 1)
    ]


def _remarks(segment: Segment, result_set: ResultSet) -> str:
    """Return what limits the region of a segment, in words: why it is not whole, and what else was said of it."""
    words: list[str] = []
    for finding in result_set.findings:
        if finding.segment_values == (segment.value,):
            words += filter(None, (finding.incomplete_words, *finding.notes))
    return _text(words)


def _set_names(structure_set: Dataset, material: Material, variant: Variant) -> None:
    """Say what the set is, at the three lengths that there are, and that nobody approved it (PS3.3 C.8.8.16)."""
    model, context = material.model, material.context
    label = ascii_text(variant.description_prefix + (context.description or model.name))
    structure_set.StructureSetLabel = long_string(label[:16], 16)
    structure_set.StructureSetName = structure_set.SeriesDescription
    made_by = f"Made by {model.name} {model.version}, not reviewed by anybody."
    structure_set.StructureSetDescription = _text([made_by, *material.result_set.limits])
    structure_set.ApprovalStatus = "UNAPPROVED"


def _text(sentences: Sequence[str]) -> str:
    """Return sentences as one text of VR ST, visibly cut where it is too long."""
    text = ascii_text(" ".join(sentences))
    return text if len(text) <= _LONGEST_TEXT else with_end(text, _CUT, _LONGEST_TEXT)


def _set_times(structure_set: Dataset, context: ResultContext, source: Dataset) -> None:
    set_times(structure_set, context, source)
    structure_set.StructureSetDate, structure_set.StructureSetTime = (
        structure_set.ContentDate,
        structure_set.ContentTime,
    )
    del structure_set.ContentDate, structure_set.ContentTime  # no attributes of this IOD
