"""The header of one stored instance, as the plain values that selection, geometry and identity need.

Reading is lenient: an attribute that is absent, empty or malformed becomes None (or an empty text), and whoever needs
it refuses with a reason. Nothing is guessed here.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from study.uids import is_storable_uid

_INTEGERS = range(-(2**31), 2**31)  # of an IS (PS3.5 6.2), and what every database holds

HEADER_KEYWORDS: tuple[str, ...] = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "SeriesTime",
    "AccessionNumber",
    "Modality",
    "StudyDescription",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "ContrastBolusAgent",
    "BodyPartExamined",
    "SliceThickness",
    "GantryDetectorTilt",
    "ConvolutionKernel",
    "PatientPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
)
"""The attributes that `InstanceHeader.of` reads: a reader needs to parse no others."""


@dataclass(frozen=True)
class InstanceHeader:
    """What the node keeps in its index of one SOP Instance; names are DICOM keywords in snake case."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str = ""
    modality: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    accession_number: str = ""
    series_description: str = ""
    series_date: str = ""
    series_time: str = ""
    body_part_examined: str = ""
    patient_position: str = ""
    convolution_kernel: str = ""
    contrast_bolus_agent: str = ""
    photometric_interpretation: str = ""
    frame_of_reference_uid: str = ""
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    acquisition_number: int | None = None
    instance_number: int | None = None
    number_of_frames: int = 1
    samples_per_pixel: int | None = None
    rows: int | None = None
    columns: int | None = None
    bits_allocated: int | None = None
    slice_thickness: float | None = None
    gantry_detector_tilt: float | None = None
    image_position_patient: tuple[float, ...] | None = None
    image_orientation_patient: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, ...] | None = None

    @classmethod
    def of(cls, dataset: Dataset, transfer_syntax_uid: str = "") -> InstanceHeader:
        """Return the header of `dataset`.

        Raises
        ------
        ValueError
            If one of the four UIDs that place an instance (SOP Class, SOP Instance, Study, Series) is absent or can
            not stand for a UID in the store.
        """
        # pydicom's warnings on malformed values quote the values, and warnings end in logs: no patient data there.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(transfer_syntax_uid=transfer_syntax_uid, **_values(dataset))

    def to_json(self) -> dict[str, Any]:
        """Return the header as values that JSON can hold, without those that are unset."""
        unset = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != unset[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InstanceHeader:
        """Return the header that `to_json` wrote."""
        restored: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**restored)


def _values(dataset: Dataset) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = _text(dataset, keyword)
        if not uid:
            raise ValueError(f"{keyword} is absent or empty")
        if not is_storable_uid(uid):
            raise ValueError(f"{keyword} is not a UID: only digits and dots, at most 64 characters (PS3.5 9.1)")
        values[_snake(keyword)] = uid
    for keyword in HEADER_KEYWORDS:
        name = _snake(keyword)
        if name in values or keyword == "SpecificCharacterSet":
            continue
        values[name] = _READERS.get(name, _text)(dataset, keyword)
    values["number_of_frames"] = max(values["number_of_frames"] or 1, 1)
    return values


def _snake(keyword: str) -> str:
    special = {
        "SOPClassUID": "sop_class_uid",
        "SOPInstanceUID": "sop_instance_uid",
        "PatientID": "patient_id",
        "IssuerOfPatientID": "issuer_of_patient_id",
        "StudyInstanceUID": "study_instance_uid",
        "SeriesInstanceUID": "series_instance_uid",
        "FrameOfReferenceUID": "frame_of_reference_uid",
    }
    if keyword in special:
        return special[keyword]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in keyword).lstrip("_")


def _raw(dataset: Dataset, keyword: str) -> Any:  # noqa: ANN401 - pydicom's values have no common type
    # A malformed value raises only when pydicom converts it, here: ValueError of DS and IS, OverflowError of IS,
    # BytesLengthException of US, and whatever a converter gives for a VR that is not the attribute's own, a sequence
    # that ends early or never among them. Each means "no usable value".
    try:
        return dataset.get(keyword)
    except _MALFORMED:
        return None


_MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    AttributeError,
    LookupError,
    EOFError,
    OSError,
    RecursionError,
    struct.error,
    BytesLengthException,
)


def _parts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a text attribute; bytes and sequences, which only a wrong VR gives, are no text."""
    value = _raw(dataset, keyword)
    parts: Iterable[Any] = value if isinstance(value, MultiValue) else (value,)
    return tuple(_cleaned(str(part)) for part in parts if isinstance(part, str | int | float | PersonName))


def _cleaned(text: str) -> str:
    # NUL pads by mistake, and no database takes it; a lone surrogate is no character and can not be encoded.
    return text.replace("\0", "").encode(errors="replace").decode().strip(" ")


def _text(dataset: Dataset, keyword: str) -> str:
    # A backslash splits a value even where the attribute has one only: the whole is what the sender wrote.
    return "\\".join(_parts(dataset, keyword))


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    parts = _parts(dataset, keyword)
    return parts if any(parts) else ()


def _uid(dataset: Dataset, keyword: str) -> str:
    uid = _text(dataset, keyword)
    return uid if is_storable_uid(uid) else ""


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = _raw(dataset, keyword)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number in _INTEGERS and (isinstance(value, str) or number == value) else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    value = _raw(dataset, keyword)
    if value is None or value == "":
        return None
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        return None
    return tuple(float(number) for number in numbers) if np.isfinite(numbers).all() else None


_READERS = {
    "image_type": _texts,
    "frame_of_reference_uid": _uid,
    "series_number": _integer,
    "acquisition_number": _integer,
    "instance_number": _integer,
    "number_of_frames": _integer,
    "samples_per_pixel": _integer,
    "rows": _integer,
    "columns": _integer,
    "bits_allocated": _integer,
    "slice_thickness": _number,
    "gantry_detector_tilt": _number,
    "image_position_patient": _numbers,
    "image_orientation_patient": _numbers,
    "pixel_spacing": _numbers,
}
