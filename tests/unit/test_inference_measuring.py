from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.catalog import find_bundle, read_card
from inference.densitometry import reasons_against_densitometry
from inference.measuring import measure
from study.codes import ATTENUATION, HOUNSFIELD_UNIT, LAA_950, MEAN, MILLILITRE, PERCENT, PERCENTILE_15, VOLUME
from study.imaging import Finding, LabelMap, SeriesVolume
from tests.support.series import axial_affine

CARD = read_card("lung_ct", find_bundle("builtin:lung_ct"))
SHAPE = (10, 20, 30)


def found(
    values: NDArray[np.float32], labels: NDArray[np.uint8], padding: NDArray[np.bool_] | None = None, *reasons: str
) -> dict[str, Finding]:
    affine = axial_affine((2.0, 0.5, 0.5))
    volume = SeriesVolume(values, affine, ("2.25.1",) * len(values), padding)
    findings = measure(volume, LabelMap(labels, affine, CARD.segments), CARD, reasons)
    return {finding.key: finding for finding in findings}


def two_lungs() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:8, 5:15, 3:13] = 1
    labels[2:8, 5:15, 17:22] = 2
    values = np.random.default_rng(5).normal(-870, 60, SHAPE).astype(np.float32)
    values[labels == 2] -= 20
    return values, labels


def numbers(finding: Finding) -> dict[str, float]:
    return {measurement.name.value: measurement.value for measurement in finding.measurements}


def test_numbers_agree_with_their_definitions() -> None:
    values, labels = two_lungs()
    findings = found(values, labels)
    for key, mask in (("right_lung", labels == 1), ("left_lung", labels == 2), ("both_lungs", labels > 0)):
        lung = values[mask].astype(np.float64)
        assert not findings[key].incomplete
        assert findings[key].detected
        assert findings[key].omissions == ()
        assert numbers(findings[key]) == pytest.approx(
            {
                VOLUME.value: mask.sum() * 2.0 * 0.5 * 0.5 / 1000,
                ATTENUATION.value: lung.mean(),
                LAA_950.value: 100 * (lung < -950).mean(),
                PERCENTILE_15.value: np.percentile(lung, 15, method="inverted_cdf"),
            }
        )


@pytest.mark.parametrize("further", [0, 20])
@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_do_not_change_with_how_many_segments_are_declared(further: int, threads: int) -> None:
    values, labels = two_lungs()
    others = [replace(CARD.segments[0], value=3 + number) for number in range(further)]
    affine = axial_affine((2.0, 0.5, 0.5))
    label_map = LabelMap(labels, affine, (*CARD.segments, *others))
    findings = measure(SeriesVolume(values, affine, ("2.25.1",) * 10), label_map, CARD, threads=threads)
    assert {finding.key: numbers(finding) for finding in findings} == {
        key: numbers(finding) for key, finding in found(values, labels).items()
    }


def test_units_and_derivations_are_those_of_the_standard() -> None:
    findings = found(*two_lungs())
    assert [(m.name, m.unit, m.derivation) for m in findings["both_lungs"].measurements] == [
        (VOLUME, MILLILITRE, None),
        (ATTENUATION, HOUNSFIELD_UNIT, MEAN),
        (LAA_950, PERCENT, None),
        (PERCENTILE_15, HOUNSFIELD_UNIT, None),
    ]
    assert findings["both_lungs"].segment_values == (1, 2)


def test_exactly_minus_950_is_not_below_it() -> None:
    values, labels = two_lungs()
    values[labels == 1] = -950.0
    assert numbers(found(values, labels)["right_lung"])[LAA_950.value] == 0.0


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (np.s_[0, 10, 10], "the first slice"),
        (np.s_[9, 10, 10], "the last slice"),
        (np.s_[5, 0, 10], "the edge of the field of view"),
        (np.s_[5, 19, 10], "the edge of the field of view"),
        (np.s_[5, 10, 0], "the edge of the field of view"),
    ],
)
def test_a_lung_at_an_edge_is_incomplete_and_has_no_volume(where: tuple[int, int, int], words: str) -> None:
    values, labels = two_lungs()
    labels[where] = 1
    findings = found(values, labels)
    assert findings["right_lung"].incomplete == f"incomplete: it reaches {words}"
    assert findings["both_lungs"].incomplete == f"incomplete: right lung reaches {words}"
    for key in ("right_lung", "both_lungs"):
        assert VOLUME.value not in numbers(findings[key])
        omission = next(omission for omission in findings[key].omissions if omission.name == VOLUME)
        assert words in omission.reason
        assert ATTENUATION.value in numbers(findings[key])
    assert not findings["left_lung"].incomplete
    assert VOLUME.value in numbers(findings["left_lung"])


def test_a_lung_beside_declared_padding_is_incomplete_and_padding_is_no_tissue() -> None:
    values, labels = two_lungs()
    padding = np.zeros(SHAPE, dtype=np.bool_)
    padding[:, :, 21:] = True
    values[padding] = -3024.0
    findings = found(values, labels, padding)
    assert "edge of the field of view" in findings["left_lung"].incomplete
    assert not findings["right_lung"].incomplete
    seen = values[(labels == 2) & ~padding].astype(np.float64)
    assert numbers(findings["left_lung"])[ATTENUATION.value] == pytest.approx(seen.mean())


def test_a_stray_pixel_of_the_padding_value_is_no_edge() -> None:
    values, labels = two_lungs()
    padding = np.zeros(SHAPE, dtype=np.bool_)
    padding[5, 10, 8] = True
    assert not found(values, labels, padding)["right_lung"].incomplete


def test_a_lung_at_the_reconstruction_circle_is_incomplete() -> None:
    values, labels = two_lungs()
    values[:, :, 22:] = values[:, :, 0] = -1024.0
    findings = found(values, labels)
    assert "edge of the field of view" in findings["left_lung"].incomplete
    assert not findings["right_lung"].incomplete


def test_the_even_background_of_a_phantom_is_no_reconstruction_circle() -> None:
    values, labels = two_lungs()
    values[:, labels.max(axis=0) == 0] = -1000.0
    assert all(not finding.incomplete for finding in found(values, labels).values())


def test_a_lung_that_was_not_found_is_said_to_be_missing() -> None:
    values, labels = two_lungs()
    labels[labels == 1] = 0
    findings = found(values, labels)
    assert not findings["right_lung"].detected
    assert findings["right_lung"].measurements == ()
    assert findings["both_lungs"].incomplete == "incomplete: right lung was not found"
    assert VOLUME.value not in numbers(findings["both_lungs"])


def test_reasons_against_densitometry_leave_those_numbers_out() -> None:
    findings = found(*two_lungs(), None, "contrast agent was given", "slices of 5 mm are thicker than 1.5 mm")
    for finding in findings.values():
        assert set(numbers(finding)) == {VOLUME.value, ATTENUATION.value}
        assert {omission.name for omission in finding.omissions} == {LAA_950, PERCENTILE_15}
        assert all("contrast" in omission.reason and "5 mm" in omission.reason for omission in finding.omissions)


def header(**attributes: str | list[str] | None) -> Dataset:
    dataset = Dataset()
    values = {"Manufacturer": "SIEMENS", "ConvolutionKernel": "B30f", "SliceThickness": "1.0"} | attributes
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("manufacturer", "kernel", "words"),
    [
        ("SIEMENS", "B35f", ""),
        ("Siemens Healthineers", ["Br40f", "3"], ""),
        ("SIEMENS", "B70f", "sharp"),
        ("SIEMENS", ["Bl57f", "3"], "sharp"),
        ("GE MEDICAL SYSTEMS", "STANDARD", ""),
        ("GE MEDICAL SYSTEMS", "LUNG", "sharp"),
        ("Philips", "B", ""),
        ("Philips", "D", "sharp"),
        ("TOSHIBA", "FC08", ""),
        ("TOSHIBA", "FC52", "sharp"),
        ("Canon Medical Systems", "FC18", ""),
        ("GE MEDICAL SYSTEMS", "B30f", "not known"),
        ("Phantom Works", "STANDARD", ""),  # plain words mean what they say, whoever uses them
        ("Phantom Works", "LUNG", "sharp"),
        ("Phantom Works", "B", "not known"),
        ("", "B", "not known"),
        ("Philips", None, "do not state their convolution kernel"),
    ],
)
def test_kernels_are_known_by_vendor(manufacturer: str, kernel: str | list[str] | None, words: str) -> None:
    reasons = reasons_against_densitometry([header(Manufacturer=manufacturer, ConvolutionKernel=kernel)])
    assert words in "".join(reasons)
    assert bool(reasons) == bool(words)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"SliceThickness": "1.5"}, ""),
        ({"SliceThickness": "5"}, "5 mm"),
        ({"SliceThickness": None}, "do not state their slice thickness"),
        ({"ContrastBolusAgent": "Iohexol"}, "contrast agent"),
        ({"ContrastBolusAgent": ""}, ""),
    ],
)
def test_thickness_and_contrast_limit_densitometry(attributes: dict[str, Any], words: str) -> None:
    reasons = reasons_against_densitometry([header(), header(**attributes)])
    assert words in "".join(reasons)
    assert bool(reasons) == bool(words)
