"""Which side of the patient stands at each edge of a picture (PS3.3 C.7.6.1.1.1).

A picture of a source slice is the slice as it is, unturned, with the letters that its header gives.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.source.grid import has_place, plane_axes

# What lies in the positive direction of each LPS axis, and in the negative
_LETTERS: Final = (("L", "R"), ("P", "A"), ("H", "F"))
_OPPOSITE: Final = str.maketrans("LRPAHF", "RLAPFH")
_SLANTED: Final = 0.2
"""From which direction cosine on, some 12 degrees, a further letter says that a direction is slanted."""


def edge_letters(source: Dataset) -> dict[str, str]:
    """Return the side of the patient at the left, right, top and bottom edge of a source image (PS3.3 C.7.6.1.1.1).

    A radiograph has no place in the patient; what it says itself is taken. Empty where nothing says it.
    """
    orientation = patient_orientation(source)
    return letters_at(*orientation) if orientation else {}


def letters_at(right: str, below: str) -> dict[str, str]:
    """Return the letters at the edges of a picture whose rows and columns run towards these sides."""
    return {"left": opposite(right), "right": right, "top": opposite(below), "bottom": below}


def patient_orientation(source: Dataset) -> tuple[str, str] | None:
    """Return towards which side of the patient rows and columns of an image run; None where nothing says it."""
    if has_place(source):
        below, right = plane_axes(source)
        return letters_of(right), letters_of(below)
    stated = source.get("PatientOrientation") or ()
    sides = [str(side).strip() for side in stated] if not isinstance(stated, str) else []
    if len(sides) == 2 and all(sides) and set("".join(sides)) <= set("LRPAHF"):
        return sides[0], sides[1]
    return None


def letters_of(direction: NDArray[np.float64]) -> str:
    """Return the letters of a direction in LPS, the largest part first."""
    cosines = direction / np.linalg.norm(direction)
    order = [int(axis) for axis in np.argsort(-np.abs(cosines), kind="stable")]
    told = [axis for place, axis in enumerate(order) if place == 0 or abs(cosines[axis]) >= _SLANTED]
    return "".join(_LETTERS[axis][0 if cosines[axis] > 0 else 1] for axis in told)


def opposite(letters: str) -> str:
    """Return the side across from one."""
    return letters.translate(_OPPOSITE)
