"""A multi-frame image is read as the slices that it holds, and gives the same volume as its classic twin."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    SegmentationStorage,
)

from study.frames import FUNCTIONAL_GROUPS, VALUE_MACROS, flattened, frame_count, frame_number_of
from study.functional_groups import GROUP_KEYWORDS
from study.geometry import assess
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.stacks import stacks
from tests.support.enhanced import enhanced_image
from tests.support.peers import shared
from tests.support.series import axial_affine, ct_series

ENHANCED = ("data", "mr_philips_enhanced", "enhanced")
PCASL, PCASL_SOURCE = "1901_WIP_3DpCASL_real.dcm", "1903_WIP_SOURCE_-_3DpCASL.dcm"
FIELD_MAP = "2001_WIP_fcMRI_Field_Mapping_e2_phMag.dcm"


def item(**values: Any) -> Sequence:  # noqa: ANN401 - any attribute
    """Return a sequence of one item with these attributes."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


def multi_frame(
    frames: Iterable[Mapping[str, Any]],
    shared_groups: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return an Enhanced MR image with these functional groups, by keyword, and no others."""
    frames = list(frames)
    image = enhanced_image(np.zeros((len(frames), 4, 4)), axial_affine(), range(len(frames)), "MR")
    image.SharedFunctionalGroupsSequence = item(**(shared_groups or {}))
    image.PerFrameFunctionalGroupsSequence = Sequence([item(**groups)[0] for groups in frames])
    for keyword, value in (top or {}).items():
        setattr(image, keyword, value)
    return image


def read_header(*parts: str) -> InstanceHeader:
    path = shared(*parts)
    return InstanceHeader.of(dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS)))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_slices_of_an_enhanced_image_are_those_of_its_classic_twin(modality: str) -> None:
    voxels, affine, order = np.zeros((5, 4, 4)), axial_affine((3.0, 0.8, 0.7)), [3, 0, 4, 1, 2]
    header = InstanceHeader.of(enhanced_image(voxels, affine, order, modality))
    classic = [InstanceHeader.of(dataset) for dataset in ct_series(voxels, affine)]
    slices = header.slices()
    assert [slice_.frame_number for slice_ in slices] == [1, 2, 3, 4, 5]
    assert {(slice_.number_of_frames, slice_.frames) for slice_ in slices} == {(1, ())}
    for slice_, index in zip(slices, order, strict=True):
        twin = classic[index]
        assert slice_.image_position_patient == twin.image_position_patient
        assert slice_.image_orientation_patient == twin.image_orientation_patient
        assert (slice_.pixel_spacing, slice_.slice_thickness) == (twin.pixel_spacing, twin.slice_thickness)
    geometry = assess(slices)
    assert geometry.affine.tobytes() == assess(classic).affine.tobytes()
    assert geometry.order == tuple(order.index(index) for index in range(5))


def test_a_classic_image_is_its_own_slice() -> None:
    header = InstanceHeader.of(ct_series(np.zeros((1, 4, 4)))[0])
    assert header.slices() == (header,)
    assert header.slices()[0].frame_number is None


def test_an_enhanced_image_of_one_frame_has_a_frame_number() -> None:
    (slice_,) = InstanceHeader.of(enhanced_image(np.zeros((1, 4, 4)), axial_affine(), [0])).slices()
    assert slice_.frame_number == 1
    assert slice_.image_position_patient == (-20.0, -30.0, -40.0)


def test_what_all_frames_share_stands_once() -> None:
    header = InstanceHeader.of(enhanced_image(np.zeros((3, 4, 4)), axial_affine(), [0, 1, 2], "MR"))
    assert [dict(own).keys() for own in header.frames] == [{"image_position_patient"}] * 3
    assert (header.pixel_spacing, header.slice_thickness) == ((0.8, 0.7), 2.0)


MACROS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "stack": ({"FrameContentSequence": item(StackID="7")}, "stack_id", "7"),
    "time": ({"FrameContentSequence": item(TemporalPositionIndex=4)}, "temporal_position", 4),
    "acquisition": ({"FrameContentSequence": item(FrameAcquisitionNumber=5)}, "acquisition_number", 5),
    "moment": (
        {"FrameContentSequence": item(FrameAcquisitionDateTime="20260102101112.5")},
        "acquisition_datetime",
        "20260102101112.5",
    ),
    "position": (
        {"PlanePositionSequence": item(ImagePositionPatient=["1", "2", "3"])},
        "image_position_patient",
        (1.0, 2.0, 3.0),
    ),
    "orientation": (
        {"PlaneOrientationSequence": item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])},
        "image_orientation_patient",
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    ),
    "pixels": ({"PixelMeasuresSequence": item(PixelSpacing=["0.5", "0.6"])}, "pixel_spacing", (0.5, 0.6)),
    "thickness": ({"PixelMeasuresSequence": item(SliceThickness="1.5")}, "slice_thickness", 1.5),
    "echo": ({"MREchoSequence": item(EffectiveEchoTime=2.3)}, "echo_time", 2.3),
    "b-value": ({"MRDiffusionSequence": item(DiffusionBValue=800.0)}, "b_value", 800.0),
    "gradient": (
        {
            "MRDiffusionSequence": item(
                DiffusionGradientDirectionSequence=item(DiffusionGradientOrientation=[0.0, 0.6, 0.8])
            )
        },
        "gradient_orientation",
        (0.0, 0.6, 0.8),
    ),
    "flip": ({"MRTimingAndRelatedParametersSequence": item(FlipAngle=12.0)}, "flip_angle", 12.0),
    "inversion": ({"MRModifierSequence": item(InversionTimes=[900.0, 1200.0])}, "inversion_time", 900.0),
    "trigger": (
        {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=310.0)},
        "trigger_time",
        310.0,
    ),
    "MR type": (
        {"MRImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", "T1", "M"])},
        "image_type",
        ("ORIGINAL", "PRIMARY", "T1", "M"),
    ),
    "component": (
        {"MRImageFrameTypeSequence": item(ComplexImageComponent="PHASE")},
        "complex_component",
        "PHASE",
    ),
    "CT type": (
        {"CTImageFrameTypeSequence": item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "MPR"])},
        "image_type",
        ("DERIVED", "PRIMARY", "VOLUME", "MPR"),
    ),
    "PET type": (
        {"PETFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", "STATIC", "NONE"])},
        "image_type",
        ("ORIGINAL", "PRIMARY", "STATIC", "NONE"),
    ),
    "kernel": ({"CTReconstructionSequence": item(ConvolutionKernel="B30f")}, "convolution_kernel", "B30f"),
    "tilt": ({"CTAcquisitionDetailsSequence": item(GantryDetectorTilt=18.5)}, "gantry_detector_tilt", 18.5),
    "contrast": (
        {"ContrastBolusUsageSequence": item(ContrastBolusAgentAdministered="YES")},
        "contrast_bolus_agent",
        "given",
    ),
    "converted kernel": (
        {"UnassignedSharedConvertedAttributesSequence": item(ConvolutionKernel="B70f")},
        "convolution_kernel",
        "B70f",
    ),
    "converted echo": (
        {"UnassignedPerFrameConvertedAttributesSequence": item(EchoTime="12", EchoNumbers="2")},
        "echo_number",
        2,
    ),
}


@pytest.mark.parametrize("name", MACROS)
def test_each_functional_group_is_read_of_the_frame_and_of_all(name: str) -> None:
    groups, field, expected = MACROS[name]
    first, second = InstanceHeader.of(multi_frame([groups, {}], top={"AcquisitionNumber": None})).slices()
    assert getattr(first, field) == expected
    assert getattr(second, field) != expected
    common = InstanceHeader.of(multi_frame([{}, {}], groups))
    assert getattr(common, field) == expected
    assert common.frames == ((), ())


def test_a_frames_own_group_wins_over_the_shared_and_over_the_top() -> None:
    own, common = item(EffectiveEchoTime=5.0), item(EffectiveEchoTime=3.0)
    header = InstanceHeader.of(
        multi_frame([{"MREchoSequence": own}, {}], {"MREchoSequence": common}, {"EchoTime": "1"})
    )
    assert [slice_.echo_time for slice_ in header.slices()] == [5.0, 3.0]
    header = InstanceHeader.of(multi_frame([{"MREchoSequence": own}, {}], top={"EchoTime": "1"}))
    assert [slice_.echo_time for slice_ in header.slices()] == [5.0, 1.0]


def test_frames_before_and_after_contrast() -> None:
    usages = [item(ContrastBolusAgentAdministered=given) for given in ("NO", "YES")]
    image = multi_frame(
        [{"ContrastBolusUsageSequence": usage} for usage in usages],
        top={"ContrastBolusAgentSequence": item(CodeValue="C-B0322", CodeMeaning="Iohexol")},
    )
    assert [slice_.contrast_bolus_agent for slice_ in InstanceHeader.of(image).slices()] == ["", "Iohexol"]


def dimension(pointer: str | int, label: str = "") -> Dataset:
    dataset = Dataset()
    dataset.DimensionIndexPointer = tag_for_keyword(pointer) if isinstance(pointer, str) else pointer
    if label:
        dataset.DimensionDescriptionLabel = label
    return dataset


def test_dimensions_that_nothing_else_tells_are_kept_by_their_label() -> None:
    pointers = [
        dimension("StackID", "Stack"),
        dimension("InStackPositionNumber"),
        dimension("EffectiveEchoTime", "Echo"),
        dimension(0x20051429, "Private = Label"),
        dimension("RespiratoryCyclePosition"),
        dimension(0x20051430),
    ]
    contents = [item(DimensionIndexValues=[1, place, 1, 2, place, 9]) for place in (1, 2)]
    image = multi_frame(
        [{"FrameContentSequence": content} for content in contents], top={"DimensionIndexSequence": Sequence(pointers)}
    )
    assert [slice_.dimensions for slice_ in InstanceHeader.of(image).slices()] == [
        ("Private   Label=2", "RespiratoryCyclePosition=1", "2005,1430=9"),
        ("Private   Label=2", "RespiratoryCyclePosition=2", "2005,1430=9"),
    ]


@pytest.mark.parametrize("values", [[1], [1, 2, 3], None])
def test_indices_that_do_not_match_the_dimensions_say_nothing(values: list[int] | None) -> None:
    image = multi_frame(
        [{"FrameContentSequence": item(DimensionIndexValues=values)}],
        top={"DimensionIndexSequence": Sequence([dimension("StackID"), dimension(0x20051429, "Label")])},
    )
    assert InstanceHeader.of(image).slices()[0].dimensions == ()


def test_values_longer_than_their_attribute_may_be_are_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macros = {
            "FrameContentSequence": item(StackID="x" * 65, FrameAcquisitionDateTime="2" * 70),
            "MRImageFrameTypeSequence": item(FrameType=["A"] * 17),
            "CTImageFrameTypeSequence": item(FrameType=["A" * 65]),
            "PlanePositionSequence": item(ImagePositionPatient=["1", "2", "3", "4"]),
        }
    (slice_,) = InstanceHeader.of(multi_frame([macros])).slices()
    assert (slice_.stack_id, slice_.acquisition_datetime, slice_.image_position_patient) == ("", "", None)
    assert slice_.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")  # the image's own


@pytest.mark.parametrize("claimed", ["1", "3", "200000"])
def test_frames_that_are_not_as_many_as_the_image_says_are_left_out(claimed: str) -> None:
    image = enhanced_image(np.zeros((2, 4, 4)), axial_affine(), [0, 1])
    image.NumberOfFrames = claimed
    header = InstanceHeader.of(image)
    assert header.frames == ()
    assert header.slices() == (header,)
    assert header.number_of_frames == int(claimed)
    assert header.image_position_patient is None


def test_a_segmentation_is_no_stack_of_slices() -> None:
    image = enhanced_image(np.zeros((2, 4, 4)), axial_affine(), [0, 1])
    image.SOPClassUID = SegmentationStorage
    assert InstanceHeader.of(image).frames == ()


@pytest.mark.parametrize("name", [PCASL, PCASL_SOURCE, FIELD_MAP])
def test_json_gives_the_same_header_again(name: str) -> None:
    header = read_header(*ENHANCED, name)
    stored = json.dumps(header.to_json(), allow_nan=False)
    assert InstanceHeader.from_json(json.loads(stored)) == header
    assert len(stored) / header.number_of_frames < 300


def test_json_of_an_earlier_version_is_a_header_without_frames() -> None:
    values = read_header(*ENHANCED, PCASL).to_json()
    earlier = {name: value for name, value in values.items() if name in {"number_of_frames", "rows", "modality"}}
    uids = dict.fromkeys(("sop_instance_uid", "study_instance_uid", "series_instance_uid"), "1.2")
    header = InstanceHeader.from_json({"sop_class_uid": EnhancedMRImageStorage, **uids, **earlier})
    assert header.number_of_frames == 40
    assert header.slices() == (header,)


def test_real_pcasl_gives_the_volume_of_its_classic_export() -> None:
    (enhanced,) = stacks(read_header(*ENHANCED, PCASL).slices())
    folder = shared("data", "mr_philips_enhanced", "1901_pcasl_classic")
    (classic,) = stacks([InstanceHeader.of(dcmread(path, stop_before_pixels=True)) for path in folder.iterdir()])
    ours, theirs = assess(enhanced.headers), assess(classic.headers)
    assert len(enhanced.headers) == len(classic.headers) == 40
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=0, atol=1e-9)
    assert ours.frame_of_reference_uid == theirs.frame_of_reference_uid
    assert [enhanced.headers[index].frame_number for index in ours.order] == list(range(1, 41))


def test_real_source_images_are_six_stacks() -> None:
    found = stacks(read_header(*ENHANCED, PCASL_SOURCE).slices())
    assert [stack.words for stack in found] == [
        f"Temporal Position {position}, Private Label Type {label}" for position in (1, 2, 3) for label in (0, 1)
    ]
    assert {len(stack.headers) for stack in found} == {40}
    assert len({assess(stack.headers).affine.round(6).tobytes() for stack in found}) == 1


def test_real_field_map_is_four_stacks_magnitude_first() -> None:
    found = stacks(read_header(*ENHANCED, FIELD_MAP).slices())
    assert [stack.words for stack in found] == [
        f"Complex Image Component {component}, Echo Time {echo} ms"
        for component in ("MAGNITUDE", "PHASE")
        for echo in ("2.3", "4.6")
    ]
    assert {len(stack.headers) for stack in found} == {53}
    assert Counter(assess(stack.headers).spacing[1:] for stack in found) == {(3.0, 3.0): 4}


@pytest.mark.no_cover  # what is timed is the reading, not the tracing
def test_reading_many_frames_is_quick() -> None:
    dataset = dcmread(shared(*ENHANCED, PCASL_SOURCE), stop_before_pixels=True)
    started = time.process_time()
    assert len(InstanceHeader.of(dataset).slices()) == 240
    assert len([flattened(dataset, number) for number in range(1, 241)]) == 240
    assert time.process_time() - started < 2


# Flattened headers


def test_a_flattened_frame_reads_as_a_classic_image() -> None:
    voxels, affine, order = np.zeros((3, 4, 4)), axial_affine(), [2, 0, 1]
    image, classic = enhanced_image(voxels, affine, order), ct_series(voxels, affine)
    assert frame_count(image) == 3
    assert frame_count(classic[0]) == 0
    for number, index in enumerate(order, start=1):
        header = flattened(image, number)
        assert frame_number_of(header) == number
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows"):
            assert header[keyword].value == classic[index][keyword].value
        for keyword in (*FUNCTIONAL_GROUPS, "NumberOfFrames", "PixelData"):
            assert keyword not in header
    assert "PixelData" in image
    assert frame_number_of(classic[0]) is None


@pytest.mark.parametrize("number", [3, 100])
def test_a_frame_that_is_not_there(number: int) -> None:
    with pytest.raises(IndexError):
        flattened(enhanced_image(np.zeros((2, 4, 4)), axial_affine(), [0, 1]), number)


def test_a_frames_own_rescale_is_its_value_macro() -> None:
    groups = [{"PixelValueTransformationSequence": item(RescaleSlope=slope)} for slope in ("2", "3")]
    image = multi_frame(groups)
    assert [flattened(image, number, VALUE_MACROS).RescaleSlope for number in (1, 2)] == [2, 3]
    assert flattened(image, 1).RescaleSlope == 1  # the top level's, where the macro is not asked for


def test_real_frames_keep_names_in_their_character_set() -> None:
    image = multi_frame([{}], top={"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jörg"})
    assert str(flattened(image, 1).PatientName) == "Müller^Jörg"


# Hostile


def _raw(tag: int, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(Tag(tag), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


_values = st.one_of(
    st.binary(max_size=24),
    st.sampled_from([b"1e400", b"nan", b"1\\2\\3", b"9" * 80, b"\xfe\xff\x00\xe0\x08\x00\x00\x00", b"\\" * 40]),
)
_vrs = st.sampled_from(["CS", "DS", "FD", "UL", "SQ", "AT", "UN", "OB", "PN", "DT", "IS", "ZZ"])
_nested = sorted(
    {
        tag
        for keyword in (
            *GROUP_KEYWORDS,
            *FUNCTIONAL_GROUPS,
            "DimensionIndexSequence",
            "DimensionIndexValues",
            "StackID",
        )
        if (tag := tag_for_keyword(keyword)) is not None and dictionary_has_tag(tag)
    }
    | {
        tag_for_keyword(keyword) or 0
        for keyword in (
            "ImagePositionPatient",
            "FrameType",
            "EffectiveEchoTime",
            "DimensionIndexPointer",
            "CodeMeaning",
        )
    }
)
_elements = st.dictionaries(st.sampled_from(_nested), st.tuples(_vrs, _values), max_size=4)


def _sequence(keyword: str, datasets: list[Dataset]) -> dict[BaseTag, DataElement]:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return {tag: DataElement(tag, "SQ", Sequence(datasets))}


@st.composite
def _datasets(draw: st.DrawFn, depth: int = 2) -> Dataset:
    """Draw a data set as a reader makes it: every value still in its bytes, but those of sequences."""
    elements: dict[BaseTag, DataElement | RawDataElement] = {
        Tag(tag): _raw(tag, vr, value) for tag, (vr, value) in draw(_elements).items()
    }
    keywords = [*GROUP_KEYWORDS, *FUNCTIONAL_GROUPS] if depth else []
    for keyword in draw(st.lists(st.sampled_from(keywords), max_size=3, unique=True)) if keywords else ():
        elements |= _sequence(keyword, draw(st.lists(_datasets(depth=depth - 1), max_size=2)))
    dataset = Dataset(elements)
    dataset.set_original_encoding(False, True, ["iso8859"])
    return dataset


@settings(max_examples=150, deadline=None)
@given(
    image=_datasets(depth=1),
    frames=st.lists(_datasets(), min_size=1, max_size=3),
    sop_class=st.sampled_from([EnhancedCTImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedCTImageStorage]),
)
def test_hostile_groups_never_raise_nor_warn(image: Dataset, frames: list[Dataset], sop_class: str) -> None:
    elements: dict[BaseTag, DataElement | RawDataElement] = {tag: image.get_item(tag) for tag in list(image.keys())}
    image = Dataset(elements | dict(_sequence(FUNCTIONAL_GROUPS[1], frames)))
    image.set_original_encoding(False, True, ["iso8859"])
    image.SOPClassUID, image.SOPInstanceUID = sop_class, "1.2.3.4"
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2", "1.2.3"
    image.NumberOfFrames = str(len(frames))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        header = InstanceHeader.of(image)
    assert not heard
    assert InstanceHeader.from_json(json.loads(json.dumps(header.to_json(), allow_nan=False))) == header
    for own in map(dict, header.frames):
        assert all(len(text) <= 64 for text in (*own.get("dimensions", ()), *own.get("image_type", ())))
        assert len(own.get("image_position_patient", "xyz")) == 3
    stacks(header.slices())
