"""Slices at uneven distances: every frame has the plane of its source, and no spacing is stated that is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.checking.seg import check_seg
from sr_writer.reading.segmentation import read_segmentation
from sr_writer.results import write_results
from sr_writer.seg.writing import write_seg
from sr_writer.source.images import by_key
from study.errors import GeometryMismatch
from study.imaging import LabelMap, ResultSet
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.results import CONTEXT, MODEL, SEGMENTS, headers_on_disk, lungs, result_of, variants_of
from tests.support.series import axial_affine

SHAPE = (8, 20, 28)
OFFSETS = (0.0, 1.0, 3.37, 3.91, 9.0, 11.13, 16.59, 18.0)
TILT = np.radians(20)
PROPER = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])


def oblique() -> NDArray[np.float64]:
    affine = axial_affine()
    affine[:3, :3] = PROPER @ affine[:3, :3]
    return affine


def places() -> NDArray[np.float64]:
    affine = oblique()
    normal = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    result: NDArray[np.float64] = affine[:3, 3] + np.array(OFFSETS)[:, None] * normal
    return result


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    headers = headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE, affine=oblique())
    for header, place in zip(headers, places(), strict=True):
        header.ImagePositionPatient = [round(float(value), 6) for value in place]
    return headers


def result(offsets: tuple[float, ...] = OFFSETS) -> ResultSet:
    label_map = LabelMap(lungs(SHAPE), oblique(), SEGMENTS, offsets=offsets)
    return replace(result_of(lungs(SHAPE)), label_map=label_map)


def test_every_frame_has_the_plane_of_its_source(tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(result(), sources, MODEL, CONTEXT, tmp_path)
    positions = {str(source.SOPInstanceUID): [float(x) for x in source.ImagePositionPatient] for source in sources}
    seg = dcmread(tmp_path / "seg.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(positions[uid])
    (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert "SpacingBetweenSlices" not in measures
    assert "DimensionOrganizationType" not in seg
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(sources)]) == lungs(SHAPE)).all()
    theirs = segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        list(positions), combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert (theirs == lungs(SHAPE)).all()


def test_one_segment_alone_is_not_called_a_regular_volume(tmp_path: Path, sources: list[Dataset]) -> None:
    one = result()
    assert one.label_map is not None
    values = np.ones(SHAPE, dtype=np.uint8)
    single = replace(one, label_map=replace(one.label_map, values=values, segments=SEGMENTS[:1]))
    write_results(single, sources, MODEL, CONTEXT, tmp_path, variants=variants_of("seg"))
    assert "DimensionOrganizationType" not in dcmread(tmp_path / "seg.dcm")
    assert segread(tmp_path / "seg.dcm").get_volume_geometry() is None


def test_frames_of_a_multi_frame_image_may_be_unevenly_spaced_too(tmp_path: Path) -> None:
    order = (5, 1, 0, 7, 2, 3, 6, 4)
    multi = enhanced_image(np.zeros(SHAPE), oblique(), order, "CT", list(places()))
    frames = frame_headers(multi, order, tmp_path / "in")
    write_results(result(), frames, MODEL, CONTEXT, tmp_path)
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(frames)]) == lungs(SHAPE)).all()


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: list[Dataset]) -> None:
    first = write_results(result(), sources, MODEL, CONTEXT, tmp_path / "a")
    assert write_results(result(), sources, MODEL, CONTEXT, tmp_path / "b") == first


@pytest.mark.parametrize(
    "offsets",
    [
        (),
        (*OFFSETS[:-1], 20.0),
        OFFSETS[:-1],
        tuple(-offset for offset in OFFSETS),
        (*OFFSETS[:4], float("nan"), *OFFSETS[5:]),
    ],
    ids=["none", "another place", "too few", "the other way", "no number"],
)
def test_offsets_that_are_not_the_sources_are_refused(sources: list[Dataset], offsets: tuple[float, ...]) -> None:
    with pytest.raises(GeometryMismatch):
        write_seg(result(offsets), sources, MODEL, CONTEXT)


def test_the_tolerance_is_half_of_the_smallest_step(sources: list[Dataset]) -> None:
    moved = list(OFFSETS)
    moved[4] += 0.2
    write_seg(result(tuple(moved)), sources, MODEL, CONTEXT)
    moved[4] += 0.1
    with pytest.raises(GeometryMismatch, match=r"0\.2[89] mm|0\.30 mm"):
        write_seg(result(tuple(moved)), sources, MODEL, CONTEXT)


def test_a_spacing_that_is_none_is_refused(tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(result(), sources, MODEL, CONTEXT, tmp_path)
    seg = dcmread(tmp_path / "seg.dcm")
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = "2"
    seg.save_as(tmp_path / "changed.dcm")
    with pytest.raises(GeometryMismatch, match="Spacing Between Slices"):
        check_seg(tmp_path / "changed.dcm", sources)
