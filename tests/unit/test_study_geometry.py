"""Headers in, the grid or a refusal with its numbers out: on generated scans in any orientation, and on real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from study.errors import Reason, StudyRefused
from study.geometry import FrameOfReferencePolicy, UnevenSpacing, VolumeGeometry, assess
from study.headers import HEADER_KEYWORDS, InstanceHeader
from tests.support.peers import shared

RESAMPLE = UnevenSpacing.RESAMPLE
STRICT, BY_POSITION = FrameOfReferencePolicy.STRICT, FrameOfReferencePolicy.BY_POSITION
Headers = list[InstanceHeader]


def scan(
    slices: int = 6,
    *,
    spacing: float = 2.0,
    pixel_spacing: tuple[float, float] = (0.8, 0.7),
    origin: Sequence[float] = (-100.0, -120.0, 300.0),
    rotation: NDArray[np.float64] | None = None,
    places: Sequence[float] | None = None,
    shift: Sequence[float] = (0.0, 0.0),
    decimals: int = 9,
    attributes: Mapping[str, Any] | None = None,
) -> Headers:
    """Return headers of parallel slices.

    Parameters
    ----------
    rotation
        Columns: the directions of increasing column index, of increasing row index, and their normal.
    places
        Where the slices are along the normal, in slice spacings; 0, 1, 2 ... by default.
    shift
        Along the first two directions, per slice spacing [mm].
    decimals
        To which the positions are rounded.
    attributes
        Further fields of every header.
    """
    axes = np.eye(3) if rotation is None else rotation
    headers = []
    for index, place in enumerate(range(slices) if places is None else places):
        position = np.asarray(origin) + axes @ (place * shift[0], place * shift[1], place * spacing)
        headers.append(
            InstanceHeader(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                sop_instance_uid=f"1.2.3.{index + 1}",
                study_instance_uid="1.2",
                series_instance_uid="1.2.3",
                frame_of_reference_uid="1.2.9",
                acquisition_number=1,
                rows=32,
                columns=48,
                pixel_spacing=pixel_spacing,
                image_orientation_patient=tuple(np.round((*axes[:, 0], *axes[:, 1]), 9).tolist()),
                image_position_patient=tuple(np.round(position, decimals).tolist()),
            )
        )
    return [replace(header, **(attributes or {})) for header in headers]


def refusal(
    headers: Headers,
    policy: FrameOfReferencePolicy = STRICT,
    uneven_spacing: UnevenSpacing = UnevenSpacing.REFUSE,
) -> dict[str, Reason]:
    with pytest.raises(StudyRefused) as caught:
        assess(headers, policy, uneven_spacing=uneven_spacing)
    reasons = caught.value.reasons
    json.dumps([dict(reason.numbers) for reason in reasons], allow_nan=False)
    assert all(reason.words.endswith(".") for reason in reasons)
    assert caught.value.reason.code == reasons[0].code
    return {reason.code: reason for reason in reasons}


def position_of(header: InstanceHeader) -> NDArray[np.float64]:
    return np.asarray(header.image_position_patient, dtype=np.float64)


def patient_position(header: InstanceHeader, row: int, column: int) -> NDArray[np.float64]:
    """Return where a pixel's centre is in LPS [mm], by the letter of PS3.3 C.7.6.2.1.1."""
    cosines = np.asarray(header.image_orientation_patient)
    assert header.pixel_spacing is not None
    delta_i, delta_j = header.pixel_spacing[1], header.pixel_spacing[0]
    place: NDArray[np.float64] = (
        np.asarray(header.image_position_patient) + cosines[:3] * delta_i * column + cosines[3:] * delta_j * row
    )
    return place


@st.composite
def rotations(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any orientation, the ones along the patient's axes included."""
    part = st.floats(-1, 1, allow_nan=False)
    quaternion = np.array([draw(part) for _ in range(4)])
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@st.composite
def scans(draw: st.DrawFn) -> Headers:
    """A sound series: any orientation, spacing and origin, in a random order of arrival, positions to 0.01 mm."""
    headers = scan(
        draw(st.integers(2, 24)),
        spacing=draw(st.floats(0.4, 10.0)),
        pixel_spacing=(draw(st.floats(0.2, 3.0)), draw(st.floats(0.2, 3.0))),
        origin=[draw(st.floats(-800, 800)) for _ in range(3)],
        rotation=draw(rotations()),
        decimals=draw(st.sampled_from([2, 4, 9])),
    )
    return list(draw(st.permutations(headers)))


@given(headers=scans(), row=st.integers(0, 31), column=st.integers(0, 47))
def test_affine_gives_the_patient_position_that_the_headers_give(headers: Headers, row: int, column: int) -> None:
    geometry = assess(headers)
    for index, source in enumerate(geometry.order):
        place = geometry.affine @ (index, row, column, 1)
        # Positions rounded to 0.01 mm: each is off by up to 0.0087 mm, and so are the ends that the grid hangs on.
        np.testing.assert_allclose(place[:3], patient_position(headers[source], row, column), atol=0.03)


@given(headers=scans())
def test_grid_follows_the_normal_and_its_columns_have_the_spacing(headers: Headers) -> None:
    geometry = assess(headers)
    directions = geometry.affine[:3, :3] / np.asarray(geometry.spacing)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cross(directions[:, 2], directions[:, 1]), directions[:, 0], atol=1e-6)
    assert sorted(geometry.order) == list(range(len(headers)))
    assert geometry.spacing[1:] == headers[0].pixel_spacing


@given(headers=scans(), data=st.data())
def test_order_of_arrival_changes_nothing(headers: Headers, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(headers))
    first, second = assess(headers), assess(shuffled)
    assert first.affine.tobytes() == second.affine.tobytes()
    assert [headers[index].sop_instance_uid for index in first.order] == [
        shuffled[index].sop_instance_uid for index in second.order
    ]


def test_order_of_arrival_changes_nothing_where_the_orientation_wobbles() -> None:
    headers = [
        replace(header, image_orientation_patient=(1.0, index * 1e-5, 0.0, 0.0, 1.0, 0.0))
        for index, header in enumerate(scan(8))
    ]
    assert assess(headers).affine.tobytes() == assess(headers[::-1]).affine.tobytes()


@pytest.mark.parametrize("slices", [0, 1])
def test_fewer_than_two_slices(slices: int) -> None:
    assert dict(refusal(scan(slices))["TooFewSlices"].numbers) == {"slices": slices, "fewest": 2}


@pytest.mark.parametrize(
    ("attribute", "value", "keyword"),
    [
        ("image_position_patient", None, "ImagePositionPatient"),
        ("image_position_patient", (1.0, 2.0), "ImagePositionPatient"),
        ("image_position_patient", (), "ImagePositionPatient"),
        ("image_position_patient", (0.0, 0.0, 1e300), "ImagePositionPatient"),
        ("image_position_patient", (0.0, 0.0, -1e308), "ImagePositionPatient"),
        ("image_orientation_patient", (1.0, 0.0, 0.0), "ImageOrientationPatient"),
        ("image_orientation_patient", (1e200, 0.0, 0.0, 0.0, 1e200, 0.0), "ImageOrientationPatient"),
        ("pixel_spacing", None, "PixelSpacing"),
        ("pixel_spacing", (0.5, 0.0), "PixelSpacing"),
        ("pixel_spacing", (-0.5, 0.5), "PixelSpacing"),
        ("pixel_spacing", (1e-300, 1e-300), "PixelSpacing"),
        ("rows", None, "Rows"),
        ("rows", 0, "Rows"),
        ("columns", -4, "Columns"),
    ],
)
def test_unusable_plane_attribute(attribute: str, value: object, keyword: str) -> None:
    fields: dict[str, Any] = {attribute: value}
    headers = scan(5)
    headers[3] = replace(headers[3], **fields)
    reason = refusal(headers)["MissingGeometry"]
    assert dict(reason.numbers) == {"attribute": keyword, "images": 1}
    assert "1 of 5" in reason.words


def test_each_unusable_attribute_is_named() -> None:
    with pytest.raises(StudyRefused) as caught:
        assess(scan(5, attributes={"rows": None}, pixel_spacing=(0.5, 0.0)))
    assert [reason.numbers["attribute"] for reason in caught.value.reasons] == ["PixelSpacing", "Rows"]


def test_mixed_matrix() -> None:
    headers = scan(5)
    headers[1] = replace(headers[1], rows=64)
    reason = refusal(headers)["MixedMatrix"]
    assert reason.numbers["sizes"] == 2
    assert "32x48 (4)" in reason.words
    assert "64x48 (1)" in reason.words


def test_mixed_pixel_spacing() -> None:
    headers = scan(5)
    headers[1] = replace(headers[1], pixel_spacing=(0.9, 0.7))
    assert dict(refusal(headers)["MixedMatrix"].numbers) == {"smallest_mm": 0.7, "largest_mm": 0.9}


def test_mixed_orientation_counts_a_turn_within_the_plane() -> None:
    headers = scan(6)
    headers[0] = replace(headers[0], image_orientation_patient=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0))
    assert dict(refusal(headers)["MixedOrientation"].numbers) == {"orientations": 2, "degrees": 90.0}


def test_mixed_orientation_gives_the_angle_between_planes() -> None:
    headers = scan(6)
    leaning = np.radians(30)
    headers[-1] = replace(
        headers[-1], image_orientation_patient=(1.0, 0.0, 0.0, 0.0, float(np.cos(leaning)), float(np.sin(leaning)))
    )
    assert refusal(headers)["MixedOrientation"].numbers["degrees"] == pytest.approx(30.0, abs=0.01)


@pytest.mark.parametrize(
    ("cosines", "off_by"),
    [
        ((1.0, 0.0, 0.0, 0.5, 0.8660254, 0.0), 0.5),
        ((1.0, 0.0, 0.0, 0.0, 1.2, 0.0), 0.2),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1.0),
    ],
)
def test_orientation_that_is_none(cosines: tuple[float, ...], off_by: float) -> None:
    reasons = refusal(scan(4, attributes={"image_orientation_patient": cosines}))
    assert reasons["InvalidOrientation"].numbers["off_by"] == pytest.approx(off_by, abs=1e-3)


def test_duplicates_are_counted_by_position_and_by_image() -> None:
    reason = refusal(scan(places=[0, 1, 1, 1, 2, 3, 3, 4]))["DuplicateSlices"]
    assert dict(reason.numbers) == {"positions": 2, "images": 5, "first_at_mm": 302.0}


def test_all_images_in_one_place() -> None:
    assert list(refusal(scan(places=[0] * 16))) == ["DuplicateSlices"]


@given(rotation=rotations(), degrees=st.floats(0.5, 40), towards=st.floats(0, 6.28))
def test_gantry_tilt_is_found_in_any_orientation(rotation: NDArray[np.float64], degrees: float, towards: float) -> None:
    per_slice = 2.0 * np.tan(np.radians(degrees))
    headers = scan(20, rotation=rotation, shift=(per_slice * np.cos(towards), per_slice * np.sin(towards)))
    reasons = refusal(headers)
    assert list(reasons) == ["GantryTilt"]
    assert reasons["GantryTilt"].numbers["degrees"] == pytest.approx(degrees, abs=0.02)
    assert reasons["GantryTilt"].numbers["shear_mm"] == pytest.approx(19 * per_slice, abs=0.01)


def test_small_tilt_of_a_long_scan_is_refused_once_it_misplaces_the_last_slice() -> None:
    """0.1 degrees over 600 mm are a millimetre: more than a pixel."""
    shift = (2.0 * float(np.tan(np.radians(0.1))), 0.0)
    assert assess(scan(50, shift=shift)).spacing[0] == pytest.approx(2.0)
    assert refusal(scan(300, shift=shift))["GantryTilt"].numbers["degrees"] == pytest.approx(0.1)


def test_shifted_slice() -> None:
    headers = scan(9)
    x, y, z = headers[4].image_position_patient or ()
    headers[4] = replace(headers[4], image_position_patient=(x + 3.0, y, z))
    assert dict(refusal(headers)["ShiftedSlices"].numbers) == {"shift_mm": 3.0}


@given(rotation=rotations(), slices=st.integers(4, 40), data=st.data())
def test_missing_slices_are_counted(rotation: NDArray[np.float64], slices: int, data: st.DataObject) -> None:
    # Ends are not missed by anybody; one slice in three at most, so that the usual distance is that of neighbours.
    inner = st.sets(st.integers(1, slices - 2), min_size=1, max_size=max(1, (slices - 2) // 3))
    gone = data.draw(inner)
    places = [place for place in range(slices) if place not in gone]
    reason = refusal(scan(rotation=rotation, places=places))["MissingSlices"]
    assert reason.numbers["missing"] == len(gone)
    assert reason.numbers["spacing_mm"] == pytest.approx(2.0)


def test_missing_slice_of_four() -> None:
    assert dict(refusal(scan(places=[0, 1, 3]))["MissingSlices"].numbers) == {
        "missing": 1,
        "gap_mm": 4.0,
        "spacing_mm": 2.0,
        "after_mm": 302.0,
    }


def test_uneven_spacing() -> None:
    reason = refusal(scan(places=[0, 1, 2, 3.5, 4.5]))["NonUniformSpacing"]
    assert dict(reason.numbers) == {"smallest_mm": 2.0, "largest_mm": 3.0, "spacing_mm": 2.0}
    assert 'uneven_spacing = "resample"' in reason.words
    assert "resample" not in refusal(scan(places=[0, 1, 2, 4.5, 5.5]))["NonUniformSpacing"].words  # would be no help


def test_uneven_spacing_that_is_accepted_gives_an_even_grid_over_the_same_extent() -> None:
    headers = scan(places=[0, 1, 2, 3.5, 4.5, 6.0], decimals=6)
    geometry = assess(headers[::-1], uneven_spacing=RESAMPLE)
    assert geometry.offsets == pytest.approx((0.0, 2.0, 4.0, 7.0, 9.0, 12.0))
    assert geometry.slices == 7
    assert geometry.spacing[0] == pytest.approx(2.0)
    first, last = (geometry.affine @ (index, 0, 0, 1) for index in (0, geometry.slices - 1))
    np.testing.assert_allclose(first[:3], position_of(headers[0]), atol=1e-6)
    np.testing.assert_allclose(last[:3], position_of(headers[-1]), atol=1e-6)
    assert geometry.order == (5, 4, 3, 2, 1, 0)
    assert geometry.notes == (
        "The slices are unevenly spaced (2.00 to 3.00 mm); they were interpolated to 2.00 mm for the model.",
    )


@given(
    rotation=rotations(),
    gaps=st.lists(st.floats(0.8, 1.35), min_size=2, max_size=40),
    spacing=st.floats(0.5, 8),
)
def test_each_slice_has_its_offset_along_the_normal(
    rotation: NDArray[np.float64], gaps: list[float], spacing: float
) -> None:
    headers = scan(places=[0.0, *np.cumsum(gaps)], rotation=rotation, spacing=spacing)
    geometry = assess(headers, uneven_spacing=RESAMPLE)
    if not geometry.offsets:
        assert np.ptp(gaps) * spacing <= max(0.04 * spacing, 0.04) + 1e-6
        return
    step = geometry.affine[:3, 0] / geometry.spacing[0]
    for index, offset in zip(geometry.order, geometry.offsets, strict=True):
        place = geometry.affine[:3, 3] + offset * step
        np.testing.assert_allclose(place, position_of(headers[index]), atol=1e-4)
    usual = sorted(gaps)[(len(gaps) - 1) // 2] * spacing
    assert geometry.spacing[0] == pytest.approx(usual, rel=0.5)
    assert (geometry.slices - 1) * geometry.spacing[0] == pytest.approx(geometry.offsets[-1])


def test_even_slices_are_left_as_they_are() -> None:
    geometry = assess(scan(5), uneven_spacing=RESAMPLE)
    assert (geometry.offsets, geometry.notes, geometry.slices) == ((), (), 5)
    assert geometry.affine.tobytes() == assess(scan(5)).affine.tobytes()


@pytest.mark.parametrize(
    ("places", "code"),
    [
        ([0, 1, 2, 3, 5], "MissingSlices"),
        ([0, 1, 2.1, 3, 4.9], "NonUniformSpacing"),  # a gap of 1.9: a slice may be missing
        ([0, 1, 2, 3, 3.05, 4], "NonUniformSpacing"),  # two slices at nearly one place
        ([0, 1, 2, 2, 3.4], "DuplicateSlices"),
    ],
)
def test_what_is_never_interpolated(places: list[float], code: str) -> None:
    assert list(refusal(scan(places=places), uneven_spacing=RESAMPLE)) == [code]


def test_the_bounds_of_interpolation_are_in_the_words() -> None:
    reason = refusal(scan(places=[0, 1, 2.1, 3, 4.9]), uneven_spacing=RESAMPLE)["NonUniformSpacing"]
    assert "from 1.80 to 3.80 mm apart; gaps of 0.20 to 3.60 mm can be interpolated" in reason.words
    assert reason.numbers["widest_interpolated_mm"] == 3.6


def test_a_tilt_and_a_shift_are_never_interpolated() -> None:
    uneven = [0, 1, 2, 3.5, 4.5]
    assert list(refusal(scan(places=uneven, shift=(1.0, 0.0)), uneven_spacing=RESAMPLE)) == ["GantryTilt"]
    headers = scan(places=uneven)
    x, y, z = headers[2].image_position_patient or ()
    headers[2] = replace(headers[2], image_position_patient=(x, y + 3.0, z))
    assert list(refusal(headers, uneven_spacing=RESAMPLE)) == ["ShiftedSlices"]


def test_drift_is_interpolated_too() -> None:
    places = np.cumsum([0.0, *[1.0] * 150, *[1.018] * 150])
    assert len(assess(scan(places=places.tolist(), spacing=1.0), uneven_spacing=RESAMPLE).offsets) == 301


def test_spacing_that_drifts_is_refused_though_each_step_is_within_tolerance() -> None:
    """Half of the scan at 1.00 mm and half at 1.018: no step stands out, and the middle is off by a slice."""
    places = np.cumsum([0.0, *[1.0] * 150, *[1.018] * 150])
    assert "NonUniformSpacing" in refusal(scan(places=places.tolist(), spacing=1.0))


def test_several_frames_of_reference() -> None:
    headers = scan(5)
    headers[0] = replace(headers[0], frame_of_reference_uid="1.2.8")
    reason = refusal(headers)["InconsistentFrameOfReference"]
    assert dict(reason.numbers) == {"frames_of_reference": 2, "images": 5}
    assert "geometry.frame_of_reference" in reason.words
    geometry = assess(headers[::-1], BY_POSITION)
    assert geometry.frame_of_reference_uid == "1.2.8"  # of the first slice, whatever came first
    assert ["2 Frames of Reference" in note for note in geometry.notes] == [True]


def test_one_frame_of_reference_needs_no_note() -> None:
    assert assess(scan(5), BY_POSITION).notes == ()


@pytest.mark.parametrize("policy", FrameOfReferencePolicy)
def test_absent_frame_of_reference(policy: FrameOfReferencePolicy) -> None:
    headers = scan(5)
    headers[2] = replace(headers[2], frame_of_reference_uid="")
    assert dict(refusal(headers, policy)["MissingFrameOfReference"].numbers) == {"images": 1}


def test_position_is_no_evidence_across_acquisitions() -> None:
    headers = scan(4)
    headers[3] = replace(headers[3], frame_of_reference_uid="1.2.8", acquisition_number=2)
    reason = refusal(headers, BY_POSITION)["MixedAcquisitions"]
    assert dict(reason.numbers) == {"frames_of_reference": 2, "acquisitions": 2}


def test_every_broken_rule_is_listed() -> None:
    headers = scan(places=[0, 1, 1, 2, 3.5], shift=(1.0, 0.0))
    headers[0] = replace(headers[0], rows=64, frame_of_reference_uid="1.2.8")
    assert set(refusal(headers)) == {
        "MixedMatrix",
        "InconsistentFrameOfReference",
        "DuplicateSlices",
        "NonUniformSpacing",
        "GantryTilt",
    }


def test_every_broken_rule_is_listed_where_plane_attributes_are_missing_for_some() -> None:
    headers = scan(9, shift=(1.0, 0.0))
    headers[0] = replace(headers[0], rows=64, frame_of_reference_uid="1.2.8")
    headers[4] = replace(headers[4], image_position_patient=None)
    headers[5] = replace(headers[5], pixel_spacing=None)
    headers[6] = replace(headers[6], pixel_spacing=(0.9, 0.9))
    headers.append(replace(headers[3], sop_instance_uid="1.2.3.99"))
    with pytest.raises(StudyRefused) as caught:
        assess(headers)
    assert [reason.code for reason in caught.value.reasons] == [
        "MissingGeometry",
        "MissingGeometry",
        "MixedMatrix",
        "MixedMatrix",
        "InconsistentFrameOfReference",
        "DuplicateSlices",
        "GantryTilt",
    ]
    missing = {reason.numbers["attribute"]: reason.numbers["images"] for reason in caught.value.reasons[:2]}
    assert missing == {"ImagePositionPatient": 1, "PixelSpacing": 1}


def test_a_gap_says_nothing_where_a_position_is_missing() -> None:
    headers = scan(9)
    headers[4] = replace(headers[4], image_position_patient=None)
    assert list(refusal(headers)) == ["MissingGeometry"]


def test_a_single_slice_lists_what_else_is_wrong_with_it() -> None:
    lonely = scan(1, attributes={"rows": 0, "frame_of_reference_uid": ""})
    assert list(refusal(lonely)) == ["TooFewSlices", "MissingGeometry", "MissingFrameOfReference"]


def test_mixed_orientation_and_the_matrix_are_listed_together() -> None:
    headers = scan(6)
    headers[0] = replace(headers[0], image_orientation_patient=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0), rows=64)
    assert list(refusal(headers)) == ["MixedMatrix", "MixedOrientation"]


def test_slices_of_one_image_are_told_apart_by_their_frame_number() -> None:
    headers = [
        replace(header, sop_instance_uid="1.2.3", frame_number=number)
        for number, header in enumerate(scan(12), start=1)
    ]
    headers = [
        replace(header, image_orientation_patient=(1.0, number * 1e-5, 0.0, 0.0, 1.0, 0.0))
        for number, header in enumerate(headers)
    ]
    assert assess(headers[::-1]).order == tuple(range(11, -1, -1))
    assert assess(headers[::-1]).affine.tobytes() == assess(headers).affine.tobytes()


def test_no_tilt_is_found_where_no_pixel_size_says_how_much_is_much() -> None:
    assert list(refusal(scan(8, shift=(0.002, 0.0), attributes={"pixel_spacing": None}))) == ["MissingGeometry"]
    tilted = scan(8, shift=(0.5, 0.0), attributes={"pixel_spacing": None})
    assert list(refusal(tilted)) == ["MissingGeometry", "GantryTilt"]


_hostile_numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1.0, 1e308, -1e308])
)


@settings(max_examples=200)
@given(data=st.data())
def test_hostile_numbers_are_refused_or_give_a_finite_grid(data: st.DataObject) -> None:
    def numbers(count: int) -> tuple[float, ...]:
        return tuple(data.draw(_hostile_numbers) for _ in range(count))

    headers = [
        replace(header, image_position_patient=numbers(3), image_orientation_patient=cosines, pixel_spacing=numbers(2))
        for cosines in [data.draw(st.one_of(st.just((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), st.just(numbers(6))))]
        for header in scan(3)
    ]
    try:
        geometry: VolumeGeometry | None = assess(headers, uneven_spacing=data.draw(st.sampled_from(UnevenSpacing)))
    except StudyRefused as error:
        json.dumps([dict(reason.numbers) for reason in error.reasons], allow_nan=False)
    else:
        assert geometry is not None
        assert np.isfinite(geometry.affine).all()


def real_headers(folder: Path) -> Headers:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("LICENSE", "README"))]
    return [
        InstanceHeader.of(dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS)))
        for path in sorted(paths)
    ]


def test_real_tilted_head_is_refused_with_both_figures() -> None:
    reasons = refusal(real_headers(shared("data", "ct_head_ge_tilted")), BY_POSITION)
    assert set(reasons) == {"GantryTilt", "NonUniformSpacing"}
    assert reasons["GantryTilt"].numbers["degrees"] == pytest.approx(18.5, abs=0.05)
    assert "18.5 degrees" in reasons["GantryTilt"].words
    assert "from 1.08 to 7.00 mm" in reasons["NonUniformSpacing"].words


def test_real_tilted_head_is_refused_for_its_tilt_alone_where_uneven_spacing_is_accepted() -> None:
    headers = real_headers(shared("data", "ct_head_ge_tilted"))
    assert list(refusal(headers, uneven_spacing=RESAMPLE)) == ["GantryTilt"]


def test_real_chest_needs_the_setting_for_its_frames_of_reference() -> None:
    headers = real_headers(shared("data", "ct_chest_lidc_0314"))
    reason = refusal(headers)["InconsistentFrameOfReference"]
    assert dict(reason.numbers) == {"frames_of_reference": 275, "images": 275}
    geometry = assess(headers, BY_POSITION)
    assert geometry.spacing == pytest.approx((1.0, 0.78125, 0.78125))
    assert geometry.frame_of_reference_uid == headers[geometry.order[0]].frame_of_reference_uid
    assert "275 Frames of Reference" in geometry.notes[0]
    heights = [(headers[index].image_position_patient or ())[2] for index in geometry.order]
    assert heights == sorted(heights)
