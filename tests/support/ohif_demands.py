"""What must be seen of the scene in the viewer, by pixels, places and words; else each raises an AssertionError."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pypdf import PdfReader
from scipy import ndimage

from sr_writer.picture.painting import lettered, size_of
from tests.support.network import wait_until
from tests.support.ohif import Picture, tinted
from tests.support.ohif_scene import COLOURS, LABELS, Scene

CONTOUR_COLOURS = ((0, 255, 0), (255, 255, 0))
"""Of a report's contour in OHIF, and of the one that it leads to."""
MARGIN = 6
"""How far [screen pixels] an overlay may be blurred at its edge."""
SIDES = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
"""Where the sides of the patient are on the images."""
_EDGE = 30
"""How far [pixels of a Secondary Capture] the letters reach in from its edges."""

Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]


def demand_sides(scene: Scene) -> None:
    """Demand that the viewer says that the patient's right is on the left, and the front on top."""
    scene.ohif.fit()
    assert scene.ohif.viewport().letters == {"left": "R", "top": "A"}


def demand_voxels(scene: Scene) -> None:
    """Demand that the label map that the viewer loaded is the truth, on every slice."""
    loaded = scene.ohif.voxels((scene.truth.shape[1], scene.truth.shape[2]))
    for index, expected in enumerate(scene.truth):
        found = loaded.pop(scene.uid(index), np.zeros_like(expected))
        assert (found == expected).all(), f"{int((found != expected).sum())} voxels of slice {index} are others"
    assert not loaded


def demand_segments(scene: Scene, description: str) -> None:
    """Put a Segmentation or a Structure Set over its images; demand labels and colours of both blocks, and no more."""
    segments = {each.number: each for each in scene.ohif.load_segments(description)}
    background = segments.pop(0, None)  # described in a Label Map Segmentation, and never drawn
    assert background is None or background.label == "Background"
    assert {number: each.label for number, each in segments.items()} == LABELS
    assert {number: each.colour for number, each in segments.items()} == COLOURS, "other colours"
    assert all(each.visible for each in segments.values())


def demand_overlay(scene: Scene, index: int, patience: float = 10.0) -> None:
    """Demand that on a slice each block is covered with its colour, and nothing else is coloured.

    Parameters
    ----------
    patience
        How long [s] the viewer may take to draw it.
    """
    scene.ohif.show_image(scene.uid(index))
    expected = scene.on_page()
    wrong = [""]

    def right() -> bool:
        picture = scene.ohif.picture(viewport=True)
        wrong[0] = what_is_wrong(picture, expected)
        return not wrong[0]

    try:
        wait_until(right, patience)
    except AssertionError:
        raise AssertionError(f"On slice {index}: {wrong[0]}") from None
    assert scene.ohif.viewport().sop_instance_uid == scene.uid(index)


def what_is_wrong(picture: Picture, expected: NDArray[np.uint8]) -> str:
    """Say where the colours of a picture are not those that it must show; "" where they are.

    Parameters
    ----------
    expected
        The block that each pixel must show.
    """
    for value, label in LABELS.items():
        coloured = tinted(picture, COLOURS[value])
        covered = eroded(expected == value)
        if covered.any() and coloured[covered].mean() < 0.98:
            return f"{label} is not drawn on {1 - coloured[covered].mean():.0%} of its place"
        stray = int(coloured[eroded(expected != value)].sum())
        if stray > 40:
            return f"{label} is drawn on {stray} pixels where it must not be"
    return ""


def demand_contour(scene: Scene, value: int, colours: Sequence[Colour] = CONTOUR_COLOURS) -> None:
    """Demand that the viewport shows a block's slice, with one line around the block.

    Parameters
    ----------
    colours
        Which the line may have.
    """
    expected = scene.on_page() == value
    assert expected.any(), f"the viewport does not show {LABELS[value]}"
    wait_until(lambda: len(scene.ohif.drawn().lines) == 1, 10, "one contour")
    (line,) = scene.ohif.drawn().lines
    box = scene.ohif.viewport().box
    assert box is not None
    points = line.points - box[:2]
    sheet = Image.new("1", (expected.shape[1], expected.shape[0]))
    ImageDraw.Draw(sheet).polygon([(float(x), float(y)) for x, y in points], fill=1)
    enclosed = np.asarray(sheet)
    overlap = (enclosed & expected).sum() / (enclosed | expected).sum()
    assert overlap > 0.95, f"the contour encloses {overlap:.0%} of {LABELS[value]}"
    assert line.colour in colours
    coloured = tinted(scene.ohif.picture(viewport=True), line.colour)
    near = ndimage.binary_dilation(enclosed, iterations=3) & ~ndimage.binary_erosion(enclosed, iterations=3)
    length = np.hypot(*np.diff(points, axis=0).T).sum()
    assert coloured[near].sum() > 0.3 * length, "the contour is not drawn"  # it is dashed


def demand_capture(scene: Scene, capture: Dataset) -> None:
    """Demand that a picture of a slice lies in the viewport with the blocks in their colours, and the right letters."""
    scene.ohif.show_image(str(capture.SOPInstanceUID))
    (item,) = capture.SourceImageSequence
    (index,) = (
        place for place, each in enumerate(scene.sources) if each.SOPInstanceUID == item.ReferencedSOPInstanceUID
    )
    width, height, step = size_of(scene.sources[index])
    shown = _in_viewport(scene, width, height, step)
    for edge, letter in SIDES.items():
        assert _letter_at(shown, edge) == letter, f"the letter {letter} is not at the {edge}"
    for strip in (np.s_[:_EDGE], np.s_[-_EDGE:], np.s_[:, :_EDGE], np.s_[:, -_EDGE:]):
        shown[strip] = 0
    truth = Image.fromarray(scene.truth[index]).resize((width, height), Image.Resampling.NEAREST)
    wrong = what_is_wrong(shown, np.asarray(truth))
    assert not wrong, wrong


def _in_viewport(scene: Scene, width: int, height: int, step: float) -> Picture:
    """Return the left part of a Secondary Capture, which shows the slice, as it is drawn in the viewport."""
    corners = np.array([(-0.5, -0.5, 0), (width - 0.5, height - 0.5, 0)]) * step
    left, top, right, bottom = scene.ohif.to_page(corners).ravel().tolist()
    page = Image.fromarray(scene.ohif.picture())
    return np.array(page.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def _letter_at(picture: Picture, edge: str) -> str:
    """Return the letter at an edge of a picture: that whose drawing is most like what stands there; "" for none."""
    blank = np.full_like(picture, int(np.median(picture)))
    alike = {letter: _likeness(picture, np.asarray(lettered(blank, {edge: letter})), blank) for letter in "LRAPHF"}
    best = max(alike, key=lambda letter: alike[letter])
    return best if alike[best] > 0.8 else ""


def _likeness(picture: Picture, drawn: Picture, blank: Picture) -> float:
    """Return the correlation of a picture with a drawing where that is not blank, at best within two pixels."""
    rows, columns = ndimage.find_objects((drawn != blank).any(axis=2).astype(np.uint8))[0]
    template = drawn[rows, columns].ravel().astype(float)
    places = itertools.product(range(-2, 3), repeat=2)
    shifted = (np.roll(picture, place, axis=(0, 1))[rows, columns].ravel().astype(float) for place in places)
    return max(float(np.corrcoef(template, each)[0, 1]) for each in shifted)


def demand_page(scene: Scene, document: Dataset, patience: float = 10.0) -> str:
    """Demand that the viewport's reader of PDF files shows a page with both blocks; return the words on it.

    The browser's own reader draws it, and is closed to scripts: seen is its picture, read is the file that it got.

    Parameters
    ----------
    patience
        How long [s] the reader may take to draw it.
    """
    scene.ohif.load(str(document.SeriesDescription))
    wait_until(lambda: bool(scene.ohif.viewport().frames), 20, "a document")
    (frame,) = scene.ohif.viewport().frames
    assert (frame["tag"], frame["type"]) == ("object", "application/pdf")
    file = scene.ohif.document()
    length = int(document.EncapsulatedDocumentLength)
    assert file[:length] == document.EncapsulatedDocument[:length]
    wait_until(lambda: _is_page(scene.ohif.picture(pane=True)), patience, "a page with both blocks")
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(file)).pages)


def _is_page(picture: Picture) -> bool:
    """Tell whether a picture is to a good part white paper, and both blocks are on it."""
    paper = float((picture.min(axis=2) > 240).mean())
    return paper > 0.2 and all(tinted(picture, colour).sum() > 100 for colour in COLOURS.values())


def demand_something_shown(scene: Scene) -> None:
    """Demand that the viewport is not blank: an image with grey levels, words, or a document."""
    wait_until(lambda: scene.ohif.viewport().alive, 20, "something in the viewport")
    wait_until(lambda: float(scene.ohif.picture(pane=True)[20:-20, 20:-20].std()) > 5, 10, "something to see")


def eroded(mask: Mask) -> Mask:
    """Return a mask without its edge, where it ends within the picture."""
    smaller: Mask = ndimage.binary_erosion(mask, iterations=MARGIN, border_value=1)
    return smaller


def key_image(report: Dataset, name: str) -> str:
    """Return the SOP Instance UID of the first contour in the measurement group of a name."""
    for group in items(report, "125007"):
        names = [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"]
        if name in names:
            first = next(item for item in group.ContentSequence if item.ValueType == "SCOORD")
            return str(first.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    raise AssertionError(f"no group {name}")


def items(node: Dataset, name: str) -> Iterator[Dataset]:
    """Yield the content items below a node whose concept name has this code value."""
    for item in node.get("ContentSequence", []):
        if name_of(item) == name:
            yield item
        yield from items(item, name)


def name_of(item: Dataset) -> str:
    """Return the code value of a content item's concept name."""
    return str(item.ConceptNameCodeSequence[0].CodeValue)
