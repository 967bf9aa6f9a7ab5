"""Run a loaded bundle on a series: the label map comes back on the grid of the source, proven by its affine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from numpy.typing import NDArray

from inference.bundle import LoadedBundle, own_code, root_cause
from inference.orientation import from_monai, to_monai
from study.errors import DeviceOutOfMemory, HilumError, InferenceError, ModelOutputInvalid
from study.imaging import LabelMap, Segment, SeriesVolume

_AFFINE_TOLERANCE_MM = 1e-3  # over the whole grid, at its corners


@dataclass(frozen=True, eq=False)
class RunOutcome:
    """A label map, and how long each step took [s]."""

    label_map: LabelMap
    timings: dict[str, float]


def run_bundle(bundle: LoadedBundle, volume: SeriesVolume, segments: Sequence[Segment]) -> RunOutcome:
    """Return what the bundle makes of a volume.

    Parameters
    ----------
    segments
        What each value of the output stands for.

    Raises
    ------
    ModelOutputInvalid
        If the output has NaNs, another grid than the source, or a label that no segment declares.
    DeviceOutOfMemory
        If the device's memory does not suffice.
    InferenceError
        If the bundle's code fails in any other way.
    """
    try:
        with own_code(bundle.path, bundle.modules), torch.inference_mode():
            return _run(bundle, volume, tuple(segments))
    except HilumError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceOutOfMemory(f"The memory of {bundle.device} does not suffice for this series.") from error
    except Exception as error:  # the bundle's code may raise anything at all
        raise InferenceError(f"The model failed: {root_cause(error)}") from error


def _run(bundle: LoadedBundle, volume: SeriesVolume, segments: tuple[Segment, ...]) -> RunOutcome:
    started = time.perf_counter()
    sample: dict[str, Any] = bundle.preprocessing({bundle.input_key: _as_loaded(bundle, volume)})
    image = sample[bundle.input_key]
    preprocessed = time.perf_counter()
    prediction = bundle.inferer(image.to(bundle.device)[None], bundle.network)
    sample[bundle.output_key] = _of_one(prediction, image)
    inferred = time.perf_counter()
    output = _on_source_grid(bundle.postprocessing(sample)[bundle.output_key], volume)
    label_map = LabelMap(_labels(output, segments), volume.affine, segments)
    ended = time.perf_counter()
    timings = {
        "preprocess": preprocessed - started,
        "inference": inferred - preprocessed,
        "postprocess": ended - inferred,
    }
    return RunOutcome(label_map, timings)


def _as_loaded(bundle: LoadedBundle, volume: SeriesVolume) -> MetaTensor:
    """Return the volume as the bundle's loader would have given it."""
    array, affine = to_monai(volume.voxels, volume.affine)
    tensor = torch.from_numpy(array)
    meta: dict[str, Any] = {"original_channel_dim": "no_channel", "spatial_shape": np.array(array.shape)}
    if bundle.channel_first:
        tensor, meta["original_channel_dim"] = tensor[None], 0
    matrix = torch.from_numpy(affine)
    return MetaTensor(tensor, affine=matrix, meta=meta | {"original_affine": matrix.clone()})


def _of_one(prediction: Any, image: MetaTensor) -> MetaTensor:  # noqa: ANN401 - a bundle's network may return anything
    """Return the prediction of one image, (channels, ...), which lies on the grid of the network's input."""
    if not isinstance(prediction, torch.Tensor):
        raise ModelOutputInvalid(f"The network gave a {type(prediction).__name__} where a tensor is expected.")
    if prediction.ndim != 5 or prediction.shape[0] != 1 or prediction.shape[2:] != image.shape[1:]:
        raise ModelOutputInvalid(
            f"The network gave the shape {tuple(prediction.shape)} for an input of shape {tuple(image.shape)}."
        )
    if prediction.is_floating_point() and not bool(torch.isfinite(prediction).all()):
        raise ModelOutputInvalid("The network gave values that are not finite.")
    plain = prediction.as_tensor() if isinstance(prediction, MetaTensor) else prediction
    return MetaTensor(plain[0], affine=image.affine, meta={"original_channel_dim": 0})


def _on_source_grid(output: Any, volume: SeriesVolume) -> NDArray[Any]:  # noqa: ANN401 - see `_of_one`
    """Return the output as (channels, slices, rows, columns) on the grid of the source.

    A bundle whose postprocessing inverts its preprocessing is there already; for any other the output is resampled by
    its affine, nearest neighbour, since it holds labels.
    """
    source, affine = to_monai(volume.voxels, volume.affine)
    if not isinstance(output, MetaTensor) or output.ndim != 4:
        raise ModelOutputInvalid("The postprocessing gave no image with channels and an affine.")
    if not _same_grid(output, affine, source.shape):
        resample = SpatialResample(mode="nearest", padding_mode="zeros", dtype=np.float32)
        output = resample(output, dst_affine=torch.from_numpy(affine), spatial_size=source.shape)
    if not _same_grid(output, affine, source.shape):
        raise ModelOutputInvalid(
            f"The output lies on another grid than the source: {tuple(output.shape[1:])} for {source.shape}."
        )
    array = output.as_tensor().cpu().numpy()
    return np.stack([from_monai(channel, affine)[0] for channel in array]) if len(array) > 1 else _only(array, affine)


def _only(array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    voxels: NDArray[Any] = from_monai(array[0], affine)[0]
    return voxels[None]


def _same_grid(output: MetaTensor, affine: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    if tuple(output.shape[1:]) != tuple(shape):
        return False
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1])).reshape(4, -1)
    difference = (output.affine.cpu().numpy() - affine) @ corners
    return bool(np.abs(difference).max() <= _AFFINE_TOLERANCE_MM)


def _labels(output: NDArray[Any], segments: tuple[Segment, ...]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the output's channels as one label map of declared values."""
    highest = max(segment.value for segment in segments)
    kind: type[np.uint8] | type[np.uint16] = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    merged = output[0] if len(output) == 1 else _merge_channels(output, segments, kind)
    if not np.issubdtype(merged.dtype, np.integer) and not _whole(merged):
        raise ModelOutputInvalid("The output holds values that are no labels.")
    low, high = merged.min(), merged.max()
    if low < 0 or high > highest:
        raise ModelOutputInvalid(f"The output holds the label {int(high if high > highest else low)}, not declared.")
    values: NDArray[Any] = np.ascontiguousarray(merged, dtype=kind)
    _demand_declared(values, segments)
    return values


def _demand_declared(values: NDArray[Any], segments: tuple[Segment, ...]) -> None:
    declared = {0} | {segment.value for segment in segments}
    if declared >= set(range(max(declared) + 1)):
        return  # the values lie between the lowest and the highest, and there is no gap between them
    undeclared = set().union(*(np.unique(plane).tolist() for plane in values)) - declared
    if undeclared:
        raise ModelOutputInvalid(f"The output holds labels that no segment declares: {sorted(undeclared)}.")


def _whole(values: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(plane).all()) and bool((plane == np.rint(plane)).all()) for plane in values)


def _merge_channels(output: NDArray[Any], segments: tuple[Segment, ...], kind: type[np.generic]) -> NDArray[Any]:
    """Return binary channels as one label map: one channel per segment in their order, maybe background before them."""
    foreground = output[1:] if len(output) == len(segments) + 1 else output
    if len(foreground) != len(segments):
        raise ModelOutputInvalid(f"The output has {len(output)} channels for {len(segments)} segments.")
    merged = np.zeros(output.shape[1:], dtype=kind)
    for segment, channel in zip(segments, foreground, strict=True):
        if not bool(np.isin(channel, (0, 1)).all()):
            raise ModelOutputInvalid("The output's channels are no masks of 0 and 1.")
        held = channel.astype(bool)
        if bool((merged[held] != 0).any()):
            raise ModelOutputInvalid("The output's segments overlap, which a label map can not hold.")
        merged[held] = segment.value
    return merged
