"""Run a loaded bundle on a series: the label map comes back on the grid of the source, proven by its affine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import LoadedBundle
from inference.feeding import at_work, on_grid, prediction_of_one, taken_back, with_affine
from inference.labels import as_label_map
from inference.orientation import from_monai, plane_from_monai, plane_to_monai, to_monai
from study.imaging import LabelMap, Segment, SeriesVolume

Timings = dict[str, float]


@dataclass(frozen=True, eq=False)
class RunOutcome:
    """A label map, and how long each step took [s]."""

    label_map: LabelMap
    timings: dict[str, float]


def run_bundle(
    bundle: LoadedBundle, volume: SeriesVolume, segments: Sequence[Segment], background_first: bool | None = None
) -> RunOutcome:
    """Return what the bundle makes of a volume.

    Parameters
    ----------
    segments, background_first
        What each value of the output stands for, and how that is known (`inference.labels.as_label_map`).

    Raises
    ------
    ModelOutputInvalid
        If the output has NaNs, another grid than the source, or a label that no segment declares.
    DeviceOutOfMemory
        If the device's memory does not suffice.
    InferenceError
        If the bundle's code fails in any other way.
    """
    with at_work(bundle):
        output, timings = _run_plane_by_plane(bundle, volume) if bundle.is_planar else _run_volume(bundle, volume)
        started = time.perf_counter()
        values, further = as_label_map(output, segments, background_first)
        timings["postprocess"] += time.perf_counter() - started
        return RunOutcome(LabelMap(values, volume.affine, tuple(segments), further), timings)


def _run_volume(bundle: LoadedBundle, volume: SeriesVolume) -> tuple[NDArray[Any], Timings]:
    """Return the output, (channels, slices, rows, columns), and the seconds by step."""
    array, affine = to_monai(volume.voxels, volume.affine)
    timings = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
    output = _through(bundle, array, affine, timings)
    channels = [from_monai(channel, affine)[0] for channel in output]
    # Of one channel a view is enough: a stack would be a copy of the whole volume.
    return (channels[0][None] if len(channels) == 1 else np.stack(channels)), timings


def _run_plane_by_plane(bundle: LoadedBundle, volume: SeriesVolume) -> tuple[NDArray[Any], Timings]:
    """Return the same of a bundle for two-dimensional images: each slice is an image of its own, put back in its place.

    A bundle that walks through volumes itself (MONAI's SliceInferer) is not run so, but as it is.
    """
    timings = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
    planes = []
    for plane in volume.voxels:
        array, affine = plane_to_monai(plane, volume.spacing[1:])
        output = _through(bundle, array, affine, timings)
        planes.append(np.stack([plane_from_monai(channel) for channel in output]))
    return np.stack(planes, axis=1), timings


def _through(bundle: LoadedBundle, array: NDArray[Any], affine: NDArray[np.float64], timings: Timings) -> NDArray[Any]:
    """Return what the bundle makes of one image, (channels, ...), on the image's own grid."""
    started = time.perf_counter()
    key = bundle.intake.key
    image = with_affine(bundle, torch.from_numpy(array), torch.from_numpy(affine))
    sample: dict[str, Any] = bundle.preprocessing({key: image})
    preprocessed = time.perf_counter()
    prediction = bundle.inferer(sample[key].to(bundle.device)[None], bundle.network)
    sample[bundle.output_key] = prediction_of_one(prediction, sample[key])
    del prediction
    inferred = time.perf_counter()
    seen = sample[key]  # a transform of the bundle's own may write into the sample itself
    final = bundle.postprocessing(sample)[bundle.output_key]
    output = on_grid(taken_back(bundle, seen, final), affine, array.shape)
    timings["preprocess"] += preprocessed - started
    timings["inference"] += inferred - preprocessed
    timings["postprocess"] += time.perf_counter() - inferred
    return output
