"""Where the region of each finding is drawn: on which slices, and as which outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.sr import GraphicTypeValues, ImageRegion, SourceImageForRegion
from pydicom.dataset import Dataset

from sr_writer.region.areas import Areas, areas_of_region, slices_each, slices_to_show
from sr_writer.region.outlines import Points, outlines
from sr_writer.source.images import frame_numbers
from study.imaging import Finding, LabelMap

_POINTS_OF_RECTANGLE = 5


@dataclass(frozen=True, eq=False)
class Outlined:
    """Where a finding is drawn.

    Parameters
    ----------
    slices
        Indices of the slices with contours, the key image first.
    slices_of_region
        How many slices the region has.
    """

    slices: tuple[int, ...] = ()
    slices_of_region: int = 0


def where_to_outline(findings: Sequence[Finding], label_map: LabelMap | None, areas: Areas | None) -> list[Outlined]:
    """Choose the slices on which each finding is drawn; none where it has no voxel, or there is no label map.

    Parameters
    ----------
    areas
        What `areas_by_slice` gives for the label map.
    """
    if label_map is None or areas is None:
        return [Outlined()] * len(findings)
    regions = [_region(finding, label_map, areas) for finding in findings]
    most = slices_each(sum(bool(region.any()) for region in regions))
    chosen: list[Outlined] = []
    for finding, region in zip(findings, regions, strict=True):
        avoid = {
            other.slices[0]
            for earlier, other in zip(findings, chosen, strict=False)
            if other.slices and set(earlier.segment_values) & set(finding.segment_values)
        }
        slices, touched = slices_to_show(region, most, avoid)
        chosen.append(Outlined(tuple(slices), touched))
    return chosen


def _region(finding: Finding, label_map: LabelMap, areas: Areas) -> Areas:
    return areas_of_region(label_map, areas, [value for value in finding.segment_values if value < areas.shape[1]])


def image_regions(
    finding: Finding, outlined: Outlined, label_map: LabelMap, sources: Sequence[Dataset]
) -> Iterator[ImageRegion]:
    """Yield the outlines of a finding on the slices that were chosen (SCOORD, PS3.3 C.18.6)."""
    for index in outlined.slices:
        source = sources[index]
        image = SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, frame_numbers(source))
        for points in outlines(label_map.mask(index, finding.segment_values)):
            yield ImageRegion(GraphicTypeValues.POLYLINE, _no_rectangle(points), image)


def _no_rectangle(points: Points) -> Points:
    """Return an outline of few points with one more in the middle of each side.

    OHIF takes a closed line of 4 or 5 points for a rectangle that a reader drew, and asks whether to keep measuring it.
    """
    if len(points) > _POINTS_OF_RECTANGLE:
        return points
    middles = (points[:-1] + points[1:]) / 2
    return np.concatenate([np.stack([points[:-1], middles], axis=1).reshape(-1, 2), points[-1:]])
