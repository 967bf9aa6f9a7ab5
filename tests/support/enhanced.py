"""Make Enhanced multi-frame images from arrays: any orientation, frames in any order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid

from study.frames import flattened
from tests.support.series import ct_series, save_series

_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def enhanced_image(
    voxels: NDArray[np.generic],
    affine: NDArray[np.float64],
    order: Sequence[int],
    modality: str = "CT",
    places: Sequence[NDArray[np.float64]] = (),
) -> Dataset:
    """Return an Enhanced CT or MR Image, which says where it lies in its functional groups alone.

    Parameters
    ----------
    voxels
        (slices, rows, columns) [HU].
    order
        Which slice each frame shows: frame 1 the slice `order[0]`.
    modality
        "CT", where all frames share orientation and spacing, or "MR", where each has its own.
    places
        The first position of each slice in LPS [mm], where they do not follow from the affine.
    """
    slices = ct_series(voxels, affine)
    for image, place in zip(slices, places, strict=False):
        image.ImagePositionPatient = [round(float(value), 6) for value in place]
    multi = slices[0]
    frames = [_groups(slices[index]) for index in order]
    multi.PixelData = b"".join(slices[index].PixelData for index in order)
    multi.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    multi.file_meta.MediaStorageSOPClassUID = multi.SOPClassUID
    multi.SOPInstanceUID = multi.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    multi.Modality = modality
    multi.NumberOfFrames = len(frames)
    shared = Dataset()
    if modality == "CT":
        shared.PlaneOrientationSequence = frames[0].PlaneOrientationSequence
        shared.PixelMeasuresSequence = frames[0].PixelMeasuresSequence
        for frame in frames:
            del frame.PlaneOrientationSequence, frame.PixelMeasuresSequence
    multi.SharedFunctionalGroupsSequence = [shared]
    multi.PerFrameFunctionalGroupsSequence = frames
    for keyword in _PLANE:
        del multi[keyword]
    return multi


def _groups(image: Dataset) -> Dataset:
    position, orientation, measures, groups = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = image.ImagePositionPatient
    orientation.ImageOrientationPatient = image.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    groups.PlanePositionSequence = [position]
    groups.PlaneOrientationSequence = [orientation]
    groups.PixelMeasuresSequence = [measures]
    return groups


def frame_headers(multi: Dataset, order: Sequence[int], folder: Path) -> list[Dataset]:
    """Return the header of each frame in slice order, as a reader finds them: from a file, without pixels.

    Parameters
    ----------
    order
        Which slice each frame shows.
    """
    (path,) = save_series([multi], folder)
    read = dcmread(path, stop_before_pixels=True)
    return [flattened(read, order.index(index) + 1) for index in range(len(order))]
