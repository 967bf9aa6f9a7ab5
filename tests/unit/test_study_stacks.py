"""Series that hold several stacks of slices are taken apart by what tells these apart, and whole ones stay whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage

from study.errors import StudyRefused
from study.geometry import assess
from study.headers import InstanceHeader
from study.stacks import Stack, stacks
from tests.support.series import axial_affine, ct_series

SERIES = "1.2.3"
SLICES = 6
Headers = list[InstanceHeader]


def images(
    given: Mapping[str, Any] | None = None,
    *,
    slices: int = SLICES,
    first: float = 0.0,
    **named: Any,  # noqa: ANN401 - any attribute
) -> Headers:
    """Return the headers of slices that are 2 mm apart along z, from `first` on, with attributes by keyword."""
    attributes = {**(given or {}), **named}
    same = {keyword: value for keyword, value in attributes.items() if not isinstance(value, Each)}
    datasets = ct_series(
        np.zeros((slices, 4, 4)),
        axial_affine((2.0, 0.8, 0.7), (0.0, 0.0, first)),
        attributes={"Modality": "MR", "SOPClassUID": MRImageStorage, "FrameOfReferenceUID": "1.2.9"} | same,
        series_instance_uid=SERIES,
    )
    for keyword in attributes.keys() - same.keys():
        for dataset, value in zip(datasets, attributes[keyword].each, strict=True):
            setattr(dataset, keyword, value)
    return [InstanceHeader.of(dataset) for dataset in datasets]


class Each:
    """A value of its own for each slice."""

    def __init__(self, *each: Any) -> None:  # noqa: ANN401
        self.each = each


def sizes(found: Sequence[Stack]) -> list[int]:
    return [len(stack.headers) for stack in found]


def words(found: Sequence[Stack]) -> list[str]:
    return [stack.words for stack in found]


def whole(headers: Headers) -> bool:
    found = stacks(headers)
    return len(found) == 1 and found[0].differs == () and found[0].words == ""


def test_a_plain_series_is_one_stack_that_nothing_tells_apart() -> None:
    headers = images()
    (stack,) = stacks(headers[::-1])
    assert stack.differs == ()
    assert set(stack.headers) == set(headers)


def test_no_headers_no_slices() -> None:
    assert sizes(stacks([])) == [0]


def test_two_interleaved_echoes() -> None:
    first, second = images(EchoTime="2.3", EchoNumbers="1"), images(EchoTime="4.6", EchoNumbers="2")
    mixed = [header for pair in zip(second, first, strict=True) for header in pair]
    found = stacks(mixed)
    assert words(found) == ["Echo Time 2.3 ms", "Echo Time 4.6 ms"]  # the echo number says nothing more
    assert set(found[0].headers) == set(first)
    assert set(found[1].headers) == set(second)
    assert assess(found[0].headers).spacing[0] == pytest.approx(2.0)


def test_echo_times_that_differ_by_rounding_are_one() -> None:
    assert whole(images(EchoTime=Each("90", "90.01", "90", "90.02", "90", "90.01")))
    assert sizes(stacks(images(EchoTime="90") + images(EchoTime="90.3"))) == [SLICES, SLICES]


HARD = {
    "ConvolutionKernel": ("B30f", "B70f", "Convolution Kernel B70f"),
    "EchoNumbers": ("1", "2", "Echo Number 2"),
    "InversionTime": ("100", "900", "Inversion Time 900 ms"),
    "DiffusionBValue": (0.0, 1000.0, "Diffusion b-value 1000 s/mm2"),
    "TemporalPositionIdentifier": ("1", "2", "Temporal Position 2"),
    "ComplexImageComponent": ("MAGNITUDE", "IMAGINARY", "Complex Image Component IMAGINARY"),
    "StackID": ("1", "2", "Stack ID 2"),
}


@pytest.mark.parametrize("keyword", HARD)
def test_what_never_differs_within_a_volume_splits_at_the_same_places(keyword: str) -> None:
    first, second, said = HARD[keyword]
    found = stacks(images({keyword: second}) + images({keyword: first}))
    assert sizes(found) == [SLICES, SLICES]
    assert found[1].words == said


@pytest.mark.parametrize("keyword", HARD)
def test_what_never_differs_within_a_volume_splits_blocks_too(keyword: str) -> None:
    first, second, _ = HARD[keyword]
    assert sizes(stacks(images({keyword: first}) + images({keyword: second}, first=12.0))) == [SLICES, SLICES]


SOFT = {
    "ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"], "Image Type P"),
    "SliceThickness": ("1", "5", "Slice Thickness 5 mm"),
    "FlipAngle": ("5", "26", "Flip Angle 26 degrees"),
    "ContrastBolusAgent": ("", "Gadovist", "Contrast/Bolus Agent Gadovist"),
    "AcquisitionNumber": ("1", "2", "Acquisition Number 2"),
    "TriggerTime": ("10", "300", "Trigger Time 300 ms"),
    "AcquisitionTime": ("101112", "101300.5", "Acquisition Time 20260102101300.5"),
}


@pytest.mark.parametrize("keyword", SOFT)
def test_what_may_differ_splits_at_the_same_places(keyword: str) -> None:
    first, second, said = SOFT[keyword]
    found = stacks(images({keyword: second}) + images({keyword: first}))
    assert sizes(found) == [SLICES, SLICES]
    assert found[1].words == said


@pytest.mark.parametrize("keyword", SOFT)
def test_what_may_differ_leaves_blocks_together(keyword: str) -> None:
    first, second, _ = SOFT[keyword]
    assert whole(images({keyword: first}) + images({keyword: second}, first=12.0))


@pytest.mark.parametrize(
    "keyword", ["ImageType", "SliceThickness", "FlipAngle", "ContrastBolusAgent", "AcquisitionNumber"]
)
def test_what_may_differ_splits_where_ranges_interleave(keyword: str) -> None:
    first, second, _ = SOFT[keyword]
    assert sizes(stacks(images({keyword: first}) + images({keyword: second}, first=0.7))) == [SLICES, SLICES]


def test_trigger_times_repeat_over_a_gated_volume() -> None:
    """Three slices an R-R interval: slices 1 and 4, 2 and 5, 3 and 6 have the same delay."""
    assert whole(images(TriggerTime=Each("10", "110", "210", "10", "110", "210")))


@pytest.mark.parametrize("keyword", ["TriggerTime", "AcquisitionNumber", "EchoTime", "TemporalPositionIdentifier"])
def test_a_value_of_its_own_for_each_slice_splits_nothing(keyword: str) -> None:
    assert whole(images({keyword: Each(*map(str, range(1, SLICES + 1)))}))


def test_step_and_shoot_makes_two_slices_an_acquisition() -> None:
    assert whole(images(AcquisitionNumber=Each("1", "1", "2", "2", "3", "3")))


def test_phases_of_a_cine_are_told_by_their_order_at_each_place() -> None:
    """Each breath-hold has a heart rate of its own, so that no two slices share a trigger time."""
    phases = [
        images(TriggerTime=Each(*(str(30 * phase + slice_ * (phase + 1)) for slice_ in range(SLICES))))
        for phase in range(3)
    ]
    found = stacks([header for phase in phases[::-1] for header in phase])
    assert words(found) == ["Trigger Time 1 of 3", "Trigger Time 2 of 3", "Trigger Time 3 of 3"]
    assert [set(stack.headers) for stack in found] == [set(phase) for phase in phases]


def test_passes_of_a_scan_in_steps_are_told_by_their_order() -> None:
    passes = [images(AcquisitionNumber=Each(*(str(SLICES * n + slice_) for slice_ in range(SLICES)))) for n in (0, 1)]
    found = stacks(passes[1] + passes[0])
    assert words(found) == ["Acquisition Number 1 of 2", "Acquisition Number 2 of 2"]
    assert set(found[0].headers) == set(passes[0])


def test_order_in_time_is_no_evidence_where_places_differ_in_how_many_images_they_hold() -> None:
    times = [f"1011{second:02d}" for second in range(2 * SLICES)]
    first = images(AcquisitionTime=Each(*times[:SLICES]))
    again = images(slices=2, AcquisitionTime=Each(*times[-2:]))
    (stack,) = stacks(first + again)
    with pytest.raises(StudyRefused) as caught:
        assess(stack.headers)
    assert [reason.code for reason in caught.value.reasons] == ["DuplicateSlices"]


def test_the_same_images_twice_stay_together_and_are_refused() -> None:
    (stack,) = stacks(images() + images())
    with pytest.raises(StudyRefused) as caught:
        assess(stack.headers)
    assert dict(caught.value.reasons[0].numbers) == {"positions": SLICES, "images": 2 * SLICES, "first_at_mm": 0.0}


def test_diffusion_directions_and_what_has_none() -> None:
    axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    unweighted = images(DiffusionBValue=0.0)
    weighted = [images(DiffusionBValue=1000.0, DiffusionGradientOrientation=axis) for axis in axes]
    wobbling = images(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.999, 0.004, 0.0])
    found = stacks(weighted[1] + weighted[0] + unweighted)
    assert words(found) == [
        "Diffusion b-value 0 s/mm2",
        "Diffusion b-value 1000 s/mm2, Diffusion Gradient Orientation (0.00, 1.00, 0.00)",
        "Diffusion b-value 1000 s/mm2, Diffusion Gradient Orientation (1.00, 0.00, 0.00)",
    ]
    assert sizes(stacks(weighted[0] + wobbling)) == [2 * SLICES]


def test_magnitude_and_the_first_echo_come_first() -> None:
    found = stacks(
        [
            header
            for component in ("PHASE", "MAGNITUDE")
            for echo in ("4.6", "2.3")
            for header in images(ComplexImageComponent=component, EchoTime=echo)
        ]
    )
    assert words(found) == [
        f"Complex Image Component {component}, Echo Time {echo} ms"
        for component in ("MAGNITUDE", "PHASE")
        for echo in ("2.3", "4.6")
    ]


def test_original_images_come_before_derived_ones() -> None:
    derived = images(ImageType=["DERIVED", "SECONDARY", "MPR"])
    found = stacks(derived + images(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]))
    assert words(found) == ["Image Type ORIGINAL PRIMARY AXIAL", "Image Type DERIVED SECONDARY MPR"]


def test_images_without_a_value_are_a_stack_of_their_own() -> None:
    assert words(stacks(images() + images(EchoTime="5"))) == ["Echo Time 5 ms", "Echo Time not stated"]


def test_mixed_orientations_stay_together_and_are_refused() -> None:
    turned = images(first=40.0, ImageOrientationPatient=["0", "1", "0", "0", "0", "-1"], AcquisitionNumber="2")
    (stack,) = stacks(images() + turned)
    with pytest.raises(StudyRefused) as caught:
        assess(stack.headers)
    assert caught.value.reasons[0].code == "MixedOrientation"


def test_a_place_is_none_where_the_orientation_is_another() -> None:
    """A localizer's planes cross, and do not overlap."""
    turned = images(ImageOrientationPatient=["0", "1", "0", "0", "0", "-1"], FlipAngle="20")
    assert len(stacks(images(FlipAngle="30") + turned)) == 1


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_slices_that_do_not_say_where_they_lie_are_told_apart_by_the_hard_attributes_alone(keyword: str) -> None:
    assert whole(images({keyword: None, "AcquisitionNumber": "1"}) + images({keyword: None, "AcquisitionNumber": "2"}))
    assert sizes(stacks(images({keyword: None, "EchoTime": "1"}) + images({keyword: None, "EchoTime": "2"}))) == [
        6,
        6,
    ]


def test_a_strangers_words_are_quoted_in_ascii() -> None:
    found = stacks(images(ConvolutionKernel="B30f") + images(ConvolutionKernel="weich-\x01\u00fc"))
    assert words(found)[1] == "Convolution Kernel weich-\\x01\\xfc"


@cache
def four_stacks() -> tuple[InstanceHeader, ...]:
    """Return the headers of two echoes of two acquisitions; made once, for they are the same in every example."""
    return tuple(
        header
        for echo in ("1", "2")
        for phase in ("1", "2")
        for header in images(slices=3, EchoTime=echo, AcquisitionNumber=phase)
    )


@given(data=st.data())
def test_order_of_arrival_changes_nothing(data: st.DataObject) -> None:
    headers = list(four_stacks())
    expected = stacks(headers)
    found = stacks(data.draw(st.permutations(headers)))
    assert [stack.differs for stack in found] == [stack.differs for stack in expected]
    assert [set(stack.headers) for stack in found] == [set(stack.headers) for stack in expected]
    assert sum(sizes(found)) == len(headers)


_numbers = st.one_of(
    st.none(), st.sampled_from([0.0, -1.0, 1e308, -1e308, 5e-324]), st.floats(allow_nan=False, allow_infinity=False)
)


def _vectors(most: int) -> st.SearchStrategy[tuple[float, ...] | None]:
    return st.one_of(st.none(), st.lists(_numbers.map(lambda value: value or 0.0), max_size=most).map(tuple))


@cache
def three_slices() -> tuple[InstanceHeader, ...]:
    return tuple(images(slices=3))


@settings(max_examples=300)
@given(data=st.data())
def test_hostile_values_lose_no_slice_and_never_raise(data: st.DataObject) -> None:
    headers = [
        replace(
            header,
            image_position_patient=data.draw(st.one_of(st.just(header.image_position_patient), _vectors(4))),
            image_orientation_patient=data.draw(st.one_of(st.just(header.image_orientation_patient), _vectors(7))),
            gradient_orientation=data.draw(_vectors(4)),
            echo_time=data.draw(_numbers),
            slice_thickness=data.draw(_numbers),
            dimensions=data.draw(
                st.lists(st.sampled_from(["a=1", "a=", "=3", "b=2=7", "\u00b2=\u00b2"]), max_size=2).map(tuple)
            ),
            acquisition_datetime=data.draw(st.sampled_from(["", "x", "2026", "\u0660"])),
        )
        for header in three_slices()
    ]
    found = stacks(headers)
    assert sorted(h.sop_instance_uid for stack in found for h in stack.headers) == sorted(
        h.sop_instance_uid for h in headers
    )
    assert "".join(words(found)).isprintable()
    assert "".join(words(found)).isascii()
