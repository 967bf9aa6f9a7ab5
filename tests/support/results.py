"""Results to write: two lungs in boxes, with numbers, for any series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
)

from sr_writer.context import ResultContext
from study import codes
from study.codes import Code
from study.entities import Predecessor
from study.forms import Form, Variant, Wish, settle
from study.frames import flattened, frame_count
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import Assessment, Finding, LabelMap, Measurement, ModelIdentity, Omission, ResultSet, Segment
from tests.support.series import axial_affine, ct_series, save_series

MODEL = ModelIdentity(
    name="lung_ct",
    version="1.2.0",
    digest="ab" * 32,
    device_uid="2.25.123456789",
    manufacturer="Hilum",
    software_version="0.1.0",
    serial="S-1",
    station_name="NODE1",
)
CONTEXT = ResultContext(
    instances_digest="cd" * 32,
    parameters_digest="ef" * 32,
    created_at=datetime(2026, 3, 4, 22, 30, 15, tzinfo=UTC),
    description="Lung CT",
)


def predecessor(variant: str) -> Predecessor:
    """Return a report that one of this variant takes the place of."""
    return Predecessor(variant, "1.2.840.10008.5.1.4.1.1.88.34", "2.25.4711", "2.25.4712")


SEGMENTS = (
    Segment(1, "Right lung", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG, rgb=(230, 159, 0)),
    Segment(2, "Left lung", codes.ANATOMICAL_STRUCTURE, codes.LEFT_LUNG, rgb=(0, 114, 178)),
)

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
BRAIN = Code("12738006", "SCT", "Brain")
CHEST = Code("51185008", "SCT", "Chest")
PNEUMOTHORAX = Code("36118008", "SCT", "Pneumothorax")
TUMOUR = tuple(
    Segment(value, label, ABNORMAL, NEOPLASM, region=BRAIN, rgb=rgb)
    for value, label, rgb in (
        (1, "Whole tumor", (230, 159, 0)),
        (2, "Tumor core", (0, 114, 178)),
        (3, "Enhancing tumor", (213, 94, 0)),
    )
)
"""Segments of which each contains the next."""
PROJECTIONS: dict[str, dict[str, Any]] = {
    "CR": {"SOPClassUID": ComputedRadiographyImageStorage},
    "DX": {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "ImagerPixelSpacing": ["0.14", "0.15"],
        "PatientOrientation": ["L", "F"],
    },
    "MG": {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "ImagerPixelSpacing": ["0.1", "0.1"],
        "PatientOrientation": ["A", "FR"],
    },
}
"""What radiographs say of their geometry, by modality."""


def variants_of(*forms: str) -> tuple[Variant, ...]:
    """Return what a destination is sent that is to have these forms, and of which nothing is known."""
    return settle(Wish("pacs", tuple(Form(form) for form in forms)), {}).variants


def headers_on_disk(
    folder: Path,
    shape: tuple[int, int, int] = (8, 24, 32),
    *,
    affine: NDArray[np.float64] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> list[Dataset]:
    """Return the headers of a generated series as a reader finds them: from files, without pixels, undecoded."""
    series = ct_series(np.zeros(shape), affine, attributes=attributes)
    for image in series:
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    return [dcmread(path, stop_before_pixels=True) for path in save_series(series, folder)]


def radiograph(folder: Path, modality: str) -> list[Dataset]:
    """Return the header of a generated projection image: no position, no orientation, no Frame of Reference."""
    absent = [
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleType", "KVP"),
        *("FrameOfReferenceUID", "PositionReferenceIndicator"),
    ]
    attributes = dict.fromkeys(absent, None) | {"Modality": modality} | PROJECTIONS[modality]
    return headers_on_disk(folder, (1, 20, 30), attributes=attributes)


def headers_of(folder: Path) -> tuple[list[Dataset], NDArray[np.float64]]:
    """Return the headers of a real series in slice order, and its affine."""
    paths = [path for path in sorted(folder.glob("**/*")) if path.is_file() and is_dicom(path)]
    datasets = [dcmread(path, stop_before_pixels=True) for path in paths]
    geometry = assess([InstanceHeader.of(dataset) for dataset in datasets], FrameOfReferencePolicy.BY_POSITION)
    return [datasets[index] for index in geometry.order], geometry.affine


def philips_frames(folder: Path) -> tuple[list[Dataset], NDArray[np.float64]]:
    """Return the headers of the 40 frames of a real Enhanced MR Image in slice order, and their affine."""
    multi = dcmread(folder / "1901_WIP_3DpCASL_real.dcm", stop_before_pixels=True)
    headers = [flattened(multi, number) for number in range(1, frame_count(multi) + 1)]
    cosines = np.array(headers[0].ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    headers.sort(key=lambda header: float(np.dot(header.ImagePositionPatient, normal)))
    origins = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    rows, columns = (float(value) for value in headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (origins[-1] - origins[0]) / (len(headers) - 1)
    affine[:3, 1], affine[:3, 2], affine[:3, 3] = cosines[3:] * rows, cosines[:3] * columns, origins[0]
    return headers, affine


def lungs(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a label map with a right lung, 1, and a left lung, 2, of unequal size and touching no border.

    In large images they stay small, so that nobody waits for their voxels.
    """
    values = np.zeros(shape, dtype=np.uint8)
    slices, rows, columns = shape
    top, middle = rows // 4, columns // 2
    values[1 : slices - 1, top : min(rows // 2, top + 40), 2 : min(middle - 1, 60)] = 1
    values[2 : slices - 1, top : min(rows - 3, top + 60), middle + 1 : min(columns - 3, middle + 50)] = 2
    return values


def result_of(
    values: NDArray[np.uint8] | NDArray[np.uint16],
    affine: NDArray[np.float64] | None = None,
    segments: Sequence[Segment] = SEGMENTS,
) -> ResultSet:
    """Return a result with a right, a left and both lungs, limits, an omission and a note."""
    label_map = LabelMap(values, axial_affine() if affine is None else affine, tuple(segments))
    both = Finding("both_lungs", "Both lungs", codes.ANATOMICAL_STRUCTURE, codes.BOTH_LUNGS, (1, 2), numbers(3000.5))
    return ResultSet(label_map, (*sides(), both), limits=("The images came from a phantom.",))


def sides() -> tuple[Finding, Finding]:
    """Return a finding for each lung, the left one incomplete and with a measurement left out."""
    right = Finding("right_lung", "Right lung", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG, (1,), numbers(1700.25))
    left = Finding(
        "left_lung",
        "Left lung",
        codes.ANATOMICAL_STRUCTURE,
        codes.LEFT_LUNG,
        (2,),
        numbers(1300.25)[1:],
        omissions=(Omission(codes.VOLUME, "the lung is not whole in the images."),),
        incomplete="the lung touches the last slice.",
        notes=("A note on the left lung.",),
    )
    return right, left


def numbers(volume: float) -> tuple[Measurement, ...]:
    """Return the four measurements of a lung."""
    return (
        Measurement(codes.VOLUME, volume, codes.MILLILITRE),
        Measurement(codes.ATTENUATION, -812.5, codes.HOUNSFIELD_UNIT, codes.MEAN),
        Measurement(codes.LAA_950, 3.25, codes.PERCENT),
        Measurement(codes.PERCENTILE_15, -921.0, codes.HOUNSFIELD_UNIT),
    )


def nested(shape: tuple[int, int, int], affine: NDArray[np.float64] | None = None) -> ResultSet:
    """Return a tumour in boxes: the whole contains a core, which contains an enhancing part; each has a finding."""
    layers = []
    for value in (1, 2, 3):
        layer = np.zeros(shape, dtype=np.uint8)
        inside = tuple(slice(size * value // 8, size - size * value // 8 - 1) for size in shape)
        layer[inside] = value
        layers.append(layer)
    label_map = LabelMap(layers[0], axial_affine() if affine is None else affine, TUMOUR, tuple(layers[1:]))
    findings = [
        Finding(f"part{part.value}", part.label, NEOPLASM, BRAIN, (part.value,), numbers(9.5)) for part in TUMOUR
    ]
    return ResultSet(label_map, tuple(findings))


def assessments() -> tuple[Assessment, ...]:
    """Return one of each kind: not detected, detected on some images, without a decision, numbers alone."""
    effusion = Code("EFFU", "99ACME", "Pleural effusion")
    density = Measurement(Code("DENS", "99ACME", "Density"), 12.5, codes.PERCENT, codes.MEAN)
    return (
        Assessment("pneumothorax", "Pneumothorax", PNEUMOTHORAX, CHEST, probability=0.07, detected=False),
        Assessment("effusion", "Effusion", effusion, None, probability=0.934, detected=True, slices=(0,)),
        Assessment("open", "Open question", PNEUMOTHORAX, CHEST, probability=0.5, notes=("A note.",)),
        Assessment("density", "Breast density", Code("76752008", "SCT", "Breast"), measurements=(density,)),
    )
