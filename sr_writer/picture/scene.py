"""Everything that pictures of one result show, whichever form they end up in: images, regions, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.material import Material, Pixels
from sr_writer.picture.captions import Caption, Colour, captions_of
from sr_writer.picture.stack import Mask, Stack
from sr_writer.picture.windows import Window, choose_window
from sr_writer.region.areas import Areas, areas_of_region, evenly, present_segments
from sr_writer.source.grid import demand_grid
from sr_writer.sr.earlier import Earlier
from sr_writer.texts import ascii_text, spelled_out
from study.codes import Code
from study.imaging import ResultSet, Segment

_SAMPLED = 9
"""How many images are looked at for a window that fits the pixels."""


@dataclass(frozen=True, eq=False)
class Region:
    """What is drawn in one colour.

    Parameters
    ----------
    areas
        (slices,), how many pixels of it each slice has.
    mask
        Gives bool (rows, columns), where it is on the slice of that index.
    """

    label: str
    colour: Colour
    areas: Areas
    mask: Callable[[int], Mask]


@dataclass(frozen=True, eq=False)
class Scene:
    """What the pictures of one result show.

    Parameters
    ----------
    sources
        Headers of the source images, in slice order.
    regions
        The largest first, so that a smaller one is drawn over it.
    title, author
        What the analysis is, and who made it: model and version.
    limits
        Limits of use of the whole result, in words.
    disclaimer
        What the result is not for; "" where the site has decided that.
    earlier
        What is said of earlier studies, with their dates: for a page that says whose it is, and for no picture.
    """

    sources: Sequence[Dataset]
    pixels: Pixels
    window: Window
    regions: tuple[Region, ...]
    captions: tuple[Caption, ...]
    title: str
    author: str
    limits: tuple[str, ...] = ()
    disclaimer: str = ""
    earlier: tuple[str, ...] = ()

    @cached_property
    def stack(self) -> Stack | None:
        """Return the slices in their places; None where they have none, or there is one alone."""
        return Stack.of(self.sources)

    @cached_property
    def occupied(self) -> NDArray[np.bool_]:
        """Return (slices,), which have a region."""
        return self.fullness > 0

    @cached_property
    def fullness(self) -> Areas:
        """Return (slices,), how many pixels of regions each has."""
        nothing = np.zeros(len(self.sources), dtype=np.int64)
        return np.sum([region.areas for region in self.regions], axis=0, dtype=np.int64) if self.regions else nothing

    def on(self, index: int) -> list[tuple[Mask, Colour]]:
        """Return the regions of a slice, the largest first."""
        return [(region.mask(index), region.colour) for region in self.regions if region.areas[index]]

    def said_of(self, index: int) -> list[Caption]:
        """Return what stands beside an image: all that is said, but of one that stands alone only what is about it."""
        if self.stack is not None:
            return list(self.captions)
        return [caption for caption in self.captions if not caption.slices or index in caption.slices]

    def union(self, index: int) -> Mask:
        """Return bool (rows, columns), where a slice has any region."""
        found = np.zeros((int(self.sources[index].Rows), int(self.sources[index].Columns)), dtype=np.bool_)
        for mask, _ in self.on(index):
            found |= mask
        return found

    def key_slices(self, most: int | None) -> list[int]:
        """Return the indices of the slices to show, in order: those that have a finding.

        Parameters
        ----------
        most
            How many at most: evenly spaced, the largest section among them. None for all of them. Where no slice has a
            finding it is the middle one, or every image that stands alone.
        """
        said = {index for caption in self.captions for index in caption.slices}
        found = sorted(said | set(np.flatnonzero(self.occupied).tolist()))
        if not found:
            return [len(self.sources) // 2] if self.stack else evenly(range(len(self.sources)), most or 1)
        if most is None or len(found) <= most:
            return found
        chosen = evenly(found, most)
        largest = int(self.fullness.argmax())
        if self.occupied[largest] and largest not in chosen:
            chosen[int(np.abs(np.array(chosen) - largest).argmin())] = largest
        return sorted(set(chosen))


def scene_of(material: Material) -> Scene:
    """Return what pictures of a result show.

    Raises
    ------
    EncodingError
        If nothing gives the pixels, or the result says nothing.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    """
    result, context = material.result_set, material.context
    if result.label_map is not None:
        demand_grid(result.label_map, material.sources)
    pixels = material.demand_pixels()
    return Scene(
        sources=material.sources,
        pixels=pixels,
        window=choose_window(
            material.sources[0], *_structures(result), sample=sample_of(pixels, len(material.sources))
        ),
        regions=_regions(result, material.areas),
        captions=captions_of(result, material.areas, len(material.sources)),
        title=ascii_text(context.description or material.model.name),
        author=ascii_text(f"{material.model.name} {material.model.version}"),
        limits=tuple(map(ascii_text, result.limits)),
        earlier=(
            *_compared_with(material),
            *map(ascii_text, result.earlier_limits),
            *map(spelled_out, result.not_compared),
        ),
        disclaimer=context.disclaimer.strip(" -"),
    )


def _compared_with(material: Material) -> Iterator[str]:
    """Yield the earlier series that a result is compared with, in words."""
    for sentence in Earlier.of(material.result_set, material.earlier).sentences():
        yield f"Compared with an earlier study: {sentence}"


def sample_of(pixels: Pixels, count: int) -> Callable[[], list[NDArray[np.float32]]]:
    """Return what gives the pixels of some of the images, evenly spaced."""
    return lambda: [pixels(index) for index in evenly(range(count), _SAMPLED)]


def _regions(result: ResultSet, areas: Areas | None) -> tuple[Region, ...]:
    label_map = result.label_map
    if label_map is None or areas is None:
        return ()
    segments = present_segments(label_map, areas)
    regions = [
        Region(
            ascii_text(segment.label),
            segment.rgb,
            areas_of_region(label_map, areas, [segment.value]),
            partial(label_map.mask, values=(segment.value,)),
        )
        for segment in segments
    ]
    return tuple(largest_first(regions))


def largest_first(regions: Sequence[Region]) -> list[Region]:
    """Return regions in the order of drawing."""
    return sorted(regions, key=lambda region: -int(region.areas.sum()))


def _structures(result: ResultSet) -> tuple[list[tuple[Code, ...]], list[Code]]:
    """Return the codes of the anatomy that a result is about, and where the other things are that it speaks of."""
    segments = result.label_map.segments if result.label_map else ()
    anatomy = [codes_of(segment) for segment in segments if segment.is_anatomy]
    places = [segment.region for segment in segments if not segment.is_anatomy and segment.region]
    if not segments:
        anatomy = [(finding.site,) for finding in result.findings]
    return anatomy, places + [each.site for each in result.assessments if each.site]


def codes_of(segment: Segment) -> tuple[Code, ...]:
    """Return what says where an anatomical segment is: its region, then itself."""
    return (segment.region, segment.property_type) if segment.region else (segment.property_type,)
