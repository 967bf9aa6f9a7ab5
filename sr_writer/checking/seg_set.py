"""What the Segmentation objects of one result must keep together: the label map, voxel for voxel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from sr_writer.checking.rules import demand_none
from sr_writer.material import Material
from sr_writer.reading.segmentation import regions_of, segments_of
from sr_writer.region.areas import present_segments
from sr_writer.seg.describing import tracking_of
from sr_writer.source.images import SourceImages
from study.errors import Reason
from study.forms import Variant
from study.imaging import Segment


def check_set(segmentations: Sequence[Dataset], material: Material, variant: Variant) -> None:
    """Return if the objects of one variant, read back from their files, hold the label map that they were made of.

    Raises
    ------
    NonconformantObject
        If a voxel is lost, added or in two objects, or the objects are not told apart as they must be.
    """
    demand_none(set_reasons(segmentations, material, variant))


def set_reasons(segmentations: Sequence[Dataset], material: Material, variant: Variant) -> Iterator[Reason]:
    """Yield everything that is wrong with the Segmentation objects of one result."""
    yield from _series(segmentations)
    if variant.most_frames is not None and any(each.NumberOfFrames > variant.most_frames for each in segmentations):
        yield Reason("Set", f"An object has more than {variant.most_frames} frames.")
    yield from _cut_segments(segmentations)
    yield from _voxels(segmentations, material)


def _series(segmentations: Sequence[Dataset]) -> Iterator[Reason]:
    if [each.get("InstanceNumber") for each in segmentations] != list(range(1, len(segmentations) + 1)):
        yield Reason("Set", "The objects are not numbered 1, 2, ... in order.")
    if len({each.SOPInstanceUID for each in segmentations}) < len(segmentations):
        yield Reason("Set", "Two objects have the same SOP Instance UID.")
    if len({each.SeriesInstanceUID for each in segmentations}) > 1:
        yield Reason("Set", "The objects are not in one series.")


def _cut_segments(segmentations: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand words on each part of a segment that is in several objects: it is not the whole one."""
    items = [item for each in segmentations for item in segments_of(each)]
    times = Counter(str(item.TrackingUID) for item in items)
    silent = sum(times[str(item.TrackingUID)] > 1 and not item.get("SegmentDescription") for item in items)
    if silent:
        yield Reason("Set", f"{silent} segments are parts of one, and do not say so.")


def _voxels(segmentations: Sequence[Dataset], material: Material) -> Iterator[Reason]:
    label_map, areas = material.result_set.label_map, material.areas
    if label_map is None or areas is None:
        return
    expected = {_tracking_uid(segment, material): segment for segment in present_segments(label_map, areas)}
    slices = {key: index for index, key in enumerate(SourceImages.of(material.sources).keys)}
    seen = np.zeros_like(areas, dtype=np.bool_)
    other = twice = 0
    for segmentation in segmentations:
        segments = {int(item.SegmentNumber): expected.get(str(item.TrackingUID)) for item in segments_of(segmentation)}
        for region in regions_of(segmentation):
            segment = segments.get(region.number)
            if segment is None:
                other += 1
                continue
            index = slices[region.image]
            twice += bool(seen[index, segment.value])
            seen[index, segment.value] = True
            expected_bits = np.packbits(label_map.mask(index, (segment.value,)), bitorder="little")
            other += not np.array_equal(region.bits, expected_bits)
    lost = sum(int(np.count_nonzero((areas[:, each.value] > 0) & ~seen[:, each.value])) for each in expected.values())
    if other or twice or lost:
        yield Reason(
            "Set",
            f"The objects do not hold the label map: on {lost} slices a segment is lost, on {other} it is another, on "
            f"{twice} it is there twice.",
        )


def _tracking_uid(segment: Segment, material: Material) -> str:
    key, _ = tracking_of(segment, material.result_set.findings)
    return material.context.tracking_uid(material.model, key)
