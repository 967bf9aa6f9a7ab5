"""Segments that overlap keep every voxel of each, in Segmentation and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.checking.seg import check_seg
from sr_writer.files import encoded
from sr_writer.reading.report import read_report
from sr_writer.reading.segmentation import read_segmentation
from sr_writer.region.areas import areas_by_slice, areas_of_region, overlap
from sr_writer.results import write_results
from sr_writer.seg.writing import write_seg
from sr_writer.source.images import by_key
from study.errors import EncodingError, GeometryMismatch, NonconformantObject
from study.imaging import LabelMap, Segment
from tests.support.results import BRAIN, CONTEXT, MODEL, NEOPLASM, TUMOUR, headers_on_disk, nested
from tests.support.series import axial_affine

Labels = NDArray[np.uint8] | NDArray[np.uint16]
SHAPE = (16, 24, 32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, sources: list[Dataset]) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert [result.form for result in write_results(nested(SHAPE), sources, MODEL, CONTEXT, folder)] == ["seg", "sr"]
    return folder


def label_map_of(layers: Sequence[Labels], segments: tuple[Segment, ...] = TUMOUR) -> LabelMap:
    return LabelMap(layers[0], axial_affine(), segments, tuple(layers[1:]))


def layers_of_nested() -> tuple[Labels, ...]:
    label_map = nested(SHAPE).label_map
    assert label_map is not None
    return label_map.layers


def test_every_segment_comes_back_voxel_for_voxel(written: Path, sources: list[Dataset]) -> None:
    keys = [*by_key(sources)]
    ours = read_segmentation(written / "seg.dcm")
    theirs = segread(written / "seg.dcm").get_pixels_by_source_instance(
        [uid for uid, _ in keys], assert_missing_frames_are_empty=True
    )
    for number, layer in enumerate(layers_of_nested(), 1):
        assert (ours.mask(number, keys) == (layer == number)).all()
        assert (theirs[..., number - 1].astype(bool) == (layer == number)).all()


def test_it_says_that_segments_overlap(written: Path) -> None:
    assert dcmread(written / "seg.dcm").SegmentsOverlap == "YES"


def test_layers_that_do_not_overlap_are_said_not_to(sources: list[Dataset]) -> None:
    first, second = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint16)
    first[3, 4:9, 4:9], second[4, 4:9, 4:9] = 1, 2
    result = replace(nested(SHAPE), label_map=label_map_of((first, second)))
    (seg,) = write_seg(result, sources, MODEL, CONTEXT)
    assert seg.SegmentsOverlap == "NO"


def test_frames_at_the_same_place_have_the_same_dimension_index(written: Path) -> None:
    indices: dict[str, set[int]] = {}
    for frame in dcmread(written / "seg.dcm").PerFrameFunctionalGroupsSequence:
        _, place = frame.FrameContentSequence[0].DimensionIndexValues
        indices.setdefault(str(frame.PlanePositionSequence[0].ImagePositionPatient), set()).add(place)
    assert sorted(place for places in indices.values() for place in places) == list(range(1, len(indices) + 1))


def test_values_with_gaps_in_layers_of_other_types_are_renumbered(tmp_path: Path, sources: list[Dataset]) -> None:
    big, small = np.zeros(SHAPE, dtype=np.uint16), np.zeros(SHAPE, dtype=np.uint8)
    big[2:9, 4:20, 4:20], small[3:6, 6:12, 6:12] = 300, 7
    segments = (replace(TUMOUR[0], value=7), replace(TUMOUR[1], value=300))
    result = replace(nested(SHAPE), label_map=label_map_of((big, small), segments), findings=())
    path = tmp_path / "seg.dcm"
    path.write_bytes(encoded(*write_seg(result, sources, MODEL, CONTEXT)))
    check_seg(path, sources)
    found, keys = read_segmentation(path), [*by_key(sources)]
    assert [segment.label for segment in found.segments] == ["Whole tumor", "Tumor core"]
    assert (found.mask(1, keys) == (small == 7)).all()
    assert (found.mask(2, keys) == (big == 300)).all()


def test_the_same_inputs_give_the_same_bytes(written: Path, tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(nested(SHAPE), sources, MODEL, CONTEXT, tmp_path)
    for form in ("seg.dcm", "sr.dcm"):
        assert (written / form).read_bytes() == (tmp_path / form).read_bytes()


def test_contours_are_those_of_the_layer(written: Path) -> None:
    for finding, layer in zip(read_report(written / "sr.dcm").findings, layers_of_nested(), strict=True):
        _, rows, columns = np.nonzero(layer)
        assert tuple(finding.contours[0].points.min(axis=0)) == (columns.min(), rows.min())
        assert tuple(finding.contours[0].points.max(axis=0)) == (columns.max() + 1, rows.max() + 1)


def test_a_region_of_segments_that_overlap_counts_each_pixel_once() -> None:
    label_map = label_map_of(layers_of_nested())
    areas = areas_by_slice(label_map)
    assert (areas_of_region(label_map, areas, (1, 2, 3)) == areas[:, 1]).all()
    assert areas[:, 2].sum() > 0


def test_a_value_in_two_layers_is_refused(sources: list[Dataset]) -> None:
    layer = layers_of_nested()[0]
    with pytest.raises(EncodingError, match="more than one layer: 1"):
        write_seg(replace(nested(SHAPE), label_map=label_map_of((layer, layer))), sources, MODEL, CONTEXT)


def test_a_layer_of_another_shape_is_refused(sources: list[Dataset]) -> None:
    layer = layers_of_nested()[0]
    with pytest.raises(GeometryMismatch, match="source series"):
        write_seg(replace(nested(SHAPE), label_map=label_map_of((layer, layer[1:]))), sources, MODEL, CONTEXT)


@pytest.mark.parametrize("said", ["NO", "UNDEFINED"])
def test_a_wrong_word_on_overlap_is_refused(written: Path, tmp_path: Path, sources: list[Dataset], said: str) -> None:
    seg = dcmread(written / "seg.dcm")
    seg.SegmentsOverlap = said
    seg.save_as(tmp_path / "seg.dcm")
    with pytest.raises(NonconformantObject, match="Segments Overlap"):
        check_seg(tmp_path / "seg.dcm", sources)


def test_overlap_is_a_matter_of_voxels() -> None:
    assert overlap(label_map_of(layers_of_nested()))
    assert not overlap(label_map_of(layers_of_nested()[:1]))


def test_each_segment_has_the_region_that_it_lies_in(written: Path) -> None:
    for item in dcmread(written / "seg.dcm").SegmentSequence:
        assert [region.CodeValue for region in item.AnatomicRegionSequence] == [BRAIN.value]
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == NEOPLASM.value
