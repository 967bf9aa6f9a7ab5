"""What an RT Structure Set says of a region of interest, in each of its three sequences (PS3.3 C.8.8.5, .6 and .8)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.codes import LONGEST, code_item, concept, long_string
from sr_writer.context import ResultContext
from sr_writer.equipment import DIGEST
from study.codes import ANATOMICAL_STRUCTURE, TISSUE
from study.imaging import ModelIdentity, Segment

_ORGAN = "ORGAN"
_ANATOMY = frozenset({ANATOMICAL_STRUCTURE.value, TISSUE.value})
"""Categories of what has a side itself, if it is one of two (CID 7150)."""


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
    item.ROIGenerationDescription = long_string(f"{model.name} {model.version}"[:LONGEST])
    item.ROIDerivationAlgorithmIdentificationSequence = AlgorithmIdentificationSequence(
        name=long_string(model.name),
        family=concept(context.algorithm_family),
        version=long_string(model.version),
        source=long_string(model.manufacturer),
        parameters={DIGEST: model.digest},
    )
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
        # The side of what is no anatomy itself is that of the region that it lies in, as in the Segmentation
        if region is None or segment.category.value in _ANATOMY:
            property_type.SegmentedPropertyTypeModifierCodeSequence = side
        else:
            region.AnatomicRegionModifierSequence = side
    item.RTROIInterpretedType = _ORGAN if segment.category.value == ANATOMICAL_STRUCTURE.value else ""
    item.ROIInterpreter = ""  # Type 2: nobody
    return item
