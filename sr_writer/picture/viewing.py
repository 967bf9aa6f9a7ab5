"""Turn volumes the way people look at them, and find the letters at the edges of a picture.

This is the one place of the writer where image axes are swapped and flipped.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.imaging import Affine

# What lies in the positive direction of each LPS axis, and in the negative
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))


def towards_viewer(voxels: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Return a view of `voxels` with axes (head to feet, front to back, right to left), and the spacing along them.

    So `view[i]` is an axial picture with the patient's right on the left, as radiologists look at it, and
    `view[:, j]` a coronal one. Oblique volumes are turned by whole axes to the nearest such view.

    Parameters
    ----------
    voxels
        (slices, rows, columns).
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    # For each of the patient axes z, y, x the volume axis that runs along it
    axes = max(permutations(range(3)), key=lambda each: abs(np.prod([directions[2 - i, each[i]] for i in range(3)])))
    view = voxels.transpose(axes)
    # z runs towards the head and is shown from the head down; y runs to the back and x to the left, as they are shown
    backwards = (directions[2, axes[0]] > 0, directions[1, axes[1]] < 0, directions[0, axes[2]] < 0)
    turned = view[tuple(slice(None, None, -1 if back else 1) for back in backwards)]
    along = [float(spacing[axis]) for axis in axes]
    return turned, (along[0], along[1], along[2])


def edge_letters(affine: Affine) -> dict[str, str]:
    """Return the side of the patient at the left, right, top and bottom edge of a source image (PS3.3 C.7.6.1.1.1)."""
    right, below = _letter(affine[:3, 2]), _letter(affine[:3, 1])
    return {"left": _opposite(right), "right": right, "top": _opposite(below), "bottom": below}


def _letter(direction: NDArray[np.float64]) -> str:
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][0 if direction[axis] > 0 else 1]


def _opposite(letter: str) -> str:
    return next(other for pair in _LETTERS for one, other in (pair, pair[::-1]) if one == letter)
