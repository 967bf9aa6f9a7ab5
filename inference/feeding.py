"""What goes into a bundle and what comes out of its network: images as its loader would give them, outputs checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms.compose import Compose
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.array import SpatialResample
from numpy.typing import NDArray

from inference.account import Account
from inference.bundle import LoadedBundle, root_cause
from inference.chains import inverts
from inference.fetching import extremes, fetched
from inference.memory import HOST, memory_error
from inference.orientation import to_monai
from inference.own_code import own_code
from inference.placing import demand_place
from inference.precision import as_float32, compute_repeatably, in_force, reduced
from inference.speed import compiling, is_of_compiler
from inference.surroundings import start_chance_anew, surroundings_kept
from study.errors import BundleInvalid, HilumError, InferenceError, ModelOutputInvalid
from study.imaging import SeriesVolume

_AFFINE_TOLERANCE_MM = 1e-3  # over the whole grid, at its corners
_ORIGIN = "hilum_source"
"""Stands among an image's meta data as long as its affine descends from the source's: MONAI makes up another one for an
image that lost its own."""


@contextmanager
def at_work(bundle: LoadedBundle, account: Account | None = None) -> Iterator[None]:
    """Run a bundle's code within the block: its own modules are there, gradients are not, errors are ours.

    Chance starts from the same place each time, and what the code changes for the whole process is put back.

    Parameters
    ----------
    account
        Has on record what was in force as the block ended.
    """
    try:
        with (
            surroundings_kept(bundle.device),
            own_code(bundle.path, bundle.modules),
            compiling(is_compiled=bundle.compiled),
            torch.inference_mode(),
        ):
            compute_repeatably(bundle.precision)
            start_chance_anew(bundle.preprocessing, bundle.postprocessing)
            try:
                yield
            finally:
                if account is not None:
                    account.running |= in_force(bundle.device)
    except HilumError:
        raise
    except Exception as error:  # the bundle's code may raise anything at all
        raise _ours(error, bundle.device) from error


def _ours(error: Exception, device: torch.device) -> InferenceError:
    if short := memory_error(error, device, "this series"):
        return short
    if is_of_compiler(error):
        return BundleInvalid(
            f"The network can not be compiled ({root_cause(error)}); set compile = false in the model's entry."
        )
    return InferenceError(f"The model failed: {root_cause(error)}")


def predicted(bundle: LoadedBundle, image: torch.Tensor, account: Account) -> Any:  # noqa: ANN401 - see below
    """Return what the network gives for one image, as the bundle's inferer hands it through; float32, if floating.

    Parameters
    ----------
    image
        (channels, ...), as the preprocessing left it.
    """
    demand_place(image, bundle.device, "preprocessing")
    network = bundle.network if account.forward is None else account.forward.on(bundle.network)
    waits_on_host = bundle.stitches_on_host and bundle.windows is not None
    batch = image.to(HOST if waits_on_host else bundle.device)[None]
    if bundle.compiled and isinstance(batch, MetaTensor):
        batch = batch.as_tensor()  # as MONAI's evaluator does: the compiler takes no subclass of a tensor
    with reduced(bundle.device, bundle.precision):
        prediction = bundle.inferer(batch, network)
    if isinstance(prediction, list | tuple) and len(prediction) == 1:
        prediction = prediction[0]
    prediction = as_float32(prediction)
    if isinstance(prediction, torch.Tensor):
        prediction = _of_its_own(prediction, bundle.network)
        prediction = prediction.to(HOST) if bundle.stitches_on_host else prediction
    return prediction


def _of_its_own(prediction: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
    """Return a prediction that no other run sees changed: a copy, where the network gave out what it keeps itself."""
    kept = [*network.parameters(), *network.buffers()]
    for module in network.modules():
        kept += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return prediction.clone() if any(_share(prediction, tensor) for tensor in kept) else prediction


def _share(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.device != other.device or {one.layout, other.layout} != {torch.strided}:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def with_affine(bundle: LoadedBundle, tensor: torch.Tensor, affine: torch.Tensor) -> MetaTensor:
    """Return an image of spatial axes alone as the bundle's preprocessing expects it."""
    meta: dict[str, Any] = {
        "original_channel_dim": "no_channel",
        "spatial_shape": np.array(tensor.shape),
        _ORIGIN: True,
    }
    if bundle.intake.channel_first:
        tensor, meta["original_channel_dim"] = tensor[None], 0
    return MetaTensor(tensor, affine=affine, meta=meta | {"original_affine": affine.clone()})


def as_images(bundle: LoadedBundle, volumes: Mapping[str, SeriesVolume]) -> dict[str, MetaTensor]:
    """Return volumes as the bundle's preprocessing expects an image, each with its own affine."""
    arrays = {key: to_monai(volume.voxels, volume.affine) for key, volume in volumes.items()}
    return {
        key: with_affine(bundle, torch.from_numpy(array), torch.from_numpy(affine))
        for key, (array, affine) in arrays.items()
    }


def prediction_of_one(prediction: Any, image: Any) -> MetaTensor:  # noqa: ANN401 - a network may return anything
    """Return the prediction for one image, (channels, ...), which lies on the grid of the network's input.

    Raises
    ------
    ModelOutputInvalid
        If it is no tensor of that grid, or not finite; or if the preprocessing lost where the image lies.
    """
    if not isinstance(image, MetaTensor) or not image.meta.get(_ORIGIN):
        raise ModelOutputInvalid(
            "The bundle's preprocessing gave an image without an affine that descends from the source's (track_meta = "
            "false, or an array in its place), so it is not known where its labels would lie."
        )
    plain = demand_finite(prediction)
    if plain.ndim != image.ndim + 1 or plain.shape[0] != 1 or not plain.numel() or plain.shape[2:] != image.shape[1:]:
        raise ModelOutputInvalid(
            f"The network gave the shape {tuple(plain.shape)} for an input of shape {tuple(image.shape)}."
        )
    return MetaTensor(plain[0], affine=image.affine, meta={"original_channel_dim": 0, _ORIGIN: True})


def demand_finite(prediction: Any) -> torch.Tensor:  # noqa: ANN401 - a network may return anything
    """Return a network's output as a plain tensor of finite values; ModelOutputInvalid if it is none."""
    if not isinstance(prediction, torch.Tensor):
        raise ModelOutputInvalid(f"The network gave a {type(prediction).__name__} where a tensor is expected.")
    if prediction.is_complex():
        raise ModelOutputInvalid("The network gave complex numbers.")
    plain = prediction.as_tensor() if isinstance(prediction, MetaTensor) else prediction
    # To look at the extremes takes no memory; a mask of what is finite, and its parts, take more than the output.
    if plain.is_floating_point() and plain.numel() and not all(map(math.isfinite, extremes(plain))):
        raise ModelOutputInvalid("The network gave values that are not finite.")
    return plain


def postprocessed(bundle: LoadedBundle, chain: Compose, sample: dict[str, Any]) -> Any:  # noqa: ANN401 - see above
    """Return what a chain makes of the prediction in a sample; ModelOutputInvalid if it gives none."""
    given = chain(sample)
    if not isinstance(given, Mapping) or given.get(bundle.output_key) is None:
        raise ModelOutputInvalid(f'The postprocessing gave nothing under "{bundle.output_key}".')
    demand_place(given[bundle.output_key], bundle.device, "postprocessing")
    return given[bundle.output_key]


def taken_back(bundle: LoadedBundle, preprocessed: MetaTensor, output: Any) -> Any:  # noqa: ANN401 - see above
    """Return a chain's output as the inverse of the preprocessing leaves it, where the chain did not invert itself.

    Parameters
    ----------
    preprocessed
        What the network got; it knows what was done to it.
    output
        Labels: the nearest is taken.
    """
    if inverts(bundle.postprocessing) or not preprocessed.applied_operations or not isinstance(output, torch.Tensor):
        return output
    key, name = bundle.intake.key, bundle.output_key
    invert = Invertd(keys=name, transform=bundle.preprocessing, orig_keys=key, nearest_interp=True, to_tensor=True)
    return invert({key: preprocessed, name: output})[name]


def on_grid(output: Any, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[Any]:  # noqa: ANN401 - see above
    """Return a chain's output as (channels, ...) on a grid, proven by its affine.

    What was inverted is there already; anything else, as behind a crop that MONAI does not know how to invert, is
    resampled by its affine, nearest neighbour, since it holds labels.

    Parameters
    ----------
    affine
        Of the grid, from its indices in MONAI's order to RAS [mm].

    Raises
    ------
    ModelOutputInvalid
        If it is no image with channels and an affine, or can not be brought to the grid.
    """
    if not isinstance(output, MetaTensor) or output.ndim != len(shape) + 1 or not output.meta.get(_ORIGIN):
        raise ModelOutputInvalid(
            "The postprocessing gave no image with channels and an affine that descends from the source's, so it is "
            "not known where its labels would lie."
        )
    if not _same_grid(output, affine, shape):
        resample = SpatialResample(mode="nearest", padding_mode="zeros", dtype=np.float32)
        output = resample(output, dst_affine=torch.from_numpy(affine), spatial_size=shape)
    if not _same_grid(output, affine, shape):
        raise ModelOutputInvalid(
            f"The output lies on another grid than the source: {tuple(output.shape[1:])} for {shape}."
        )
    return fetched(output.as_tensor())


def _same_grid(output: MetaTensor, affine: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    if tuple(output.shape[1:]) != tuple(shape):
        return False
    rank = len(shape)
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1])).reshape(rank + 1, -1)
    ours, theirs = to_affine_nd(rank, affine), to_affine_nd(rank, output.affine.cpu().numpy())
    return bool(np.abs((theirs - ours) @ corners).max() <= _AFFINE_TOLERANCE_MM)
