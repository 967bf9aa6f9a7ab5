"""What highdicom is shown in place of the source images, and how the real ones take their place again.

Real headers make highdicom refuse, and it copies what it is shown. So it sees stand-ins without any identity, and the
object gets the source's afterwards, byte for byte. A Segmentation is built on planes that are made up altogether: one
for each slice of each layer of the label map, evenly stacked, each an image of its own. So overlapping segments need no
array with an axis for segments, and frames of a multi-frame image, slices at uneven distances or with Frames of
Reference of their own are nothing to trip over. Afterwards each frame gets the plane of its source and refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from sr_writer.source.carrying import carry
from sr_writer.source.grid import slice_thickness
from sr_writer.source.images import frame_numbers, instance_items

_REFERENCE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_OF_ALL_PLANES = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)


def images(sources: Sequence[Dataset], which: Sequence[int]) -> dict[int, Dataset]:
    """Return a stand-in for some of the source images, by their indices: what a report refers to, and nobody's."""
    found = {}
    for index in which:
        found[index] = _neutral()
        carry(sources[index], _REFERENCE, found[index])
    return found


def planes(sources: Sequence[Dataset], layers: int, step: float) -> list[Dataset]:
    """Return a made-up plane for each slice of each layer, layer after layer.

    Parameters
    ----------
    step
        How thick a voxel of the label map is where the source states no Slice Thickness [mm].
    """
    first = sources[0]
    common = _neutral()
    carry(first, _OF_ALL_PLANES, common)
    # A class without frames: highdicom takes one image alone of a class that may have them
    common.SOPClassUID = CTImageStorage
    common.FrameOfReferenceUID = str(first.FrameOfReferenceUID)
    common.PositionReferenceIndicator = ""
    common.SliceThickness = _ds(slice_thickness(first) or step)
    common.ImageOrientationPatient = [_ds(value) for value in first.ImageOrientationPatient]
    common.PixelSpacing = [_ds(value) for value in first.PixelSpacing]
    cosines = np.array(common.ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    made = []
    for plane in range(layers * len(sources)):
        layer, index = divmod(plane, len(sources))
        image = Dataset()
        image.update(common)
        image.SOPInstanceUID = _made_up_uid(plane)
        image.ImagePositionPatient = [_ds(value) for value in normal * (index * layers + layer)]
        made.append(image)
    return made


def put_real_planes(segmentation: Dataset, sources: Sequence[Dataset], layers: int) -> None:
    """Give each frame of a Segmentation that was built on `planes` the plane of its source, and the reference to it.

    The index of a frame along the slices counts those that have a frame, from 1 (PS3.3 C.7.6.17).
    """
    where = {_made_up_uid(plane): plane % len(sources) for plane in range(layers * len(sources))}
    frames = segmentation.PerFrameFunctionalGroupsSequence
    slices = [where[_source_image(frame).ReferencedSOPInstanceUID] for frame in frames]
    places = _places([_index(frame) for frame in frames], slices)
    positions = {index: _position(sources[index]) for index in places}
    references: dict[int, Dataset] = {}
    for frame, index in zip(frames, slices, strict=True):
        if index not in references:
            references[index] = _referring(_source_image(frame), sources[index])
        frame.DerivationImageSequence[0].SourceImageSequence = ItemSequence([references[index]])
        frame.PlanePositionSequence = ItemSequence([positions[index]])
        content = frame.FrameContentSequence[0]
        content.DimensionIndexValues = [*content.DimensionIndexValues[:-1], places[index]]
    instances = instance_items(sources)
    segmentation.SourceImageSequence = ItemSequence(instances)
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = ItemSequence(instances)


def _places(indices: Sequence[int], slices: Sequence[int]) -> Mapping[int, int]:
    """Return the rank of each slice that has a frame, in the order in which highdicom counts the made-up planes."""
    first: dict[int, int] = {}
    for given, index in zip(indices, slices, strict=True):
        first[index] = min(given, first.get(index, given))
    return {index: rank for rank, index in enumerate(sorted(first, key=first.__getitem__), 1)}


def _index(frame: Dataset) -> int:
    return int(frame.FrameContentSequence[0].DimensionIndexValues[-1])


def _source_image(frame: Dataset) -> Dataset:
    image: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return image


def _referring(made_up: Dataset, source: Dataset) -> Dataset:
    """Return what `made_up` says of its image, said of `source`."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    numbers = frame_numbers(source)
    if numbers is not None:
        item.ReferencedFrameNumber = numbers
    item.PurposeOfReferenceCodeSequence = made_up.PurposeOfReferenceCodeSequence
    item.SpatialLocationsPreserved = made_up.SpatialLocationsPreserved
    return item


def _position(source: Dataset) -> Dataset:
    item = Dataset()
    item.ImagePositionPatient = [_ds(value) for value in source.ImagePositionPatient]
    return item


def _made_up_uid(plane: int) -> str:
    return f"2.25.{plane + 1}"


def _ds(value: float) -> DSfloat:
    """Return a number that fits VR DS, which has 16 characters (PS3.5 6.2); many sources write more."""
    return DSfloat(float(value), auto_format=True)


def _neutral() -> Dataset:
    """Return an image that is nobody's."""
    neutral = Dataset()
    neutral.update(_nobody())
    return neutral


@cache
def _nobody() -> Dataset:
    """Return the identity that every stand-in has: none."""
    empty = Dataset()
    for keyword in _EMPTY:
        setattr(empty, keyword, "")
    return empty
