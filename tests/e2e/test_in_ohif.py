"""Results in OHIF, a viewer that others wrote, over Orthanc: each opens, and shows what and where the model found it.

The images are two unequal blocks whose truth is known, the liver to the right, in front and low, the spleen to the
left, at the back and high, so that a result on a wrong side or slice is seen to be wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from scipy import ndimage

from sr_writer.results import write_results
from study import codes
from study.codes import Code
from study.imaging import Finding, LabelMap, Measurement, ResultSet, Segment
from tests.support.blocks import LIVER, SPLEEN, blocks, grid
from tests.support.network import wait_until
from tests.support.ohif import Ohif, running_ohif, store, tinted
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.results import CONTEXT, MODEL
from tests.support.series import ct_series, save_series

IMAGES = "Blocks"
COLOURS = {LIVER: (230, 120, 0), SPLEEN: (160, 60, 220)}
LABELS = {LIVER: "Liver", SPLEEN: "Spleen"}
SITES = {LIVER: Code("10200004", "SCT", "Liver"), SPLEEN: Code("78961009", "SCT", "Spleen")}
VOLUMES = {LIVER: 5.83, SPLEEN: 7.47}
ATTENUATIONS = {LIVER: 200.0, SPLEEN: 400.0}
CONTOUR_COLOURS = ((0, 255, 0), (255, 255, 0))
"""Of a report's contour in OHIF, and of the one that it leads to."""
MARGIN = 6
"""How far [screen pixels] an overlay may be blurred at its edge."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """The blocks in Orthanc, and a viewer over it.

    Parameters
    ----------
    sources
        Headers of the images in slice order.
    truth
        Label map on their grid: `LIVER`, `SPLEEN` or 0.
    """

    ohif: Ohif
    orthanc: Orthanc
    folder: Path
    sources: list[Dataset]
    affine: NDArray[np.float64]
    truth: NDArray[np.uint8]

    @property
    def study(self) -> str:
        """The study of everything."""
        return str(self.sources[0].StudyInstanceUID)

    def uid(self, index: int) -> str:
        """Return the SOP Instance UID of a slice."""
        return str(self.sources[index].SOPInstanceUID)

    def slices_of(self, value: int) -> list[int]:
        """Return the slices that a block is on."""
        return [int(index) for index in np.flatnonzero((self.truth == value).any(axis=(1, 2)))]

    def send(self, result: ResultSet, name: str) -> dict[str, Dataset]:
        """Write a result, store it in Orthanc, open the study, and return the objects by Modality."""
        objects = [dcmread(path) for path in written(result, self.sources, self.folder / name, name)]
        self.add(*objects)
        return {str(each.Modality): each for each in objects}

    def add(self, *objects: Dataset) -> None:
        """Store objects in Orthanc, and open the study."""
        paths = []
        for each in objects:
            paths.append(self.folder / f"{each.SOPInstanceUID}.dcm")
            each.save_as(paths[-1])
        store(self.orthanc, paths)
        self.ohif.open(self.study)

    def keep_picture(self, name: str) -> None:
        """Save a picture of the page, where a person may look at it."""
        folder = Path(os.environ.get("OHIF_PICTURES", self.folder))
        self.ohif.picture(folder / f"ohif-phantom-{name}.png")

    def on_page(self) -> NDArray[np.uint8]:
        """Return which block each pixel of the viewport's picture must show, by where it lies in the patient."""
        box = self.ohif.viewport().box
        assert box is not None
        left, top = box[:2]
        width, height = box[2] - left, box[3] - top
        corner, right, down = self.ohif.to_patient([(left, top), (left + 100, top), (left, top + 100)])
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        points = corner + x[..., None] * (right - corner) / 100 + y[..., None] * (down - corner) / 100
        inverse = np.linalg.inv(self.affine)
        voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        inside = np.all((voxels >= 0) & (voxels < self.truth.shape), axis=-1)
        assert inside.any(), "no pixel of the viewport lies in the images"
        shown = np.zeros((height, width), dtype=np.uint8)
        shown[inside] = self.truth[tuple(voxels[inside].T)]
        return shown


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("ohif")
    affine, shape = grid("axial, head first, supine", (3.0, 1.0, 1.0))
    voxels, truth = blocks(affine, shape)
    images = save_series(ct_series(voxels, affine, attributes={"SeriesDescription": IMAGES}), folder / "images")
    with running_orthanc(folder / "orthanc", dicomweb=True) as orthanc:
        store(orthanc, images)
        with running_ohif(orthanc, lambda line: put_on_record(pytestconfig, line)) as ohif:
            yield Scene(
                ohif, orthanc, folder, [dcmread(path, stop_before_pixels=True) for path in images], affine, truth
            )


def put_on_record(config: pytest.Config, line: str) -> None:
    """Write a line into pytest's own output, also of tests that pass."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        reporter.write_line(line)


def result_of(values: NDArray[np.uint8], affine: NDArray[np.float64]) -> ResultSet:
    """Return a result with both blocks, each with a volume and an attenuation."""
    segments = tuple(
        Segment(value, label, codes.ANATOMICAL_STRUCTURE, SITES[value], rgb=COLOURS[value])
        for value, label in LABELS.items()
    )
    findings = tuple(
        Finding(
            label.lower(),
            label,
            codes.ANATOMICAL_STRUCTURE,
            SITES[value],
            (value,),
            (
                Measurement(codes.VOLUME, VOLUMES[value], codes.MILLILITRE),
                Measurement(codes.ATTENUATION, ATTENUATIONS[value], codes.HOUNSFIELD_UNIT, codes.MEAN),
            ),
        )
        for value, label in LABELS.items()
    )
    return ResultSet(LabelMap(values, affine, segments), findings)


def written(result: ResultSet, sources: list[Dataset], folder: Path, name: str) -> list[Path]:
    """Write a result; its name makes its UIDs and descriptions its own."""
    context = replace(CONTEXT, instances_digest=name.encode().hex(), description=name)
    return [folder / each.path for each in write_results(result, sources, MODEL, context, folder)]


def test_the_images_open_and_lie_where_they_belong(scene: Scene) -> None:
    scene.ohif.open(scene.study)
    assert scene.ohif.find(IMAGES).thumbnail[:2] == ["CT", IMAGES]
    for value in LABELS:
        scene.ohif.show_image(scene.uid(scene.slices_of(value)[2]))
        demand_sides(scene)
        shown = scene.on_page()
        assert set(np.unique(shown)) == {0, value}
        grey = scene.ohif.picture(viewport=True).min(axis=2)
        assert np.mean(grey[eroded(shown == value)] > 200) > 0.99
        assert np.mean(grey[eroded(shown == 0)] < 200) > 0.99
    sides = {value: float(np.argwhere(scene.truth == value)[:, 2].mean()) for value in LABELS}
    assert sides[LIVER] < scene.truth.shape[2] / 2 < sides[SPLEEN]  # the letter R is on the left
    scene.keep_picture("ct")
    assert scene.ohif.said() == []


def test_a_segmentation_lies_over_its_images_in_its_colours(scene: Scene) -> None:
    segmentation = scene.send(result_of(scene.truth, scene.affine), "Segments")["SEG"]
    segments = scene.ohif.load_segments(segmentation.SeriesDescription)
    assert {each.number: each.label for each in segments} == LABELS
    assert {each.number: each.colour for each in segments} == COLOURS
    assert all(each.visible for each in segments)
    demand_voxels(scene)
    for value in LABELS:
        first, *_, last = scene.slices_of(value)
        for index in (first - 1, first, last, last + 1):
            demand_overlay(scene, index)
    scene.ohif.show_image(scene.uid(scene.slices_of(LIVER)[2]))
    demand_sides(scene)
    assert [row.split("\n")[-1] for row in scene.ohif.panel()] == list(LABELS.values())
    scene.keep_picture("seg")
    assert scene.ohif.said() == []


def test_a_mirrored_segmentation_is_seen_to_be_wrong(scene: Scene) -> None:
    mirrored = np.ascontiguousarray(scene.truth[:, :, ::-1])
    segmentation = scene.send(result_of(mirrored, scene.affine), "Mirrored")["SEG"]
    scene.ohif.load_segments(segmentation.SeriesDescription)
    with pytest.raises(AssertionError, match="voxels of slice"):
        demand_voxels(scene)
    for value, label in LABELS.items():
        with pytest.raises(AssertionError, match=f"{label} is not drawn"):
            demand_overlay(scene, scene.slices_of(value)[2], patience=2.0)


def test_a_segmentation_on_the_next_slice_is_seen_to_be_wrong(scene: Scene) -> None:
    segmentation = scene.send(result_of(np.roll(scene.truth, 1, axis=0), scene.affine), "Shifted")["SEG"]
    scene.ohif.load_segments(segmentation.SeriesDescription)
    with pytest.raises(AssertionError, match="is not drawn"):
        demand_overlay(scene, scene.slices_of(LIVER)[0], patience=2.0)
    with pytest.raises(AssertionError, match="where it must not be"):
        demand_overlay(scene, scene.slices_of(LIVER)[-1] + 1, patience=2.0)


def test_a_report_opens_on_its_key_images_with_contours_and_numbers(scene: Scene) -> None:
    report = scene.send(result_of(scene.truth, scene.affine), "Report")["SR"]
    measurements = scene.ohif.load_report(report.SeriesDescription)
    assert [each.name for each in measurements] == list(LABELS.values())
    for value, measurement in zip(LABELS, measurements, strict=True):
        expected = [
            f"Volume: {VOLUMES[value]:.2f} mL",
            f"Attenuation Coefficient: {ATTENUATIONS[value]:.2f} [hnsf'U]",
            f"363698007: {LABELS[value]}",
        ]
        assert measurement.lines == expected
        assert measurement.sop_instance_uid == key_image(report, LABELS[value])
        if value != LIVER:
            scene.ohif.next_measurement()
        assert scene.ohif.viewport().sop_instance_uid == measurement.sop_instance_uid
        demand_sides(scene)
        demand_contour(scene, value)
        assert [line for line in scene.ohif.drawn().texts if line] == expected
    scene.keep_picture("sr")
    assert scene.ohif.said() == []


def test_a_mirrored_report_is_seen_to_be_wrong(scene: Scene) -> None:
    mirrored = np.ascontiguousarray(scene.truth[:, :, ::-1])
    report = scene.send(result_of(mirrored, scene.affine), "Mirrored report")["SR"]
    scene.ohif.load_report(report.SeriesDescription)
    with pytest.raises(AssertionError, match="the contour encloses 0%"):
        demand_contour(scene, LIVER)


def test_a_report_that_leaves_the_viewport_blank_is_seen_to_be_wrong(scene: Scene) -> None:
    report = scene.send(result_of(scene.truth, scene.affine), "Blank")["SR"]
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    report.SeriesInstanceUID = generate_uid()
    report.SeriesDescription = "No measurements"
    report.ContentSequence = [item for item in report.ContentSequence if name_of(item) != "126010"]
    scene.add(report)
    scene.ohif.load(report.SeriesDescription)
    wait_until(lambda: bool(scene.ohif.said()), 20, "an error")
    assert not scene.ohif.viewport().alive


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


def what_is_wrong(picture: NDArray[np.uint8], expected: NDArray[np.uint8]) -> str:
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


def demand_contour(scene: Scene, value: int) -> None:
    """Demand that the viewport shows a block's slice, with one line around the block."""
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
    assert line.colour in CONTOUR_COLOURS
    coloured = tinted(scene.ohif.picture(viewport=True), line.colour)
    near = ndimage.binary_dilation(enclosed, iterations=3) & ~ndimage.binary_erosion(enclosed, iterations=3)
    length = np.hypot(*np.diff(points, axis=0).T).sum()
    assert coloured[near].sum() > 0.3 * length, "the contour is not drawn"  # it is dashed


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
