"""What stands in a picture: where a colour is, and which letters are drawn at the edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from sr_writer.picture.lettering import WARNING
from sr_writer.picture.painting import lettered

Picture = NDArray[np.uint8]
ORANGE, BLUE = (230, 159, 0), (0, 114, 178)
"""Of the first and the second segment of `tests.support.results.SEGMENTS`."""


def border(picture: Picture, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return where a picture has exactly a colour: the border of the regions drawn in it."""
    return np.asarray((picture == np.array(colour)).all(axis=2))


def middle(picture: Picture, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Return the middle of the box around a colour, (row, column) [pixels]."""
    rows, columns = np.nonzero(border(picture, colour))
    return float(rows.min() + rows.max()) / 2, float(columns.min() + columns.max()) / 2


def letters(picture: Picture) -> dict[str, str]:
    """Return the letter at each edge of a picture without text: that whose drawing is there."""
    found = {}
    drawn = border(picture, WARNING)
    for edge in ("left", "right", "top", "bottom"):
        for letter in "LRAPHF":
            alone = border(np.asarray(lettered(np.zeros_like(picture), {edge: letter})), WARNING)
            rows, columns = np.nonzero(alone)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            if (drawn[box] == alone[box]).all():
                found[edge] = letter
    return found


def pixels_of(capture: Dataset) -> Picture:
    """Return the picture of a Secondary Capture."""
    return np.asarray(capture.pixel_array, dtype=np.uint8)


def opened(path: object) -> Picture:
    """Return a picture file as uint8 (rows, columns, 3)."""
    with Image.open(str(path)) as image:
        return np.asarray(image.convert("RGB"))
