"""An RT Structure Set gives the label map back pixel for pixel, and says of each region what the segment says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer.checking.rtstruct import check_rtstruct
from sr_writer.context import ResultContext
from sr_writer.files import save
from sr_writer.material import Material
from sr_writer.reading.structure_set import contours_of, filled, on_image
from sr_writer.results import write_results
from sr_writer.rtstruct.contours import MOST_BYTES
from sr_writer.rtstruct.writing import names, write_structure_sets
from sr_writer.source.images import by_key
from study import codes
from study.codes import Code
from study.errors import EncodingError, GeometryMismatch, MissingIdentity
from study.forms import Form, Variant
from study.imaging import LabelMap, ResultSet, Segment
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.results import (
    CONTEXT,
    MODEL,
    SEGMENTS,
    TUMOUR,
    headers_on_disk,
    lungs,
    nested,
    radiograph,
    result_of,
    variants_of,
)
from tests.support.series import axial_affine

Affine = NDArray[np.float64]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

SHAPE = (8, 24, 32)
ORDER = (3, 0, 6, 1, 7, 4, 2, 5)
"""The slice that each frame of a generated multi-frame image shows."""


def turned(axes: tuple[int, int, int], signs: tuple[int, int, int]) -> Affine:
    """Return an affine whose slices, rows and columns run along these patient axes."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign, step) in enumerate(zip(axes, signs, (2.0, 0.8, 0.7), strict=True)):
        affine[axis, column] = sign * step
    affine[:3, 3] = (-20, -30, -40)
    return affine


def oblique() -> Affine:
    angle = np.radians(17)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    result: Affine = turn @ axial_affine()
    return result


ORIENTATIONS = {
    "axial": axial_affine(),
    "feet first": turned((2, 1, 0), (-1, 1, -1)),
    "sagittal": turned((0, 2, 1), (-1, -1, 1)),
    "coronal": turned((1, 2, 0), (1, -1, 1)),
    "oblique": oblique(),
}


def blobs(shape: tuple[int, int, int] = SHAPE, seed: int = 5) -> NDArray[np.uint8]:
    """Return two segments with holes, islands, diagonal contacts and single pixels, up to the borders."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), (0, 1, 1))
    values = np.zeros(shape, dtype=np.uint8)
    values[smooth > 0.05] = 1
    values[smooth < -0.15] = 2
    return values


def masks_of(structure_set: Dataset, sources: Sequence[Dataset]) -> dict[int, Mask]:
    """Return bool (slices, rows, columns) for each region, from the points and the planes of the images alone."""
    shape = (int(sources[0].Rows), int(sources[0].Columns))
    index = {key: number for number, key in enumerate(by_key(sources))}
    masks: dict[int, Mask] = {}
    for region in structure_set.ROIContourSequence:
        mask = masks.setdefault(int(region.ReferencedROINumber), np.zeros((len(sources), *shape), dtype=np.bool_))
        for contour in contours_of(region):
            (key,) = contour.images
            points, off = on_image(contour.places, sources[index[key]])
            assert off < 1e-3
            mask[index[key]] |= filled(points, shape)
    return masks


WHOLE = Variant(Form.RTSTRUCT)


def written(
    result: ResultSet,
    sources: Sequence[Dataset],
    context: ResultContext = CONTEXT,
    variant: Variant = WHOLE,
) -> Dataset:
    (structure_set,) = write_structure_sets(Material(result, sources, MODEL, context), variant)
    return structure_set


def saved(result: ResultSet, sources: Sequence[Dataset], folder: Path) -> Dataset:
    save(written(result, sources), folder / "rtstruct.dcm")
    return check_rtstruct(folder / "rtstruct.dcm", sources)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_the_label_map_comes_back_pixel_for_pixel(tmp_path: Path, orientation: str) -> None:
    affine = ORIENTATIONS[orientation]
    headers = headers_on_disk(tmp_path / "in", SHAPE, affine=affine)
    masks = masks_of(saved(result_of(blobs(), affine), headers, tmp_path), headers)
    assert all((masks[number] == (blobs() == number)).all() for number in (1, 2))


def test_segments_that_overlap_come_back(tmp_path: Path, sources: list[Dataset]) -> None:
    result = nested(SHAPE)
    assert result.label_map is not None
    masks = masks_of(saved(result, sources, tmp_path), sources)
    for number, layer in enumerate(result.label_map.layers, 1):
        assert (masks[number] == (layer == number)).all()


def test_slices_at_uneven_distances_have_their_own_planes(tmp_path: Path) -> None:
    offsets = (0.0, 1.0, 3.37, 3.91, 9.0, 11.13, 16.59, 18.0)
    headers = headers_on_disk(tmp_path / "in", SHAPE)
    for header, offset in zip(headers, offsets, strict=True):
        header.ImagePositionPatient = [-20, -30, -40 + offset]
    label_map = LabelMap(lungs(SHAPE), axial_affine(), SEGMENTS, offsets=offsets)
    structure_set = saved(ResultSet(label_map, ()), headers, tmp_path)
    assert (masks_of(structure_set, headers)[1] == (lungs(SHAPE) == 1)).all()
    heights = {float(item.ContourData[2]) for item in structure_set.ROIContourSequence[0].ContourSequence}
    assert sorted(heights) == pytest.approx([-40 + offset for offset in offsets[1:-1]])


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_contours_on_a_multi_frame_image_name_the_frame(tmp_path: Path, modality: str) -> None:
    multi = enhanced_image(np.zeros(SHAPE), oblique(), ORDER, modality)
    frames = frame_headers(multi, ORDER, tmp_path / "in")
    structure_set = saved(result_of(blobs(), oblique()), frames, tmp_path)
    assert (masks_of(structure_set, frames)[2] == (blobs() == 2)).all()
    (frame_of_reference,) = structure_set.ReferencedFrameOfReferenceSequence
    (series,) = frame_of_reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    (image,) = series.ContourImageSequence
    assert image.ReferencedSOPInstanceUID == multi.SOPInstanceUID


def test_a_point_lies_where_the_pixel_is_in_the_patient(tmp_path: Path, sources: list[Dataset]) -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[3, 5, 7] = 1
    structure_set = saved(result_of(values), sources, tmp_path)
    (item,) = structure_set.ROIContourSequence[0].ContourSequence
    assert (item.ContourGeometricType, item.NumberOfContourPoints) == ("CLOSED_PLANAR", 4)
    assert item.ContourImageSequence[0].ReferencedSOPInstanceUID == sources[3].SOPInstanceUID
    x, y, z = np.array(item.ContourData, dtype=float).reshape(-1, 3).T
    assert sorted(set(x)) == pytest.approx([-20 + 6.5 * 0.7, -20 + 7.5 * 0.7], abs=0.001)
    assert sorted(set(y)) == pytest.approx([-30 + 4.5 * 0.8, -30 + 5.5 * 0.8], abs=0.001)
    assert set(z) == {-34.0}


def test_it_is_an_unapproved_structure_set_of_its_own_series(tmp_path: Path, sources: list[Dataset]) -> None:
    structure_set = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    assert (structure_set.Modality, structure_set.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    assert (structure_set.SeriesNumber, structure_set.StructureSetLabel) == (9200, "Lung CT")
    assert structure_set.SeriesDescription == "Lung CT structure set - not for diagnostic use"
    assert (structure_set.StructureSetDate, structure_set.StructureSetTime) == ("20260304", "223015")
    assert structure_set.StructureSetDescription == (
        "Made by lung_ct 1.2.0, not reviewed by anybody. The images came from a phantom."
    )
    assert "ContentDate" not in structure_set


def test_the_label_is_cut_to_what_fits_and_begins_with_the_prefix(sources: list[Dataset]) -> None:
    context = replace(CONTEXT, description="Whole body ≥ 104 structures")
    variant = Variant(Form.RTSTRUCT, description_prefix="TEST ")
    structure_set = written(result_of(lungs(SHAPE)), sources, context, variant)
    assert structure_set.StructureSetLabel == "TEST Whole body"
    assert structure_set.StructureSetName == structure_set.SeriesDescription
    assert structure_set.SeriesDescription.startswith("TEST Whole body >=")


def test_a_region_has_the_number_name_colour_and_codes_of_the_segment(tmp_path: Path, sources: list[Dataset]) -> None:
    kidney = Segment(5, "Right kidney", codes.ANATOMICAL_STRUCTURE, Code("64033007", "SCT", "Kidney"), rgb=(255, 0, 9))
    kidney = replace(kidney, laterality=Code("24028007", "SCT", "Right"))
    values = np.where(lungs(SHAPE) == 1, 5, lungs(SHAPE)).astype(np.uint8)
    segments = (SEGMENTS[0], kidney, SEGMENTS[1])
    structure_set = saved(result_of(values, segments=segments), sources, tmp_path)
    assert [(item.ROINumber, item.ROIName) for item in structure_set.StructureSetROISequence] == [
        (1, "Left lung"),
        (2, "Right kidney"),
    ]
    region, drawn, observed = (
        structure_set[keyword][1]
        for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")
    )
    assert (region.ROIGenerationAlgorithm, region.ROIGenerationDescription) == ("AUTOMATIC", "lung_ct 1.2.0")
    (algorithm,) = region.ROIDerivationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL.name, MODEL.version)
    assert list(drawn.ROIDisplayColor) == [255, 0, 9]
    assert [item.ContourNumber for item in drawn.ContourSequence] == list(range(1, len(drawn.ContourSequence) + 1))
    assert (observed.ReferencedROINumber, observed.RTROIInterpretedType) == (2, "ORGAN")
    (identified,) = observed.RTROIIdentificationCodeSequence
    assert identified.CodeValue == "64033007"
    assert identified.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"


def test_a_tumour_is_no_organ_and_its_side_is_its_regions(tmp_path: Path, sources: list[Dataset]) -> None:
    left = replace(TUMOUR[0], laterality=Code("7771000", "SCT", "Left"))
    values = (lungs(SHAPE) == 1).astype(np.uint8)
    structure_set = saved(ResultSet(LabelMap(values, axial_affine(), (left,)), ()), sources, tmp_path)
    (observed,) = structure_set.RTROIObservationsSequence
    assert observed["RTROIInterpretedType"].is_empty
    assert observed.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue == "7771000"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in observed.RTROIIdentificationCodeSequence[0]


def test_what_limits_a_region_stands_beside_it(tmp_path: Path, sources: list[Dataset]) -> None:
    right, left = saved(result_of(lungs(SHAPE)), sources, tmp_path).StructureSetROISequence
    assert "ROIDescription" not in right
    assert left.ROIDescription == "Incomplete: the lung touches the last slice. A note on the left lung."


def test_long_words_are_cut_visibly(sources: list[Dataset]) -> None:
    result = replace(result_of(lungs(SHAPE)), limits=("limit" * 300,))
    structure_set = written(result, sources)
    assert len(structure_set.StructureSetDescription) == 1024
    assert structure_set.StructureSetDescription.endswith("lim...")


def test_regions_of_the_same_name_get_their_numbers() -> None:
    labels = ("Lesion", "Liver", "lesion", "x" * 64, "x" * 64)
    segments = [replace(SEGMENTS[0], value=value, label=label) for value, label in enumerate(labels, 1)]
    assert names(segments) == ["Lesion [1]", "Liver", "lesion [3]", "x" * 60 + " [4]", "x" * 60 + " [5]"]


def test_a_name_that_does_not_fit_is_an_error_and_not_cut(sources: list[Dataset]) -> None:
    long = (replace(SEGMENTS[0], label="x" * 65), SEGMENTS[1])
    with pytest.raises(EncodingError, match="65 characters"):
        written(result_of(lungs(SHAPE), segments=long), sources)


def test_slices_with_frames_of_reference_of_their_own_get_the_first_slices(tmp_path: Path) -> None:
    headers = headers_on_disk(tmp_path / "in", SHAPE)
    for index, header in enumerate(headers):
        header.FrameOfReferenceUID = f"2.25.{index + 1}"
    structure_set = saved(result_of(lungs(SHAPE)), headers, tmp_path)
    assert structure_set.FrameOfReferenceUID == "2.25.1"
    assert {item.ReferencedFrameOfReferenceUID for item in structure_set.StructureSetROISequence} == {"2.25.1"}


def test_a_border_too_ragged_for_one_contour_is_cut_into_several(tmp_path: Path) -> None:
    shape = (2, 110, 220)
    values = np.zeros(shape, dtype=np.uint8)
    values[:, 2:-2, 2:-2] = 1
    values[1, 4:-4:3, 4:-4:3] = 0  # a sieve
    headers = headers_on_disk(tmp_path / "in", shape, affine=oblique())
    structure_set = saved(result_of(values, oblique(), SEGMENTS[:1]), headers, tmp_path)
    items = structure_set.ROIContourSequence[0].ContourSequence
    assert len(items) > 4
    assert max(len(item.get_item("ContourData").value) for item in items) <= MOST_BYTES
    assert (masks_of(structure_set, headers)[1] == (values == 1)).all()


def test_a_coordinate_that_fits_into_no_decimal_string_is_an_error(tmp_path: Path) -> None:
    affine = axial_affine(origin=(1e13, 0, 0))
    headers = headers_on_disk(tmp_path / "in", SHAPE, affine=affine)
    with pytest.raises(EncodingError, match="decimal string"):
        written(result_of(lungs(SHAPE), affine), headers)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: list[Dataset]) -> None:
    variants = variants_of("rtstruct")
    first = write_results(result_of(blobs()), sources, MODEL, CONTEXT, tmp_path / "a", variants)
    assert write_results(result_of(blobs()), sources, MODEL, CONTEXT, tmp_path / "b", variants) == first
    assert [(each.form, each.path) for each in first] == [("rtstruct", "rtstruct.dcm")]


def test_another_prefix_makes_another_object(sources: list[Dataset]) -> None:
    one, other = (
        written(result_of(lungs(SHAPE)), sources, variant=Variant(Form.RTSTRUCT, description_prefix=prefix))
        for prefix in ("", "A ")
    )
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_no_voxel_makes_no_structure_set(tmp_path: Path, sources: list[Dataset]) -> None:
    empty = result_of(np.zeros(SHAPE, dtype=np.uint8))
    assert write_results(empty, sources, MODEL, CONTEXT, tmp_path, variants_of("rtstruct")) == []
    nothing = Material(ResultSet(None, ()), sources, MODEL, CONTEXT)
    assert write_structure_sets(nothing, WHOLE) == []


def test_a_radiograph_has_no_place_for_contours(tmp_path: Path) -> None:
    (header,) = radiograph(tmp_path / "in", "CR")
    values = np.ones((1, 20, 30), dtype=np.uint8)
    with pytest.raises(EncodingError, match="no place in the patient"):
        written(result_of(values), [header])


def test_a_label_map_that_is_shifted_is_refused(sources: list[Dataset]) -> None:
    with pytest.raises(GeometryMismatch, match=r"2\.00 mm"):
        written(result_of(lungs(SHAPE), axial_affine(origin=(-20, -30, -38))), sources)


def test_images_of_nobody_get_no_structure_set(tmp_path: Path) -> None:
    headers = headers_on_disk(tmp_path / "in", SHAPE, attributes={"PatientID": ""})
    with pytest.raises(MissingIdentity):
        written(result_of(lungs(SHAPE)), headers)
