from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from sr_writer.checking.sc import sc_reasons
from sr_writer.material import Material
from sr_writer.picture.lettering import height_of, length, rows_of, wrapped
from sr_writer.picture.painting import size_of
from sr_writer.picture.scene import scene_of
from sr_writer.picture.secondary_capture import write_captures
from sr_writer.picture.sheet import sheet
from sr_writer.results import write_results
from study import codes
from study.errors import EncodingError, GeometryMismatch
from study.forms import Form, Variant
from study.imaging import Finding, LabelMap, ResultSet, Segment
from tests.support.blocks import LIVER, ORIENTATIONS, SPLEEN, Point, blocks, grid
from tests.support.pictures import BLUE, ORANGE, border, letters, middle, pixels_of
from tests.support.results import (
    CONTEXT,
    MODEL,
    SEGMENTS,
    assessments,
    headers_on_disk,
    lungs,
    numbers,
    radiograph,
    result_of,
)

SHAPE = (10, 40, 60)
SC = Variant(Form.SC)
BOXES = {LIVER: (-21.0, -14.0, -17.0), SPLEEN: (18.0, 15.0, 12.0)}
"""The middle of each block in LPS [mm]."""
COLOURS = {LIVER: ORANGE, SPLEEN: BLUE}


def flat(shape: tuple[int, ...], value: float = 0.0) -> Callable[[int], NDArray[np.float32]]:
    return lambda _: np.full(shape[1:], value, dtype=np.float32)


def material_of(sources: Sequence[Dataset], result: ResultSet) -> Material:
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    return Material(result, sources, MODEL, CONTEXT, flat(shape))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def blocks_material(orientation: str, folder: Path, *, mirrored: bool = False) -> Material:
    affine, shape = grid(orientation)
    voxels, truth = blocks(affine, shape)
    truth = truth[:, :, ::-1].copy() if mirrored else truth
    segments = tuple(
        replace(segment, value=value, label=label)
        for segment, value, label in zip(SEGMENTS, (LIVER, SPLEEN), ("Liver", "Spleen"), strict=True)
    )
    result = ResultSet(LabelMap(truth, affine, segments), ())
    headers = headers_on_disk(folder, shape, affine=affine)
    return Material(result, headers, MODEL, CONTEXT, lambda index: voxels[index])


def off_by(material: Material, capture: Dataset, value: int) -> float:
    """Return how far a block is drawn from where it is in the patient [pixels]."""
    source = next(
        source
        for source in material.sources
        if source.SOPInstanceUID == capture.SourceImageSequence[0].ReferencedSOPInstanceUID
    )
    cosines = np.array(source.ImageOrientationPatient, dtype=np.float64)
    away = np.array(BOXES[value]) - np.array(source.ImagePositionPatient, dtype=np.float64)
    width, height, step = size_of(source)
    # Half a source pixel lies before the centre of the first one
    half = np.array([float(source.PixelSpacing[0]), float(source.PixelSpacing[1])]) / 2
    expected = (away @ cosines[3:] + half[0]) / step, (away @ cosines[:3] + half[1]) / step
    found = middle(pixels_of(capture)[:height, :width], COLOURS[value])
    return float(np.abs(np.subtract(found, expected)).max())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_blocks_are_drawn_where_they_are_in_the_patient(orientation: str, tmp_path: Path) -> None:
    material = blocks_material(orientation, tmp_path)
    seen = set()
    captures = list(write_captures(material, replace(SC, most_images=4)))
    for capture in captures:
        picture = pixels_of(capture)[:, : int(capture.Rows)]
        for value in (LIVER, SPLEEN):
            if border(picture, COLOURS[value]).any():
                seen.add(value)
                assert off_by(material, capture, value) < 8
    assert seen == {LIVER, SPLEEN}
    width, height, _ = size_of(material.sources[0])
    directions = ORIENTATIONS[orientation]
    names: dict[Point, str]
    names = {(1, 0, 0): "L", (-1, 0, 0): "R", (0, 1, 0): "P", (0, -1, 0): "A", (0, 0, 1): "H", (0, 0, -1): "F"}
    right, below = names[directions[2]], names[directions[1]]
    drawn = letters(pixels_of(captures[0])[:height, :width])
    assert (drawn["right"], drawn["bottom"]) == (right, below)
    assert {drawn["left"] + right, drawn["top"] + below} <= {"LR", "RL", "AP", "PA", "HF", "FH"}
    assert list(captures[0].PatientOrientation) == [right, below]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mirrored_label_map_is_drawn_elsewhere(orientation: str, tmp_path: Path) -> None:
    material = blocks_material(orientation, tmp_path, mirrored=True)
    captures = list(write_captures(material, replace(SC, most_images=4)))
    shown = [
        (capture, value)
        for capture in captures
        for value in (LIVER, SPLEEN)
        if border(pixels_of(capture)[:, : int(capture.Rows)], COLOURS[value]).any()
    ]
    assert all(off_by(material, capture, value) > 60 for capture, value in shown)


def test_every_slice_with_a_region_has_a_picture_in_slice_order(sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    captures = list(write_captures(material_of(sources, result_of(values)), SC))
    occupied = np.flatnonzero(values.any(axis=(1, 2)))
    shown = [capture.SourceImageSequence[0].ReferencedSOPInstanceUID for capture in captures]
    assert shown == [sources[index].SOPInstanceUID for index in occupied]
    assert [capture.InstanceNumber for capture in captures] == list(range(1, len(occupied) + 1))
    assert len({capture.SOPInstanceUID for capture in captures}) == len(captures)
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_key_images_are_spread_and_have_the_largest_section(sources: list[Dataset], most: int) -> None:
    values = lungs(SHAPE)
    values[6, 5:30, 2:28] = 1
    shown = scene_of(material_of(sources, result_of(values))).key_slices(most)
    assert len(shown) == most
    assert 6 in shown
    assert shown == sorted(shown)


def test_the_picture_is_large_enough_and_its_pixels_are_square(tmp_path: Path) -> None:
    headers = headers_on_disk(tmp_path, SHAPE)  # rows 0.8 mm, columns 0.7 mm apart
    (capture, *_) = write_captures(material_of(headers, result_of(lungs(SHAPE))), SC)
    width, height, step = size_of(headers[0])
    assert min(width, height) >= 512
    assert width / height == pytest.approx(60 * 0.7 / (40 * 0.8), abs=0.01)
    assert [float(value) for value in capture.PixelSpacing] == pytest.approx([step, step])
    assert capture.Rows == height
    assert capture.Columns > width + 300  # the text stands beside the picture


@pytest.mark.parametrize(("rows", "columns"), [(2500, 3000), (512, 512), (64, 700), (1, 20000)])
def test_sizes_stay_within_limits(rows: int, columns: int) -> None:
    source = Dataset()
    source.Rows, source.Columns = rows, columns
    width, height, _ = size_of(source)
    assert max(width, height) <= 4096
    assert min(width, height) <= 1024
    assert (width, height) == (512, 512) or rows != 512
    assert min(width, height) >= 512 or columns > 8 * rows


def test_nothing_detected_is_one_picture_that_says_so(sources: list[Dataset]) -> None:
    result = result_of(np.zeros(SHAPE, dtype=np.uint8))
    missing = tuple(replace(each, detected=False, measurements=()) for each in result.findings)
    material = material_of(sources, replace(result, findings=missing))
    (capture,) = write_captures(material, SC)
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == sources[5].SOPInstanceUID
    heads = [caption.head for caption in scene_of(material).captions]
    assert heads == ["Right lung: not detected", "Left lung: not detected", "Both lungs: not detected"]
    # A segment that nothing speaks of is not passed over, and a region without a voxel is not there
    unsaid = scene_of(material_of(sources, replace(result, findings=())))
    assert [each.head for each in unsaid.captions] == ["Right lung: not detected", "Left lung: not detected"]
    with pytest.raises(EncodingError, match="no voxel of it"):
        list(write_captures(material_of(sources, result), SC))
    with pytest.raises(EncodingError, match="neither a finding"):
        list(write_captures(material_of(sources, ResultSet(None, ())), SC))


def test_words_change_the_picture(sources: list[Dataset]) -> None:
    found = result_of(lungs(SHAPE))
    one, other = (
        sheet(scene_of(material_of(sources, each)), 4)
        for each in (found, replace(found, findings=(replace(found.findings[0], label="Other"), *found.findings[1:])))
    )
    width = size_of(sources[0])[0]
    assert (one[:, :width] == other[:, :width]).all()
    assert (one[:, width:] != other[:, width:]).any()


def test_no_patient_and_no_date_is_drawn(tmp_path: Path) -> None:
    one = headers_on_disk(tmp_path / "a", SHAPE)
    other = headers_on_disk(
        tmp_path / "b",
        SHAPE,
        attributes={"PatientName": "Other^Otto", "PatientID": "Q9", "StudyDate": "20010101", "AccessionNumber": "Z8"}
        | {"StudyDescription": "Else", "PatientBirthDate": "19300303", "StudyID": "77"},
    )
    result = result_of(lungs(SHAPE))
    assert (sheet(scene_of(material_of(one, result)), 4) == sheet(scene_of(material_of(other, result)), 4)).all()


def test_what_is_said_of_a_volume_without_a_region_stands_on_its_image(sources: list[Dataset]) -> None:
    material = material_of(sources, ResultSet(None, (), ("A limit.",), assessments=assessments()))
    (capture,) = write_captures(material, SC)
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == sources[0].SOPInstanceUID
    lines = [caption.line for caption in scene_of(material).captions]
    assert lines == [
        "Pneumothorax: not detected, probability: 7 %",
        "Effusion: detected, probability: 93.4 %",
        "Open question: not decided, probability: 50 %",
        "Breast density: Density, mean: 12.5 %",
    ]


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
def test_radiographs(tmp_path: Path, modality: str) -> None:
    images = [radiograph(tmp_path / str(number), modality)[0] for number in range(3)]
    for image in images[1:]:
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
    said = tuple(replace(assessments()[1], key=f"e{index}", slices=(index,)) for index in (0, 2))
    material = material_of(images, ResultSet(None, (), assessments=said))
    captures = list(write_captures(material, SC))
    shown = [capture.SourceImageSequence[0].ReferencedSOPInstanceUID for capture in captures]
    assert shown == [images[0].SOPInstanceUID, images[2].SOPInstanceUID]
    stated = {"CR": [], "DX": ["L", "F"], "MG": ["A", "FR"]}[modality]
    assert [str(side) for side in captures[0].PatientOrientation or ()] == stated
    assert "PixelSpacing" not in captures[0]
    assert [reason.words for reason in sc_reasons(captures[0], images)] == []
    scene = scene_of(material)
    assert [len(scene.said_of(index)) for index in range(3)] == [1, 0, 1]  # each image has what is said of it


@pytest.mark.parametrize("inverted", [False, True])
def test_monochrome1_shows_low_values_bright(tmp_path: Path, inverted: bool) -> None:
    kind = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    (image,) = headers_on_disk(tmp_path, (1, 40, 60), attributes={"Modality": "MR", **kind})
    pixels = np.zeros((40, 60), dtype=np.float32)
    pixels[:, 30:] = 1000
    material = Material(ResultSet(None, (), assessments=assessments()[:1]), [image], MODEL, CONTEXT, lambda _: pixels)
    picture = sheet(scene_of(material), 0)
    assert (picture[300, 100].mean() > picture[300, 450].mean()) == inverted


def test_a_hundred_segments_with_long_names_fit(sources: list[Dataset]) -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    segments = []
    for value in range(1, 101):
        values[1 + value % 8, 4 + value // 10 * 3, 5 + value % 10 * 5 : 8 + value % 10 * 5] = value
        rgb = (40 + value * 2, 250 - value, (value * 37) % 256)
        label = f"Structure {value} with a name that goes on until there is no more room " + "x" * 60
        segments.append(Segment(value, label, codes.ANATOMICAL_STRUCTURE, codes.TISSUE, rgb=rgb))
    findings = tuple(
        Finding(f"f{each.value}", each.label, codes.TISSUE, codes.TISSUE, (each.value,), numbers(each.value))
        for each in segments
    )
    result = result_of(values, segments=segments)
    scene = scene_of(material_of(sources, replace(result, findings=findings)))
    rows = rows_of(scene.captions, 16, 316, 300, here=3)
    assert height_of(rows, 316) <= 300
    assert all(length(line, row.size) + row.left <= 316 for row in rows for line in wrapped(row, 316))
    assert rows[-1].words == f"and {100 - len(rows) + 1} more"
    assert len(rows) > 10
    assert rows[0].words.startswith("Structure 2 ")  # which is on this slice
    assert sheet(scene, 3).shape[0] == size_of(sources[0])[1]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    one, other = (
        write_results(result, sources, MODEL, CONTEXT, tmp_path / name, [SC], pixels=flat(SHAPE)) for name in "ab"
    )
    assert one == other
    assert len(one) == 8
    few = write_results(
        result, sources, MODEL, CONTEXT, tmp_path / "c", [replace(SC, most_images=2)], pixels=flat(SHAPE)
    )
    assert {each.sop_instance_uid for each in few}.isdisjoint(each.sop_instance_uid for each in one)


def test_compressed_pictures_are_the_same_pictures(tmp_path: Path, sources: list[Dataset]) -> None:
    result, variant = result_of(lungs(SHAPE)), replace(SC, most_images=1)
    for name, compressed in (("plain", False), ("rle", True)):
        asked = [replace(variant, compressed=compressed)]
        write_results(result, sources, MODEL, CONTEXT, tmp_path / name, asked, pixels=flat(SHAPE))
    plain, rle = (dcmread(tmp_path / name / "sc.dcm") for name in ("plain", "rle"))
    assert rle.file_meta.TransferSyntaxUID == RLELossless
    assert len(rle.PixelData) < len(plain.PixelData) / 4
    assert (pixels_of(plain) == pixels_of(rle)).all()
    assert plain.SOPInstanceUID != rle.SOPInstanceUID


def test_a_label_map_that_lies_elsewhere_is_refused(sources: list[Dataset]) -> None:
    affine = result_of(lungs(SHAPE)).label_map
    assert affine is not None
    moved = affine.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(GeometryMismatch):
        list(write_captures(material_of(sources, result_of(lungs(SHAPE), moved)), SC))


def test_pictures_need_pixels(sources: list[Dataset]) -> None:
    with pytest.raises(EncodingError, match="pixels"):
        list(write_captures(Material(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT), SC))


def _lose_source(capture: Dataset) -> None:
    capture.SourceImageSequence = []


def _another_source(capture: Dataset) -> None:
    capture.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.5"


def _uid_of_a_source(capture: Dataset) -> None:
    capture.SOPInstanceUID = capture.SourceImageSequence[0].ReferencedSOPInstanceUID


def _other_side(capture: Dataset) -> None:
    capture.PatientOrientation = ["R", "P"]


def _slanted_side(capture: Dataset) -> None:
    capture.PatientOrientation = ["LH", "P"]


def _no_side(capture: Dataset) -> None:
    capture.PatientOrientation = ""


def _black(capture: Dataset) -> None:
    capture.PixelData = bytes(len(capture.PixelData))


def _short(capture: Dataset) -> None:
    capture.PixelData = capture.PixelData[:1000]


def _small(capture: Dataset) -> None:
    capture.Rows = 500
    capture.PixelData = capture.PixelData[: 500 * capture.Columns * 3]


def _setting(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda capture: setattr(capture, keyword, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lose_source, "not of one source image"),
        (_another_source, "not of one source image"),
        (_uid_of_a_source, "one of the source's"),
        (_other_side, "PatientOrientation"),
        (_slanted_side, "PatientOrientation"),
        (_no_side, "PatientOrientation"),
        (_black, "shows nothing"),
        (_short, "can not be decoded"),
        (_small, "smaller than text"),
        (_setting("ImageType", ["ORIGINAL", "PRIMARY"]), "ImageType"),
        (_setting("InstanceNumber", None), "InstanceNumber"),
        (_setting("LossyImageCompression", "01"), "LossyImageCompression"),
        (_setting("Modality", "CT"), "Modality"),
        (_setting("ConversionType", "DV"), "ConversionType"),
        (_setting("BurnedInAnnotation", "YES"), "BurnedInAnnotation"),
        (_setting("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "SOPClassUID"),
        (_setting("PhotometricInterpretation", "YBR_FULL"), "PhotometricInterpretation"),
        (_setting("PlanarConfiguration", 1), "PlanarConfiguration"),
        (_setting("BitsStored", 7), "BitsStored"),
        (_setting("PatientID", "Q2"), "PatientID"),
        (_setting("DeviceUID", "2.25.5"), "DeviceUID"),
        (_setting("ReferencedSeriesSequence", None), "series is not referenced"),
    ],
)
def test_the_check_rejects(sources: list[Dataset], change: Callable[[Dataset], None], words: str) -> None:
    (capture,) = write_captures(material_of(sources, result_of(lungs(SHAPE))), replace(SC, most_images=1))
    assert [reason.words for reason in sc_reasons(capture, sources)] == []
    change(capture)
    assert words in " ".join(reason.words for reason in sc_reasons(capture, sources))
