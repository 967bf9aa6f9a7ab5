"""A label map as a LABELMAP Segmentation: the same segments as the BINARY one, in one value for each pixel."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import Segmentation, segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from sr_writer.reading.segmentation import images_of_segments, read_segmentation
from sr_writer.results import write_results
from sr_writer.seg.writing import write_seg
from sr_writer.source.images import by_key, key_of
from study import codes
from study.forms import Form, Variant
from study.imaging import LabelMap, ResultSet, Segment
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.peers import program, shared
from tests.support.results import (
    CONTEXT,
    MODEL,
    SEGMENTS,
    TUMOUR,
    headers_on_disk,
    lungs,
    nested,
    philips_frames,
    result_of,
)
from tests.support.series import axial_affine

SHAPE = (8, 21, 33)
PLAIN = Variant(Form.SEG_LABELMAP)
COMPRESSED = Variant(Form.SEG_LABELMAP, compressed=True)
Labels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def with_a_gap() -> Labels:
    """Return lungs that are on no voxel of one slice in the middle."""
    values = lungs(SHAPE)
    values[4] = 0
    return values


def written(folder: Path, result: ResultSet, sources: Sequence[Dataset], variant: Variant = PLAIN) -> list[Path]:
    return [folder / each.path for each in write_results(result, sources, MODEL, CONTEXT, folder, (variant,))]


def by_source(segmentation: Segmentation, sources: Sequence[Dataset]) -> NDArray[np.generic]:
    found: NDArray[np.generic] = segmentation.get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources], combine_segments=True, assert_missing_frames_are_empty=True
    )
    return found


@pytest.mark.parametrize("variant", [PLAIN, COMPRESSED], ids=["plain", "compressed"])
def test_the_labels_come_back_voxel_for_voxel(tmp_path: Path, sources: list[Dataset], variant: Variant) -> None:
    values = with_a_gap()
    (path,) = written(tmp_path, result_of(values), sources, variant)
    assert (read_segmentation(path).label_map([*by_key(sources)]) == values).all()
    # highdicom finds the frames by their source images, and by their place in the patient
    theirs = segread(path)
    assert (by_source(theirs, sources) == values).all()
    volume = theirs.get_volume(combine_segments=True)
    voxels = np.argwhere(volume.array > 0)
    places = np.column_stack([voxels, np.ones(len(voxels))]) @ volume.affine.T
    indices = np.rint(places @ np.linalg.inv(axial_affine()).T)[:, :3].astype(int)
    assert len(indices) == np.count_nonzero(values)
    assert (values[tuple(indices.T)] == volume.array[tuple(voxels.T)]).all()


def test_it_is_a_label_map_with_a_background(tmp_path: Path, sources: list[Dataset]) -> None:
    (path,) = written(tmp_path, result_of(with_a_gap()), sources)
    seg = dcmread(path)
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert seg.SegmentationType == "LABELMAP"
    assert seg.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (seg.BitsAllocated, seg.PixelPaddingValue, seg.SegmentsOverlap) == (8, 0, "NO")
    assert (seg.SeriesNumber, seg.SeriesDescription) == (9100, "Lung CT segmentation - not for diagnostic use")
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 0]
    assert seg.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].CodeValue == "125040"


def test_frames_are_a_volume_without_a_gap(tmp_path: Path, sources: list[Dataset]) -> None:
    (path,) = written(tmp_path, result_of(with_a_gap()), sources)
    seg = dcmread(path)
    # The first slice and the last have no lung; the one in the middle, which has none either, has a frame
    assert seg.NumberOfFrames == SHAPE[0] - 2
    assert seg.DimensionOrganizationType == "3D"
    images = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    assert images == [source.SOPInstanceUID for source in sources[-2:0:-1]]


def test_segments_are_those_of_the_binary_one(tmp_path: Path, sources: list[Dataset]) -> None:
    (label_map,) = written(tmp_path, result_of(lungs(SHAPE)), sources)
    (binary,) = written(tmp_path, result_of(lungs(SHAPE)), sources, Variant(Form.SEG))
    assert read_segmentation(label_map).segments == read_segmentation(binary).segments
    assert images_of_segments(dcmread(label_map)) == images_of_segments(dcmread(binary))
    one, other = dcmread(label_map), dcmread(binary)
    for mine, theirs in zip(one.SegmentSequence[:2], other.SegmentSequence, strict=True):
        assert mine == theirs
    assert one.ReferencedSeriesSequence == other.ReferencedSeriesSequence
    assert one.SharedFunctionalGroupsSequence == other.SharedFunctionalGroupsSequence
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_a_compressed_one_is_in_rle_lossless_and_smaller(tmp_path: Path) -> None:
    shape = (6, 128, 128)
    sources = headers_on_disk(tmp_path / "in", shape)
    (plain,) = written(tmp_path / "plain", result_of(lungs(shape)), sources)
    (compressed,) = written(tmp_path / "small", result_of(lungs(shape)), sources, COMPRESSED)
    seg = dcmread(compressed)
    assert seg.file_meta.TransferSyntaxUID == RLELossless
    assert (seg.pixel_array == dcmread(plain).pixel_array).all()
    assert compressed.stat().st_size < plain.stat().st_size / 4
    assert seg.SOPInstanceUID != dcmread(plain).SOPInstanceUID


def test_dcmtk_decompresses_a_compressed_one(tmp_path: Path, sources: list[Dataset]) -> None:
    (path,) = written(tmp_path, result_of(lungs(SHAPE)), sources, COMPRESSED)
    dcmdrle = program("dcmdrle", package="dcmtk")
    subprocess.run([dcmdrle, path, tmp_path / "plain.dcm"], check=True, capture_output=True)
    plain = dcmread(tmp_path / "plain.dcm")
    assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (plain.pixel_array == lungs(SHAPE)[-2:0:-1]).all()


@pytest.mark.parametrize("variant", [PLAIN, COMPRESSED], ids=["plain", "compressed"])
def test_more_segments_than_a_byte_holds_take_two(tmp_path: Path, variant: Variant) -> None:
    shape = (3, 20, 20)
    sources = headers_on_disk(tmp_path / "in", shape)
    values = np.arange(1200, dtype=np.uint16).reshape(shape) % 300
    segments = [Segment(value, f"S{value}", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG) for value in range(1, 300)]
    (path,) = written(tmp_path, replace(result_of(values, segments=segments), findings=()), sources, variant)
    assert dcmread(path).BitsAllocated == 16
    assert (by_source(segread(path), sources) == values).all()


def test_segments_that_overlap_stand_in_an_object_for_each_layer(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    sources = headers_on_disk(tmp_path / "in", shape)
    result = nested(shape)
    assert result.label_map is not None
    paths = written(tmp_path, result, sources)
    assert [path.name for path in paths] == ["seg_labelmap.dcm", "seg_labelmap-2.dcm", "seg_labelmap-3.dcm"]
    objects = [dcmread(path) for path in paths]
    for number, (path, layer) in enumerate(zip(paths, result.label_map.layers, strict=True), 1):
        assert (by_source(segread(path), sources) == (layer == number)).all()
        assert [segment.label for segment in read_segmentation(path).segments] == [TUMOUR[number - 1].label]
    assert [seg.InstanceNumber for seg in objects] == [1, 2, 3]
    assert len({seg.SeriesInstanceUID for seg in objects}) == 1
    assert len({seg.SOPInstanceUID for seg in objects}) == 3
    assert [seg.SegmentsOverlap for seg in objects] == ["NO"] * 3
    assert [seg.ContentDescription for seg in objects] == [
        f"lung_ct 1.2.0, {number} of 3 (segments overlap)" for number in (1, 2, 3)
    ]


def test_layers_that_do_not_overlap_make_one_object(tmp_path: Path, sources: list[Dataset]) -> None:
    first, second = np.zeros(SHAPE, dtype=np.uint16), np.zeros(SHAPE, dtype=np.uint8)
    first[2:5, 4:9, 4:9], second[4:6, 12:16, 4:9] = 300, 2
    segments = (replace(SEGMENTS[0], value=300), SEGMENTS[1])
    result = ResultSet(LabelMap(first, axial_affine(), segments, (second,)), ())
    (path,) = written(tmp_path, result, sources)
    expected = np.where(first == 300, 2, 0) + np.where(second == 2, 1, 0)
    assert (by_source(segread(path), sources) == expected).all()
    assert dcmread(path).ContentDescription == "lung_ct 1.2.0"


def test_slices_at_uneven_distances_have_no_spacing(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    offsets = (0.0, 1.0, 3.37, 3.91, 9.0, 11.13, 16.59, 18.0)
    for source, offset in zip(sources, offsets, strict=True):
        source.ImagePositionPatient = [-20, -30, -40 + offset]
    label_map = LabelMap(lungs(SHAPE), axial_affine(), SEGMENTS, offsets=offsets)
    (path,) = written(tmp_path, replace(result_of(lungs(SHAPE)), label_map=label_map), sources)
    seg = dcmread(path)
    assert "SpacingBetweenSlices" not in seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "DimensionOrganizationType" not in seg
    assert (by_source(segread(path), sources) == lungs(SHAPE)).all()


def test_frames_of_a_multi_frame_image_are_referred_to(tmp_path: Path) -> None:
    order = (3, 0, 6, 1, 7, 4, 2, 5)
    multi = enhanced_image(np.zeros(SHAPE), axial_affine(), order, "MR")
    sources = frame_headers(multi, order, tmp_path / "in")
    (path,) = written(tmp_path, result_of(lungs(SHAPE)), sources, COMPRESSED)
    theirs = segread(path).get_pixels_by_source_frame(
        sources[0].SOPInstanceUID,
        [order.index(index) + 1 for index in range(len(order))],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert (theirs == lungs(SHAPE)).all()


def test_a_real_enhanced_mr_gives_its_labels_back(tmp_path: Path) -> None:
    sources, affine = philips_frames(shared("data", "mr_philips_enhanced", "enhanced"))
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    (path,) = written(tmp_path, result_of(lungs(shape), affine), sources, COMPRESSED)
    assert (read_segmentation(path).label_map([key_of(source) for source in sources]) == lungs(shape)).all()


@pytest.mark.parametrize("variant", [PLAIN, COMPRESSED], ids=["plain", "compressed"])
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: list[Dataset], variant: Variant) -> None:
    (first,) = written(tmp_path / "a", result_of(lungs(SHAPE)), sources, variant)
    (second,) = written(tmp_path / "b", result_of(lungs(SHAPE)), sources, variant)
    assert first.read_bytes() == second.read_bytes()


def test_an_odd_number_of_bytes_is_padded(tmp_path: Path) -> None:
    shape = (5, 7, 9)
    sources = headers_on_disk(tmp_path / "in", shape)
    (path,) = written(tmp_path, result_of(np.ones(shape, dtype=np.uint8), segments=SEGMENTS[:1]), sources)
    assert len(dcmread(path).PixelData) == 5 * 7 * 9 + 1


def test_other_variants_have_other_uids(sources: list[Dataset]) -> None:
    made = [
        write_seg(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, variant=variant)[0]
        for variant in (PLAIN, COMPRESSED, Variant(Form.SEG), replace(PLAIN, most_frames=400))
    ]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({seg[keyword].value for seg in made}) == len(made)
    assert len({seg.DimensionOrganizationSequence[0].DimensionOrganizationUID for seg in made}) == len(made)
    assert len({seg.SegmentSequence[0].TrackingUID for seg in made}) == 1
