"""The frames of a BINARY Segmentation, bit for bit as highdicom alone would make them from the same label map."""

from __future__ import annotations

import numpy as np
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.checking.seg_pixels import size_reasons
from sr_writer.reading.segmentation import frame_bits, frame_mask
from sr_writer.region.areas import areas_by_slice, present_segments
from sr_writer.seg.frames import binary_frames
from sr_writer.seg.objects import binary_objects
from sr_writer.seg.pixels import bit_frames
from sr_writer.seg.writing import write_seg
from study import codes
from study.imaging import LabelMap, Labels, ResultSet, Segment
from tests.support.results import CONTEXT, MODEL
from tests.support.series import axial_affine, ct_series


def label_map_of(values: Labels, *further: Labels) -> LabelMap:
    found = np.unique(np.concatenate([values.ravel(), *(layer.ravel() for layer in further)]))
    segments = tuple(
        Segment(int(value), f"S{value}", codes.ANATOMICAL_STRUCTURE, codes.RIGHT_LUNG) for value in found if value
    )
    return LabelMap(values, axial_affine(), segments, further)


def labels(shape: tuple[int, int, int], seed: int, kinds: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, kinds, shape, dtype=np.uint8)


def by_highdicom(values: NDArray[np.uint8], sources: list[Dataset]) -> Segmentation:
    return Segmentation(
        source_images=sources,
        pixel_array=values,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            SegmentDescription(
                int(value),
                f"S{value}",
                dictionary.SCT.AnatomicalStructure,
                dictionary.SCT.Lung,
                SegmentAlgorithmTypeValues.MANUAL,
            )
            for value in range(1, int(values.max()) + 1)
        ],
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="M",
        manufacturer_model_name="N",
        software_versions="1",
        device_serial_number="1",
    )


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 7, 9), (5, 3, 5), (3, 16, 5)])
def test_frames_and_their_order_are_highdicoms(shape: tuple[int, int, int]) -> None:
    values = labels(shape, seed=4)
    values[1], values[2][values[2] == 3] = 0, 0
    sources = ct_series(np.zeros(shape))
    (ours,) = write_seg(ResultSet(label_map_of(values), ()), sources, MODEL, CONTEXT)
    theirs = by_highdicom(values, sources)
    # highdicom pads with the digit 0, we with nothing
    size = -(-int(theirs.NumberOfFrames) * shape[1] * shape[2] // 8)
    assert bytes(ours.PixelData[:size]) == theirs.PixelData[:size]
    for keyword in (
        "PerFrameFunctionalGroupsSequence",
        "SharedFunctionalGroupsSequence",
        "ReferencedSeriesSequence",
        "SourceImageSequence",
    ):
        assert [item.to_json() for item in ours[keyword].value] == [item.to_json() for item in theirs[keyword].value]


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 10**6),
    st.integers(1, 2),
)
def test_every_bit_comes_back(shape: tuple[int, int, int], seed: int, layers: int) -> None:
    values = [labels(shape, seed + layer, 3) for layer in range(layers)]
    values[0].flat[0] = 1
    for layer, each in enumerate(values[1:], 1):
        each[each > 0] += 3 * layer
    label_map = label_map_of(*values)
    areas = areas_by_slice(label_map)
    (part,) = binary_objects(label_map, present_segments(label_map, areas), areas, None)
    frames = binary_frames(part)
    content = bytes(bit_frames(label_map, part, frames))
    assert len(content) % 2 == 0
    pixels = shape[1] * shape[2]
    for index, frame in enumerate(frames):
        assert frame.segment_number is not None
        segment = part.pieces[frame.segment_number - 1].segment
        expected = label_map.mask(frame.slice_index, (segment.value,))
        assert expected.any()
        assert (frame_mask(content, index, *shape[1:]) == expected).all()
        assert int(np.bitwise_count(frame_bits(content, index, pixels)).sum()) == np.count_nonzero(expected)
    # What is left of the last byte is zero
    assert int(np.bitwise_count(np.frombuffer(content, np.uint8)).sum()) == int(areas[:, 1:].sum())


def test_one_byte_too_few_is_noticed() -> None:
    (seg,) = write_seg(
        ResultSet(label_map_of(labels((3, 5, 7), 1)), ()), ct_series(np.zeros((3, 5, 7))), MODEL, CONTEXT
    )
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert list(size_reasons(seg, int(seg.NumberOfFrames))) == []
    seg.PixelData = bytes(seg.PixelData[:-2])
    assert [reason.code for reason in size_reasons(seg, int(seg.NumberOfFrames))] == ["Form"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(4, 6, 7), (3, 16, 16), (2, 1, 3)])
def test_areas_are_counts(shape: tuple[int, int, int], dtype: type) -> None:
    values: Labels = labels(shape, seed=9).astype(dtype)
    values[0] = 0
    areas = areas_by_slice(label_map_of(values))
    for index, plane in enumerate(values):
        assert [int((plane == value).sum()) for value in range(5)] == areas[index].tolist()
