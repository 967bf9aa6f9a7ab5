"""Which forms a destination is sent, by what it wishes and what is known of it."""

from __future__ import annotations

import json
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.forms import (
    INSTEAD,
    SOP_CLASSES,
    Acceptance,
    Form,
    Variant,
    Wish,
    all_variants,
    in_order,
    notice,
    owes_notice,
    segmentation_of,
    settle,
)

LABELMAP = SOP_CLASSES[Form.SEG_LABELMAP]
COMPREHENSIVE_3D = SOP_CLASSES[Form.SR]


def wish(*forms: str, **settings: object) -> Wish:
    return Wish("pacs", tuple(Form(form) for form in forms), **settings)  # type: ignore[arg-type]


def forms(variants: tuple[Variant, ...]) -> list[str]:
    return [variant.form.value for variant in variants]


def test_every_form_has_a_sop_class() -> None:
    assert set(SOP_CLASSES) == set(Form)


def test_a_segmentation_goes_before_what_speaks_of_it() -> None:
    parcel = settle(wish("pdf", "sr", "seg"), {})
    assert forms(parcel.variants) == ["seg", "sr", "pdf"]
    assert parcel.variants[1].segmentation is Form.SEG
    assert parcel.stand_by == ()


def test_a_report_speaks_of_no_segmentation_that_the_destination_does_not_get() -> None:
    (report,) = settle(wish("sr"), {}).variants
    assert report.segmentation is None


@pytest.mark.parametrize("known", [{}, {LABELMAP: Acceptance.ACCEPTED}])
def test_until_a_label_map_was_stored_its_stand_in_is_made_too(known: dict[str, Acceptance]) -> None:
    parcel = settle(wish("seg_labelmap", "sr_segments", "sr"), known)
    assert forms(parcel.variants) == ["seg_labelmap", "sr", "sr_segments"]
    assert forms(parcel.stand_by) == ["seg", "sr", "sr_segments"]
    on_segments, instead = parcel.variants[2], parcel.stand_by[2]
    assert (on_segments.segmentation, instead.segmentation) == (Form.SEG_LABELMAP, Form.SEG)
    assert on_segments.key != instead.key  # objects that differ have UIDs of their own
    assert parcel.variants[1] == parcel.stand_by[1]  # the report with contours is the same for both
    assert parcel.replaced == ()


def test_once_a_label_map_was_stored_nothing_stands_by() -> None:
    parcel = settle(wish("seg_labelmap", "sr"), {LABELMAP: Acceptance.STORED})
    assert forms(parcel.variants) == ["seg_labelmap", "sr"]
    assert parcel.stand_by == ()


def test_a_destination_that_refuses_label_maps_is_sent_single_bits() -> None:
    parcel = settle(wish("seg_labelmap", "sr_segments"), {LABELMAP: Acceptance.REFUSED})
    assert forms(parcel.variants) == ["seg", "sr_segments"]
    assert parcel.variants[1].segmentation is Form.SEG
    assert parcel.replaced == ((Form.SEG_LABELMAP, Form.SEG),)
    assert parcel.stand_by == ()


def test_a_destination_that_refuses_3d_reports_is_sent_comprehensive_ones_once() -> None:
    parcel = settle(wish("sr", "sr_comprehensive"), {COMPREHENSIVE_3D: Acceptance.REFUSED})
    assert forms(parcel.variants) == ["sr_comprehensive"]
    assert parcel.replaced == ((Form.SR, Form.SR_COMPREHENSIVE),)


def test_what_nothing_can_take_the_place_of_is_sent_all_the_same() -> None:
    """It waits as a problem until a person allows it there: nothing is dropped in silence."""
    parcel = settle(wish("seg", "sc"), {SOP_CLASSES[Form.SC]: Acceptance.REFUSED})
    assert forms(parcel.variants) == ["seg", "sc"]


def test_a_report_on_segments_belongs_to_the_very_segmentation_of_its_set() -> None:
    parcel = settle(wish("seg_labelmap", "sr_segments", most_frames=400, compressed=True, description_prefix="AI "), {})
    for variants in (parcel.variants, parcel.stand_by):
        segmentation, report = variants
        assert segmentation_of(report) == segmentation


def test_refusals_are_no_part_of_a_result() -> None:
    told = wish("refusal", "seg", description_prefix="AI ")
    assert forms(settle(told, {}).variants) == ["seg"]
    assert notice(told) == Variant(Form.REFUSAL, description_prefix="AI ")
    assert notice(wish("seg")) is None
    assert owes_notice([wish("seg"), told])
    assert not owes_notice([wish("seg")])


def test_destinations_with_equal_wishes_share_objects() -> None:
    parcels = [settle(Wish(peer, (Form.SEG, Form.SR)), {}) for peer in ("one", "two")]
    assert forms(all_variants(parcels)) == ["seg", "sr"]


WISHES = st.builds(
    Wish,
    peer=st.sampled_from(["a", "b"]),
    forms=st.lists(st.sampled_from(list(Form)), unique=True).map(tuple),
    description_prefix=st.text(max_size=16),
    most_frames=st.none() | st.integers(1, 1000),
    most_images=st.none() | st.integers(1, 1000),
    compressed=st.booleans(),
)
KNOWN = st.dictionaries(st.sampled_from(sorted(set(SOP_CLASSES.values()))), st.sampled_from(list(Acceptance)))


@given(WISHES, KNOWN)
def test_wishes_and_variants_travel_as_json(wished: Wish, known: dict[str, Acceptance]) -> None:
    assert Wish.from_json(json.loads(json.dumps(wished.to_json()))) == wished
    for variant in all_variants([settle(wished, known)]):
        assert Variant.from_json(json.loads(json.dumps(variant.to_json()))) == variant


@given(st.lists(WISHES, max_size=3), KNOWN)
def test_no_two_variants_share_a_key_and_none_goes_to_who_refused_it(
    wished: list[Wish], known: dict[str, Acceptance]
) -> None:
    parcels = [settle(each, known) for each in wished]
    variants = all_variants(parcels)
    assert len({variant.key for variant in variants}) == len(variants)
    assert in_order([*reversed(variants), *variants]) == variants
    for variant in chain.from_iterable((*parcel.variants, *parcel.stand_by) for parcel in parcels):
        assert known.get(SOP_CLASSES[variant.form]) is not Acceptance.REFUSED or variant.form not in INSTEAD
        wanted = segmentation_of(variant)
        assert wanted is None or wanted in variants
