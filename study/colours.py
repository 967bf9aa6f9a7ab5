"""Colours that tell regions apart on grey images, also for readers who do not see red or green.

The first seven are Okabe and Ito's (2008, without black), those first that differ most from every grey in every kind of
colour vision. Of the further ones each is as far as can be from all before it, in OKLab (Ottosson 2020).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

PALETTE: Final[tuple[Colour, ...]] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
)

_LEVELS: Final = np.linspace(0, 255, 9)
_DULLEST: Final = 0.07  # chroma: less is grey
_DARKEST: Final = 0.5  # lightness: less is lost on lungs
_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def colour_of(place: int) -> Colour:
    """Return the colour of the region at a place among others, 0 and up: always the same, 0 to 255 each.

    After some hundreds they begin anew.
    """
    colours = _all()
    return colours[place % len(colours)]


@cache
def _all() -> tuple[Colour, ...]:
    """Return the palette and every further colour, each the farthest from those before it."""
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3).round()
    lab = _oklab(grid)
    vivid = (np.hypot(lab[:, 1], lab[:, 2]) > _DULLEST) & (lab[:, 0] > _DARKEST)
    grid, lab = grid[vivid], lab[vivid]
    nearest = np.full(len(grid), np.inf)
    for colour in PALETTE:
        nearest = np.minimum(nearest, np.linalg.norm(lab - _oklab(np.array(colour, dtype=np.float64)), axis=1))
    chosen = list(PALETTE)
    for _ in range(len(grid) // 2):
        index = int(nearest.argmax())
        red, green, blue = (int(part) for part in grid[index])
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[index], axis=1))
    return tuple(chosen)


def _oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (..., 3) in OKLab of sRGB, 0 to 255."""
    shares = rgb / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T)
