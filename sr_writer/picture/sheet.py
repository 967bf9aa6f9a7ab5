"""A picture of one source image with all that is said of it beside it, for those who see nothing but images."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sr_writer.picture.lettering import BACKGROUND, QUIET, WARNING, Row, height_of, rows_of, write_rows
from sr_writer.picture.painting import SHORTEST, picture_of_slice, place_words, series_words, which_words
from sr_writer.picture.scene import Scene

_COLUMN: Final = 340  # pixels of the text beside a picture of the least size
_MARGIN: Final = 12
_LIMITS_SHARE: Final = 0.25  # of the height, at most


def sheet(scene: Scene, index: int) -> NDArray[np.uint8]:
    """Return uint8 (rows, columns, 3): a source image with its regions, and a column of text to its right.

    No name, number or date of the patient or the study is drawn.
    """
    image = picture_of_slice(scene, index)
    scale = min(image.size) / SHORTEST
    margin, column = round(_MARGIN * scale), round(_COLUMN * scale)
    whole = Image.new("RGB", (image.width + column, image.height), BACKGROUND)
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    left, width = image.width + margin, column - 2 * margin
    head, foot = _head(scene, index, scale), _foot(scene, scale, width, image.height)
    top = write_rows(draw, head, left, margin, width) + margin
    floor = image.height - margin - height_of(foot, width)
    rows = rows_of(scene.said_of(index), round(16 * scale), width, floor - top - margin, index)
    write_rows(draw, rows, left, top, width)
    write_rows(draw, foot, left, floor, width)
    return np.asarray(whole)


def _head(scene: Scene, index: int, scale: float) -> list[Row]:
    small = round(13 * scale)
    source = scene.sources[index]
    which = [str(source.get("Modality", "")), series_words(source), which_words(source)]
    where = [f"slice {index + 1} of {len(scene.sources)}", place_words(source)]
    return [
        Row(scene.title, round(18 * scale)),
        Row(scene.author, small, QUIET),
        Row(", ".join(filter(None, which)), small, QUIET),
        Row(", ".join(filter(None, where)), small, QUIET),
        Row(scene.window.words, small, QUIET),
    ]


def _foot(scene: Scene, scale: float, width: int, height: int) -> list[Row]:
    """Return the limits of use, as many as fit, and what the picture is not for."""
    small = round(12 * scale)
    limits: list[Row] = []
    for number, words in enumerate(scene.limits):
        row = Row(words, small, WARNING)
        if height_of([*limits, row], width) > _LIMITS_SHARE * height:
            limits.append(Row(f"and {len(scene.limits) - number} more remarks", small, WARNING))
            break
        limits.append(row)
    last = [Row(scene.disclaimer.upper(), round(17 * scale), WARNING)] if scene.disclaimer else []
    return [*limits, *last]
