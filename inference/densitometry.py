"""Within which limits a lung's density numbers mean something, as data and as reasons in words.

LAA-950 and the 15th percentile depend on how the images were made: section thickness and kernel both change them
(Gierada et al. 2010), sharp kernels raise LAA-950 (Boedeker et al. 2004, Gallardo-Estrella et al. 2016), and contrast
agent raises the lung's attenuation. The threshold of -950 HU itself was found on high-resolution CT (Gevenois et al.
1995). Where an image is outside of the limits, or does not say, the numbers are left out with the reason. The
references stand in full in the lung model's README.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

THICKEST_SLICE_MM: Final = 1.5
LAA_THRESHOLD_HU: Final = -950.0
LOW_PERCENTILE: Final = 15.0


@dataclass(frozen=True)
class KernelFamily:
    """How one vendor names its Convolution Kernels (0018,1210).

    Parameters
    ----------
    manufacturer
        Found in Manufacturer (0008,0070), in lower case.
    smooth, sharp
        Regular expressions that a whole kernel name matches, in upper case. What matches neither is unknown.
    """

    manufacturer: str
    smooth: str
    sharp: str


KERNELS: Final = (
    KernelFamily("ge", r"STANDARD|SOFT|CHST|CHEST", r"LUNG|DETAIL|BONE|BONE ?PLUS|EDGE|ULTRA|HD ?.*"),
    # Letter(s) and a two-digit sharpness: B35f, I30f, Br36, Qr40, Bl57; 40 and below are medium or smoother.
    KernelFamily("siemens", r"[A-Z]{1,2}(2\d|3\d|40)[A-Z]?", r"[A-Z]{1,2}(4[1-9]|[5-9]\d)[A-Z]?"),
    KernelFamily("philips", r"A|B|SA|SB", r"C|D|E|L|YA|YB|YC|YD"),
    KernelFamily("toshiba", r"FC0[1-9]|FC1[0-8]", r"FC[3-9]\d"),
    KernelFamily("canon", r"FC0[1-9]|FC1[0-8]", r"FC[3-9]\d"),
)
PLAIN_WORDS: Final = KernelFamily("", r"STANDARD|SOFT|SMOOTH", r"SHARP|LUNG|BONE|EDGE")
"""For makers that are not in the table: a kernel whose name says in plain words what it is."""


def reasons_against_densitometry(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return why LAA-950 and the 15th percentile would not mean anything on these images; empty where they do.

    Parameters
    ----------
    datasets
        The headers of the series' images.
    """
    checks = (_against_thickness(datasets), _against_kernel(datasets[0]), _against_contrast(datasets))
    return tuple(reason for reason in checks if reason)


def _against_thickness(datasets: Sequence[Dataset]) -> str:
    thicknesses = [dataset.get("SliceThickness") for dataset in datasets]
    if any(thickness is None or thickness == "" for thickness in thicknesses):
        return "the images do not state their slice thickness"
    thickest = max(float(thickness) for thickness in thicknesses)
    if thickest > THICKEST_SLICE_MM + 0.005:
        return f"slices of {thickest:g} mm are thicker than {THICKEST_SLICE_MM:g} mm"
    return ""


def _against_kernel(dataset: Dataset) -> str:
    kernel = _first(dataset.get("ConvolutionKernel"))
    if not kernel:
        return "the images do not state their convolution kernel"
    manufacturer = str(dataset.get("Manufacturer", "") or "").lower()
    known = (family for family in KERNELS if re.search(rf"\b{family.manufacturer}\b", manufacturer))
    family = next(known, PLAIN_WORDS)
    if re.fullmatch(family.smooth, kernel.upper()):
        return ""
    if re.fullmatch(family.sharp, kernel.upper()):
        return f'the convolution kernel "{kernel}" is sharp'
    return f'the convolution kernel "{kernel}" is not known to be a standard or soft one'


def _against_contrast(datasets: Sequence[Dataset]) -> str:
    if any(str(dataset.get("ContrastBolusAgent", "") or "").strip() for dataset in datasets):
        return "contrast agent was given"
    return ""


def _first(value: object) -> str:
    """Return the first value of an attribute that may have several, as text."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = next(iter(value), None)
    text = "" if value is None else str(value).strip()[:64]
    return text.encode("ascii", "backslashreplace").decode()  # it is quoted in reports of any character set
