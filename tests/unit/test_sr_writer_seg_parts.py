"""A destination that shows no Segmentation of many frames gets several objects, which hold everything together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.reading.segmentation import read_segmentation, segments_of
from sr_writer.region.areas import areas_by_slice, present_segments
from sr_writer.results import write_results
from sr_writer.seg.frames import binary_frames, label_map_frames
from sr_writer.seg.objects import ObjectContent, binary_objects, label_map_objects
from sr_writer.source.images import by_key
from study import codes
from study.forms import Form, Variant
from study.imaging import LabelMap, ResultSet, Segment
from tests.support.results import CONTEXT, MODEL, headers_on_disk, nested
from tests.support.series import axial_affine

SHAPE = (12, 9, 11)
FORMS = (Form.SEG, Form.SEG_LABELMAP)
EXTENTS = {1: (0, 4), 2: (3, 12), 3: (8, 10), 4: (1, 3), 5: (5, 11)}
"""The first slice of each structure, and the first one after it."""


def structures() -> ResultSet:
    """Return five structures side by side, of 4, 9, 2, 2 and 6 slices."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    for value, (first, end) in EXTENTS.items():
        values[first:end, 2 : 7 - value % 2, value * 2 - 1] = value
    segments = tuple(
        Segment(value, f"Structure {value}", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG) for value in EXTENTS
    )
    return ResultSet(LabelMap(values, axial_affine(), segments), ())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def written(folder: Path, sources: Sequence[Dataset], variant: Variant) -> list[Path]:
    results = write_results(structures(), sources, MODEL, CONTEXT, folder, (variant,))
    return [folder / result.path for result in results]


def labels_of(seg: Dataset) -> list[str]:
    return [str(item.SegmentLabel) for item in segments_of(seg)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("most", [1, 3, 8, 9, 10, 12, 100])
def test_the_parts_together_are_the_label_map(tmp_path: Path, sources: list[Dataset], form: Form, most: int) -> None:
    paths = written(tmp_path, sources, Variant(form, most_frames=most))
    expected = structures().label_map
    assert expected is not None
    tracking = {CONTEXT.tracking_uid(MODEL, f"segment-{value}"): value for value in EXTENTS}
    found = np.zeros(SHAPE, dtype=np.uint8)
    for path in paths:
        assert dcmread(path).NumberOfFrames <= most
        seg = read_segmentation(path)
        for segment in seg.segments:
            mask = seg.mask(segment.number, [*by_key(sources)])
            assert not found[mask].any()
            found[mask] = tracking[segment.tracking_uid]
    assert (found == expected.values).all()


def test_segments_stay_whole_where_they_fit(tmp_path: Path, sources: list[Dataset]) -> None:
    objects = [dcmread(path) for path in written(tmp_path, sources, Variant(Form.SEG, most_frames=9))]
    assert [labels_of(seg) for seg in objects] == [
        ["Structure 1", "Structure 3", "Structure 4"],
        ["Structure 2"],
        ["Structure 5"],
    ]
    assert [seg.NumberOfFrames for seg in objects] == [8, 9, 6]
    assert not any("SegmentDescription" in item for seg in objects for item in seg.SegmentSequence)


def test_objects_are_numbered_and_say_why_they_are_several(tmp_path: Path, sources: list[Dataset]) -> None:
    objects = [dcmread(path) for path in written(tmp_path, sources, Variant(Form.SEG, most_frames=9))]
    variant = Variant(Form.SEG, most_frames=9)
    assert [seg.InstanceNumber for seg in objects] == [1, 2, 3]
    assert [seg.SOPInstanceUID for seg in objects] == [
        CONTEXT.uid(MODEL, role, variant) for role in ("instance", "instance:2", "instance:3")
    ]
    assert {seg.SeriesInstanceUID for seg in objects} == {CONTEXT.uid(MODEL, "series", variant)}
    assert {(seg.SeriesNumber, seg.SeriesDescription) for seg in objects} == {
        (9000, "Lung CT segmentation - not for diagnostic use")
    }
    assert [seg.ContentDescription for seg in objects] == [
        f"lung_ct 1.2.0, {number} of 3 (9 frames at most)" for number in (1, 2, 3)
    ]
    # Each counts its own frames
    assert len({seg.DimensionOrganizationSequence[0].DimensionOrganizationUID for seg in objects}) == 3


def test_one_object_says_nothing_of_others(tmp_path: Path, sources: list[Dataset]) -> None:
    (path,) = written(tmp_path, sources, Variant(Form.SEG, most_frames=23))
    assert dcmread(path).ContentDescription == "lung_ct 1.2.0"


@pytest.mark.parametrize("form", FORMS)
def test_a_segment_that_is_cut_says_so_in_each_part(tmp_path: Path, sources: list[Dataset], form: Form) -> None:
    objects = [dcmread(path) for path in written(tmp_path, sources, Variant(form, most_frames=8))]
    cut = [item for seg in objects for item in segments_of(seg) if "SegmentDescription" in item]
    assert [item.SegmentLabel for item in cut] == ["Structure 2 (part 1 of 2)", "Structure 2 (part 2 of 2)"]
    assert len({item.TrackingUID for item in cut}) == 1
    assert [item.TrackingID for item in cut] == ["Structure 2"] * 2
    assert "part 1 of 2, from slice 4 to slice 11" in cut[0].SegmentDescription
    assert "part 2 of 2, from slice 12 to slice 12" in cut[1].SegmentDescription


def test_a_long_label_is_cut_so_that_the_part_is_whole(tmp_path: Path, sources: list[Dataset]) -> None:
    result = structures()
    assert result.label_map is not None
    segments = tuple(replace(segment, label="S" * 64) for segment in result.label_map.segments)
    result = replace(result, label_map=replace(result.label_map, segments=segments))
    (path, *_) = write_results(result, sources, MODEL, CONTEXT, tmp_path, (Variant(Form.SEG, most_frames=3),))
    label = dcmread(tmp_path / path.path).SegmentSequence[0].SegmentLabel
    assert label == "S" * 50 + " (part 1 of 2)"


def test_frames_are_few_and_segments_overlap(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    sources = headers_on_disk(tmp_path / "in", shape)
    variant = Variant(Form.SEG_LABELMAP, most_frames=10)
    results = write_results(nested(shape), sources, MODEL, CONTEXT, tmp_path, (variant,))
    objects = [dcmread(tmp_path / result.path) for result in results]
    assert [labels_of(seg) for seg in objects] == [
        ["Whole tumor (part 1 of 2)"],
        ["Whole tumor (part 2 of 2)"],
        ["Tumor core"],
        ["Enhancing tumor"],
    ]
    assert {seg.ContentDescription[-38:] for seg in objects} == {"of 4 (segments overlap, 10 frames at most)"[-38:]}


def test_segments_overlap_only_where_those_of_one_object_do(tmp_path: Path) -> None:
    shape = (16, 24, 32)
    sources = headers_on_disk(tmp_path / "in", shape)
    variant = Variant(Form.SEG, most_frames=20)
    results = write_results(nested(shape), sources, MODEL, CONTEXT, tmp_path, (variant,))
    said = {tuple(labels_of(seg)): seg.SegmentsOverlap for seg in (dcmread(tmp_path / each.path) for each in results)}
    assert said == {("Whole tumor", "Tumor core"): "YES", ("Enhancing tumor",): "NO"}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: list[Dataset], form: Form) -> None:
    variant = Variant(form, most_frames=5)
    first, second = written(tmp_path / "a", sources, variant), written(tmp_path / "b", sources, variant)
    assert len(first) > 2
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def parts_of(values: NDArray[np.uint8], form: Form, most: int) -> list[ObjectContent]:
    segments = tuple(
        Segment(int(value), f"S{value}", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG)
        for value in np.unique(values[values > 0])
    )
    label_map = LabelMap(values, axial_affine(), segments)
    areas = areas_by_slice(label_map)
    present = present_segments(label_map, areas)
    if form is Form.SEG:
        return binary_objects(label_map, present, areas, most)
    return label_map_objects(label_map, present, areas, most, overlapping=False)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True), min_size=1, max_size=9),
    st.integers(1, 20),
    st.sampled_from(FORMS),
)
def test_any_distribution_is_whole_and_within_its_limit(slices: list[list[int]], most: int, form: Form) -> None:
    values = np.zeros((16, 1, len(slices)), dtype=np.uint8)
    for column, held in enumerate(slices):
        values[held, 0, column] = column + 1
    parts = parts_of(values, form, most)
    shown: Counter[tuple[int, int]] = Counter()
    for part in parts:
        frames = binary_frames(part) if form is Form.SEG else label_map_frames(part)
        assert 1 <= len(frames) <= most
        assert [piece.segment.value for piece in part.pieces] == sorted({p.segment.value for p in part.pieces})
        shown.update((piece.segment.value, int(index)) for piece in part.pieces for index in piece.slices)
    assert shown == Counter((column + 1, index) for column, held in enumerate(slices) for index in held)
    for column, held in enumerate(slices):
        pieces = [piece for part in parts for piece in part.pieces if piece.segment.value == column + 1]
        alone = len(held) if form is Form.SEG else max(held) - min(held) + 1
        assert (len(pieces) > 1) == (alone > most)
        assert [piece.part for piece in pieces] == list(range(1, len(pieces) + 1))
        assert all(a.slices[-1] < b.slices[0] for a, b in itertools.pairwise(pieces))
