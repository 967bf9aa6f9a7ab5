"""Pictures of slices: grey levels, tinted regions with borders, and the letters at the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer.picture.captions import Colour
from sr_writer.picture.directions import edge_letters, letters_of
from sr_writer.picture.lettering import WARNING, font
from sr_writer.picture.scene import Scene
from sr_writer.picture.stack import Cut, Mask, Plane
from sr_writer.source.grid import has_place, plane_origin
from sr_writer.source.grid import plane_axes as axes_of
from study.frames import frame_number_of

SHORTEST: Final = 512
"""Pixels of the shorter side of a picture, at least: less leaves no room for text that can be read."""
LETTERS: Final = 24
"""How many times the height of a letter at the edge goes into the shorter side."""
_LONGEST_SHORT_SIDE: Final = 1024
_LONGEST: Final = 4096
_OPACITY: Final = 0.28
_OUTSIDE: Final[Colour] = (30, 33, 40)


def spacing_of(source: Dataset) -> tuple[float, float]:
    """Return how far pixels are apart along (row, column): [mm] where the header says it, else in proportion."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        stated = [float(value) for value in source.get(keyword) or []]
        if len(stated) == 2 and min(stated) > 0:
            return stated[0], stated[1]
    return 1.0, 1.0


def size_of(source: Dataset, shortest: int = SHORTEST) -> tuple[int, int, float]:
    """Return (width, height) [pixels] of the picture of a source image, and the size of its pixels.

    The pixels are square in the patient, and as fine as the source's, unless the picture would be too small or too
    large.

    Returns
    -------
    int, int, float
        The last in the unit of `spacing_of`.
    """
    along_rows, along_columns = spacing_of(source)
    height, width = int(source.Rows) * along_rows, int(source.Columns) * along_columns
    step = min(along_rows, along_columns, min(width, height) / shortest)
    step = max(step, min(width, height) / _LONGEST_SHORT_SIDE, max(width, height) / _LONGEST)
    return max(1, round(width / step)), max(1, round(height / step)), step


def picture_of_slice(scene: Scene, index: int, shortest: int = SHORTEST, letters: int = LETTERS) -> Image.Image:
    """Return a source slice, unturned, with its regions and the letters at its edges.

    Parameters
    ----------
    letters
        How many times the height of a letter goes into the shorter side.
    """
    source = scene.sources[index]
    width, height, _ = size_of(source, shortest)
    pixels = scene.pixels(index)
    if pixels.shape != (height, width):
        pixels = np.asarray(Image.fromarray(pixels, "F").resize((width, height), Image.Resampling.BILINEAR))
    regions = [(_resized(mask, (height, width)), colour) for mask, colour in scene.on(index)]
    return lettered(tinted(scene.window.grey(pixels), regions), edge_letters(source), letters)


def picture_of_cut(scene: Scene, cut: Cut, pixels: Plane, letters: int = LETTERS) -> Image.Image:
    """Return a plane across the slices with its regions; `pixels` is what `Stack.pixels_on` gives for it."""
    painted = tinted(scene.window.grey(pixels), regions_on(scene, cut))
    painted[np.isnan(pixels)] = _OUTSIDE
    return lettered(painted, cut.letters, letters)


def regions_on(scene: Scene, cut: Cut) -> list[tuple[Mask, Colour]]:
    """Return where a plane across the slices is in each region, the largest region first."""
    found = [np.zeros(cut.shape, dtype=np.bool_) for _ in scene.regions]
    for index, where, rows, columns in scene.stack.nearest_on(cut) if scene.stack else ():
        for mask, region in zip(found, scene.regions, strict=True):
            if region.areas[index]:
                mask.ravel()[where] = region.mask(index)[rows, columns]
    return [(mask, region.colour) for mask, region in zip(found, scene.regions, strict=True) if mask.any()]


def _resized(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Return a mask in another size, each pixel what the one at its centre is."""
    if mask.shape == shape:
        return mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def tinted(grey: NDArray[np.uint8], regions: Sequence[tuple[Mask, Colour]]) -> NDArray[np.uint8]:
    """Return (rows, columns, 3): grey levels with tinted regions, their solid borders, and a dark line around those."""
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    thickness = max(1, round(min(grey.shape) / 256))
    for mask, colour in regions:
        box = _box(mask, 2 * thickness + 1)
        if box is None:
            continue
        part, inside = picture[box], mask[box]
        part[inside] = ((1 - _OPACITY) * part[inside] + _OPACITY * np.array(colour)).astype(np.uint8)
        core = ndimage.binary_erosion(inside, iterations=thickness)
        part[ndimage.binary_dilation(inside) & ~inside] //= 3
        part[inside & ~core] = colour
    return picture


def _box(mask: Mask, margin: int) -> tuple[slice, slice] | None:
    """Return the part of a picture in which a mask is, with a margin [pixels]; None where it is nowhere."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def lettered(painted: NDArray[np.uint8], letters: Mapping[str, str], share: int = LETTERS) -> Image.Image:
    """Return a picture with letters at its edges, whose height goes so many times into the shorter side."""
    image = Image.fromarray(painted)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    size = max(16, round(min(width, height) / share))
    places = {
        "left": ((size // 3, height // 2), "lm"),
        "right": ((width - size // 3, height // 2), "rm"),
        "top": ((width // 2, size // 4), "mt"),
        "bottom": ((width // 2, height - size // 4), "mb"),
    }
    for edge, letter in letters.items():
        place, anchor = places[edge]
        draw.text(place, letter, fill=WARNING, font=font(size), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return image


def series_words(source: Dataset) -> str:
    """Return which series of its study a header is of, "series 3"; "" if unsaid."""
    number = source.get("SeriesNumber")
    return f"series {number}" if number is not None else ""


def which_words(source: Dataset) -> str:
    """Return which image of its series a header is of, "image 12", of a multi-frame image the frame; "" if unsaid."""
    number, frame = source.get("InstanceNumber"), frame_number_of(source)
    words = [f"image {number}" if number is not None else "", f"frame {frame}" if frame is not None else ""]
    return ", ".join(filter(None, words))


def place_words(source: Dataset) -> str:
    """Return where the middle of a slice is along the axis nearest to its normal, "H 34.5 mm"; "" without a place."""
    if not has_place(source):
        return ""
    axes = axes_of(source)
    axis = int(np.abs(np.cross(axes[1], axes[0])).argmax())
    middle = plane_origin(source) + axes.T @ (np.array([int(source.Rows), int(source.Columns)]) - 1) / 2
    direction = np.zeros(3)
    direction[axis] = 1 if middle[axis] >= 0 else -1
    return f"{letters_of(direction)} {abs(middle[axis]):.1f} mm"
