from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from study.colours import PALETTE, colour_of

Floats = NDArray[np.float64]

# Machado, Oliveira and Fernandes (IEEE TVCG 2009;15:1291-1298), severity 1, on linear RGB
DEFICIENCIES: dict[str, Floats] = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def seen(rgb: tuple[int, int, int], deficiency: str) -> Floats:
    """Return a colour in CIELab, as somebody with a deficiency sees it."""
    shares = np.array(rgb) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    dimmed = np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1)
    encoded = np.where(dimmed <= 0.0031308, 12.92 * dimmed, 1.055 * dimmed ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(encoded[None, None])[0, 0])


def distance(one: tuple[int, int, int], other: tuple[int, int, int], deficiency: str) -> float:
    far: Floats = deltaE_ciede2000(seen(one, deficiency), seen(other, deficiency))  # type: ignore[no-untyped-call]
    return float(far)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_palette_is_told_apart(deficiency: str) -> None:
    assert min(distance(*pair, deficiency) for pair in combinations(PALETTE, 2)) > 10


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_two_are_told_apart_at_a_glance(deficiency: str) -> None:
    assert distance(PALETTE[0], PALETTE[1], deficiency) > 40


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_palette_holds_on_every_grey_the_first_ones_best(deficiency: str) -> None:
    greys = [(level, level, level) for level in range(0, 256, 5)]
    held = [min(distance(colour, grey, deficiency) for grey in greys) for colour in PALETTE]
    assert min(held[:5]) > 18
    assert min(held) > 6  # these have a dark line around them too


def test_a_hundred_colours_are_different_and_stay_the_same() -> None:
    colours = [colour_of(place) for place in range(100)]
    assert colours[: len(PALETTE)] == list(PALETTE)
    assert min(distance(one, other, "none") for one, other in combinations(colours, 2)) > 5
    assert min(distance(one, other, "none") for one, other in combinations(colours[:30], 2)) > 9
    # Written down, so that a change is noticed: colours of results change with these
    assert colours[7:10] == [(159, 0, 255), (128, 255, 255), (255, 191, 255)]
    assert colour_of(100_000) in {colour_of(place) for place in range(1000)}
