"""What highdicom is shown in place of the source images.

Real headers make highdicom refuse, and it copies what it is shown. So it sees stand-ins without any identity, and the
object gets the source's afterwards, byte for byte. A Segmentation is built on one small plane that is made up
altogether (`plane`): highdicom writes what the object says as a whole, and the frames, of which there may be thousands,
are made apart (`sr_writer.seg.frames`). So overlapping segments need no array with an axis for segments, and frames of
a multi-frame image, slices at uneven distances or with Frames of Reference of their own are nothing to trip over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from sr_writer.source.carrying import carry
from sr_writer.source.grid import slice_thickness
from sr_writer.source.identity import TYPE_2

REFERENCE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""What an image must have to be referred to from a report."""

_OF_A_PLANE = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_MADE_UP_UID = "2.25.1"


def images(sources: Sequence[Dataset], which: Sequence[int]) -> dict[int, Dataset]:
    """Return a stand-in for some of the source images, by their indices: what a report refers to, and nobody's."""
    found = {}
    for index in which:
        found[index] = _neutral()
        carry(sources[index], REFERENCE, found[index])
    return found


def plane(source: Dataset, columns: int, step: float) -> Dataset:
    """Return a made-up image of one row, oriented and spaced like a source image.

    Parameters
    ----------
    columns
        How wide it is.
    step
        How thick a voxel of the label map is where the source states no Slice Thickness [mm].
    """
    image = _neutral()
    carry(source, _OF_A_PLANE, image)
    # A class without frames: highdicom takes one image alone of a class that may have them
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = _MADE_UP_UID
    image.Rows, image.Columns = 1, columns
    image.FrameOfReferenceUID = str(source.FrameOfReferenceUID)
    image.PositionReferenceIndicator = ""
    image.SliceThickness = decimal(slice_thickness(source) or step)
    image.ImageOrientationPatient = [decimal(value) for value in source.ImageOrientationPatient]
    image.PixelSpacing = [decimal(value) for value in source.PixelSpacing]
    image.ImagePositionPatient = [decimal(0.0)] * 3
    return image


def decimal(value: float) -> DSfloat:
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
    for keyword in TYPE_2:
        setattr(empty, keyword, "")
    return empty
