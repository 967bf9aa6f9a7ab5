from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sr_writer.picture.windows import _ORGANS, BONE, BRAIN, LIVER, LUNG, SOFT_TISSUE, Window, choose_window
from study import codes
from study.codes import Code
from tests.support.peers import REPOSITORY

LIVER_CODE = Code("10200004", "SCT", "Liver")
KIDNEY = Code("64033007", "SCT", "Kidney")
BRAIN_CODE = Code("12738006", "SCT", "Brain")
RIB = Code("113197003", "SCT", "Rib")
TRACHEA = Code("44567001", "SCT", "Trachea")


def header(modality: str = "CT", **attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.Modality = modality
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def sample() -> list[NDArray[np.float32]]:
    return [np.linspace(0, 1000, 100_001, dtype=np.float32)]


@pytest.mark.parametrize(
    ("anatomy", "window"),
    [
        ([codes.RIGHT_LUNG, codes.LEFT_LUNG], LUNG),
        ([codes.RIGHT_LUNG, TRACHEA], LUNG),
        ([LIVER_CODE], LIVER),
        ([KIDNEY], SOFT_TISSUE),
        ([LIVER_CODE, KIDNEY], SOFT_TISSUE),
        ([RIB], BONE),
        ([BRAIN_CODE], BRAIN),
        ([codes.RIGHT_LUNG, LIVER_CODE, RIB], SOFT_TISSUE),
    ],
)
def test_a_ct_is_shown_as_its_organ_is_read(anatomy: list[Code], window: Window) -> None:
    source = header(WindowCenter="1", WindowWidth="2")
    assert choose_window(source, [(code,) for code in anatomy], [], sample) == window


def test_the_region_comes_before_the_type_and_places_count_where_they_are_known() -> None:
    vessel = Code("59820001", "SCT", "Blood Vessel")
    assert choose_window(header(), [(LIVER_CODE, vessel)], [], sample) == LIVER
    assert choose_window(header(), [], [BRAIN_CODE], sample) == BRAIN
    assert choose_window(header(), [(codes.RIGHT_LUNG,)], [codes.BOTH_LUNGS], sample) == LUNG
    chest = Code("51185008", "SCT", "Chest")
    source = header(WindowCenter=["50", "-600"], WindowWidth=["350", "1500"])
    assert choose_window(source, [], [chest], sample).words == "W 350 L 50 (of the source)"


@pytest.mark.parametrize("code", [codes.TISSUE, Code("X", "99ACME", "Something")])
def test_a_code_that_says_nothing_leaves_it_to_the_source(code: Code) -> None:
    assert choose_window(header(WindowCenter="40", WindowWidth="350"), [(code,)], [], sample).width == 350
    assert choose_window(header(), [(code,)], [], sample).name == "fitted to the pixels"


@pytest.mark.parametrize("modality", ["MR", "PT", "DX"])
def test_values_without_meaning_are_shown_by_the_source_or_as_they_fit(modality: str) -> None:
    stated = choose_window(header(modality, WindowCenter="300", WindowWidth="600"), [(LIVER_CODE,)], [], sample)
    assert (stated.center, stated.width, stated.name) == (300, 600, "of the source")
    fitted = choose_window(header(modality), [(LIVER_CODE,)], [], sample)
    assert fitted.center == pytest.approx(500)
    assert fitted.width == pytest.approx(990)


@pytest.mark.parametrize(
    "attributes",
    [{"WindowCenter": "40"}, {"WindowCenter": "40", "WindowWidth": "0"}, {"WindowCenter": "", "WindowWidth": "9"}],
)
def test_a_window_that_can_not_be_used_is_none(attributes: dict[str, str]) -> None:
    assert choose_window(header("MR", **attributes), [], [], sample).name == "fitted to the pixels"


def test_a_constant_image_has_a_window_too() -> None:
    window = choose_window(header("MR"), [], [], lambda: [np.full((4, 4), 7, dtype=np.float32)])
    assert window.width > 0
    assert window.grey(np.full((2, 2), 7.0)).tolist() == [[128, 128], [128, 128]]


def test_grey_levels() -> None:
    values = np.array([-1000.0, -160, 40, 240, 1000, np.nan])
    assert SOFT_TISSUE.grey(values).tolist() == [0, 0, 128, 255, 255, 0]
    # PS3.3 C.11.2.1.2.1: LINEAR is from center - 0.5 - (width - 1) / 2 to center - 0.5 + (width - 1) / 2
    linear = Window(2048, 4096, "", "LINEAR")
    assert linear.grey(np.array([0.0, 2047.5, 4095.0])).tolist() == [0, 128, 255]
    sigmoid = Window(100, 50, "", "SIGMOID")
    assert sigmoid.grey(np.array([-1e6, 100.0, 112.5, 1e6])).tolist() == [0, 128, 186, 255]


def test_monochrome1_is_turned_round() -> None:
    source = header("MR", WindowCenter="40", WindowWidth="400", PhotometricInterpretation="MONOCHROME1")
    window = choose_window(source, [], [], sample)
    assert window.inverted
    assert window.grey(np.array([-1000.0, 1000.0])).tolist() == [255, 0]


def test_every_organ_with_a_window_is_one_that_models_name() -> None:
    table = json.loads((REPOSITORY / "inference" / "structures.json").read_text())["structures"]
    named = {entry["type"][0] for entry in table.values()} | {
        entry["region"][0] for entry in table.values() if "region" in entry
    }
    assert set(_ORGANS) <= named
