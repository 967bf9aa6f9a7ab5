from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.files import encoded, save
from sr_writer.reading.segmentation import read_segmentation
from sr_writer.seg.writing import write_seg
from sr_writer.source.images import by_key
from study import codes
from study.codes import Code
from study.errors import EncodingError, GeometryMismatch
from study.imaging import ResultSet, Segment
from tests.support.results import CONTEXT, MODEL, SEGMENTS, headers_on_disk, lungs, result_of

SHAPE = (8, 24, 32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def saved(result: ResultSet, sources: list[Dataset], folder: Path) -> Dataset:
    (seg,) = write_seg(result, sources, MODEL, CONTEXT)
    save(seg, folder / "seg.dcm")
    return dcmread(folder / "seg.dcm")


def test_the_mask_comes_back_voxel_for_voxel(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    saved(result_of(values), sources, tmp_path)
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(sources)]) == values).all()
    # Another reader, which finds the frames by source image itself
    uids = [str(source.SOPInstanceUID) for source in sources]
    theirs = segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert (theirs == values).all()


def test_frames_of_rows_and_columns_that_share_bytes_come_back(tmp_path: Path) -> None:
    shape = (5, 7, 9)
    sources = headers_on_disk(tmp_path / "in", shape)
    values = (np.random.default_rng(3).random(shape) < 0.3).astype(np.uint8)
    saved(result_of(values), sources, tmp_path)
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(sources)]) == values).all()


def test_it_is_a_binary_segmentation_in_explicit_little_endian(tmp_path: Path, sources: list[Dataset]) -> None:
    seg = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    assert seg.SegmentationType == "BINARY"
    assert seg.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert seg.Modality == "SEG"
    assert (seg.SeriesNumber, seg.SeriesDescription) == (9000, "Lung CT segmentation - not for diagnostic use")


def test_empty_frames_are_left_out_and_each_frame_refers_to_its_image(tmp_path: Path, sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    seg = saved(result_of(values), sources, tmp_path)
    assert seg.NumberOfFrames == sum(int((values == label).any(axis=(1, 2)).sum()) for label in (1, 2))
    positions = {str(source.SOPInstanceUID): list(source.ImagePositionPatient) for source in sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (derivation,) = frame.DerivationImageSequence
        (image,) = derivation.SourceImageSequence
        assert image.SpatialLocationsPreserved == "YES"
        assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[image.ReferencedSOPInstanceUID]
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID


def test_segments_without_a_voxel_are_left_out_and_numbers_have_no_gap(tmp_path: Path, sources: list[Dataset]) -> None:
    segments = (
        SEGMENTS[0],
        replace(SEGMENTS[0], value=2, label="Empty"),
        replace(SEGMENTS[1], value=5),
    )
    values = lungs(SHAPE)
    seg = saved(result_of(np.where(values == 2, 5, values).astype(np.uint16), segments=segments), sources, tmp_path)
    assert [(item.SegmentNumber, item.SegmentLabel) for item in seg.SegmentSequence] == [
        (1, "Right lung"),
        (2, "Left lung"),
    ]
    assert (read_segmentation(tmp_path / "seg.dcm").label_map([*by_key(sources)]) == values).all()


def test_a_segment_is_coded_coloured_tracked_and_says_its_algorithm(tmp_path: Path, sources: list[Dataset]) -> None:
    kidney = Segment(
        1,
        "Right kidney",
        codes.ANATOMICAL_STRUCTURE,
        Code("64033007", "SCT", "Kidney"),
        laterality=Code("24028007", "SCT", "Right"),
        rgb=(255, 0, 0),
    )
    result = result_of((lungs(SHAPE) == 1).astype(np.uint8), segments=(kidney,))
    (segment,) = saved(result, sources, tmp_path).SegmentSequence
    (property_type,) = segment.SegmentedPropertyTypeCodeSequence
    assert property_type.CodeValue == "64033007"
    assert property_type.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == MODEL.version
    assert segment.TrackingID == "Right lung"  # of the finding about this segment alone
    assert segment.TrackingUID == CONTEXT.tracking_uid(MODEL, "right_lung")
    # Pure red in CIELab: L* 53.2, a* 80.1, b* 67.2 (D65), scaled as PS3.3 C.10.7.1.1 says
    lightness, a, b = segment.RecommendedDisplayCIELabValue
    assert (lightness / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128) == pytest.approx(
        (53.2, 80.1, 67.2), abs=1.5
    )


def test_the_same_inputs_give_the_same_bytes(sources: list[Dataset]) -> None:
    first = encoded(*write_seg(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT))
    second = encoded(*write_seg(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT))
    assert first == second


@pytest.mark.parametrize("changed", ["instances_digest", "parameters_digest"])
def test_other_inputs_give_other_uids(sources: list[Dataset], changed: str) -> None:
    context = replace(CONTEXT, **{changed: "00" * 32})  # type: ignore[arg-type]  # the name of a str field
    (one,) = write_seg(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT)
    (other,) = write_seg(result_of(lungs(SHAPE)), sources, MODEL, context)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_times_are_the_jobs_in_the_zone_of_the_source(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"TimezoneOffsetFromUTC": "+0530"})
    seg = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    assert (seg.ContentDate, seg.ContentTime) == ("20260305", "040015")
    assert (seg.InstanceCreationDate, seg.SeriesTime) == ("20260305", "040015")
    assert seg.TimezoneOffsetFromUTC == "+0530"


def test_times_are_in_the_zone_of_the_site_where_the_source_has_none(sources: list[Dataset]) -> None:
    context = replace(CONTEXT, time_zone=timezone(timedelta(hours=-5)))
    (seg,) = write_seg(result_of(lungs(SHAPE)), sources, MODEL, context)
    assert (seg.ContentDate, seg.ContentTime) == ("20260304", "173015")
    assert "TimezoneOffsetFromUTC" not in seg


def test_one_item_of_contributing_equipment_names_the_algorithm(tmp_path: Path, sources: list[Dataset]) -> None:
    seg = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (ours,) = [item for item in seg.ContributingEquipmentSequence if "DeviceUID" in item]
    assert ours.DeviceUID == seg.DeviceUID == MODEL.device_uid
    assert (ours.Manufacturer, ours.ManufacturerModelName) == (MODEL.manufacturer, MODEL.name)
    assert list(ours.SoftwareVersions) == [MODEL.version, MODEL.software_version]
    assert ours.StationName == MODEL.station_name
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_slices_with_frames_of_reference_of_their_own_get_the_first_slices(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    for index, source in enumerate(sources):
        source.FrameOfReferenceUID = f"2.25.{index + 1}"
    assert saved(result_of(lungs(SHAPE)), sources, tmp_path).FrameOfReferenceUID == "2.25.1"


@pytest.mark.parametrize("stated", ["", "0", "-1"])
def test_the_grid_of_a_source_without_slice_thickness_is_as_thick_as_its_spacing(tmp_path: Path, stated: str) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"SliceThickness": stated})
    seg = saved(result_of(lungs(SHAPE)), sources, tmp_path)
    (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2.0, 2.0)


def test_a_label_map_that_is_shifted_is_refused(sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    assert result.label_map is not None
    shifted = result.label_map.affine.copy()
    shifted[2, 3] += 2.0
    with pytest.raises(GeometryMismatch, match=r"2\.00 mm"):
        write_seg(replace(result, label_map=replace(result.label_map, affine=shifted)), sources, MODEL, CONTEXT)


def test_sources_in_another_order_than_the_label_map_are_refused(sources: list[Dataset]) -> None:
    with pytest.raises(GeometryMismatch):
        write_seg(result_of(lungs(SHAPE)), sources[::-1], MODEL, CONTEXT)


def test_another_shape_is_refused(sources: list[Dataset]) -> None:
    with pytest.raises(GeometryMismatch, match="source series"):
        write_seg(result_of(lungs((8, 24, 30))), sources, MODEL, CONTEXT)


def test_a_value_that_no_segment_declares_is_refused(sources: list[Dataset]) -> None:
    values = lungs(SHAPE)
    values[4, 4, 4] = 9
    with pytest.raises(EncodingError, match="no segment declares: 9"):
        write_seg(result_of(values), sources, MODEL, CONTEXT)


def test_no_voxel_makes_no_segmentation(sources: list[Dataset]) -> None:
    with pytest.raises(EncodingError, match="no voxel"):
        write_seg(result_of(np.zeros(SHAPE, dtype=np.uint8)), sources, MODEL, CONTEXT)
