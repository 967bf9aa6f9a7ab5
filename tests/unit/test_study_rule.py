"""Each thing that a rule may ask: what fits it, what does not, and the words and numbers of the objection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from study.errors import Reason
from study.geometry import FrameOfReferencePolicy
from study.headers import InstanceHeader
from study.selection import PREFERENCES, Selection, SelectionRule, SeriesVerdict, select
from tests.support.series import axial_affine, ct_series

STRICT = FrameOfReferencePolicy.STRICT
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}


def series(
    attributes: Mapping[str, Any] | None = None, affine: NDArray[np.float64] | None = None, slices: int = 4
) -> list[InstanceHeader]:
    """Return the headers of a CT series with these attributes, by keyword."""
    datasets = ct_series(np.zeros((slices, 4, 4)), affine, attributes=attributes, series_instance_uid="1.2.3")
    return [InstanceHeader.of(dataset) for dataset in datasets]


def judge(headers: list[InstanceHeader], **rule: Any) -> SeriesVerdict:  # noqa: ANN401 - any field of a rule
    (verdict,) = select({"1.2.3": headers}, SelectionRule(**rule), STRICT).verdicts
    json.dumps([dict(reason.numbers) for reason in verdict.reasons])
    assert all(reason.words.endswith(".") for reason in verdict.reasons)
    return verdict


def objection(headers: list[InstanceHeader], **rule: Any) -> Reason:  # noqa: ANN401
    """Return the one reason for which the series is not wanted."""
    verdict = judge(headers, **rule)
    assert not verdict.wanted
    (reason,) = verdict.reasons
    return reason


def refused(headers: list[InstanceHeader], **rule: Any) -> Reason:  # noqa: ANN401
    """Return the one reason for which the series is refused."""
    verdict = judge(headers, **rule)
    assert verdict.wanted
    (reason,) = verdict.reasons
    return reason


def test_a_rule_that_asks_nothing_is_for_ct() -> None:
    assert judge(series()).accepted
    assert objection(series(MR)).code == "OtherModality"


# attributes of a series that fits, of one that does not, the rule, and the objection
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = {
    "modality": (
        MR,
        {"Modality": "PT", "SOPClassUID": PositronEmissionTomographyImageStorage},
        {"modality": ("CT", "mr")},
        "OtherModality",
        "The modality is PT, the model is for CT or mr.",
    ),
    "SOP class": (
        {},
        MR | {"Modality": "CT"},
        {},
        "OtherSOPClass",
        "The series holds objects of another kind than the model reads: MR Image Storage.",
    ),
    "body part": (
        {"BodyPartExamined": "UPPER_ARM"},
        {"BodyPartExamined": "HEAD"},
        {"body_part": ("Chest", "Upper arm")},
        "OtherBodyPart",
        "The Body Part Examined is HEAD, the model is for Chest or Upper arm.",
    ),
    "no body part": (
        {"BodyPartExamined": "CHEST"},
        {},
        {"body_part": ("CHEST",)},
        "OtherBodyPart",
        "The Body Part Examined is none, the model is for CHEST.",
    ),
    "description": (
        {"SeriesDescription": "Thorax LUNG 1.0"},
        {"SeriesDescription": "Abdomen"},
        {"description_include": ("lung", r"thorax\s+1")},
        "OtherDescription",
        r"The Series Description is Abdomen, the model wants one with lung or thorax\s+1.",
    ),
    "excluded description": (
        {"SeriesDescription": "Thorax"},
        {"SeriesDescription": "MIP Thorax"},
        {"description_exclude": ("^mip", "scout")},
        "ExcludedDescription",
        "The Series Description is MIP Thorax, the model leaves out ^mip.",
    ),
    "image type": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"image_type_include": ("original", "MPR")},
        "OtherImageType",
        "The Image Type is DERIVED, SECONDARY, the model is for original or MPR.",
    ),
    "excluded image type": (
        {},
        {"ImageType": ["ORIGINAL", "SCREEN SAVE"]},
        {"image_type_exclude": ("screen save",)},
        "ExcludedImageType",
        "The Image Type holds SCREEN SAVE, which the model leaves out.",
    ),
    "contrast": (
        {"ContrastBolusAgent": "Omnipaque"},
        {"ContrastBolusAgent": "NONE"},
        {"contrast": True},
        "OtherContrast",
        "The Contrast/Bolus Agent is NONE, the model is for images with a contrast agent.",
    ),
    "no contrast": (
        {"ContrastBolusAgent": "no"},
        {"ContrastBolusAgent": "Omnipaque"},
        {"contrast": False},
        "OtherContrast",
        "The Contrast/Bolus Agent is Omnipaque, the model is for images without a contrast agent.",
    ),
    "kernel": (
        {"ConvolutionKernel": "B30f"},
        {"ConvolutionKernel": "B70f"},
        {"kernel_include": ("^b[23]", "soft")},
        "OtherKernel",
        "The Convolution Kernel is B70f, the model wants one with ^b[23] or soft.",
    ),
    "excluded kernel": (
        {"ConvolutionKernel": "B30f"},
        {"ConvolutionKernel": ["BONE", "3"]},
        {"kernel_exclude": ("bone",)},
        "ExcludedKernel",
        "The Convolution Kernel is BONE\\\\3, the model leaves out bone.",
    ),
    "echo time": (
        MR | {"EchoTime": "90"},
        MR | {"EchoTime": "12.5"},
        {"modality": ("MR",), "echo_time": (80.0, None)},
        "OtherEchoTime",
        "The Echo Time is 12.5 ms, the model takes at least 80 ms.",
    ),
    "b-value": (
        MR | {"DiffusionBValue": 1000.0},
        MR | {"DiffusionBValue": 0.0},
        {"modality": ("MR",), "b_value": (800.0, 1200.0)},
        "OtherBValue",
        "The Diffusion b-value is 0 s/mm2, the model takes 800 to 1200 s/mm2.",
    ),
    "no b-value": (
        MR | {"DiffusionBValue": 50.0},
        MR,
        {"modality": ("MR",), "b_value": (None, 100.0)},
        "OtherBValue",
        "4 of 4 images do not state their Diffusion b-value, the model takes at most 100 s/mm2.",
    ),
    "view": (
        {"ViewPosition": "PA"},
        {"ViewPosition": "LL"},
        {"view_position": ("pa", "AP")},
        "OtherViewPosition",
        "The View Position is LL, the model is for pa or AP.",
    ),
    "side": (
        {"ImageLaterality": "L"},
        {"ImageLaterality": "R"},
        {"image_laterality": ("L",)},
        "OtherLaterality",
        "The Image Laterality is R, the model is for L.",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_of_the_models_kind_is_not_wanted(name: str) -> None:
    fits, does_not, rule, code, words = KINDS[name]
    assert judge(series(fits), **rule).accepted
    reason = objection(series(does_not), **rule)
    assert (reason.code, reason.words) == (code, words)


def test_every_objection_to_the_kind_is_listed() -> None:
    attributes = {
        "SeriesDescription": "Scout",
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ConvolutionKernel": "B70",
    }
    verdict = judge(
        series(MR | attributes),
        body_part=("CHEST",),
        description_exclude=("scout",),
        orientation=("coronal",),
        kernel_include=("B30",),
        sop_classes=(EnhancedCTImageStorage,),
    )
    assert not verdict.wanted
    assert [reason.code for reason in verdict.reasons] == [
        "OtherModality",
        "OtherSOPClass",
        "ExcludedImageType",
        "OtherBodyPart",
        "ExcludedDescription",
        "OtherOrientation",
        "OtherKernel",
    ]


def test_a_coded_contrast_agent_counts_as_one() -> None:
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "C-B0322", "SRT", "Iohexol"
    headers = series({"ContrastBolusAgentSequence": [agent]})
    assert headers[0].contrast_bolus_agent == "Iohexol"
    assert judge(headers, contrast=True).accepted
    assert objection(headers, contrast=False).code == "OtherContrast"
    assert objection(series(), contrast=True).words.startswith("The Contrast/Bolus Agent is none,")


def oriented(*directions: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return an affine with these directions of slice, row and column."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions).T
    return affine


AXIAL = oriented((0, 0, 1), (0, 1, 0), (1, 0, 0))
CORONAL = oriented((0, 1, 0), (0, 0, -1), (1, 0, 0))
SAGITTAL = oriented((1, 0, 0), (0, 0, -1), (0, 1, 0))


@pytest.mark.parametrize(("word", "affine"), [("axial", AXIAL), ("coronal", CORONAL), ("sagittal", SAGITTAL)])
def test_orientation(word: str, affine: NDArray[np.float64]) -> None:
    assert judge(series(affine=affine), orientation=(word,)).accepted
    others = tuple({"axial", "coronal", "sagittal"} - {word})
    assert judge(series(affine=affine), orientation=(word, others[0])).accepted
    reason = objection(series(affine=affine), orientation=others)
    assert reason.words == f"The slices are {word}, the model is for {' or '.join(others)}."
    assert dict(reason.numbers) == {"orientation": word, "degrees": 0.0}


def test_oblique_slices_have_the_orientation_that_is_nearest() -> None:
    lean = np.radians(40)
    c, s = float(np.cos(lean)), float(np.sin(lean))
    oblique = oriented((0, s, c), (0, c, -s), (1, 0, 0))
    assert judge(series(affine=oblique), orientation=("axial",)).accepted
    reason = objection(series(affine=oblique), orientation=("coronal",))
    assert reason.words == "The slices are axial, 40 degrees oblique, the model is for coronal."


def test_an_orientation_that_is_not_stated_is_for_the_geometry_to_refuse() -> None:
    verdict = judge(series({"ImageOrientationPatient": None}), orientation=("axial",))
    assert verdict.wanted
    assert [reason.code for reason in verdict.reasons] == ["MissingGeometry"]


THIN = axial_affine((1.0, 0.8, 0.7))
RANGES: dict[str, tuple[dict[str, Any], tuple[float | None, float | None], str, str, dict[str, Any]]] = {
    "thick": (
        {"SliceThickness": "5"},
        (0.5, 3),
        "SliceThicknessOutOfRange",
        "The slices are 5 mm thick, the model takes 0.5 to 3 mm.",
        {"smallest": 5.0, "largest": 5.0, "at_least": 0.5, "at_most": 3},
    ),
    "thin": (
        {"SliceThickness": "0.25"},
        (0.5, None),
        "SliceThicknessOutOfRange",
        "The slices are 0.25 mm thick, the model takes at least 0.5 mm.",
        {"smallest": 0.25, "largest": 0.25, "at_least": 0.5},
    ),
    "thickness not stated": (
        {"SliceThickness": None},
        (None, 3),
        "SliceThicknessOutOfRange",
        "4 of 4 images do not state their Slice Thickness, the model takes at most 3 mm.",
        {"at_most": 3},
    ),
    "no thickness": (
        {"SliceThickness": "0"},
        (None, 3),
        "SliceThicknessOutOfRange",
        "4 of 4 images do not state their Slice Thickness, the model takes at most 3 mm.",
        {"at_most": 3},
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_slice_thickness(name: str) -> None:
    attributes, limits, code, words, numbers = RANGES[name]
    reason = refused(series(attributes), slice_thickness=limits)
    assert (reason.code, reason.words, dict(reason.numbers)) == (code, words, numbers)
    assert judge(series({"SliceThickness": "1.5"}), slice_thickness=limits).accepted


def test_thickness_of_blocks_is_told_from_the_thinnest_to_the_thickest() -> None:
    frame = {"FrameOfReferenceUID": "1.2.9"}
    above = axial_affine((1.0, 0.8, 0.7), (-20, -30, -36))
    headers = series({"SliceThickness": "1"} | frame, THIN) + series({"SliceThickness": "4"} | frame, above)
    reason = refused(headers, slice_thickness=(None, 2), slices=(8, 8))
    assert "The slices are 1 to 4 mm thick" in reason.words


@pytest.mark.parametrize("limits", [(3, 5), (None, 1.9), (2.1, None)])
def test_slice_spacing(limits: tuple[float | None, float | None]) -> None:
    reason = refused(series(), slice_spacing=limits)
    assert reason.code == "SliceSpacingOutOfRange"
    assert reason.words.startswith("The slices are 2 mm apart, the model takes ")
    assert judge(series(), slice_spacing=(2, 2)).accepted


def test_slice_spacing_is_told_where_slices_are_missing() -> None:
    headers = series(slices=6)
    verdict = judge([*headers[:3], *headers[4:]], slice_spacing=(None, 1))
    assert [reason.code for reason in verdict.reasons] == ["SliceSpacingOutOfRange", "MissingSlices"]
    assert verdict.reasons[0].numbers["smallest"] == 2.0


@pytest.mark.parametrize("limits", [(0.75, None), (None, 0.75)])
def test_pixel_spacing_counts_in_both_directions(limits: tuple[float | None, float | None]) -> None:
    reason = refused(series(), pixel_spacing=limits)
    assert reason.code == "PixelSpacingOutOfRange"
    assert reason.words.startswith("The pixels are 0.7 to 0.8 mm wide, the model takes ")
    assert judge(series(), pixel_spacing=(0.7, 0.8)).accepted


def test_a_limit_is_met_to_a_thousandth() -> None:
    assert judge(series(affine=axial_affine((2.9999993, 0.8, 0.7))), slice_spacing=(3, 3)).accepted
    assert not judge(series(affine=axial_affine((2.99, 0.8, 0.7))), slice_spacing=(3, 3)).accepted


@pytest.mark.parametrize(
    ("limits", "code", "numbers"),
    [
        ((5, None), "TooFewSlices", {"slices": 4, "fewest": 5}),
        ((4.5, None), "TooFewSlices", {"slices": 4, "fewest": 5}),
        ((None, 3), "TooManySlices", {"slices": 4, "most": 3}),
    ],
)
def test_how_many_slices(limits: tuple[float | None, float | None], code: str, numbers: dict[str, int]) -> None:
    reason = refused(series(), slices=limits)
    assert (reason.code, dict(reason.numbers)) == (code, numbers)
    assert judge(series(), slices=(4, 4)).accepted


def test_a_volume_has_two_slices_whatever_a_rule_says() -> None:
    assert dict(refused(series(slices=1), slices=(1, None)).numbers) == {"slices": 1, "fewest": 2}


@pytest.mark.parametrize(
    ("modality", "uid"),
    [
        ("CT", EnhancedCTImageStorage),
        ("CT", LegacyConvertedEnhancedCTImageStorage),
        ("MR", EnhancedMRImageStorage),
        ("PT", EnhancedPETImageStorage),
        ("PT", PositronEmissionTomographyImageStorage),
    ],
)
def test_classes_of_a_volume_follow_from_the_modality(modality: str, uid: str) -> None:
    assert uid in SelectionRule(modality=(modality,)).classes
    assert uid not in SelectionRule(modality=("US",)).classes
    assert SelectionRule(modality=(modality,), sop_classes=("1.2",)).classes == {"1.2"}


# Images that stand alone

CR = {"Modality": "CR", "SOPClassUID": ComputedRadiographyImageStorage}
WITHOUT_PLACE = {
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "FrameOfReferenceUID": None,
    "PixelSpacing": None,
}
RADIOGRAPHS: dict[str, Any] = {"form": "image", "modality": ("CR", "DX", "MG")}


def radiographs(attributes: Mapping[str, Any] | None = None, count: int = 3) -> list[InstanceHeader]:
    return series(CR | WITHOUT_PLACE | dict(attributes or {}), slices=count)


def test_images_need_no_place() -> None:
    verdict = judge(radiographs()[::-1], **RADIOGRAPHS)
    assert verdict.accepted
    assert verdict.geometry is None
    assert [header.instance_number for header in verdict.headers] == [1, 2, 3]


def test_one_image_is_enough_and_too_many_are_refused() -> None:
    assert judge(radiographs(count=1), **RADIOGRAPHS).accepted
    assert refused(radiographs(), slices=(None, 2), **RADIOGRAPHS).code == "TooManyImages"
    assert refused(radiographs(), slices=(4, None), **RADIOGRAPHS).code == "TooFewImages"


@pytest.mark.parametrize(
    "uid",
    [
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        DigitalMammographyXRayImageStorageForPresentation,
    ],
)
def test_radiographs_of_every_class_are_images(uid: str) -> None:
    assert judge(radiographs({"SOPClassUID": uid}), **RADIOGRAPHS).accepted


@pytest.mark.parametrize("uid", [SecondaryCaptureImageStorage, UltrasoundImageStorage, EnhancedCTImageStorage])
def test_other_objects_are_no_images(uid: str) -> None:
    assert objection(radiographs({"SOPClassUID": uid}), **RADIOGRAPHS).code == "OtherSOPClass"


def test_a_slice_of_a_ct_may_be_an_image() -> None:
    assert judge(series(), form="image").accepted


def test_each_image_is_judged_by_its_own_attributes() -> None:
    frontal, lateral, colour, other_side = (
        radiographs({"ViewPosition": view, "SamplesPerPixel": samples, "ImageLaterality": side}, count=1)[0]
        for view, samples, side in (("PA", 1, "L"), ("LL", 1, "L"), ("PA", 3, "L"), ("PA", 1, "R"))
    )
    rule = RADIOGRAPHS | {"view_position": ("PA",), "image_laterality": ("L",)}
    verdict = judge([lateral, colour, frontal, other_side], **rule)
    assert verdict.accepted
    assert verdict.headers == (frontal,)
    assert [note[:48] for note in verdict.notes] == [
        "1 of 4 objects of the series were left out (1 of",
        "1 of 4 objects of the series were left out (The ",
        "1 of 4 objects of the series were left out (The ",
    ]
    verdict = judge([lateral, other_side], **rule)
    assert not verdict.wanted
    assert {reason.code for reason in verdict.reasons} == {"OtherViewPosition", "OtherLaterality"}


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"SamplesPerPixel": 3}, "ColourImages"),
        ({"SamplesPerPixel": None}, "ColourImages"),
        ({"Rows": None}, "MissingPixelAttributes"),
        ({"NumberOfFrames": "5"}, "MultiFrameImages"),
        ({"PixelSpacing": ["0.1", "0.1"]}, "PixelSpacingOutOfRange"),
    ],
)
def test_images_that_can_not_be_read_are_refused(attributes: dict[str, Any], code: str) -> None:
    limits = (0.15, None) if "PixelSpacing" in attributes else None
    assert refused(radiographs(attributes), pixel_spacing=limits, **RADIOGRAPHS).code == code


def test_images_in_an_unreadable_transfer_syntax_are_refused() -> None:
    datasets = ct_series(np.zeros((2, 4, 4)), attributes=CR | WITHOUT_PLACE, series_instance_uid="1.2.3")
    headers = [InstanceHeader.of(dataset, "1.2.840.10008.1.2.4.201") for dataset in datasets]
    selection: Selection = select({"1.2.3": headers}, SelectionRule(**RADIOGRAPHS), STRICT, lambda _uid: False)
    assert [reason.code for reason in selection.refusal] == ["UnsupportedTransferSyntax"]


# Rules that are none


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"description_include": ("ok", "lung(")}, r"description_include: 'lung\(' is no regular expression"),
        ({"description_exclude": ("*",)}, r"description_exclude: '\*' is no"),
        ({"kernel_include": ("[",)}, r"kernel_include: '\[' is no"),
        ({"kernel_exclude": ("(?P<",)}, "kernel_exclude"),
        ({"prefer": ("thinnest", "largest")}, "prefer is of original, thinnest, most_slices, latest, not 'largest'"),
        ({"prefer": ("thinnest", "thinnest")}, "prefer names a word twice"),
        ({"orientation": ("oblique",)}, "orientation is of axial, coronal, sagittal, not 'oblique'"),
        ({"form": "movie"}, "form is of volume, image, not 'movie'"),
        ({"slice_thickness": (3.0, 0.5)}, "slice_thickness runs from 3 down to 0.5"),
        ({"slices": (3, 2)}, "slices runs from 3 down to 2"),
    ],
)
def test_a_rule_that_is_none_is_an_error_with_its_words(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SelectionRule(**rule)


def test_defaults() -> None:
    rule = SelectionRule()
    assert rule.prefer == PREFERENCES == ("original", "thinnest", "most_slices", "latest")
    assert rule.image_type_exclude == ("LOCALIZER", "SCREEN SAVE")
    unset = {field.name for field in fields(rule) if getattr(rule, field.name) in ((), None)}
    assert fields(rule)[0].name == "modality"
    assert {"slices", "slice_thickness", "contrast", "body_part", "echo_time", "sop_classes"} <= unset


_numbers = st.one_of(
    st.none(), st.sampled_from([0.0, -1.0, 1e308, -1e308, 5e-324]), st.floats(allow_nan=False, allow_infinity=False)
)
_text = st.text(max_size=80)


@cache
def plain_series() -> tuple[InstanceHeader, ...]:
    return tuple(series())


@settings(max_examples=150)
@given(data=st.data(), form=st.sampled_from(["volume", "image"]))
def test_hostile_headers_are_judged_and_nothing_else(data: st.DataObject, form: str) -> None:
    headers = [
        replace(
            header,
            modality=data.draw(st.sampled_from(["CT", "ct", "\u00b2"])),
            rows=data.draw(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1))),
            slice_thickness=data.draw(_numbers),
            echo_time=data.draw(_numbers),
            pixel_spacing=data.draw(st.one_of(st.none(), st.just(()), st.tuples(_numbers.map(lambda v: v or 0.0)))),
            series_description=data.draw(_text),
            convolution_kernel=data.draw(_text),
            transfer_syntax_uid=data.draw(st.sampled_from(["", "1.2", "1.2.840.10008.1.2.4.90"])),
            acquisition_date=data.draw(st.text(max_size=9)),
        )
        for header in plain_series()
    ]
    rule = SelectionRule(
        form="image" if form == "image" else "volume",
        description_exclude=("a",),
        kernel_include=(".",),
        slice_thickness=(0.1, 5),
        pixel_spacing=(None, 5),
        orientation=("axial",),
    )
    selection = select({"1.2.3": headers}, rule, STRICT, lambda uid: uid == "")
    for verdict in selection.verdicts:
        json.dumps([dict(reason.numbers) for reason in verdict.reasons], allow_nan=False)
        said = "".join([reason.words for reason in verdict.reasons] + list(verdict.notes) + [verdict.stack])
        assert said.isascii()
        assert said.isprintable()
