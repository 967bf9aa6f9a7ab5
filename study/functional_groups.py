"""What each frame of an Enhanced image says of itself, read from its functional groups (PS3.3 C.7.6.16).

A frame's values have the names of `study.headers.InstanceHeader`, so that a frame and a classic image read alike. A
frame's own functional group wins over the shared one. Legacy Converted images keep what has no group of its own in the
Unassigned Converted Attributes, as a classic image would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)

from study.elements import first_integer, first_number, integer, integers, items, number, numbers, text, texts
from study.frames import FUNCTIONAL_GROUPS

MULTI_FRAME_CLASSES: tuple[str, ...] = (
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)
"""The SOP Classes whose frames are read as slices."""

Values = tuple[tuple[str, Any], ...]
"""Pairs of a field's name and its value."""

_Reader = Callable[[Dataset, str], Any]
_LONGEST_TEXT = 64  # characters; of LO, the longest VR among these (PS3.5 6.2)
_MOST_PARTS = 16  # of a multi-valued attribute, and of the dimensions

_FRAME_TYPE = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
_CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_MACROS: Mapping[str, tuple[tuple[str, str, _Reader], ...]] = {
    "FrameContentSequence": (
        ("stack_id", "StackID", text),
        ("temporal_position", "TemporalPositionIndex", integer),
        ("acquisition_number", "FrameAcquisitionNumber", integer),
        ("acquisition_datetime", "FrameAcquisitionDateTime", text),
    ),
    "PlanePositionSequence": (("image_position_patient", "ImagePositionPatient", numbers),),
    "PlaneOrientationSequence": (("image_orientation_patient", "ImageOrientationPatient", numbers),),
    "PixelMeasuresSequence": (
        ("pixel_spacing", "PixelSpacing", numbers),
        ("slice_thickness", "SliceThickness", number),
    ),
    "MREchoSequence": (("echo_time", "EffectiveEchoTime", number),),
    "MRDiffusionSequence": (("b_value", "DiffusionBValue", number),),
    "MRTimingAndRelatedParametersSequence": (("flip_angle", "FlipAngle", number),),
    "MRModifierSequence": (("inversion_time", "InversionTimes", first_number),),
    "CardiacSynchronizationSequence": (("trigger_time", "NominalCardiacTriggerDelayTime", number),),
    "CTReconstructionSequence": (("convolution_kernel", "ConvolutionKernel", text),),
    "CTAcquisitionDetailsSequence": (("gantry_detector_tilt", "GantryDetectorTilt", number),),
    **dict.fromkeys(
        _FRAME_TYPE,
        (("image_type", "FrameType", texts), ("complex_component", "ComplexImageComponent", text)),
    ),
    **dict.fromkeys(
        _CONVERTED,
        (
            ("acquisition_number", "AcquisitionNumber", integer),
            ("acquisition_date", "AcquisitionDate", text),
            ("acquisition_time", "AcquisitionTime", text),
            ("temporal_position", "TemporalPositionIdentifier", integer),
            ("echo_time", "EchoTime", number),
            ("echo_number", "EchoNumbers", first_integer),
            ("trigger_time", "TriggerTime", number),
            ("inversion_time", "InversionTime", number),
            ("flip_angle", "FlipAngle", number),
            ("b_value", "DiffusionBValue", number),
            ("gradient_orientation", "DiffusionGradientOrientation", numbers),
            ("convolution_kernel", "ConvolutionKernel", text),
            ("gantry_detector_tilt", "GantryDetectorTilt", number),
            ("contrast_bolus_agent", "ContrastBolusAgent", text),
        ),
    ),
}
"""By functional group: the field, the keyword and how its value is read."""

_GRADIENT = "DiffusionGradientDirectionSequence"
_CONTRAST_USAGE = "ContrastBolusUsageSequence"
GROUP_KEYWORDS: tuple[str, ...] = (*_MACROS, _CONTRAST_USAGE)
"""The functional groups that are read: a reader of frames needs to parse no others."""

_LENGTHS = {"image_position_patient": 3, "image_orientation_patient": 6, "pixel_spacing": 2, "gradient_orientation": 3}

_KNOWN_DIMENSIONS = frozenset(
    {
        # where a frame is
        *("StackID", "InStackPositionNumber", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"),
        *("PlanePositionSequence", "PlaneOrientationSequence", "ImagePositionVolume", "ImageOrientationVolume"),
        *("PlanePositionVolumeSequence", "PlaneOrientationVolumeSequence", "SpacingBetweenSlices"),
        *("TablePosition", "DataCollectionCenterPatient", "ReconstructionTargetCenterPatient"),
        # what is read as a field of its own
        *("TemporalPositionIndex", "FrameAcquisitionNumber", "FrameAcquisitionDateTime", "FrameReferenceDateTime"),
        *("PixelSpacing", "SliceThickness", "EffectiveEchoTime", "DiffusionBValue", "DiffusionGradientOrientation"),
        *("FlipAngle", "InversionTimes", "NominalCardiacTriggerDelayTime", "FrameType", "ComplexImageComponent"),
        *("ConvolutionKernel", "GantryDetectorTilt", _GRADIENT),
        *("AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime", "EchoNumbers", "TriggerTime"),
        *("InversionTime", "AcquisitionDate", "AcquisitionTime", "ImageType"),
    }
)


@dataclass
class FrameReader:
    """Reads frame after frame of one image, so that no more than one need be in memory.

    Parameters
    ----------
    image
        The image's top level.
    shared
        The item of its Shared Functional Groups; None where there is none.
    """

    image: Dataset
    shared: Dataset | None
    _frames: list[dict[str, Any]] = field(default_factory=list, init=False)
    _known: dict[Any, Any] = field(default_factory=dict, init=False)  # equal values are kept once

    def __post_init__(self) -> None:
        self._dimensions = _dimension_labels(self.image)
        self._shared = self._values(self.shared) if self.shared is not None else {}

    def take(self, groups: Iterable[Dataset]) -> None:
        """Read the items of the Per-Frame Functional Groups, in order."""
        for group in groups:
            values = self._shared | self._values(group)
            self._frames.append({name: self._known.setdefault((name, value), value) for name, value in values.items()})

    def result(self, top: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Values, ...]]:
        """Return what all frames have in common, and for each frame what is different in it.

        Parameters
        ----------
        top
            The fields of the image's top level: the value of a frame that says none itself.
        """
        names = sorted({name for frame in self._frames for name in frame})
        common: dict[str, Any] = {}
        for name in names:
            values = {frame.get(name, top[name]) for frame in self._frames}
            if len(values) == 1:
                common[name] = values.pop()
        lifted = {**top, **common}
        own = tuple(
            tuple((name, frame[name]) for name in names if name in frame and frame[name] != lifted[name])
            for frame in self._frames
        )
        return common, own

    def _values(self, group: Dataset) -> dict[str, Any]:
        """Return what one functional group says; what it leaves out or says badly is not among the values."""
        values: dict[str, Any] = {}
        for macro, attributes in _MACROS.items():
            for item in items(group, macro)[:1]:
                read = {name: reader(item, keyword) for name, keyword, reader in attributes}
                values |= {name: value for name, value in read.items() if _is_usable(name, value)}
        values |= _gradient(group) | self._index(group) | _contrast(self.image, group)
        return values

    def _index(self, group: Dataset) -> dict[str, Any]:
        """Return the frame's place in the dimensions that have no field of their own (PS3.3 C.7.6.17)."""
        if not any(self._dimensions):
            return {}
        for content in items(group, "FrameContentSequence")[:1]:
            indices = integers(content, "DimensionIndexValues")
            if len(indices) == len(self._dimensions):
                named = zip(self._dimensions, indices, strict=True)
                return {"dimensions": tuple(f"{label}={index}" for label, index in named if label)}
        return {}


def read_frames(image: Dataset, top: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Values, ...]]:
    """Return `FrameReader.result` of an image that is in memory as a whole."""
    reader = FrameReader(image, next(iter(items(image, FUNCTIONAL_GROUPS[0])), None))
    reader.take(items(image, FUNCTIONAL_GROUPS[1]))
    return reader.result(top)


def contrast_agent(image: Dataset) -> str:
    """Return which contrast agent an image names; "" where it names none."""
    agent = text(image, "ContrastBolusAgent")
    for item in items(image, "ContrastBolusAgentSequence")[:1]:
        agent = agent or text(item, "CodeMeaning") or text(item, "CodeValue") or "coded"
    return agent[:_LONGEST_TEXT]


def _is_usable(name: str, value: Any) -> bool:  # noqa: ANN401 - a field's value has any of several types
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST_TEXT
    if isinstance(value, tuple):
        if name in _LENGTHS:
            return len(value) == _LENGTHS[name]
        return 0 < len(value) <= _MOST_PARTS and all(len(part) <= _LONGEST_TEXT for part in value)
    return value is not None


def _gradient(group: Dataset) -> dict[str, Any]:
    for diffusion in items(group, "MRDiffusionSequence")[:1]:
        for direction in items(diffusion, _GRADIENT)[:1]:
            value = numbers(direction, "DiffusionGradientOrientation")
            if _is_usable("gradient_orientation", value):
                return {"gradient_orientation": value}
    return {}


def _contrast(image: Dataset, group: Dataset) -> dict[str, Any]:
    """Return the agent that was given by the time of the frame (PS3.3 C.7.6.16.2.12)."""
    usage = items(group, _CONTRAST_USAGE)
    if not usage:
        return {}
    given = any(text(item, "ContrastBolusAgentAdministered") != "NO" for item in usage)
    return {"contrast_bolus_agent": (contrast_agent(image) or "given") if given else ""}


def _dimension_labels(image: Dataset) -> tuple[str | None, ...]:
    """Return for each dimension what it is called; None for one that is known by a field, or is a place."""
    labels = [_dimension_label(item) for item in items(image, "DimensionIndexSequence")]
    return tuple(labels) if len(labels) <= _MOST_PARTS else ()


def _dimension_label(item: Dataset) -> str | None:
    pointer = integer(item, "DimensionIndexPointer") or 0
    keyword = keyword_for_tag(pointer)
    if keyword in _KNOWN_DIMENSIONS:
        return None
    label = text(item, "DimensionDescriptionLabel") or keyword or f"{pointer >> 16:04X},{pointer & 0xFFFF:04X}"
    return label.replace("=", " ")[: _LONGEST_TEXT - 12]  # room for "=" and the index
