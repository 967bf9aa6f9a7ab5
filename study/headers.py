"""The header of one stored instance, as the plain values that selection, geometry and identity need.

Reading is lenient: an attribute that is absent, empty or malformed becomes None (or an empty text), and whoever needs
it refuses with a reason. Nothing is guessed here.

A multi-frame image is a header with `frames`; `InstanceHeader.slices` makes of it what a series of classic images would
have been: one header a slice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from pydicom.dataset import Dataset

from study import elements
from study.frames import FUNCTIONAL_GROUPS
from study.functional_groups import MULTI_FRAME_CLASSES, FrameReader, Values, contrast_agent, read_frames
from study.uids import is_storable_uid

_KEYWORDS: dict[str, str] = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "image_type": "ImageType",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "series_date": "SeriesDate",
    "series_time": "SeriesTime",
    "acquisition_date": "AcquisitionDate",
    "acquisition_time": "AcquisitionTime",
    "acquisition_datetime": "AcquisitionDateTime",
    "accession_number": "AccessionNumber",
    "modality": "Modality",
    "study_description": "StudyDescription",
    "institutional_department_name": "InstitutionalDepartmentName",
    "requested_procedure_priority": "RequestedProcedurePriority",
    "series_description": "SeriesDescription",
    "complex_component": "ComplexImageComponent",
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "body_part_examined": "BodyPartExamined",
    "slice_thickness": "SliceThickness",
    "echo_time": "EchoTime",
    "inversion_time": "InversionTime",
    "echo_number": "EchoNumbers",
    "trigger_time": "TriggerTime",
    "gantry_detector_tilt": "GantryDetectorTilt",
    "convolution_kernel": "ConvolutionKernel",
    "flip_angle": "FlipAngle",
    "patient_position": "PatientPosition",
    "view_position": "ViewPosition",
    "b_value": "DiffusionBValue",
    "gradient_orientation": "DiffusionGradientOrientation",
    "series_number": "SeriesNumber",
    "acquisition_number": "AcquisitionNumber",
    "instance_number": "InstanceNumber",
    "image_position_patient": "ImagePositionPatient",
    "image_orientation_patient": "ImageOrientationPatient",
    "frame_of_reference_uid": "FrameOfReferenceUID",
    "image_laterality": "ImageLaterality",
    "temporal_position": "TemporalPositionIdentifier",
    "stack_id": "StackID",
    "samples_per_pixel": "SamplesPerPixel",
    "photometric_interpretation": "PhotometricInterpretation",
    "number_of_frames": "NumberOfFrames",
    "rows": "Rows",
    "columns": "Columns",
    "pixel_spacing": "PixelSpacing",
    "bits_allocated": "BitsAllocated",
}
"""By field: the attribute of the top level that it is read from."""

IMAGE_KEYWORDS: tuple[str, ...] = (
    "SpecificCharacterSet",
    *_KEYWORDS.values(),
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "DimensionIndexSequence",
)
"""What `InstanceHeader.of` reads of an image as a whole, without what is said of each frame."""

HEADER_KEYWORDS: tuple[str, ...] = (*IMAGE_KEYWORDS, *FUNCTIONAL_GROUPS)
"""The attributes that `InstanceHeader.of` reads: a reader needs to parse no others."""


@dataclass(frozen=True)
class InstanceHeader:
    """What the node keeps in its index of one SOP Instance; names are DICOM keywords in snake case.

    Parameters
    ----------
    number_of_frames
        As the image says; of the header of a slice 1.
    contrast_bolus_agent
        Its name, or that of its code; "" where there is none.
    complex_component
        Complex Image Component: "MAGNITUDE", "PHASE", ...
    echo_time, inversion_time, trigger_time
        [ms]; the trigger time of a frame is its Nominal Cardiac Trigger Delay Time.
    flip_angle
        [degrees]
    b_value, gradient_orientation
        Diffusion b-value [s/mm2], and the direction that it was measured along.
    temporal_position
        Temporal Position Identifier; of a frame its Temporal Position Index.
    dimensions
        Of a frame: "label=index" for each dimension that no other field tells, a private one for instance.
    frame_number
        Set where the header is of one frame of an image, 1 and up.
    frames
        Of a multi-frame image: what is different in each frame, as pairs of a field's name and its value.
    """

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
    institutional_department_name: str = ""
    requested_procedure_priority: str = ""
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
    view_position: str = ""
    image_laterality: str = ""
    complex_component: str = ""
    stack_id: str = ""
    acquisition_date: str = ""
    acquisition_time: str = ""
    acquisition_datetime: str = ""
    echo_number: int | None = None
    temporal_position: int | None = None
    echo_time: float | None = None
    trigger_time: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    b_value: float | None = None
    gradient_orientation: tuple[float, ...] | None = None
    dimensions: tuple[str, ...] = ()
    frame_number: int | None = None
    frames: tuple[Values, ...] = ()

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
            header = cls(transfer_syntax_uid=transfer_syntax_uid, **_values(dataset))
            return header.with_frames(*read_frames(dataset, vars(header))) if header.is_multi_frame else header

    @property
    def is_multi_frame(self) -> bool:
        """Tell whether the image is of a class whose frames are read as slices."""
        return self.sop_class_uid in MULTI_FRAME_CLASSES

    def with_frames_of(self, image: Dataset, shared: Dataset | None, groups: Iterable[Dataset]) -> InstanceHeader:
        """Return the header with its frames, of which no more than one is in memory at a time.

        Parameters
        ----------
        image
            What this header was read from.
        shared, groups
            The item of its Shared Functional Groups, and the items of its Per-Frame ones.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = FrameReader(image, shared)
            reader.take(groups)
            return self.with_frames(*reader.result(vars(self)))

    def with_frames(self, common: dict[str, Any], frames: tuple[Values, ...]) -> InstanceHeader:
        """Return the header with what its frames have in common and what they have not.

        Where they are not as many as the image says, nobody knows which is which, and they are left out.
        """
        return replace(self, **common, frames=frames) if len(frames) == self.number_of_frames else self

    def slices(self) -> tuple[InstanceHeader, ...]:
        """Return the header of each slice: the image itself where it is classic, each of its frames otherwise."""
        if not self.frames:
            return (self,)
        return tuple(
            replace(self, frame_number=number, number_of_frames=1, frames=(), **dict(own))
            for number, own in enumerate(self.frames, start=1)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the header as values that JSON can hold, without those that are unset."""
        values = vars(self)
        set_values = {name: values[name] for name, default in _DEFAULTS.items() if values[name] != default}
        if self.frames:
            set_values["frames"] = [dict(own) for own in self.frames]
        return set_values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InstanceHeader:
        """Return the header that `to_json` wrote."""
        restored = _restored(values)
        restored["frames"] = tuple(tuple(_restored(own).items()) for own in values.get("frames", ()))
        return cls(**restored)


_DEFAULTS: Final = {field.name: field.default for field in fields(InstanceHeader)}


def _restored(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


_read = elements.Known().read


def _values(dataset: Dataset) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, keyword in _KEYWORDS.items():
        values[name] = _read(dataset, keyword, _READERS.get(name, elements.text))
    for name in _PLACING:
        values[name] = _placing_uid(_KEYWORDS[name], values[name])
    values["number_of_frames"] = max(values["number_of_frames"] or 1, 1)
    values["contrast_bolus_agent"] = contrast_agent(dataset)
    return values


_PLACING = ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid")


def _placing_uid(keyword: str, uid: str) -> str:
    if not uid:
        raise ValueError(f"{keyword} is absent or empty")
    if not is_storable_uid(uid):
        raise ValueError(f"{keyword} is not a UID: only digits and dots, at most 64 characters (PS3.5 9.1)")
    return uid


_READERS: dict[str, Callable[[Dataset, str], Any]] = {
    "image_type": elements.texts,
    "frame_of_reference_uid": elements.uid,
    "echo_number": elements.first_integer,
    **dict.fromkeys(
        (
            *("series_number", "acquisition_number", "instance_number", "temporal_position", "number_of_frames"),
            *("samples_per_pixel", "rows", "columns", "bits_allocated"),
        ),
        elements.integer,
    ),
    **dict.fromkeys(
        (
            *("slice_thickness", "gantry_detector_tilt", "echo_time", "trigger_time", "inversion_time", "flip_angle"),
            "b_value",
        ),
        elements.number,
    ),
    **dict.fromkeys(
        ("image_position_patient", "image_orientation_patient", "pixel_spacing", "gradient_orientation"),
        elements.numbers,
    ),
}
