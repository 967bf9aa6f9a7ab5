"""A picture of each result, for people without a viewer at hand: made from the result's file and the source volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sr_writer.files import keep
from sr_writer.picture.drawing import (
    BACKGROUND,
    QUIET,
    TEXT,
    WARNING,
    Colour,
    coloured,
    legend,
    panel,
    side_by_side,
    stacked,
    text_block,
    windowed,
)
from sr_writer.picture.viewing import edge_letters, towards_viewer
from sr_writer.reading.report import Report, ReportedFinding, read_report
from sr_writer.reading.segmentation import SegmentationInFile, read_segmentation
from sr_writer.source.images import SourceKey
from study.imaging import SeriesVolume

LUNG_WINDOW = (-500.0, 1500.0)
_AXIAL_LETTERS = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
_CORONAL_LETTERS = {"left": "R", "right": "L", "top": "H", "bottom": "F"}
_HEIGHT = 380
_KEY_IMAGE_HEIGHT = 640
_TABLE_WIDTH = 620
_AXIAL_PANELS = 3
_PALETTE: tuple[Colour, ...] = ((0, 200, 140), (86, 180, 233), (230, 159, 0), (240, 128, 170), (240, 228, 66))
_UNITS = {"[hnsf'U]": "HU"}


def picture_of_seg(
    path: Path,
    volume: SeriesVolume,
    picture: Path,
    window: tuple[float, float] = LUNG_WINDOW,
    frame_numbers: Sequence[int] = (),
) -> None:
    """Write a PNG of a Segmentation file: axial slices through its regions and a coronal one, with their overlay.

    Parameters
    ----------
    volume
        The source series; its slices are found by their SOP Instance UIDs.
    window
        Center and width, in the volume's units.
    frame_numbers
        Where the slices are frames of a multi-frame image: the number of each, 1 and up.
    """
    segmentation = read_segmentation(path)
    colours = {segment.number: _rgb(segment.cielab) for segment in segmentation.segments}
    labels, spacing = towards_viewer(segmentation.label_map(_slices(volume, frame_numbers)), volume.affine)
    voxels, _ = towards_viewer(volume.voxels, volume.affine)
    panels = [
        panel(_overlay(voxels[index], labels[index], colours, window), spacing[1:], _HEIGHT, _AXIAL_LETTERS)
        for index in _evenly(np.count_nonzero(labels, axis=(1, 2)), _AXIAL_PANELS)
    ]
    middle = int(np.count_nonzero(labels, axis=(0, 2)).argmax())
    coronal = _overlay(voxels[:, middle], labels[:, middle], colours, window)
    panels.append(panel(coronal, (spacing[0], spacing[2]), _HEIGHT, _CORONAL_LETTERS))
    row = side_by_side(panels)
    entries = [(segment.label, colours[segment.number]) for segment in segmentation.segments]
    _save(stacked([_title(segmentation, row.width), row, legend(entries, row.width)]), picture)


def picture_of_sr(
    path: Path,
    volume: SeriesVolume,
    picture: Path,
    window: tuple[float, float] = LUNG_WINDOW,
    frame_numbers: Sequence[int] = (),
) -> None:
    """Write a PNG of a report file: its key image with the contours on it, and beside it what the report says.

    The parameters are those of `picture_of_seg`.
    """
    report = read_report(path)
    colours = {finding.label: _PALETTE[index % len(_PALETTE)] for index, finding in enumerate(report.findings)}
    table = stacked([_title(report, _TABLE_WIDTH), text_block(_lines(report, colours), _TABLE_WIDTH)])
    drawn = [finding for finding in report.findings if finding.contours]
    if not drawn:
        _save(table, picture)
        return
    key = drawn[0].contours[0].image
    grey = windowed(volume.voxels[_slices(volume, frame_numbers).index(key)], *window)
    _save(side_by_side([_key_image(grey, key, volume, report.findings, colours), table]), picture)


def _slices(volume: SeriesVolume, frame_numbers: Sequence[int]) -> list[SourceKey]:
    """Return the image, or the frame, of each slice."""
    numbers: Sequence[int | None] = frame_numbers or [None] * len(volume.sop_instance_uids)
    return list(zip(volume.sop_instance_uids, numbers, strict=True))


def _key_image(
    grey: NDArray[np.uint8],
    key: SourceKey,
    volume: SeriesVolume,
    findings: Sequence[ReportedFinding],
    colours: dict[str, Colour],
) -> Image.Image:
    """Return a slice as grey levels, (rows, columns), with every contour that is on it."""
    _, *spacing = volume.spacing
    image = panel(
        np.repeat(grey[:, :, None], 3, axis=2),
        (spacing[0], spacing[1]),
        _KEY_IMAGE_HEIGHT,
        edge_letters(volume.affine),
    )
    draw = ImageDraw.Draw(image)
    scale = np.array([image.width / grey.shape[1], image.height / grey.shape[0]])
    shown: set[tuple[float, ...]] = set()
    for finding in findings:
        for contour in finding.contours:
            # A region of several segments repeats their outlines: the first to draw one names its colour
            outline = tuple(contour.points.ravel())
            if contour.image != key or outline in shown:
                continue
            shown.add(outline)
            points = [(float(x), float(y)) for x, y in contour.points * scale]
            draw.line(points, fill=colours[finding.label], width=2, joint="curve")
    return image


def _lines(report: Report, colours: dict[str, Colour]) -> list[tuple[str, Colour, int]]:
    lines: list[tuple[str, Colour, int]] = []
    for finding in report.findings:
        lines.append((f"{finding.label}{_state(finding)}", colours[finding.label], 18))
        for row in finding.measurements:
            derivation = f", {row.derivation.lower()}" if row.derivation else ""
            lines.append((f"   {row.name}{derivation}: {row.value:g} {_UNITS.get(row.unit, row.unit)}", TEXT, 15))
        lines += [(f"   {remark}", QUIET, 12) for remark in finding.remarks]
    lines += [(limit, WARNING, 12) for limit in report.limits]
    return lines


def _state(finding: ReportedFinding) -> str:
    """Return what the report says of a finding besides its numbers, to stand after its name."""
    if finding.detected is False:
        return ": not detected"
    if finding.certainty is not None:
        return ": detected" if finding.detected else ": not decided"
    return " (incomplete)" if finding.incomplete else ""


def _title(result: Report | SegmentationInFile, width: int) -> Image.Image:
    words = f"{result.model_name} {result.model_version}"
    return text_block([(result.series_description, WARNING, 20), (words, QUIET, 14)], width)


def _overlay(
    pixels: NDArray[np.float32], labels: NDArray[np.uint16], colours: dict[int, Colour], window: tuple[float, float]
) -> NDArray[np.uint8]:
    return coloured(windowed(pixels, *window), [(labels == number, colour) for number, colour in colours.items()])


def _evenly(occupied: NDArray[np.intp], count: int) -> list[int]:
    """Return up to `count` indices, evenly spaced within the occupied range."""
    indices = np.flatnonzero(occupied)
    places = np.linspace(0, len(indices) - 1, count + 2)[1:-1]
    return sorted({int(indices[round(place)]) for place in places})


def _rgb(cielab: tuple[int, int, int]) -> Colour:
    red, green, blue = CIELabColor.from_dicom_value(cielab).to_rgb(clip=True)
    return (red, green, blue)


def _save(image: Image.Image, path: Path) -> None:
    framed = Image.new("RGB", (image.width + 24, image.height + 24), BACKGROUND)
    framed.paste(image, (12, 12))
    keep(path, lambda unfinished: framed.save(unfinished, format="PNG"))
