"""Run a loaded bundle on a series: the label map comes back on the grid of the source, proven by its affine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.account import Account
from inference.bundle import LoadedBundle
from inference.feeding import (
    as_images,
    at_work,
    on_grid,
    postprocessed,
    predicted,
    prediction_of_one,
    taken_back,
    with_affine,
)
from inference.labels import as_label_map
from inference.orientation import from_monai, plane_from_monai, plane_to_monai, to_monai
from study.errors import BundleInvalid
from study.imaging import LabelMap, Segment, SeriesVolume


def run_bundle(
    bundle: LoadedBundle,
    volume: SeriesVolume,
    segments: Sequence[Segment],
    background_first: bool | None = None,
    account: Account | None = None,
    beside: Mapping[str, SeriesVolume] = MappingProxyType({}),
) -> LabelMap:
    """Return what the bundle makes of a volume, into whose voxels its transforms may write.

    Parameters
    ----------
    segments, background_first
        What each value of the output stands for, and how that is known (`inference.labels.as_label_map`).
    account
        Is told of the steps.
    beside
        Earlier series that its transforms get too, by their keys.

    Raises
    ------
    ModelOutputInvalid
        If the output has NaNs, another grid than the source, or a label that no segment declares.
    DeviceOutOfMemory
        If the memory does not suffice; `inference.memory.OutOfDeviceMemory` where it is the device's.
    InferenceError
        If the bundle's code fails in any other way.
    """
    account = account or Account()
    with at_work(bundle, account):
        run = _run_plane_by_plane if bundle.is_planar else _run_volume
        output = run(bundle, volume, account, beside)
        with account.step("postprocess", quietly=True):
            values, further = as_label_map(output, segments, background_first)
        # What is no copy yet may be a view of what the bundle keeps, and would change with its next series.
        layers = [layer if layer.flags.owndata else layer.copy() for layer in (values, *further)]
        return LabelMap(layers[0], volume.affine, tuple(segments), tuple(layers[1:]))


def _run_volume(
    bundle: LoadedBundle, volume: SeriesVolume, account: Account, beside: Mapping[str, SeriesVolume]
) -> NDArray[Any]:
    """Return the output, (channels, slices, rows, columns)."""
    array, affine = to_monai(volume.voxels, volume.affine)
    output = _through(bundle, array, affine, account, beside)
    channels = [from_monai(channel, affine)[0] for channel in output]
    # Of one channel a view is enough: a stack would be a copy of the whole volume.
    return channels[0][None] if len(channels) == 1 else np.stack(channels)


def _run_plane_by_plane(
    bundle: LoadedBundle, volume: SeriesVolume, account: Account, beside: Mapping[str, SeriesVolume]
) -> NDArray[Any]:
    """Return the same of a bundle for two-dimensional images: each slice is an image of its own, put back in its place.

    A bundle that walks through volumes itself (MONAI's SliceInferer) is not run so, but as it is.
    """
    if beside:
        raise BundleInvalid("The bundle takes one slice after the other, and priors.input hands over whole volumes.")
    planes = []
    for index, plane in enumerate(volume.voxels):
        array, affine = plane_to_monai(plane, volume.spacing[1:])
        output = _through(bundle, array, affine, account, {}, quietly=index > 0)
        planes.append(np.stack([plane_from_monai(channel) for channel in output]))
    return np.stack(planes, axis=1)


def _through(
    bundle: LoadedBundle,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    account: Account,
    beside: Mapping[str, SeriesVolume],
    *,
    quietly: bool = False,
) -> NDArray[Any]:
    """Return what the bundle makes of one image, (channels, ...), on the image's own grid."""
    key = bundle.intake.key
    with account.step("preprocess", quietly=quietly):
        image = with_affine(bundle, torch.from_numpy(array), torch.from_numpy(affine))
        sample: dict[str, Any] = bundle.preprocessing({key: image} | as_images(bundle, beside))
    with account.step("inference", quietly=quietly):
        sample[bundle.output_key] = prediction_of_one(predicted(bundle, sample[key], account), sample[key])
    with account.step("postprocess", quietly=quietly):
        seen = sample[key]  # a transform of the bundle's own may write into the sample itself
        final = postprocessed(bundle, bundle.postprocessing, sample)
        return on_grid(taken_back(bundle, seen, final), affine, array.shape)
