"""The scene of a result that stands in files: its regions from Segmentations or contours, its words from reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.material import Pixels
from sr_writer.picture.captions import Caption, Colour, captions_of_report
from sr_writer.picture.scene import Region, Scene, largest_first, sample_of
from sr_writer.picture.stack import Mask
from sr_writer.picture.windows import choose_window
from sr_writer.reading.content_tree import code_of, model_of
from sr_writer.reading.report import Report, ReportedFinding, read_report
from sr_writer.reading.segmentation import SegmentationInFile, SegmentInFile, read_segmentation, segments_of
from sr_writer.reading.structure_set import filled
from sr_writer.source.images import SourceKey, key_of
from study.codes import Code, is_anatomy
from study.colours import colour_of
from study.errors import EncodingError
from study.forms import REPORTS, SEGMENTATIONS, SOP_CLASSES, Form

_SEGMENTATIONS: Final = frozenset(SOP_CLASSES[form] for form in SEGMENTATIONS)
_REPORTS: Final = frozenset(SOP_CLASSES[form] for form in REPORTS)
_CAPTURE: Final = SOP_CLASSES[Form.SC]


def scene_of_files(paths: Sequence[Path], sources: Sequence[Dataset], pixels: Pixels) -> Scene:
    """Return what pictures of a result show that was written before.

    The regions are those of its Segmentations; where it has none, the contours of its reports.

    Parameters
    ----------
    paths
        The objects of one result; forms that are neither Segmentations nor reports are passed over.
    sources
        Headers of the source images in slice order.

    Raises
    ------
    EncodingError
        If it has neither a Segmentation nor a report.
    """
    datasets = [(path, dcmread(path, stop_before_pixels=True)) for path in paths]
    segmentations = [(path, each) for path, each in datasets if each.SOPClassUID in _SEGMENTATIONS]
    reports = [read_report(path) for path, each in datasets if each.SOPClassUID in _REPORTS]
    made = [each for _, each in segmentations] or [each for _, each in datasets if each.SOPClassUID in _REPORTS]
    if not made:
        raise EncodingError("The result has neither a Segmentation nor a report to draw.")
    read = [read_segmentation(path) for path, _ in segmentations]
    colours = {segment.tracking_uid: _rgb(segment.cielab) for each in read for segment in each.segments}
    keys = {key_of(source): index for index, source in enumerate(sources)}
    shape = (int(sources[0].Rows), int(sources[0].Columns))
    regions = list(_segments(read, keys)) if read else list(_outlined(reports, keys, shape))
    if not read:
        colours = {uid: region.colour for uid, region in regions}
    anatomy, places = _structures([each for _, each in segmentations], reports)
    name, version = model_of(made[0])
    return Scene(
        sources=sources,
        pixels=pixels,
        window=choose_window(sources[0], anatomy, places, sample_of(pixels, len(sources))),
        regions=tuple(largest_first([region for _, region in regions])),
        captions=_captions(read, reports, colours, keys),
        title=str(made[0].get("SeriesDescription", "")),
        author=f"{name} {version}",
        limits=tuple(dict.fromkeys(limit for report in reports for limit in report.limits)),
    )


def captures_among(paths: Sequence[Path]) -> list[Dataset]:
    """Return the Secondary Captures among result files, in their order."""
    captures = [dcmread(path) for path in paths]
    found = [capture for capture in captures if capture.SOPClassUID == _CAPTURE]
    return sorted(found, key=lambda capture: int(capture.InstanceNumber))


def _segments(read: Sequence[SegmentationInFile], keys: Mapping[SourceKey, int]) -> Iterator[tuple[str, Region]]:
    """Yield each segment by its Tracking UID; one that is cut into several objects is one region."""
    frames: dict[str, dict[int, list[partial[Mask]]]] = {}
    described: dict[str, SegmentInFile] = {}
    sizes: dict[str, NDArray[np.int64]] = {}
    for segmentation in read:
        uids = {segment.number: segment.tracking_uid for segment in segmentation.segments}
        described |= {segment.tracking_uid: segment for segment in segmentation.segments}
        for frame in segmentation.frames:
            uid, index = uids[frame.number], keys[frame.image]
            sizes.setdefault(uid, np.zeros(len(keys), dtype=np.int64))[index] += int(np.bitwise_count(frame.bits).sum())
            frames.setdefault(uid, {}).setdefault(index, []).append(partial(lambda each: each.mask, frame))
    for uid, areas in sizes.items():
        yield uid, Region(described[uid].label, _rgb(described[uid].cielab), areas, partial(_union, frames[uid]))


def _union(frames: Mapping[int, Sequence[partial[Mask]]], index: int) -> Mask:
    return np.asarray(np.any([mask() for mask in frames[index]], axis=0))


def _outlined(
    reports: Sequence[Report], keys: Mapping[SourceKey, int], shape: tuple[int, int]
) -> Iterator[tuple[str, Region]]:
    """Yield what the contours of each finding enclose; a region of several others repeats theirs, and is not drawn."""
    drawn: set[tuple[float, ...]] = set()
    findings = [finding for report in reports for finding in report.findings if finding.contours]
    for place, finding in enumerate(findings):
        outlines = {tuple(contour.points.ravel()) for contour in finding.contours}
        if outlines & drawn:
            continue
        drawn |= outlines
        masks: dict[int, Mask] = {}
        for contour in finding.contours:
            index = keys[contour.image]
            # In a report the first pixel's centre is at (0.5, 0.5)
            masks[index] = masks.get(index, np.zeros(shape, dtype=np.bool_)) | filled(contour.points - 0.5, shape)
        areas = np.zeros(len(keys), dtype=np.int64)
        for index, mask in masks.items():
            areas[index] = np.count_nonzero(mask)
        yield finding.tracking_uid, Region(finding.label, colour_of(place), areas, masks.__getitem__)


def _structures(
    segmentations: Sequence[Dataset], reports: Sequence[Report]
) -> tuple[list[tuple[Code, ...]], list[Code]]:
    """Return the codes of the anatomy that a result is about, and where the other things are that it speaks of."""
    anatomy: list[tuple[Code, ...]] = []
    places: list[Code] = []
    for item in (item for each in segmentations for item in segments_of(each)):
        category, kind, region = (
            code_of(item, keyword)
            for keyword in (
                "SegmentedPropertyCategoryCodeSequence",
                "SegmentedPropertyTypeCodeSequence",
                "AnatomicRegionSequence",
            )
        )
        if category is not None and is_anatomy(category):
            anatomy.append(tuple(code for code in (region, kind) if code is not None))
        elif region is not None:
            places.append(region)
    said = [] if segmentations else [finding for report in reports for finding in report.findings]
    sites = [(finding.site, finding.certainty is None) for finding in said if finding.site is not None]
    anatomy += [(site,) for site, is_finding in sites if is_finding]
    return anatomy, places + [site for site, is_finding in sites if not is_finding]


def _captions(
    read: Sequence[SegmentationInFile],
    reports: Sequence[Report],
    colours: dict[str, Colour],
    keys: Mapping[SourceKey, int],
) -> tuple[Caption, ...]:
    """Return what the reports say, each finding once, and the segments that they say nothing of."""
    said: dict[str, Caption] = {}
    for report in reports:
        for finding, caption in zip(report.findings, captions_of_report(report, colours), strict=True):
            said.setdefault(finding.tracking_uid, _on_images(caption, finding, keys))
    segments = {segment.tracking_uid: segment for each in read for segment in each.segments}
    silent = [Caption(each.label, colours=(colours[uid],)) for uid, each in segments.items() if uid not in said]
    return (*said.values(), *silent)


def _on_images(caption: Caption, finding: ReportedFinding, keys: Mapping[SourceKey, int]) -> Caption:
    """Return a caption with the images that its finding is about."""
    return replace(caption, slices=frozenset(keys[image] for image in finding.images if image in keys))


def _rgb(cielab: tuple[int, int, int]) -> Colour:
    red, green, blue = CIELabColor.from_dicom_value(cielab).to_rgb(clip=True)
    return (red, green, blue)
