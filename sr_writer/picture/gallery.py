"""Pictures of a result as PNG files: key images, the planes across, and all that matters in one montage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from sr_writer.files import keep
from sr_writer.picture.identity_text import certain_text
from sr_writer.picture.lettering import BACKGROUND, QUIET, WARNING, Row, height_of, rows_of, write_rows
from sr_writer.picture.painting import series_words
from sr_writer.picture.scene import Scene
from sr_writer.picture.views import View, overview, views_across, views_of_slices

_KEY_IMAGES: Final = 3
_PANEL: Final = 400  # pixels of the height of a picture in the montage
_COLUMN: Final = 380
_MARGIN: Final = 12
_CAPTION: Final = 26


def write_gallery(scene: Scene, folder: Path, name: str) -> list[Path]:
    """Write the pictures of a result into `folder`, the montage first, and return their paths.

    Parameters
    ----------
    name
        Begins the names of the files.
    """
    key_images = views_of_slices(scene, scene.key_slices(_KEY_IMAGES))
    across = views_across(scene) if scene.regions else []
    written = [_save(montage(scene), folder / f"{name}-montage.png")]
    for number, view in enumerate(key_images, 1):
        written.append(_save(_captioned(view), folder / f"{name}-{view.plane}-{number}.png"))
    written += [_save(_captioned(view), folder / f"{name}-{view.plane}.png") for view in across]
    return written


def write_captures_as_pictures(captures: Sequence[Dataset], folder: Path, name: str) -> list[Path]:
    """Write Secondary Captures as pictures, and return their paths."""
    return [
        _save(Image.fromarray(capture.pixel_array), folder / f"{name}-sc-{int(capture.InstanceNumber)}.png")
        for capture in captures
    ]


def montage(scene: Scene) -> Image.Image:
    """Return the fullest slice, the planes across, and what is said of them, in one picture."""
    panels = [_captioned(view, _PANEL) for view in overview(scene)]
    height = max(panel.height for panel in panels) + 2 * _MARGIN
    width = sum(panel.width + _MARGIN for panel in panels) + _COLUMN
    whole = Image.new("RGB", (width + _MARGIN, height), BACKGROUND)
    left = _MARGIN
    for panel in panels:
        whole.paste(panel, (left, _MARGIN))
        left += panel.width + _MARGIN
    _write_column(scene, ImageDraw.Draw(whole), left, height)
    return whole


def _write_column(scene: Scene, draw: ImageDraw.ImageDraw, left: int, height: int) -> None:
    width = _COLUMN - _MARGIN
    top = write_rows(draw, _head(scene), left, _MARGIN, width) + _MARGIN
    foot = list(_foot(scene, width, height))
    floor = height - _MARGIN - height_of(foot, width)
    write_rows(draw, rows_of(scene.captions, 16, width, floor - top - _MARGIN), left, top, width)
    write_rows(draw, foot, left, floor, width)


def _head(scene: Scene) -> list[Row]:
    return [
        Row(scene.title, 18, WARNING),
        Row(scene.author, 13, QUIET),
        Row(", ".join(filter(None, [_study_date(scene), series_words(scene.sources[0])])), 13, QUIET),
        Row(scene.window.words, 13, QUIET),
    ]


def _study_date(scene: Scene) -> str:
    """Return when the study was made: which of a patient's studies a picture is of."""
    date = certain_text(scene.sources[0], "StudyDate") or ""
    return f"study of {date[:4]}-{date[4:6]}-{date[6:8]}" if re.fullmatch(r"\d{8}", date) else ""


def _foot(scene: Scene, width: int, height: int) -> Iterator[Row]:
    shown: list[Row] = []
    for number, words in enumerate(scene.limits):
        row = Row(words, 12, WARNING)
        if height_of([*shown, row], width) > height // 4:
            yield Row(f"and {len(scene.limits) - number} more remarks", 12, WARNING)
            return
        shown.append(row)
        yield row


def _captioned(view: View, height: int | None = None) -> Image.Image:
    """Return a view with what it is below it, in another height [pixels] where one is given."""
    image = view.image
    if height is not None:
        width = max(1, round(image.width * height / image.height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (image.width, image.height + _CAPTION), BACKGROUND)
    whole.paste(image, (0, 0))
    words = Row(f"{view.plane}, {view.which}", 14, QUIET)
    write_rows(ImageDraw.Draw(whole), [words], 2, image.height + 4, image.width - 2)
    return whole


def _save(image: Image.Image, path: Path) -> Path:
    keep(path, lambda unfinished: image.save(unfinished, format="PNG"))
    return path
