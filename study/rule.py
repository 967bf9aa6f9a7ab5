"""What a model asks of a series, as data: a site or the maker of a bundle writes it, and nothing in it is code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from study.geometry import UnevenSpacing
from study.patterns import patterns

Range = tuple[float | None, float | None]
"""The lowest and the highest value that is allowed; None where there is no limit."""

Form = Literal["volume", "image"]

PREFERENCES = ("original", "thinnest", "most_slices", "latest")
ORIENTATIONS = ("axial", "coronal", "sagittal")

_VOLUMES: dict[str, tuple[str, ...]] = {
    "CT": (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage),
    "MR": (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage),
    "PT": (
        PositronEmissionTomographyImageStorage,
        EnhancedPETImageStorage,
        LegacyConvertedEnhancedPETImageStorage,
    ),
}
_IMAGES: tuple[str, ...] = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
    CTImageStorage,
    MRImageStorage,
)


@dataclass(frozen=True)
class SelectionRule:
    """What a model asks of a series; what is left empty is not asked.

    Texts are compared without regard to case, and a number is as good as a limit that it meets to a thousandth.

    Parameters
    ----------
    modality
        Modality (0008,0060): any of these.
    sop_classes
        SOP Class UIDs; where empty, those that the node reads as images of the modality in this form.
    form
        "volume": the model gets all slices of a series as one box; "image": each image for itself.
    body_part
        Body Part Examined, any of these; spaces and underscores do not count.
    description_include, description_exclude
        Regular expressions, searched for in the Series Description: one of the former must be found, none of the
        latter.
    image_type_include, image_type_exclude
        Values of Image Type (0008,0008): images with none of the former, or any of the latter, are left out of their
        series.
    orientation
        Any of `ORIENTATIONS`; a slice has the one that its normal is nearest to.
    slices
        How many slices, or of form "image" how many images.
    slice_thickness, slice_spacing, pixel_spacing
        [mm]; of the pixel spacing both directions.
    echo_time, b_value
        [ms], [s/mm2]
    contrast
        Whether a contrast agent must have been given, or must not.
    kernel_include, kernel_exclude
        As for the description, of the Convolution Kernel.
    view_position, image_laterality
        Any of these.
    prefer
        Where several series fit: what decides, the first first; each of `PREFERENCES` at most once.
    uneven_spacing
        What to do with unevenly spaced slices.

    Raises
    ------
    ValueError
        If a word, a pattern or a range is none; the words say which.
    """

    modality: tuple[str, ...] = ("CT",)
    sop_classes: tuple[str, ...] = ()
    form: Form = "volume"
    body_part: tuple[str, ...] = ()
    description_include: tuple[str, ...] = ()
    description_exclude: tuple[str, ...] = ()
    image_type_include: tuple[str, ...] = ()
    image_type_exclude: tuple[str, ...] = ("LOCALIZER", "SCREEN SAVE")
    orientation: tuple[str, ...] = ()
    slices: Range | None = None
    slice_thickness: Range | None = None
    slice_spacing: Range | None = None
    pixel_spacing: Range | None = None
    echo_time: Range | None = None
    b_value: Range | None = None
    contrast: bool | None = None
    kernel_include: tuple[str, ...] = ()
    kernel_exclude: tuple[str, ...] = ()
    view_position: tuple[str, ...] = ()
    image_laterality: tuple[str, ...] = ()
    prefer: tuple[str, ...] = PREFERENCES
    uneven_spacing: UnevenSpacing = UnevenSpacing.REFUSE

    def __post_init__(self) -> None:
        _demand_words("form", (self.form,), ("volume", "image"))
        _demand_words("orientation", self.orientation, ORIENTATIONS)
        _demand_words("prefer", self.prefer, PREFERENCES)
        for name in ("description_include", "description_exclude", "kernel_include", "kernel_exclude"):
            _demand_patterns(name, getattr(self, name))
        for name in ("slices", "slice_thickness", "slice_spacing", "pixel_spacing", "echo_time", "b_value"):
            _demand_range(name, getattr(self, name))

    @property
    def classes(self) -> frozenset[str]:
        """Return the SOP Class UIDs of the images that the model may get."""
        if self.sop_classes:
            return frozenset(self.sop_classes)
        if self.form == "image":
            return frozenset(_IMAGES)
        return frozenset(uid for modality in self.modality for uid in _VOLUMES.get(modality.upper(), ()))


def _demand_words(name: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise ValueError(f"{name} is of {', '.join(known)}, not {word!r}")
    if len(set(words)) < len(words):
        raise ValueError(f"{name} names a word twice")


def _demand_patterns(name: str, given: tuple[str, ...]) -> None:
    try:
        patterns(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _demand_range(name: str, limits: Range | None) -> None:
    if limits is None:
        return
    low, high = limits
    if low is not None and high is not None and low > high:
        raise ValueError(f"{name} runs from {low:g} down to {high:g}")
