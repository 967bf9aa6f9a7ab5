"""What an RT Structure Set says of a region of interest, in each of its three sequences (PS3.3 C.8.8.5, .6 and .8)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.codes import code_item
from sr_writer.context import ResultContext
from sr_writer.equipment import algorithm_identification, name_and_version
from study.codes import ANATOMICAL_STRUCTURE
from study.imaging import ModelIdentity, Segment

_ORGAN = "ORGAN"


def roi_item(
    number: int, name: str, frame_of_reference_uid: str, remarks: str, model: ModelIdentity, context: ResultContext
) -> Dataset:
    """Return a region's item of the Structure Set ROI Sequence: its number and name, and how it was made.

    Parameters
    ----------
    remarks
        What limits it, in words; "" where nothing does.
    """
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_of_reference_uid
    item.ROIName = name
    if remarks:
        item.ROIDescription = remarks
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = name_and_version(model)
    item.ROIDerivationAlgorithmIdentificationSequence = algorithm_identification(model, context)
    return item


def contoured_item(number: int, segment: Segment, contours: Sequence[Dataset]) -> Dataset:
    """Return a region's item of the ROI Contour Sequence: its colour, and its contours, numbered from 1."""
    for index, contour in enumerate(contours, 1):
        contour.ContourNumber = index
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(segment.rgb)
    item.RecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(*segment.rgb).value)
    item.ContourSequence = ItemSequence(contours)
    return item


def observation_item(number: int, segment: Segment) -> Dataset:
    """Return a region's item of the RT ROI Observations Sequence: what it is.

    What is anatomy is an ORGAN. Any other type (GTV, ...) is a radiotherapist's to give, so it stays empty (Type 2).
    """
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    property_type = code_item(segment.property_type)
    item.SegmentedPropertyCategoryCodeSequence = ItemSequence([code_item(segment.category)])
    item.RTROIIdentificationCodeSequence = ItemSequence([property_type])
    region = None if segment.region is None else code_item(segment.region)
    if region is not None:
        item.AnatomicRegionSequence = ItemSequence([region])
    if segment.laterality is not None:
        side = ItemSequence([code_item(segment.laterality)])
        if region is not None and segment.side_is_of_region:
            region.AnatomicRegionModifierSequence = side
        else:
            property_type.SegmentedPropertyTypeModifierCodeSequence = side
    item.RTROIInterpretedType = _ORGAN if segment.category.value == ANATOMICAL_STRUCTURE.value else ""
    item.ROIInterpreter = ""  # Type 2: nobody
    return item
