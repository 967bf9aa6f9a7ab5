"""The pictures that show a result at a glance: its fullest slice, and the two planes across the slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from sr_writer.picture.painting import (
    LETTERS,
    SHORTEST,
    picture_of_cut,
    picture_of_slice,
    place_words,
    size_of,
    which_words,
)
from sr_writer.picture.scene import Scene
from sr_writer.picture.stack import ANATOMICAL, Stack

_FEWEST_SLICES: Final = 3
"""From which number on a plane across the slices shows more than a few lines."""
_AXES: Final = {"sagittal": 0, "coronal": 1, "axial": 2}
_SIDES: Final = ("LR", "PA", "HF")


@dataclass(frozen=True, eq=False)
class View:
    """A picture with what it is.

    Parameters
    ----------
    plane
        "axial", "coronal", "sagittal"; "image" of one that has no place in the patient.
    which
        Which image it is, or where the plane lies.
    """

    image: Image.Image
    plane: str
    which: str


def views_of_slices(scene: Scene, indices: Sequence[int], letters: int = LETTERS) -> list[View]:
    """Return source slices with what is drawn on them."""
    plane = scene.stack.plane if scene.stack else "image"
    return [View(picture_of_slice(scene, index, letters=letters), plane, _which(scene, index)) for index in indices]


def views_across(scene: Scene, letters: int = LETTERS) -> list[View]:
    """Return the planes across the slices, each through the largest section of what was found; none without a stack.

    Where nothing was found, they go through the middle.
    """
    stack = scene.stack
    if stack is None or len(scene.sources) < _FEWEST_SLICES:
        return []
    planes = [plane for plane in ANATOMICAL if plane != stack.plane]
    step = size_of(scene.sources[0])[2]
    places = [_place(scene, stack, _AXES[plane]) for plane in planes]
    cuts = [stack.cut(plane, place, _step(stack, plane, step)) for plane, place in zip(planes, places, strict=True)]
    shown = stack.pixels_on(cuts, scene.pixels)
    return [
        View(picture_of_cut(scene, cut, pixels, letters), plane, _where(_AXES[plane], place))
        for cut, pixels, plane, place in zip(cuts, shown, planes, places, strict=True)
    ]


def overview(scene: Scene, letters: int = LETTERS) -> list[View]:
    """Return up to three views: the fullest slice and the planes across, or key images where there are none."""
    across = views_across(scene, letters) if scene.regions else []
    return [*views_of_slices(scene, scene.key_slices(1 if across else 3), letters), *across]


def _step(stack: Stack, plane: str, step: float) -> float:
    """Return the pixel size of a plane [mm]: that of the slices, unless the plane is so low that it must be finer."""
    right, down = ANATOMICAL[plane]
    low, high = stack.box()
    extent = float(min((high - low)[[right, down]]))
    return max(min(step, extent / SHORTEST), step / 4) if extent > 0 else step


def _place(scene: Scene, stack: Stack, axis: int) -> float:
    found = stack.fullest(axis, scene.union, scene.occupied)
    low, high = stack.box()
    return float(low[axis] + high[axis]) / 2 if found is None else found


def _which(scene: Scene, index: int) -> str:
    source = scene.sources[index]
    which = which_words(source) or f"image {index + 1} of {len(scene.sources)}"
    return ", ".join(filter(None, [which, place_words(source)]))


def _where(axis: int, place: float) -> str:
    return f"{_SIDES[axis][0 if place >= 0 else 1]} {abs(place):.1f} mm"
