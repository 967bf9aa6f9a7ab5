"""A bundle's output becomes a label map: values or channels, none of them undeclared, overlap kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import ModelOutputInvalid
from study.imaging import Labels, Segment


def as_label_map(
    output: NDArray[Any], segments: Sequence[Segment], background_first: bool | None = None
) -> tuple[Labels, tuple[Labels, ...]]:
    """Return the layers of a label map, the first one and those that overlap needs.

    Parameters
    ----------
    output
        (channels, slices, rows, columns): one channel of label values, or one channel of 0 and 1 for each segment in
        their order, maybe with a background channel before them.
    background_first
        Whether the bundle's own names of the channels, by which the segments are numbered, begin with a background;
        None where the site numbers the segments itself.

    Raises
    ------
    ModelOutputInvalid
        If it holds what is no label, a label that no segment declares, or another number of channels.
    """
    highest = max(segment.value for segment in segments)
    kind: type[np.uint8] | type[np.uint16] = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    whole_numbers = len(output) == 1 and len(segments) > 1
    if background_first is False and (whole_numbers or len(output) == len(segments) + 1):
        raise ModelOutputInvalid(
            "It is not clear which label is which: the names of the bundle's channels (channel_def) do not begin with "
            "a background, and its output has one. Say it in [[models.segments]], with value and label."
        )
    if len(output) > 1:
        layers = _layers(output, segments, kind)
        return layers[0], tuple(layers[1:])
    return _values(output[0], segments, highest, kind), ()


def _values(plane: NDArray[Any], segments: Sequence[Segment], highest: int, kind: type[np.generic]) -> NDArray[Any]:
    if not np.issubdtype(plane.dtype, np.integer) and not _whole(plane):
        raise ModelOutputInvalid(
            "The output holds values that are no labels; the bundle's postprocessing must end in labels (AsDiscreted)."
        )
    low, high = plane.min(), plane.max()
    if low < 0 or high > highest:
        raise ModelOutputInvalid(f"The output holds the label {int(high if high > highest else low)}, not declared.")
    values: NDArray[Any] = np.ascontiguousarray(plane, dtype=kind)
    _demand_declared(values, segments)
    return values


def _demand_declared(values: NDArray[Any], segments: Sequence[Segment]) -> None:
    declared = {0} | {segment.value for segment in segments}
    if declared >= set(range(max(declared) + 1)):
        return  # the values lie between the lowest and the highest, and there is no gap between them
    found = sum(np.bincount(plane.ravel(), minlength=max(declared) + 1) for plane in values)
    undeclared = set(np.flatnonzero(found).tolist()) - declared
    if undeclared:
        raise ModelOutputInvalid(f"The output holds labels that no segment declares: {sorted(undeclared)}.")


def _whole(values: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(plane).all()) and bool((plane == np.rint(plane)).all()) for plane in values)


def _layers(output: NDArray[Any], segments: Sequence[Segment], kind: type[np.generic]) -> list[NDArray[Any]]:
    """Return as few layers as it takes that no two segments of one overlap."""
    foreground = output[1:] if len(output) == len(segments) + 1 else output
    if len(foreground) != len(segments):
        raise ModelOutputInvalid(f"The output has {len(output)} channels for {len(segments)} segments.")
    layers = [np.zeros(output.shape[1:], dtype=kind)]
    for segment, channel in zip(segments, foreground, strict=True):
        if not bool(np.isin(channel, (0, 1)).all()):
            raise ModelOutputInvalid(
                "The output's channels are no masks of 0 and 1; the bundle's postprocessing must end in masks "
                "(AsDiscreted)."
            )
        held = channel.astype(bool)
        free = next((layer for layer in layers if not bool(layer[held].any())), None)
        if free is None:
            free = np.zeros(output.shape[1:], dtype=kind)
            layers.append(free)
        free[held] = segment.value
    return layers
