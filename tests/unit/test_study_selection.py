"""Which series fits: the choice among several, odd objects in and beside a series, and the words of a refusal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from study.errors import Reason
from study.geometry import FrameOfReferencePolicy
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.selection import Selection, SelectionRule, select
from tests.support.peers import shared

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION, COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
STRICT = FrameOfReferencePolicy.STRICT
Study = Mapping[str, list[InstanceHeader]]


def ct(
    uid: str, slices: int = 10, *, spacing: float = 2.0, fields: Mapping[str, Any] | None = None
) -> list[InstanceHeader]:
    header = InstanceHeader(
        sop_class_uid=CT,
        sop_instance_uid="",
        study_instance_uid="1.2",
        series_instance_uid=uid,
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        frame_of_reference_uid="1.2.9",
        series_number=3,
        samples_per_pixel=1,
        rows=32,
        columns=48,
        slice_thickness=spacing,
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing=(0.8, 0.7),
    )
    header = replace(header, **(fields or {}))
    return [
        replace(header, sop_instance_uid=f"{uid}.{index}", image_position_patient=(0.0, 0.0, index * spacing))
        for index in range(slices)
    ]


def other(uid: str, sop_class_uid: str, modality: str, **fields: Any) -> list[InstanceHeader]:  # noqa: ANN401 - any field of a header
    return [InstanceHeader(sop_class_uid, f"{uid}.1", "1.2", uid, modality=modality, **fields)]


def choose(*series: list[InstanceHeader], rule: SelectionRule | None = None) -> Selection:
    return select({group[0].series_instance_uid: group for group in series}, rule or SelectionRule(), STRICT)


def chosen(*series: list[InstanceHeader]) -> str:
    verdict = choose(*series).chosen
    assert verdict is not None
    assert verdict.accepted
    return verdict.series_instance_uid


def codes(reasons: tuple[Reason, ...]) -> list[str]:
    json.dumps([dict(reason.numbers) for reason in reasons])
    return [reason.code for reason in reasons]


def test_thinnest_slices_win_then_most_then_series_number_then_uid() -> None:
    assert chosen(ct("1.1", 40), ct("1.2", spacing=1.0)) == "1.2"
    assert chosen(ct("1.1", 11), ct("1.2", 10)) == "1.1"
    assert chosen(ct("1.1", fields={"series_number": 4}), ct("1.2")) == "1.1"
    assert chosen(ct("1.1", fields={"series_number": -7}), ct("1.2", fields={"series_number": None})) == "1.1"
    assert chosen(ct("1.1"), ct("1.2")) == "1.2"


def test_original_images_win_over_derived_ones() -> None:
    derived = ct("1.2", spacing=0.5, fields={"image_type": ("DERIVED", "SECONDARY", "MPR")})
    assert chosen(ct("1.1"), derived) == "1.1"
    assert chosen(derived) == "1.2"


@pytest.mark.parametrize("thickness", [None, 0.0, -5.0])
def test_unusable_slice_thickness_gives_way_to_the_spacing(thickness: float | None) -> None:
    assert chosen(ct("1.1", spacing=2.0), ct("1.2", spacing=3.0, fields={"slice_thickness": thickness})) == "1.1"


@given(data=st.data())
def test_order_of_arrival_changes_nothing(data: st.DataObject) -> None:
    study = [ct("1.1"), ct("1.2", 12), ct("1.3", spacing=1.0), ct("1.4", 1), other("1.5", SEGMENTATION, "SEG")]
    expected = choose(*study)
    arrived = data.draw(st.permutations([list(data.draw(st.permutations(group))) for group in study]))
    found = choose(*arrived)
    assert found.chosen is not None
    assert expected.chosen is not None
    assert found.chosen.headers == expected.chosen.headers
    assert [verdict.reasons for verdict in found.verdicts] == [verdict.reasons for verdict in expected.verdicts]


def test_accepted_headers_stand_in_slice_order_and_so_does_the_geometry() -> None:
    verdict = choose(ct("1.1")[::-1]).chosen
    assert verdict is not None
    assert verdict.geometry is not None
    assert [header.sop_instance_uid for header in verdict.headers] == [f"1.1.{index}" for index in range(10)]
    assert verdict.geometry.order == tuple(range(10))


def test_our_own_results_in_the_study_change_nothing() -> None:
    source = ct("1.1")
    results = [
        other("1.8", SEGMENTATION, "SEG", rows=32, columns=48, number_of_frames=7, samples_per_pixel=1),
        other("1.9", COMPREHENSIVE_3D_SR, "SR"),
        other("1.10", SECONDARY_CAPTURE, "OT", rows=32, columns=48, samples_per_pixel=3),
    ]
    alone, together = choose(source), choose(source, *results)
    assert alone.chosen is not None
    assert together.chosen is not None
    assert together.chosen.headers == alone.chosen.headers
    assert codes(together.verdicts[1].reasons) == ["OtherModality"]
    assert choose(*results).refused is None


@pytest.mark.parametrize("image_type", [("ORIGINAL", "PRIMARY", "LOCALIZER"), ("original", "primary", "localizer")])
def test_odd_localizer_among_axial_images_is_left_out_and_on_record(image_type: tuple[str, ...]) -> None:
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    scout = replace(
        ct("1.1", 1)[0], sop_instance_uid="1.1.99", image_type=image_type, image_orientation_patient=sagittal, rows=888
    )
    verdict = choose([*ct("1.1")[:4], scout, *ct("1.1")[4:]]).chosen
    assert verdict is not None
    assert verdict.geometry is not None
    assert "1.1.99" not in {header.sop_instance_uid for header in verdict.headers}
    assert len(verdict.headers) == 10
    assert verdict.geometry.notes == ("1 of 11 objects of the series were left out (LOCALIZER).",)


def test_dose_screen_among_axial_images_is_left_out() -> None:
    screen = replace(ct("1.1", 1)[0], sop_class_uid=SECONDARY_CAPTURE, sop_instance_uid="1.1.99", samples_per_pixel=3)
    verdict = choose([screen, *ct("1.1")]).chosen
    assert verdict is not None
    assert verdict.geometry is not None
    assert "Secondary Capture Image Storage" in verdict.geometry.notes[0]


def test_series_of_localizers_only_is_not_wanted() -> None:
    selection = choose(ct("1.1", fields={"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}))
    assert (selection.chosen, selection.refused) == (None, None)
    assert codes(selection.verdicts[0].reasons) == ["ExcludedImageType"]
    assert "LOCALIZER" in selection.verdicts[0].reasons[0].words


def test_enhanced_ct_is_refused_by_name_with_the_remedy() -> None:
    enhanced = other("1.1", ENHANCED_CT, "CT", number_of_frames=240, rows=32, columns=48, samples_per_pixel=1)
    selection = choose(enhanced)
    assert codes(selection.refusal) == ["FramesNotIndexed"]
    words = selection.refusal[0].words
    assert "Enhanced CT Image Storage, 240 frames" in words
    assert "single-frame" in words
    assert chosen(enhanced, ct("1.2")) == "1.2"


def test_secondary_capture_is_not_wanted_and_hides_no_refusal() -> None:
    captures = ct("1.1", 200, fields={"sop_class_uid": SECONDARY_CAPTURE})
    assert choose(captures).refused is None
    selection = choose(captures, [*ct("1.2")[:4], *ct("1.2")[5:]])
    assert codes(selection.refusal) == ["MissingSlices"]


def test_refusal_shown_is_that_of_the_largest_series_that_was_read() -> None:
    enhanced = other("1.3", ENHANCED_CT, "CT", number_of_frames=900)
    gap = [*ct("1.2", 30)[:4], *ct("1.2", 30)[5:]]
    selection = choose(enhanced, ct("1.1", 1), gap)
    assert selection.refused is not None
    assert selection.refused.series_instance_uid == "1.2"
    assert [verdict.wanted for verdict in selection.verdicts] == [True, True, True]


def test_unreadable_images() -> None:
    assert codes(choose(ct("1.1", 1)).refusal) == ["TooFewSlices"]
    colour = ct("1.1", fields={"samples_per_pixel": 3})
    assert codes(choose(colour, rule=SelectionRule(slices=(20, None))).refusal) == ["TooFewSlices", "ColourImages"]
    assert codes(choose(ct("1.1", fields={"number_of_frames": 2})).refusal) == ["MultiFrameImages"]


def test_slices_that_are_left_out_do_not_count_as_slices() -> None:
    scouts = [
        replace(header, image_type=("LOCALIZER",), sop_instance_uid=header.sop_instance_uid + ".1")
        for header in ct("1.1")
    ]
    selection = choose([*ct("1.1", 3), *scouts], rule=SelectionRule(slices=(5, None)))
    assert dict(selection.refusal[0].numbers) == {"slices": 3, "fewest": 5}


def test_unknown_sop_class_is_named_by_its_uid() -> None:
    selection = choose(ct("1.1", fields={"sop_class_uid": "1.3.46.670589.5.0.0"}))
    assert selection.refused is None
    assert "1.3.46.670589.5.0.0" in selection.verdicts[0].reasons[0].words


def test_nothing_to_choose_from() -> None:
    assert select({}, SelectionRule(), STRICT).verdicts == ()
    selection = select({"1.1": []}, SelectionRule(), STRICT)
    assert codes(selection.verdicts[0].reasons) == ["NoImages"]
    assert (selection.chosen, selection.refused, selection.refusal) == (None, None, ())


def real_study(*parts: str) -> Study:
    series: dict[str, list[InstanceHeader]] = defaultdict(list)
    for path in sorted(shared("data", *parts).rglob("*")):
        if path.is_file() and not path.name.startswith(("LICENSE", "README")):
            header = InstanceHeader.of(dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS)))
            series[header.series_instance_uid].append(header)
    return series


@pytest.mark.parametrize("policy", FrameOfReferencePolicy)
def test_real_head_study_gives_its_axial_series(policy: FrameOfReferencePolicy) -> None:
    selection = select(real_study("ct_head_philips_study"), SelectionRule(), policy)
    assert selection.chosen is not None
    assert selection.chosen.geometry is not None
    assert len(selection.chosen.headers) == 28
    assert selection.chosen.headers[0].series_number == 201
    assert selection.chosen.geometry.spacing[0] == pytest.approx(5.0)
    others = [verdict for verdict in selection.verdicts if verdict is not selection.chosen]
    assert sorted(codes(verdict.reasons)[0] for verdict in others) == ["ExcludedImageType", "OtherSOPClass"]
    assert not any(verdict.wanted for verdict in others)


def test_real_mr_study_is_not_wanted_by_a_ct_rule() -> None:
    selection = select(real_study("mr_philips_enhanced"), SelectionRule(), STRICT)
    assert (selection.chosen, selection.refused) == (None, None)
    assert {codes(verdict.reasons)[0] for verdict in selection.verdicts} == {"OtherModality"}


def test_a_real_field_map_is_split_into_its_stacks() -> None:
    study = real_study("mr_philips_enhanced")
    enhanced = {uid: headers for uid, headers in study.items() if headers[0].number_of_frames == 212}
    selection = select(enhanced, SelectionRule(modality=("MR",)), STRICT)
    assert selection.chosen is not None
    assert len(selection.chosen.headers) == 53
    assert "Echo Time 2.3 ms" in selection.chosen.stack
    assert len(selection.verdicts) == 4


def test_real_tilted_head_is_refused() -> None:
    selection = select(real_study("ct_head_ge_tilted"), SelectionRule(), STRICT)
    assert set(codes(selection.refusal)) == {"GantryTilt", "NonUniformSpacing"}
