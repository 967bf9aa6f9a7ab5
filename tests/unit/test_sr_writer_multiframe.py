"""Results for multi-frame images name the frame, in Segmentation and report, and the checks notice a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.checking.seg import check_seg
from sr_writer.checking.sr import check_sr
from sr_writer.reading.content_tree import children, descendants
from sr_writer.reading.report import keys_of_image, read_report
from sr_writer.reading.segmentation import read_segmentation
from sr_writer.results import write_results
from sr_writer.source.images import by_key, key_of
from study.errors import GeometryMismatch, NonconformantObject
from study.imaging import ResultSet
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.peers import shared
from tests.support.results import CONTEXT, MODEL, assessments, headers_on_disk, lungs, philips_frames, result_of
from tests.support.series import axial_affine

Affine = NDArray[np.float64]
SHAPE = (7, 18, 26)
EMPTY_ALLOWED: dict[str, Any] = {"assert_missing_frames_are_empty": True}
ORDER = (3, 0, 6, 1, 4, 2, 5)
"""The slice that each frame shows."""


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


# Slices run along the normal, which is the cross product of the directions of columns and rows
ORIENTATIONS = {
    "axial": axial_affine(),
    "feet first": turned((2, 1, 0), (-1, 1, -1)),
    "sagittal": turned((0, 2, 1), (-1, -1, 1)),
    "coronal": turned((1, 2, 0), (1, -1, 1)),
    "oblique": oblique(),
}


@dataclass(frozen=True)
class Written:
    folder: Path
    sources: list[Dataset]
    result: ResultSet


def written(folder: Path, affine: Affine, modality: str) -> Written:
    sources = frame_headers(enhanced_image(np.zeros(SHAPE), affine, ORDER, modality), ORDER, folder / "in")
    result = result_of(lungs(SHAPE), affine)
    write_results(result, sources, MODEL, CONTEXT, folder)
    return Written(folder, sources, result)


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("enhanced"), ORIENTATIONS["oblique"], "MR")


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_the_mask_of_each_frame_comes_back_from_it(tmp_path: Path, orientation: str, modality: str) -> None:
    affine = ORIENTATIONS[orientation]
    case = written(tmp_path, affine, modality)
    expected = lungs(SHAPE)
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(case.sources)]) == expected).all()
    # Another reader finds the frames by source frame, and by their place in the patient
    theirs = segread(tmp_path / "seg.dcm")
    frames = [ORDER.index(index) + 1 for index in range(len(ORDER))]
    uid = case.sources[0].SOPInstanceUID
    assert (theirs.get_pixels_by_source_frame(uid, frames, combine_segments=True, **EMPTY_ALLOWED) == expected).all()
    volume = theirs.get_volume(combine_segments=True)
    voxels = np.argwhere(volume.array > 0)
    places = np.column_stack([voxels, np.ones(len(voxels))]) @ volume.affine.T
    indices = np.rint(places @ np.linalg.inv(affine).T)[:, :3].astype(int)
    assert len(indices) == np.count_nonzero(expected)
    assert (expected[tuple(indices.T)] == volume.array[tuple(voxels.T)]).all()


def test_frames_refer_to_frames_and_the_instance_is_listed_once(enhanced: Written) -> None:
    seg = dcmread(enhanced.folder / "seg.dcm")
    uid = enhanced.sources[0].SOPInstanceUID
    positions = {key_of(source): list(source.ImagePositionPatient) for source in enhanced.sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPClassUID == enhanced.sources[0].SOPClassUID
        position = positions[image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(position)
    (series,) = seg.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [uid]
    assert [item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence] == [uid]


def test_dimension_indices_count_the_places_that_have_a_frame(enhanced: Written) -> None:
    frames = dcmread(enhanced.folder / "seg.dcm").PerFrameFunctionalGroupsSequence
    places = {
        tuple(frame.PlanePositionSequence[0].ImagePositionPatient): frame.FrameContentSequence[0].DimensionIndexValues[
            1
        ]
        for frame in frames
    }
    assert sorted(places.values()) == list(range(1, SHAPE[0] - 1))  # no lung in the first slice and the last


def test_contours_library_and_evidence_name_the_frames(enhanced: Written) -> None:
    document = dcmread(enhanced.folder / "sr.dcm")
    known = set(by_key(enhanced.sources))
    report = read_report(enhanced.folder / "sr.dcm")
    drawn = {contour.image for finding in report.findings for contour in finding.contours}
    (library,) = children(document, codes.IMAGE_LIBRARY)
    assert {key for item in descendants(library) for key in keys_of_image(item)} == drawn
    assert drawn <= known
    assert len(drawn) > 3
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (listed,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert listed.ReferencedSOPInstanceUID == enhanced.sources[0].SOPInstanceUID
    assert "ReferencedFrameNumber" not in listed


def test_contours_lie_on_the_frame_that_shows_the_region(enhanced: Written) -> None:
    key_image = read_report(enhanced.folder / "sr.dcm").findings[0].contours[0]
    index = [key_of(source) for source in enhanced.sources].index(key_image.image)
    rows, columns = np.nonzero(lungs(SHAPE)[index] == 1)
    assert tuple(key_image.points.min(axis=0)) == (columns.min(), rows.min())


def test_a_report_without_contours_is_about_the_frame_in_the_middle(tmp_path: Path, enhanced: Written) -> None:
    result = ResultSet(None, (), assessments=assessments()[:1])
    write_results(result, enhanced.sources, MODEL, CONTEXT, tmp_path)
    document = dcmread(tmp_path / "sr.dcm")
    (key,) = {key for item in descendants(document) for key in keys_of_image(item)}
    assert key == key_of(enhanced.sources[SHAPE[0] // 2])
    assert key[1] == ORDER.index(SHAPE[0] // 2) + 1


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, enhanced: Written) -> None:
    again = write_results(enhanced.result, enhanced.sources, MODEL, CONTEXT, tmp_path)
    assert [(enhanced.folder / each.path).read_bytes() for each in again] == [
        (tmp_path / each.path).read_bytes() for each in again
    ]


def test_a_classic_series_names_no_frames(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path)
    for form in ("seg", "sr"):
        assert "ReferencedFrameNumber" not in str(dcmread(tmp_path / f"{form}.dcm"))


def test_a_real_enhanced_mr_gives_its_mask_back(tmp_path: Path) -> None:
    sources, affine = philips_frames(shared("data", "mr_philips_enhanced", "enhanced"))
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    assert shape == (40, 96, 96)
    write_results(result_of(lungs(shape), affine), sources, MODEL, CONTEXT, tmp_path)
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(sources)]) == lungs(shape)).all()


Change = Callable[[Dataset], object]


def source_image(frame: Dataset) -> Dataset:
    image: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return image


def setting_frame(value: int | None) -> Change:
    def change(seg: Dataset) -> None:
        image = source_image(seg.PerFrameFunctionalGroupsSequence[1])
        if value is None:
            del image.ReferencedFrameNumber
        else:
            image.ReferencedFrameNumber = value

    return change


SEG_RULES: dict[str, tuple[Change, type[Exception], str]] = {
    "a frame that there is not": (setting_frame(8), NonconformantObject, "1 references name a frame that is no source"),
    "no frame": (setting_frame(None), NonconformantObject, "1 frames refer to no source image, or to no frame"),
    "another frame": (setting_frame(2), GeometryMismatch, "Image Position of 1 frames"),
}


@pytest.mark.parametrize("name", sorted(SEG_RULES))
def test_a_segmentation_with_a_wrong_frame_is_refused(enhanced: Written, tmp_path: Path, name: str) -> None:
    change, error, words = SEG_RULES[name]
    seg = dcmread(enhanced.folder / "seg.dcm")
    assert source_image(seg.PerFrameFunctionalGroupsSequence[1]).ReferencedFrameNumber != 2
    change(seg)
    seg.save_as(tmp_path / "seg.dcm")
    with pytest.raises(error, match=words):
        check_seg(tmp_path / "seg.dcm", enhanced.sources)


def region_image(document: Dataset) -> Dataset:
    (container,) = children(document, codes.IMAGING_MEASUREMENTS)
    group = next(children(container, codes.MEASUREMENT_GROUP))
    region = next(children(group, codes.IMAGE_REGION))
    reference: Dataset = region.ContentSequence[0].ReferencedSOPSequence[0]
    return reference


SR_RULES: dict[str, tuple[Change, str]] = {
    "a frame that there is not": (lambda d: setattr(region_image(d), "ReferencedFrameNumber", 9), "no frames of one"),
    "no frame": (lambda d: delattr(region_image(d), "ReferencedFrameNumber"), "a contour is on no source image"),
    "two frames": (lambda d: setattr(region_image(d), "ReferencedFrameNumber", [1, 2]), "a contour is on no source"),
    "a frame that the library lacks": (
        lambda d: setattr(region_image(d), "ReferencedFrameNumber", 2),
        "Image Library lacks",
    ),
}


@pytest.mark.parametrize("name", sorted(SR_RULES))
def test_a_report_with_a_wrong_frame_is_refused(enhanced: Written, tmp_path: Path, name: str) -> None:
    change, words = SR_RULES[name]
    document = dcmread(enhanced.folder / "sr.dcm")
    change(document)
    document.save_as(tmp_path / "sr.dcm")
    with pytest.raises(NonconformantObject, match=words):
        check_sr(tmp_path / "sr.dcm", enhanced.sources)


def test_frames_at_other_places_than_the_label_map_are_refused(enhanced: Written) -> None:
    result = replace(enhanced.result)
    with pytest.raises(GeometryMismatch):
        write_results(result, enhanced.sources[::-1], MODEL, CONTEXT, enhanced.folder / "never")
