"""Pictures drawn from result files, and the planes across the slices that they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer.material import Material
from sr_writer.picture.gallery import montage, write_captures_as_pictures, write_gallery
from sr_writer.picture.painting import which_words
from sr_writer.picture.scene import scene_of
from sr_writer.picture.stack import Stack
from sr_writer.picture.stored import captures_among, scene_of_files
from sr_writer.results import write_results
from study.codes import RIGHT_LUNG, Code
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import Finding, LabelMap, ResultSet
from tests.support.blocks import LIVER, ORIENTATIONS, SPLEEN, blocks, grid
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.pictures import ORANGE, opened
from tests.support.results import (
    CONTEXT,
    MODEL,
    SEGMENTS,
    TUMOUR,
    assessments,
    headers_on_disk,
    lungs,
    nested,
    numbers,
    radiograph,
    result_of,
    variants_of,
)
from tests.support.series import axial_affine

SHAPE = (10, 40, 60)
KIDNEY = Code("64033007", "SCT", "Kidney")
SEG_ORANGE, SEG_BLUE = (230, 159, 0), (0, 114, 178)


def pixels(_: int) -> NDArray[np.float32]:
    return np.zeros(SHAPE[1:], dtype=np.float32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def files_of(result: ResultSet, sources: list[Dataset], folder: Path, *forms: str) -> list[Path]:
    variants = variants_of(*(forms or ("seg", "sr")))
    written = write_results(result, sources, MODEL, CONTEXT, folder, variants, pixels=pixels)
    return [folder / each.path for each in written]


def near(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return where a picture has a colour, as it is after CIELab and back."""
    return np.asarray(np.abs(picture.astype(int) - np.array(colour)).max(axis=2) <= 3)


@pytest.mark.parametrize("forms", [("seg", "sr"), ("seg_labelmap",), ("seg",)])
def test_the_gallery_of_a_segmentation(tmp_path: Path, sources: list[Dataset], forms: tuple[str, ...]) -> None:
    files = files_of(result_of(lungs(SHAPE)), sources, tmp_path, *forms)
    pictures = write_gallery(scene_of_files(files, sources, pixels), tmp_path / "out", "lung")
    names = ["montage", "axial-1", "axial-2", "axial-3", "coronal", "sagittal"]
    assert [path.name for path in pictures] == [f"lung-{name}.png" for name in names]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in pictures)
    for path in pictures:
        picture = opened(path)  # a sagittal plane shows one lung only
        assert (near(picture, SEG_ORANGE) | near(picture, SEG_BLUE)).sum() > 50


def test_files_say_what_the_result_says(tmp_path: Path, sources: list[Dataset]) -> None:
    scene = scene_of_files(files_of(result_of(lungs(SHAPE)), sources, tmp_path), sources, pixels)
    assert [caption.head for caption in scene.captions] == ["Right lung", "Left lung: incomplete", "Both lungs"]
    assert scene.captions[0].numbers[0] == "Volume: 1700.3 mL"
    assert [len(caption.colours) for caption in scene.captions] == [1, 1, 0]
    assert scene.window.name == "lung"
    assert "not for diagnostic use" in scene.title
    assert scene.limits == ("The images came from a phantom.",)
    values = lungs(SHAPE)
    for region, value in zip(scene.regions, (2, 1), strict=True):
        occupied = np.flatnonzero(region.areas).tolist()
        assert all((region.mask(index) == (values[index] == value)).all() for index in occupied)
        assert region.areas.tolist() == (values == value).sum(axis=(1, 2)).tolist()


def test_a_report_alone_is_drawn_by_its_contours(tmp_path: Path, sources: list[Dataset]) -> None:
    files = files_of(result_of(lungs(SHAPE)), sources, tmp_path, "sr")
    scene = scene_of_files(files, sources, pixels)
    assert [region.label for region in scene.regions] == ["Left lung", "Right lung"]
    values = lungs(SHAPE)
    for region, value in zip(scene.regions, (2, 1), strict=True):
        for index in np.flatnonzero(region.areas):
            assert (region.mask(int(index)) ^ (values[index] == value)).sum() <= 4  # corners are cut
    assert len(write_gallery(scene, tmp_path / "out", "lung")) >= 2


def test_a_ragged_region_is_filled_to_its_last_pixel(tmp_path: Path) -> None:
    shape = (10, 60, 80)
    random = np.random.default_rng(1)
    values = np.zeros(shape, dtype=np.uint8)
    for plane in values:
        labels, _ = ndimage.label(ndimage.gaussian_filter(random.normal(size=shape[1:]), 3) > 0.05)
        plane[ndimage.binary_fill_holes(labels == 1 + np.bincount(labels.ravel())[1:].argmax())] = 1
    images = headers_on_disk(tmp_path / "in", shape)
    result = result_of(values, segments=SEGMENTS[:1])
    files = files_of(replace(result, findings=result.findings[:1]), images, tmp_path, "sr")
    (region,) = scene_of_files(files, images, pixels).regions
    assert region.areas.all()
    assert all((region.mask(index) == values[index]).all() for index in range(len(values)))


def test_segments_that_overlap_are_all_seen(tmp_path: Path, sources: list[Dataset]) -> None:
    files = files_of(nested(SHAPE), sources, tmp_path, "seg")
    picture = np.asarray(montage(scene_of_files(files, sources, pixels)))
    for segment in TUMOUR:
        # Pictures in a montage are scaled: colours blend a little
        assert (np.abs(picture.astype(int) - segment.rgb).max(axis=2) < 40).sum() > 50


def test_frames_of_a_multi_frame_image_are_found(tmp_path: Path) -> None:
    order = (3, 0, 9, 6, 1, 8, 4, 2, 7, 5)
    multi = enhanced_image(np.zeros(SHAPE), axial_affine(), order, "CT")
    sources = frame_headers(multi, order, tmp_path / "in")
    files = files_of(result_of(lungs(SHAPE)), sources, tmp_path)
    scene = scene_of_files(files, sources, pixels)
    assert (scene.occupied == lungs(SHAPE).any(axis=(1, 2))).all()
    assert which_words(sources[4]) == f"image 1, frame {order.index(4) + 1}"
    assert write_gallery(scene, tmp_path / "out", "x")


def test_what_is_said_of_radiographs(tmp_path: Path) -> None:
    images = radiograph(tmp_path / "in", "DX")
    files = files_of(ResultSet(None, (), assessments=assessments()), images, tmp_path, "sr")
    scene = scene_of_files(files, images, lambda _: np.zeros((20, 30), dtype=np.float32))
    assert "Pneumothorax: not detected" in [caption.head for caption in scene.captions]
    assert [path.name for path in write_gallery(scene, tmp_path / "out", "x")] == ["x-montage.png", "x-image-1.png"]


@pytest.mark.parametrize(
    "result",
    [
        ResultSet(None, (Finding("kidney", "Kidney", KIDNEY, KIDNEY, (), numbers(150.0)),)),
        ResultSet(None, (Finding("right_lung", "Right lung", RIGHT_LUNG, RIGHT_LUNG, (), numbers(150.0)),)),
        ResultSet(None, (), assessments=assessments()),
        result_of(lungs(SHAPE)),
    ],
)
@pytest.mark.parametrize("form", ["sr", "sr_segments"])
def test_a_report_alone_is_seen_through_the_window_of_its_result(result: ResultSet, form: str, tmp_path: Path) -> None:
    images = headers_on_disk(tmp_path / "in", SHAPE, attributes={"WindowCenter": "50", "WindowWidth": "350"})
    forms = ("seg", form) if form == "sr_segments" and result.label_map else (form,)
    files = files_of(result, images, tmp_path, *forms)
    files = [path for path in files if path.name.startswith("sr")]
    live = scene_of(Material(result, images, MODEL, CONTEXT, pixels))
    assert scene_of_files(files, images, pixels).window == live.window


def test_captures_are_pictures_already(tmp_path: Path, sources: list[Dataset]) -> None:
    folder = tmp_path / "sc"
    few = [Variant(Form.SC, most_images=2)]
    written = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, folder, few, pixels=pixels)
    files = [folder / each.path for each in written]
    with pytest.raises(EncodingError, match="neither a Segmentation nor a report"):
        scene_of_files(files, sources, pixels)
    pictures = write_captures_as_pictures(captures_among(files), tmp_path / "out", "x")
    assert [path.name for path in pictures] == ["x-sc-1.png", "x-sc-2.png"]
    assert (opened(pictures[0]) == np.array(ORANGE)).all(axis=2).any()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_planes_across_show_blocks_where_they_are(orientation: str, tmp_path: Path) -> None:
    affine, shape = grid(orientation)
    voxels, truth = blocks(affine, shape)
    segments = tuple(replace(each, value=value) for each, value in zip(SEGMENTS, (LIVER, SPLEEN), strict=True))
    headers = headers_on_disk(tmp_path / "in", shape, affine=affine)
    result = ResultSet(LabelMap(truth, affine, segments), ())
    write_results(result, headers, MODEL, CONTEXT, tmp_path, variants_of("seg"))
    scene = scene_of_files([tmp_path / "seg.dcm"], headers, lambda index: voxels[index])
    pictures = write_gallery(scene, tmp_path / "out", "x")
    names = {path.stem.removeprefix("x-").rstrip("-123") for path in pictures}
    assert names == {"montage", "axial", "coronal", "sagittal"}
    across = {"axial", "coronal", "sagittal"} - {scene.stack.plane if scene.stack else ""}
    for plane in across:
        picture = opened(tmp_path / "out" / f"x-{plane}.png")
        rows, columns = np.nonzero(near(picture, SEG_ORANGE))
        if not len(rows):  # the plane goes through the larger block, which this one need not reach
            continue
        # The liver is right, in front and low: left in the picture (sagittal: front is left), up or down by the plane
        assert columns.mean() < picture.shape[1] / 2
        assert (rows.mean() > picture.shape[0] / 2) == (plane != "axial")


def test_uneven_slices_are_drawn_in_their_places(tmp_path: Path) -> None:
    offsets = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 40.0)
    headers = headers_on_disk(tmp_path, SHAPE)
    for header, offset in zip(headers, offsets, strict=True):
        header.ImagePositionPatient = [-20, -30, -40 + offset]
    stack = Stack.of(headers)
    assert stack is not None
    cut = stack.cut("coronal", -20.0, 0.5)
    (shown,) = stack.pixels_on([cut], lambda index: np.full(SHAPE[1:], float(index), dtype=np.float32))
    assert cut.shape[0] == 81
    heights = -40 + (80 - np.arange(81)) * 0.5
    expected = np.interp(heights, -40 + np.array(offsets), np.arange(10))
    assert np.abs(shown[:, 20] - expected).max() < 1e-4
    near_tops = [index for index, where, _, _ in stack.nearest_on(cut) for place in where if place % cut.shape[1] == 20]
    assert near_tops.count(9) == 33  # the gap of 32 mm is shared by its two slices
    assert near_tops.count(8) == 33


def test_the_fullest_section_is_found() -> None:
    origins = np.array([[0, 0, height] for height in (0.0, 2.0, 4.0)])
    stack = Stack(origins, np.array([[0, 1.0, 0], [0.5, 0, 0]]), (20, 30))
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 3:20] = True
    mask[5, :] = True
    assert stack.fullest(1, lambda _: mask, np.array([True, True, False])) == 5.0
    assert stack.fullest(1, lambda _: ~mask & mask, np.ones(3, dtype=bool)) is None
