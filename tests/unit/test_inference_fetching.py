from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from inference.feeding import demand_finite
from inference.fetching import fetched
from study.errors import ModelOutputInvalid

FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPE = (2, 130, 5, 7)  # more columns than go at a time


def labels(highest: int = 104) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, highest, SHAPE))


@pytest.mark.parametrize("dtype", [*FLOATING, torch.uint8, torch.int32, torch.int64])
def test_whole_numbers_come_as_bytes_slice_by_slice(dtype: torch.dtype) -> None:
    found = fetched(labels().to(dtype))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels().numpy())
    assert found.transpose(0, 3, 2, 1).flags.c_contiguous


@pytest.mark.parametrize("axes", [(0, 3, 2, 1), (0, 2, 3, 1), (0, 1, 2, 3)])
def test_however_they_lie_in_memory(axes: tuple[int, ...]) -> None:
    plain = labels().float()
    lying = plain.permute(axes).contiguous().permute(*np.argsort(axes).tolist())
    np.testing.assert_array_equal(fetched(lying), plain.numpy())


def test_images_of_two_dimensions_too() -> None:
    np.testing.assert_array_equal(fetched(labels()[..., 0].float()), labels().numpy()[..., 0])


def test_truth_values_are_numbers() -> None:
    np.testing.assert_array_equal(fetched(labels() > 50), labels().numpy() > 50)


def test_what_a_byte_does_not_hold_comes_in_more() -> None:
    found = fetched(labels(65536).float())
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels(65536).numpy())


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0, float("nan"), float("inf"), 1e-30])
def test_what_is_no_label_comes_as_it_is(value: float) -> None:
    spoilt = labels().float()
    spoilt[1, 129, 4, 6] = value
    np.testing.assert_array_equal(fetched(spoilt), spoilt.numpy())
    assert fetched(spoilt).dtype == np.float32


@pytest.mark.parametrize("odd", [torch.zeros(0, 3, 3, 3), torch.zeros(1, 2, 2, 2, dtype=torch.complex64)])
def test_nothing_and_what_has_no_order_come_as_they_are(odd: torch.Tensor) -> None:
    assert fetched(odd).shape == tuple(odd.shape)
    assert np.iscomplexobj(fetched(odd)) == odd.is_complex()


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_not_finite_is_found(dtype: torch.dtype, value: float) -> None:
    output = labels().to(dtype)
    assert demand_finite(output) is output
    output[1, 77, 2, 3] = value
    with pytest.raises(ModelOutputInvalid, match="values that are not finite"):
        demand_finite(output)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_whole_numbers_and_nothing_at_all_are_finite(dtype: torch.dtype) -> None:
    for output in (torch.ones(3, dtype=dtype), torch.ones(0, dtype=dtype)):
        assert demand_finite(output) is output


class Results(TorchFunctionMode):
    """Notes the size of what torch's functions give."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        given = func(*args, **(kwargs or {}))
        listed = given if isinstance(given, tuple) else (given,)
        self.sizes += [each.numel() for each in listed if isinstance(each, torch.Tensor)]
        return given


def test_to_look_for_what_is_not_finite_makes_nothing_of_the_size_of_the_output() -> None:
    output = torch.zeros(1000)
    with Results() as results:
        demand_finite(output)
    assert results.sizes
    assert max(results.sizes) == 1
