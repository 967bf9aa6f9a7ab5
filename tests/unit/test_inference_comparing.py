from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from inference.comparing import compare
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.imaging import LabelMap, Segment

SEGMENTS = tuple(
    Segment(value, label, ANATOMICAL_STRUCTURE, Code(label, "99TEST", label))
    for value, label in ((1, "Liver"), (2, "Spleen"), (3, "Kidney"))
)


def label_map(values: list[int], *further: list[int]) -> LabelMap:
    layers = [np.array(layer, dtype=np.uint8).reshape(2, 1, -1) for layer in (values, *further)]
    return LabelMap(layers[0], np.eye(4), SEGMENTS, tuple(layers[1:]))


def test_equal_label_maps_do_not_differ() -> None:
    found = compare(label_map([1, 1, 0, 2]), label_map([1, 1, 0, 2]))
    assert (found.differing, found.held, found.share) == (0, 3, 0.0)
    assert found.dice == {"Liver": 1.0, "Spleen": 1.0, "Kidney": None}


def test_what_differs_is_counted_once_and_by_segment() -> None:
    found = compare(label_map([1, 1, 0, 2]), label_map([1, 2, 0, 0]))
    assert (found.differing, found.held) == (2, 3)
    assert found.share == pytest.approx(2 / 3)
    assert found.dice == {"Liver": pytest.approx(2 / 3), "Spleen": 0.0, "Kidney": None}


def test_overlap_is_compared_whatever_layer_it_lies_in() -> None:
    ours, theirs = label_map([1, 1, 0, 2], [3, 0, 0, 0]), label_map([3, 1, 0, 2], [1, 0, 0, 0])
    assert compare(ours, theirs).differing == 0
    assert compare(ours, label_map([1, 1, 0, 2])).differing == 1


def test_what_is_counted_in_one_pass_is_what_its_masks_say() -> None:
    random = np.random.default_rng(0)
    segments = tuple(
        Segment(value, f"Part {value}", ANATOMICAL_STRUCTURE, Code(str(value), "99TEST", "Part"))
        for value in (1, 2, 7, 300, 65535)
    )
    choices = [np.array([0, 0, 1, 7, 9], np.uint16), np.array([0, 2, 300, 65535], np.uint16)]  # 9 is no segment
    maps = [
        LabelMap(random.choice(choices[a], (3, 8, 9)), np.eye(4), segments, (random.choice(choices[b], (3, 8, 9)),))
        for a, b in ((0, 1), (0, 1), (1, 0))
    ]
    for one, other in product(maps, maps):
        ours, theirs = (
            np.array([[each.mask(index, [part.value]) for part in segments] for index in range(3)])
            for each in (one, other)
        )
        found = compare(one, other)
        assert (found.differing, found.held) == ((ours != theirs).any(1).sum(), (ours | theirs).any(1).sum())
        shared, both = (ours & theirs).sum((0, 2, 3)), ours.sum((0, 2, 3)) + theirs.sum((0, 2, 3))
        assert list(found.dice.values()) == pytest.approx(list(2 * shared / both))


def test_nothing_in_either_is_no_difference() -> None:
    assert compare(label_map([0] * 4), label_map([0] * 4)).share == 0.0


def test_other_grids_are_not_compared() -> None:
    with pytest.raises(ValueError, match="another grid"):
        compare(label_map([1] * 4), label_map([1] * 6))
