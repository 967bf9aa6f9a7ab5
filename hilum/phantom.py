"""A thorax phantom as a CT study, for the demo: made of ellipsoids by formula, so that it carries no patient.

It shares nothing with the models: it only says what is where in the patient (LPS, [mm]) and how dense it is [HU].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from study.uids import derive_uid

Plane = NDArray[np.float32]

SLICES = 208
_HEIGHT_MM = 312.0
_ROWS = _COLUMNS = 256
_PIXEL_MM = 1.5
_NOISE_HU = 18.0


@dataclass(frozen=True)
class _Ellipsoid:
    """An ellipsoid in patient coordinates (LPS) [mm] and its density [HU]."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    density: float


# Painted in this order, the later over the earlier. The left lung is the smaller one, and carries the heart's bed.
_BODY = _Ellipsoid((0, 0, 0), (168, 112, 900), 35)
_FAT = _Ellipsoid((0, 0, 0), (172, 116, 900), -95)
_RIGHT_LUNG = _Ellipsoid((-78, 4, -6), (58, 82, 128), -842)
_LEFT_LUNG = _Ellipsoid((80, 6, 0), (52, 78, 121), -868)
_HEART = _Ellipsoid((26, -34, -58), (52, 44, 56), 45)
_LIVER = _Ellipsoid((-62, -6, -150), (96, 92, 62), 62)
_SPINE = _Ellipsoid((0, 78, 0), (19, 19, 900), 310)
_EMPHYSEMA = _Ellipsoid((84, 8, 78), (24, 30, 26), -972)
_SOLIDS = (_FAT, _BODY, _RIGHT_LUNG, _LEFT_LUNG, _EMPHYSEMA, _HEART, _LIVER, _SPINE)

_TRACHEA_RADIUS = 9.0
_BRONCHUS_RADIUS = 6.5
_CARINA = (4.0, 14.0, 42.0)
_BRONCHUS_ENDS = ((-34.0, 16.0, 8.0), (40.0, 18.0, 12.0))


def write_phantom_study(folder: Path, now: datetime, slices: int = SLICES) -> list[Path]:
    """Write the phantom's CT images into `folder` and return their paths.

    Parameters
    ----------
    now
        The time of the study, which also makes its UIDs.
    slices
        How many the thorax is cut into; they cover 312 mm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = now.isoformat()
    paths = []
    thickness = _HEIGHT_MM / slices
    heights = [(index - (slices - 1) / 2) * thickness for index in range(slices)]
    for index, plane in enumerate(_planes(heights, seed=int(now.timestamp()))):
        dataset = _image(plane, index, heights[index], thickness, key, now)
        path = folder / f"{index:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _planes(heights: Sequence[float], seed: int) -> Iterator[Plane]:
    """Yield the axial planes at heights [mm] from the feet's side up, (rows, columns) [HU]."""
    noise = np.random.default_rng(seed)
    left = (np.arange(_COLUMNS) - (_COLUMNS - 1) / 2) * _PIXEL_MM
    posterior = (np.arange(_ROWS) - (_ROWS - 1) / 2) * _PIXEL_MM
    x, y = np.meshgrid(left, posterior)
    for z in heights:
        plane = np.full(x.shape, -1000.0)
        for solid in _SOLIDS:
            plane[_inside(solid, x, y, z)] = solid.density
        for airway in _airways(x, y, z):
            plane[airway] = -985.0
        plane[(np.abs(y - 128) < 5) & (np.abs(x) < 185)] = -420.0  # the table's shell
        yield (plane + noise.normal(0, _NOISE_HU, plane.shape)).astype(np.float32)


def _inside(solid: _Ellipsoid, x: NDArray[np.float64], y: NDArray[np.float64], z: float) -> NDArray[np.bool_]:
    distance = (
        ((x - solid.centre[0]) / solid.radii[0]) ** 2
        + ((y - solid.centre[1]) / solid.radii[1]) ** 2
        + ((z - solid.centre[2]) / solid.radii[2]) ** 2
    )
    return np.asarray(distance < 1.0)


def _airways(x: NDArray[np.float64], y: NDArray[np.float64], z: float) -> Iterator[NDArray[np.bool_]]:
    """Yield the lumen of the trachea, above its carina, and of the two main bronchi, below it."""
    if z >= _CARINA[2]:
        yield np.hypot(x - _CARINA[0], y - _CARINA[1]) < _TRACHEA_RADIUS
        return
    for end in _BRONCHUS_ENDS:
        if z >= end[2]:
            share = (_CARINA[2] - z) / (_CARINA[2] - end[2])
            centre = [start + share * (stop - start) for start, stop in zip(_CARINA[:2], end[:2], strict=True)]
            yield np.hypot(x - centre[0], y - centre[1]) < _BRONCHUS_RADIUS


def _image(plane: Plane, index: int, height: float, thickness: float, key: str, now: datetime) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = derive_uid("phantom image", key, str(index))
    for part in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{part}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{part}Time", now.strftime("%H%M%S"))
    dataset.AccessionNumber = "DEMO"
    dataset.Modality = "CT"
    dataset.Manufacturer = "Hilum"
    dataset.ManufacturerModelName = "Thorax phantom"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Thorax phantom"
    dataset.SeriesDescription = f"Thorax phantom {thickness:g} mm"
    dataset.PatientName = "Phantom^Thorax"
    dataset.PatientID = "HILUM-DEMO"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "CHEST"
    dataset.SliceThickness = thickness
    dataset.KVP = "120"
    dataset.ConvolutionKernel = "STANDARD"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = derive_uid("phantom study", key)
    dataset.SeriesInstanceUID = derive_uid("phantom series", key)
    dataset.StudyID = "1"
    dataset.SeriesNumber = 2
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = index + 1
    corner = -(_COLUMNS - 1) / 2 * _PIXEL_MM
    dataset.ImagePositionPatient = [corner, corner, height]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.FrameOfReferenceUID = derive_uid("phantom frame of reference", key)
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = plane.shape
    dataset.PixelSpacing = [_PIXEL_MM, _PIXEL_MM]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.WindowCenter, dataset.WindowWidth = "-500", "1500"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "HU"
    dataset.PixelData = np.rint(plane).astype("<i2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
