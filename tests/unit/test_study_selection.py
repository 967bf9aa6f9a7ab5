"""Which series fits: the choice among several, odd objects in and beside a series, and the words of a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from study.errors import Reason
from study.geometry import FrameOfReferencePolicy, UnevenSpacing
from study.headers import InstanceHeader
from study.selection import Selection, SelectionRule, SeriesVerdict, select
from tests.support.enhanced import enhanced_image
from tests.support.series import axial_affine

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION, COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
STRICT = FrameOfReferencePolicy.STRICT


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


def accepted(selection: Selection) -> SeriesVerdict:
    assert selection.chosen is not None
    assert selection.chosen.accepted
    return selection.chosen


def test_thinnest_slices_win_then_most_then_the_latest_then_series_number_then_uid() -> None:
    assert chosen(ct("1.1", 40), ct("1.2", spacing=1.0)) == "1.2"
    assert chosen(ct("1.1", 11), ct("1.2", 10)) == "1.1"
    assert (
        chosen(ct("1.1", fields=acquired("101500")), ct("1.2", fields=acquired("101400") | {"series_number": 9}))
        == "1.1"
    )
    assert chosen(ct("1.1", fields={"series_number": 4}), ct("1.2")) == "1.1"
    assert chosen(ct("1.1", fields={"series_number": -7}), ct("1.2", fields={"series_number": None})) == "1.1"
    assert chosen(ct("1.1"), ct("1.2")) == "1.2"


def acquired(moment: str) -> dict[str, Any]:
    return {"acquisition_date": "20260102", "acquisition_time": moment}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"acquisition_datetime": "20260102101112.5+0100"}, {"acquisition_datetime": "20260102101112.6+0100"}),
        ({"acquisition_datetime": "20260102101112+0900"}, {"acquisition_datetime": "20260102101112.01+0000"}),
        ({"series_date": "20260101", "series_time": "235959"}, {"series_date": "20260102", "series_time": "000000"}),
        ({"acquisition_date": "2026.01.02", "acquisition_time": "09:10:11"}, acquired("101112")),
        ({}, acquired("000000")),
    ],
)
def test_the_latest_acquisition_wins(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    assert chosen(ct("1.2", fields=earlier), ct("1.1", fields=later)) == "1.1"


@pytest.mark.parametrize(
    ("word", "better", "worse"),
    [
        ("original", ct("1.1"), ct("1.2", fields={"image_type": ("DERIVED", "SECONDARY")})),
        ("thinnest", ct("1.1", spacing=1.0), ct("1.2")),
        ("most_slices", ct("1.1", 11), ct("1.2")),
        ("latest", ct("1.1", fields=acquired("101500")), ct("1.2", fields=acquired("101400"))),
    ],
)
def test_each_preference_decides_where_it_is_asked_for_and_only_there(
    word: str, better: list[InstanceHeader], worse: list[InstanceHeader]
) -> None:
    assert accepted(choose(better, worse, rule=SelectionRule(prefer=(word,)))).series_instance_uid == "1.1"
    assert accepted(choose(better, worse, rule=SelectionRule(prefer=()))).series_instance_uid == "1.2"


def test_preferences_decide_in_their_order() -> None:
    thin, many = ct("1.1", 10, spacing=1.0), ct("1.2", 20)
    for prefer, uid in ((("thinnest", "most_slices"), "1.1"), (("most_slices", "thinnest"), "1.2")):
        assert accepted(choose(thin, many, rule=SelectionRule(prefer=prefer))).series_instance_uid == uid


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


def test_an_enhanced_image_that_an_earlier_version_indexed_is_refused_by_name_with_the_remedy() -> None:
    enhanced = other("1.1", ENHANCED_CT, "CT", number_of_frames=240, rows=32, columns=48, samples_per_pixel=1)
    selection = choose(enhanced)
    assert codes(selection.refusal) == ["FramesNotIndexed"]
    words = selection.refusal[0].words
    assert "Enhanced CT Image Storage, 240 frames" in words
    assert "Send the series again" in words
    assert chosen(enhanced, ct("1.2")) == "1.2"


def test_an_enhanced_image_is_chosen_by_its_frames() -> None:
    order = [2, 0, 1, 3]
    header = InstanceHeader.of(enhanced_image(np.zeros((4, 4, 4)), axial_affine(), order))
    verdict = accepted(choose([header]))
    assert [slice_.frame_number for slice_ in verdict.headers] == [2, 3, 1, 4]
    assert verdict.geometry is not None
    assert verdict.geometry.order == (0, 1, 2, 3)
    assert {slice_.sop_instance_uid for slice_ in verdict.headers} == {header.sop_instance_uid}
    only_classic = SelectionRule(sop_classes=(CT,))
    assert codes(choose([header], rule=only_classic).verdicts[0].reasons) == ["OtherSOPClass"]


def test_frames_of_a_type_that_is_left_out_are_left_out_of_their_image() -> None:
    image = enhanced_image(np.zeros((4, 4, 4)), axial_affine(), [0, 1, 2, 3])
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if number == 3 else "VOLUME", "NONE"]
        group.CTImageFrameTypeSequence = [kind]
    verdict = accepted(choose([InstanceHeader.of(image)]))
    assert [slice_.frame_number for slice_ in verdict.headers] == [1, 2, 3]
    assert verdict.notes == ("1 of 4 objects of the series were left out (LOCALIZER).",)


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


def test_a_transfer_syntax_that_no_decoder_reads_is_named() -> None:
    compressed = ct("1.1", fields={"transfer_syntax_uid": "1.2.840.10008.1.2.4.90"})
    selection = select({"1.1": compressed}, SelectionRule(), STRICT, decodable=lambda uid: uid == "1.2.840.10008.1.2")
    assert codes(selection.refusal) == ["UnsupportedTransferSyntax"]
    assert (
        "JPEG 2000 Image Compression (Lossless Only) (1.2.840.10008.1.2.4.90) of 10 images"
        in selection.refusal[0].words
    )
    assert selection.refusal[0].numbers["transfer_syntax_uid"] == "1.2.840.10008.1.2.4.90"
    plain = ct("1.1", fields={"transfer_syntax_uid": "1.2.840.10008.1.2"})
    assert select({"1.1": plain}, SelectionRule(), STRICT, lambda uid: uid == "1.2.840.10008.1.2").chosen is not None


def test_slices_that_are_left_out_do_not_count_as_slices() -> None:
    scouts = [
        replace(header, image_type=("LOCALIZER",), sop_instance_uid=header.sop_instance_uid + ".1")
        for header in ct("1.1")
    ]
    selection = choose([*ct("1.1", 3), *scouts], rule=SelectionRule(slices=(5, None)))
    assert dict(selection.refusal[0].numbers) == {"slices": 3, "fewest": 5}


def test_everything_that_is_wrong_with_a_wanted_series_is_listed() -> None:
    fields = {
        "samples_per_pixel": None,
        "slice_thickness": 5.0,
        "pixel_spacing": (0.2, 0.9),
        "transfer_syntax_uid": "1.2.9",
    }
    headers = [*ct("1.1", fields=fields)[:4], *ct("1.1", fields=fields)[5:]]
    headers[0] = replace(headers[0], frame_of_reference_uid="1.2.10", rows=64)
    rule = SelectionRule(
        slices=(12, None), slice_thickness=(0.5, 3), slice_spacing=(None, 1.5), pixel_spacing=(0.3, None)
    )
    selection = select({"1.1": headers}, rule, STRICT, lambda _uid: False)
    assert codes(selection.refusal) == [
        "TooFewSlices",
        "ColourImages",
        "UnsupportedTransferSyntax",
        "SliceThicknessOutOfRange",
        "PixelSpacingOutOfRange",
        "SliceSpacingOutOfRange",
        "MixedMatrix",
        "InconsistentFrameOfReference",
        "MissingSlices",
    ]


def echoes(uid: str = "1.1", **fields: Any) -> list[InstanceHeader]:  # noqa: ANN401 - any field
    """Return two interleaved echoes of five slices each."""
    first = ct(uid, 5, fields=fields | {"echo_time": 2.3})
    second = ct(uid, 5, fields=fields | {"echo_time": 4.6})
    return [
        h
        for pair in zip(first, (replace(h, sop_instance_uid=f"{h.sop_instance_uid}.2") for h in second), strict=True)
        for h in pair
    ]


def test_each_stack_of_a_series_is_judged_for_itself() -> None:
    selection = choose(echoes())
    assert [verdict.stack for verdict in selection.verdicts] == ["Echo Time 2.3 ms", "Echo Time 4.6 ms"]
    assert [verdict.stack_position for verdict in selection.verdicts] == [0, 1]
    verdict = accepted(selection)
    assert verdict.stack == "Echo Time 2.3 ms"  # the first echo, where nothing else tells them apart
    assert {header.echo_time for header in verdict.headers} == {2.3}
    assert verdict.notes == ("The series holds 2 stacks that differ in Echo Time; analysed: Echo Time 2.3 ms.",)
    assert verdict.geometry is not None
    assert verdict.geometry.notes == verdict.notes


def test_a_rule_picks_its_stack() -> None:
    selection = choose(echoes(), rule=SelectionRule(echo_time=(4, None)))
    assert accepted(selection).stack == "Echo Time 4.6 ms"
    assert [codes(verdict.reasons) for verdict in selection.verdicts] == [["OtherEchoTime"], []]


def test_the_first_stack_of_a_series_wins_before_the_greatest_uid() -> None:
    rule = SelectionRule(echo_time=(4, None), prefer=())
    assert (
        accepted(choose(echoes("1.2"), ct("1.1", 5, fields={"echo_time": 4.6}), rule=rule)).series_instance_uid == "1.1"
    )


def test_a_series_that_is_not_wanted_is_told_only_what_speaks_against_all_its_stacks() -> None:
    for limits, expected in (((4, None), ["OtherDescription"]), ((9, None), ["OtherDescription", "OtherEchoTime"])):
        (verdict,) = choose(echoes(), rule=SelectionRule(echo_time=limits, description_include=("x",))).verdicts
        assert codes(verdict.reasons) == expected


def test_stacks_that_the_same_words_speak_against_share_a_verdict() -> None:
    selection = choose(echoes(), rule=SelectionRule(slices=(20, None)))
    assert [(verdict.stack, verdict.wanted) for verdict in selection.verdicts] == [("each of 2 stacks", True)]
    assert len(selection.verdicts[0].headers) == 10
    selection = choose(echoes(), rule=SelectionRule(kernel_include=("B30",)))
    assert [(verdict.stack, verdict.wanted) for verdict in selection.verdicts] == [("", False)]
    third = [replace(h, echo_time=9.0, sop_instance_uid=f"{h.sop_instance_uid}.3") for h in ct("1.1", 4)]
    selection = choose([*echoes(), *third], rule=SelectionRule(slices=(None, 4)))
    assert [verdict.stack for verdict in selection.verdicts] == ["2 of 3 stacks", "Echo Time 9 ms"]


def test_the_time_does_not_decide_among_the_stacks_of_a_series() -> None:
    phases = [
        replace(
            header,
            temporal_position=position,
            sop_instance_uid=f"{header.sop_instance_uid}.{position}",
            **acquired(f"10111{position}"),
        )
        for position in (1, 2, 3)
        for header in ct("1.1", 5)
    ]
    assert accepted(choose(phases)).stack == "Temporal Position 1"


def test_a_verdict_names_its_series() -> None:
    fields = {"series_number": 7, "series_description": "Thorax 1mm"}
    for headers in (
        ct("1.1", fields=fields),
        ct("1.1", 1, fields=fields),
        ct("1.1", fields=fields | {"modality": "MR"}),
    ):
        verdict = choose(headers).verdicts[0]
        assert (verdict.series_number, verdict.series_description, verdict.stack) == (7, "Thorax 1mm", "")


def test_words_are_ascii_and_quote_no_identity() -> None:
    fields = {"patient_name": "Phantom^Paula", "patient_id": "P1", "series_description": "Sch\u00e4del\x07 " * 20}
    rule = SelectionRule(description_include=("thorax",), kernel_include=("B30",), body_part=("CHEST",))
    words = " ".join(reason.words for reason in choose(ct("1.1", fields=fields), rule=rule).verdicts[0].reasons)
    assert words.isascii()
    assert words.isprintable()
    assert "Sch\\xe4del\\x07" in words
    assert "Paula" not in words
    assert len(words) < 500


def test_unevenly_spaced_slices_are_accepted_where_the_rule_says_so() -> None:
    headers = ct("1.1", 5)
    headers[4] = replace(headers[4], image_position_patient=(0.0, 0.0, 9.0))
    assert codes(choose(headers).refusal) == ["NonUniformSpacing"]
    verdict = accepted(choose(headers, rule=SelectionRule(uneven_spacing=UnevenSpacing.RESAMPLE)))
    assert verdict.geometry is not None
    assert verdict.geometry.offsets == (0.0, 2.0, 4.0, 6.0, 9.0)
    assert "2.00 to 3.00 mm" in verdict.notes[0]


def test_unknown_sop_class_is_named_by_its_uid() -> None:
    selection = choose(ct("1.1", fields={"sop_class_uid": "1.3.46.670589.5.0.0"}))
    assert selection.refused is None
    assert "1.3.46.670589.5.0.0" in selection.verdicts[0].reasons[0].words


def test_nothing_to_choose_from() -> None:
    assert select({}, SelectionRule(), STRICT).verdicts == ()
    selection = select({"1.1": []}, SelectionRule(), STRICT)
    assert codes(selection.verdicts[0].reasons) == ["NoImages"]
    assert (selection.chosen, selection.refused, selection.refusal) == (None, None, ())
