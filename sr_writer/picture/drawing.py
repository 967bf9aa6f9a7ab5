"""Pieces of pictures: windowed images, coloured regions, letters, text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from sr_writer.codes import ascii_text

Colour = tuple[int, int, int]
Mask = NDArray[np.bool_]

BACKGROUND: Colour = (16, 18, 22)
TEXT: Colour = (232, 234, 238)
QUIET: Colour = (160, 166, 176)
WARNING: Colour = (255, 196, 84)
_OPACITY = 0.35


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own typeface in a size [pixels]."""
    return ImageFont.load_default(size)


def windowed(pixels: NDArray[np.floating], center: float, width: float) -> NDArray[np.uint8]:
    """Return `pixels` as grey levels, 0 to 255, through a linear window (PS3.3 C.11.2.1.3.2)."""
    grey = (pixels - (center - width / 2)) / width * 255
    levels: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return levels


def coloured(grey: NDArray[np.uint8], regions: Iterable[tuple[Mask, Colour]]) -> NDArray[np.uint8]:
    """Return (rows, columns, 3): the grey image with tinted regions and their solid borders."""
    picture = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float64)
    for mask, colour in regions:
        picture[mask] = (1 - _OPACITY) * picture[mask] + _OPACITY * np.array(colour)
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture.astype(np.uint8)


def panel(
    picture: NDArray[np.uint8], spacing: tuple[float, float], height: int, letters: Mapping[str, str]
) -> Image.Image:
    """Return an image of `height` [pixels] with square pixels in patient space, and the letters at its edges.

    Parameters
    ----------
    spacing
        Along (row, column) [mm].
    """
    rows, columns = picture.shape[:2]
    width = max(1, round(height * columns * spacing[1] / (rows * spacing[0])))
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    places = {
        "left": ((6, height // 2), "lm"),
        "right": ((width - 6, height // 2), "rm"),
        "top": ((width // 2, 4), "mt"),
        "bottom": ((width // 2, height - 4), "mb"),
    }
    for edge, letter in letters.items():
        place, anchor = places[edge]
        draw.text(place, letter, fill=WARNING, font=font(20), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return image


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Return the images in a row, aligned at the top."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row = Image.new("RGB", (width, max(image.height for image in images)), BACKGROUND)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def text_block(lines: Sequence[tuple[str, Colour, int]], width: int) -> Image.Image:
    """Return lines of (words, colour, size [pixels]) as an image; long ones are wrapped at `width` [pixels]."""
    wrapped = [(part, colour, size) for words, colour, size in lines for part in _wrap(words, size, width - 16)]
    height = sum(round(size * 1.4) for _, _, size in wrapped) + 12
    image = Image.new("RGB", (width, max(height, 1)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    top = 6
    for words, colour, size in wrapped:
        draw.text((8, top), words, fill=colour, font=font(size))
        top += round(size * 1.4)
    return image


def legend(entries: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    """Return a row of coloured boxes with their labels."""
    image = Image.new("RGB", (width, 34), BACKGROUND)
    draw = ImageDraw.Draw(image)
    left = 8
    for label, colour in entries:
        draw.rectangle((left, 9, left + 16, 25), fill=colour)
        draw.text((left + 24, 17), ascii_text(label), fill=TEXT, font=font(16), anchor="lm")
        left += 48 + round(font(16).getlength(label))
    return image


def stacked(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Return the images below each other, aligned at the left."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    column = Image.new("RGB", (max(image.width for image in images), height), BACKGROUND)
    top = 0
    for image in images:
        column.paste(image, (0, top))
        top += image.height + gap
    return column


def _wrap(words: str, size: int, width: int) -> list[str]:
    lines: list[str] = []
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
