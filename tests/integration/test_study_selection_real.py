"""Real studies, judged by the rules of a CT and of an MR model: what is chosen, and what speaks against each series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pytest
from pydicom import dcmread

from study.geometry import FrameOfReferencePolicy, UnevenSpacing
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.selection import Selection, SelectionRule, SeriesVerdict, select
from tests.support.peers import shared

STRICT, BY_POSITION = FrameOfReferencePolicy.STRICT, FrameOfReferencePolicy.BY_POSITION
CT, MR = SelectionRule(), SelectionRule(modality=("MR",))
Study = Mapping[str, list[InstanceHeader]]


def study(*parts: str) -> Study:
    """Return the headers of a folder of the shared images, by series."""
    series: dict[str, list[InstanceHeader]] = defaultdict(list)
    for path in sorted(shared("data", *parts).rglob("*")):
        if path.is_file() and not path.name.startswith(("LICENSE", "README")):
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS))
            header = InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID)
            series[header.series_instance_uid].append(header)
    return series


def numbered(selection: Selection) -> dict[int | None, list[SeriesVerdict]]:
    found: dict[int | None, list[SeriesVerdict]] = defaultdict(list)
    for verdict in selection.verdicts:
        found[verdict.series_number].append(verdict)
    return found


def codes(verdict: SeriesVerdict | None) -> list[str]:
    assert verdict is not None
    return [reason.code for reason in verdict.reasons]


def test_chest_needs_the_setting_for_its_frames_of_reference() -> None:
    selection = select(study("ct_chest_lidc_0314"), CT, STRICT)
    assert selection.chosen is None
    (reason,) = selection.refusal
    assert reason.code == "InconsistentFrameOfReference"
    assert dict(reason.numbers) == {"frames_of_reference": 275, "images": 275}
    chosen = select(study("ct_chest_lidc_0314"), CT, BY_POSITION).chosen
    assert chosen is not None
    assert chosen.geometry is not None
    assert len(chosen.headers) == chosen.geometry.slices == 275
    assert chosen.geometry.spacing == pytest.approx((1.0, 0.78125, 0.78125))
    assert "275 Frames of Reference" in chosen.notes[0]


def test_chest_is_thicker_than_a_model_takes_and_lies_in_several_frames_of_reference() -> None:
    rule = SelectionRule(slice_thickness=(None, 0.75), slices=(300, None), pixel_spacing=(None, 0.7))
    selection = select(study("ct_chest_lidc_0314"), rule, STRICT)
    assert codes(selection.refused) == [
        "TooFewSlices",
        "SliceThicknessOutOfRange",
        "PixelSpacingOutOfRange",
        "InconsistentFrameOfReference",
    ]


def test_tilted_head_is_refused_for_everything_that_is_wrong_with_it() -> None:
    rule = SelectionRule(slices=(30, None), slice_thickness=(0.5, 3), slice_spacing=(None, 3))
    (verdict,) = select(study("ct_head_ge_tilted"), rule, STRICT).verdicts
    assert verdict.stack == ""  # ImageType with and without ADD, in two blocks, and AcquisitionNumber 1 to 21
    assert verdict.wanted
    assert [(reason.code, reason.words) for reason in verdict.reasons] == [
        ("TooFewSlices", "The series has 28 slice(s), the model needs 30."),
        ("SliceThicknessOutOfRange", "The slices are 4 to 7 mm thick, the model takes 0.5 to 3 mm."),
        ("SliceSpacingOutOfRange", "The slices are 4.002 mm apart, the model takes at most 3 mm."),
        (
            "NonUniformSpacing",
            "The slices are unevenly spaced, from 1.08 to 7.00 mm apart. Send an evenly spaced reconstruction, or let "
            'the model interpolate: uneven_spacing = "resample".',
        ),
        (
            "GantryTilt",
            "The slices are tilted by 18.5 degrees against the direction of the scan, 48.21 mm from the first to the "
            "last. Send a reconstruction without tilt.",
        ),
    ]
    assert verdict.reasons[-1].numbers["degrees"] == 18.5


def test_tilted_head_is_refused_for_its_tilt_where_uneven_spacing_is_accepted() -> None:
    rule = SelectionRule(uneven_spacing=UnevenSpacing.RESAMPLE)
    assert codes(select(study("ct_head_ge_tilted"), rule, STRICT).refused) == ["GantryTilt"]


@pytest.mark.parametrize("policy", FrameOfReferencePolicy)
def test_head_study_gives_its_axial_series(policy: FrameOfReferencePolicy) -> None:
    selection = select(study("ct_head_philips_study"), CT, policy)
    assert selection.chosen is not None
    assert selection.chosen.geometry is not None
    assert (selection.chosen.series_number, selection.chosen.series_description) == (201, "STD BRAIN 5MM")
    assert len(selection.chosen.headers) == 28
    assert selection.chosen.geometry.spacing[0] == pytest.approx(5.0)
    verdicts = numbered(selection)
    assert {number: codes(found) for number, (found,) in verdicts.items()} == {
        100: ["ExcludedImageType"],
        201: [],
        401: ["OtherSOPClass"],
    }
    assert not verdicts[100][0].wanted
    assert "LOCALIZER" in verdicts[100][0].reasons[0].words
    assert not verdicts[401][0].wanted
    assert "Secondary Capture Image Storage" in verdicts[401][0].reasons[0].words


def test_head_study_has_nothing_for_a_model_of_thin_slices() -> None:
    selection = select(
        study("ct_head_philips_study"), SelectionRule(slice_thickness=(0.5, 3), body_part=("brain",)), STRICT
    )
    (reason,) = selection.refusal
    assert reason.words == "The slices are 5 mm thick, the model takes 0.5 to 3 mm."
    assert selection.refused is not None
    assert selection.refused.series_number == 201
    assert codes(numbered(selection)[100][0]) == ["ExcludedImageType", "OtherBodyPart"]


def test_a_localizer_is_sagittal() -> None:
    rule = SelectionRule(image_type_exclude=(), orientation=("axial",))
    selection = select(study("ct_head_philips_study"), rule, STRICT)
    assert numbered(selection)[100][0].reasons[0].words == "The slices are sagittal, the model is for axial."


def test_mr_study_is_not_wanted_by_a_ct_model() -> None:
    selection = select(study("mr_philips_enhanced", "enhanced"), CT, STRICT)
    assert (selection.chosen, selection.refused) == (None, None)
    assert [codes(verdict) for verdict in selection.verdicts] == [["OtherModality"]] * 3


def test_mr_study_is_taken_apart_into_its_stacks() -> None:
    selection = select(study("mr_philips_enhanced", "enhanced"), MR, STRICT)
    verdicts = numbered(selection)
    assert {number: [len(verdict.headers) for verdict in found] for number, found in verdicts.items()} == {
        1901: [40],
        1903: [40] * 6,
        2001: [53] * 4,
    }
    assert all(verdict.accepted for verdict in selection.verdicts)
    assert verdicts[1901][0].stack == ""
    assert verdicts[1903][3].stack == "Temporal Position 2, Private Label Type 1"
    chosen = selection.chosen
    assert chosen is verdicts[2001][0]  # 3 mm slices, where the others have 4
    assert chosen.stack == "Complex Image Component MAGNITUDE, Echo Time 2.3 ms"
    assert chosen.notes == (
        "The series holds 4 stacks that differ in Complex Image Component, Echo Time; "
        "analysed: Complex Image Component MAGNITUDE, Echo Time 2.3 ms.",
    )
    assert [header.frame_number for header in chosen.headers][:3] == [1, 3, 5]  # echoes alternate in the file


def test_a_rule_finds_one_echo_and_says_no_to_the_others() -> None:
    selection = select(
        study("mr_philips_enhanced", "enhanced"), SelectionRule(modality=("MR",), echo_time=(4, 5)), STRICT
    )
    assert selection.chosen is not None
    assert selection.chosen.stack == "Complex Image Component MAGNITUDE, Echo Time 4.6 ms"
    verdicts = numbered(selection)
    assert [(verdict.stack, verdict.wanted) for verdict in verdicts[1903]] == [("", False)]
    assert verdicts[1903][0].reasons[0].words == "The Echo Time is 9 ms, the model takes 4 to 5 ms."
    assert verdicts[2001][0].reasons[0].words == "The Echo Time is 2.3 ms, the model takes 4 to 5 ms."
    assert verdicts[2001][0].stack == "2 of 4 stacks"


def test_a_classic_export_gives_the_volume_of_the_enhanced_original() -> None:
    rule = SelectionRule(modality=("MR",), description_include=("^3DpCASL",))
    enhanced = select(study("mr_philips_enhanced", "enhanced"), rule, STRICT).chosen
    classic = select(study("mr_philips_enhanced", "1901_pcasl_classic"), rule, STRICT).chosen
    assert enhanced is not None
    assert classic is not None
    assert enhanced.geometry is not None
    assert classic.geometry is not None
    assert enhanced.geometry.affine == pytest.approx(classic.geometry.affine, abs=1e-9)
    assert (enhanced.notes, classic.notes) == ((), ())
    assert [header.instance_number for header in classic.headers] == [
        header.frame_number for header in enhanced.headers
    ]


def test_one_slice_in_many_transfer_syntaxes_is_no_volume() -> None:
    everything = study("ct_transfer_syntaxes")
    single = {uid: headers for uid, headers in everything.items() if len(headers) == 1 and headers[0].modality == "CT"}
    classic = {uid: headers for uid, headers in single.items() if not headers[0].is_multi_frame}
    selection = select(classic, CT, STRICT)
    assert len(selection.verdicts) == 2
    assert [codes(verdict) for verdict in selection.verdicts] == [["TooFewSlices"]] * 2
    assert dict(selection.refusal[0].numbers) == {"slices": 1, "fewest": 2}
    # All under one UID: of sixteen images in one place, ten call themselves original.
    same = {uid: headers for uid, headers in everything.items() if len(headers) == 16}
    assert [codes(verdict) for verdict in select(same, CT, STRICT).verdicts] == [["DuplicateSlices"]] * 2
    named = select(classic, CT, STRICT, decodable=lambda _uid: False)
    assert codes(named.refused) == ["TooFewSlices", "UnsupportedTransferSyntax"]
    assert "JPEG 2000 Image Compression (Lossless Only)" in named.refusal[1].words


def test_other_objects_are_not_wanted() -> None:
    verdicts = select(study("ct_transfer_syntaxes"), CT, STRICT).verdicts
    others = [verdict for verdict in verdicts if verdict.headers[0].modality in {"US", "SR"}]
    assert [codes(verdict) for verdict in others] == [["OtherModality"]] * 3
    assert not any(verdict.wanted for verdict in others)


def test_two_frames_of_an_enhanced_ct_are_two_slices() -> None:
    enhanced = {uid: headers for uid, headers in study("ct_transfer_syntaxes").items() if headers[0].is_multi_frame}
    chosen = select(enhanced, CT, STRICT).chosen
    assert chosen is not None
    assert chosen.geometry is not None
    assert [header.frame_number for header in chosen.headers] == [
        2,
        1,
    ]  # the rows run right to left: the normal is down
    assert chosen.geometry.spacing == pytest.approx((10.0, 0.388672, 0.388672))
    assert codes(select(enhanced, SelectionRule(contrast=False), STRICT).verdicts[0]) == ["OtherContrast"]
