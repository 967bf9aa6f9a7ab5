"""Through which window a picture shows its pixels: that of the organ, else the source's own, else one that fits them.

The windows of organs are those that radiologists read CT with. Values of MR and PET mean nothing by themselves, so
there the source's own window is taken, which the scanner fitted to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from study.codes import TISSUE, Code

Grey = NDArray[np.uint8]

_PERCENTILES: Final = (0.5, 99.5)
_SIGMOID: Final = "SIGMOID"
_LINEAR: Final = "LINEAR"


@dataclass(frozen=True)
class Window:
    """What is shown between black and white.

    Parameters
    ----------
    center, width
        In the units of the pixels (HU for CT); the width is positive.
    name
        Where it comes from, in words.
    function
        VOI LUT Function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    inverted
        Whether low values are shown bright (MONOCHROME1).
    """

    center: float
    width: float
    name: str
    function: str = "LINEAR_EXACT"
    inverted: bool = False

    @property
    def words(self) -> str:
        """Return the window as radiologists write it: width, level, and where it comes from."""
        return f"W {self.width:.4g} L {self.center:.4g} ({self.name})"

    def grey(self, pixels: NDArray[np.floating]) -> Grey:
        """Return uint8 grey levels of the same shape (PS3.3 C.11.2.1.2, C.11.2.1.3); what is no number is black."""
        center, width = self.center, self.width
        if self.function == _SIGMOID:
            shares = 1 / (1 + np.exp(np.clip(-4 * (pixels - center) / width, -60, 60)))
        else:
            if self.function == _LINEAR:
                center, width = center - 0.5, max(width - 1, 1e-6)
            shares = np.clip((pixels - center) / width + 0.5, 0, 1)
        levels = np.rint(255 * (1 - shares if self.inverted else shares))
        return np.asarray(np.nan_to_num(levels, nan=0.0), dtype=np.uint8)


SOFT_TISSUE: Final = Window(40, 400, "soft tissue")
LUNG: Final = Window(-600, 1500, "lung")
BONE: Final = Window(400, 1800, "bone")
BRAIN: Final = Window(40, 80, "brain")
LIVER: Final = Window(60, 160, "liver")

_OF_CT: Final[Mapping[Window, str]] = {
    # Lung, both, right, left; its lobes; trachea, airway, trachea and bronchus
    LUNG: "39607008 74101002 3341006 44029006 45653009 90572001 72481006 44567001 89187006 110726009",
    LIVER: "10200004",
    # Bone twice; vertebrae, C1 to S1, and their bodies; sacrum, skull, sternum, rib, and the first rib to the twelfth
    BONE: "3138006 272673000 51282000 122494005 122495006 122496007 14806007 39976000 113205007 5329002 36978003 "
    "36054005 87391001 64864005 53733008 1626008 73071006 56401006 45296009 62487009 11068009 82687006 7610001 "
    "12989004 23215003 66794005 14293000 36470004 11994002 49668003 65985001 3572006 54735007 89546000 56873002 "
    "113197003 48535007 78247007 25888004 25523003 15339008 59558009 24915002 5953002 22565002 77644006 58830002 "
    # humerus, scapula, clavicle, femur, hip, patella, tibia, fibula, ulna, radius, mandible
    "43993008 85050009 79601000 51299004 71341001 29836001 64234005 12611008 87342007 23416004 62413002 91609006",
    # Brain, its lobes and parts
    BRAIN: "12738006 113305005 119238007 49841001 35918002 427667007 4958002 11000004 25991003 33060004 68523003 "
    "5366008 53118009 66720007 14738005 89278009 42695009 110700 11628009 40146001 279215006 36169008 83251001 "
    "16630005 31065004 78277001 3937002 50960005",
}
_ORGANS: Final[Mapping[str, Window]] = {value: window for window, listed in _OF_CT.items() for value in listed.split()}
"""The window of an organ, by the value of its code (SCT; 110700 is DCM's)."""


def choose_window(
    source: Dataset,
    anatomy: Iterable[Sequence[Code]],
    places: Iterable[Code],
    sample: Callable[[], Sequence[NDArray[np.float32]]],
) -> Window:
    """Return through which window the images of a series are shown, all of them alike.

    Parameters
    ----------
    source
        The header of one of the images.
    anatomy
        For each structure that is shown its codes, the first that has a window counts; one that has none is soft
        tissue. Where structures call for different windows, that of soft tissue shows something of each.
    places
        Where other things are that the result speaks of; one that has no window has no say.
    sample
        Gives pixels of some of the images, for the case that nothing says what to show.
    """
    inverted = str(source.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    window = _of_organs(anatomy, places) if source.get("Modality") == "CT" else None
    return replace(window or _of_source(source) or _fitted(sample()), inverted=inverted)


def _of_organs(anatomy: Iterable[Sequence[Code]], places: Iterable[Code]) -> Window | None:
    """Return the window for the organs; None where no code says which they are."""
    telling = [[code for code in codes if code != TISSUE and not code.scheme.startswith("99")] for codes in anatomy]
    windows = {_of_organ(codes) for codes in telling if codes}
    windows |= {_ORGANS[code.value] for code in places if code.value in _ORGANS}
    if not windows:
        return None
    return windows.pop() if len(windows) == 1 else SOFT_TISSUE


def _of_organ(codes: Sequence[Code]) -> Window:
    return next((_ORGANS[code.value] for code in codes if code.value in _ORGANS), SOFT_TISSUE)


def _of_source(source: Dataset) -> Window | None:
    """Return the first window that the header has (PS3.3 C.11.2.1.2); None where it has none that can be used."""
    center, width = (next(_numbers(source, keyword), None) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(source.get("VOILUTFunction") or _LINEAR)
    return Window(center, width, "of the source", function if function != _LINEAR or width > 1 else "LINEAR_EXACT")


def _numbers(source: Dataset, keyword: str) -> Iterator[float]:
    try:
        value = source.get(keyword)
        for number in value if isinstance(value, MultiValue) else [value]:
            if number is not None and np.isfinite(float(number)):
                yield float(number)
    except (TypeError, ValueError, OverflowError):  # pydicom converts malformed text only here
        return


def _fitted(sample: Sequence[NDArray[np.float32]]) -> Window:
    values = np.concatenate([pixels.ravel() for pixels in sample]) if sample else np.zeros(1, dtype=np.float32)
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return Window((low + high) / 2, max(high - low, 1e-6), "fitted to the pixels")
