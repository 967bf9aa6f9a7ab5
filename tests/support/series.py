"""Make classic CT series from arrays, in any orientation, order and identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

INTERCEPT = -1024


def axial_affine(
    spacing: tuple[float, float, float] = (2.0, 0.8, 0.7), origin: tuple[float, float, float] = (-20.0, -30.0, -40.0)
) -> NDArray[np.float64]:
    """Return the affine, (slice, row, column, 1) to LPS [mm], of head-first axial slices with this spacing."""
    affine = np.zeros((4, 4))
    affine[:, 3] = (*origin, 1.0)
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    return affine


def ct_series(
    voxels: NDArray[np.generic],
    affine: NDArray[np.float64] | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    instance_numbers: Sequence[int] | None = None,
) -> list[Dataset]:
    """Return one CT image per slice of `voxels`.

    Parameters
    ----------
    voxels
        (slices, rows, columns) [HU], at least -1024.
    affine
        (slice, row, column, 1) to LPS [mm]; orthogonal columns. Axial, head first, by default.
    attributes
        Further attributes of every image by keyword; None removes one.
    instance_numbers
        InstanceNumber of each slice; 1.. by default.
    """
    affine = axial_affine() if affine is None else affine
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / lengths
    study = study_instance_uid or str(generate_uid())
    series = series_instance_uid or str(generate_uid())
    frame = str(generate_uid())
    datasets = []
    for index, plane in enumerate(np.asarray(voxels)):
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20260102"
        dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
        dataset.AccessionNumber = "A123"
        dataset.Modality = "CT"
        dataset.Manufacturer = "Phantom Works"
        dataset.ManufacturerModelName = "Box"
        dataset.SoftwareVersions = "1"
        dataset.DeviceSerialNumber = "7"
        dataset.ReferringPhysicianName = "Refer^Rita"
        dataset.StudyDescription = "Phantom"
        dataset.SeriesDescription = "Phantom axial"
        dataset.PatientName = "Phantom^Paula"
        dataset.PatientID = "P1"
        dataset.PatientBirthDate = "19700101"
        dataset.PatientSex = "O"
        dataset.KVP = "120"
        dataset.PatientPosition = "HFS"
        dataset.SliceThickness = round(float(lengths[0]), 4)
        dataset.StudyInstanceUID = study
        dataset.SeriesInstanceUID = series
        dataset.StudyID = "1"
        dataset.SeriesNumber = 3
        dataset.AcquisitionNumber = 1
        dataset.InstanceNumber = index + 1 if instance_numbers is None else instance_numbers[index]
        position = affine @ (index, 0, 0, 1)
        dataset.ImagePositionPatient = [_ds(value) for value in position[:3]]
        dataset.ImageOrientationPatient = [_ds(value) for value in (*directions[:, 2], *directions[:, 1])]
        dataset.FrameOfReferenceUID = frame
        dataset.PositionReferenceIndicator = ""
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.PixelSpacing = [_ds(lengths[1]), _ds(lengths[2])]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.WindowCenter, dataset.WindowWidth = "40", "400"
        dataset.RescaleIntercept, dataset.RescaleSlope = str(INTERCEPT), "1"
        dataset.RescaleType = "HU"
        dataset.PixelData = (np.rint(plane).astype(np.int32) - INTERCEPT).astype("<u2").tobytes()
        for keyword, value in (attributes or {}).items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        datasets.append(dataset)
    return datasets


def save_series(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each data set as a DICOM file into `folder` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, dataset in enumerate(datasets):
        path = folder / f"{index:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _ds(value: float) -> str:
    """Return a decimal string of at most 16 characters."""
    text = f"{float(value):.10g}"
    return text if len(text) <= 16 else f"{float(value):.8g}"
