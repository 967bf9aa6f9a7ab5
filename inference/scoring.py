"""Models that give numbers instead of labels: probabilities of classes, or measured values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from numpy.typing import NDArray

from inference.account import Account
from inference.bundle import LoadedBundle
from inference.catalog import ModelCard
from inference.chains import activation_of, decides, without_discretisation
from inference.feeding import as_images, at_work, demand_finite, postprocessed, predicted, with_affine
from inference.orientation import plane_to_monai, to_monai
from study.errors import ModelOutputInvalid
from study.imaging import Assessment, Measurement, SeriesVolume

_SUM_TOLERANCE: Final = 1e-3
_CHANNELS_OF_PICTURES: Final = 3
_MOST_NUMBERS: Final = 4096

Scores = NDArray[np.float64]


def score_volume(
    bundle: LoadedBundle,
    volume: SeriesVolume,
    card: ModelCard,
    account: Account | None = None,
    beside: Mapping[str, SeriesVolume] = MappingProxyType({}),
) -> tuple[Assessment, ...]:
    """Return what the bundle says of a volume; the errors are those of `inference.running.run_bundle`.

    Parameters
    ----------
    beside
        Earlier series that its transforms get too, by their keys.
    """
    array, affine = to_monai(volume.voxels, volume.affine)
    return _score(bundle, array, affine, card, account or Account(), slices=(), beside=beside)


def score_image(
    bundle: LoadedBundle,
    pixels: NDArray[np.float32],
    spacing: tuple[float, float],
    card: ModelCard,
    index: int,
    account: Account | None = None,
) -> tuple[Assessment, ...]:
    """Return what the bundle says of one image of several.

    Parameters
    ----------
    pixels
        (rows, columns).
    spacing
        Along (row, column) [mm].
    index
        Of the image in its series.
    """
    array, affine = plane_to_monai(pixels, spacing)
    return _score(bundle, array, affine, card, account or Account(), slices=(index,))


def _score(
    bundle: LoadedBundle,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    card: ModelCard,
    account: Account,
    slices: tuple[int, ...],
    beside: Mapping[str, SeriesVolume] = MappingProxyType({}),
) -> tuple[Assessment, ...]:
    quietly = any(slices)  # of many images, the first alone is told of
    with at_work(bundle, account):
        key = bundle.intake.key
        with account.step("preprocess", quietly=quietly):
            image: torch.Tensor = with_affine(bundle, torch.from_numpy(array), torch.from_numpy(affine))
            if bundle.channels == _CHANNELS_OF_PICTURES and not beside:
                image = _as_picture(image, channel_first=bundle.intake.channel_first)
            sample: dict[str, Any] = bundle.preprocessing({key: image} | as_images(bundle, beside))
        with account.step("inference", quietly=quietly):
            prediction = demand_finite(predicted(bundle, sample[key], account))
        with account.step("postprocess", quietly=quietly):
            return _assess(bundle, sample, prediction, card, slices)


def _as_picture(image: torch.Tensor, *, channel_first: bool) -> torch.Tensor:
    """Return a grey image as three equal channels, as a network that was trained on pictures takes it."""
    if not channel_first:
        raise ModelOutputInvalid("The bundle takes three channels, and does not say which axis they are.")
    return image.repeat(_CHANNELS_OF_PICTURES, *[1] * (image.ndim - 1))


def _assess(
    bundle: LoadedBundle, sample: dict[str, Any], prediction: torch.Tensor, card: ModelCard, slices: tuple[int, ...]
) -> tuple[Assessment, ...]:
    if prediction.ndim < 1 or prediction.shape[0] != 1:
        raise ModelOutputInvalid(f"The network gave the shape {tuple(prediction.shape)} for one image.")
    values = prediction[0].numel()
    if card.kind == "classification" and values != len(card.classes):
        raise ModelOutputInvalid(f"The network gave {values} values for {len(card.classes)} classes.")
    if values > _MOST_NUMBERS:
        raise ModelOutputInvalid(f"The network gave {values} values, which is an image, and no list of numbers.")
    final = _after(bundle.postprocessing, bundle, sample, prediction)
    if card.kind == "measurement":
        return _numbers(card, final, slices)
    plain = without_discretisation(bundle.postprocessing)
    probabilities = _activated(_after(plain, bundle, sample, prediction), card)
    decided = final if decides(bundle.postprocessing) else None
    activation = card.activation if card.activation != "none" else activation_of(bundle.postprocessing)
    return _classes(card, _demand_probabilities(probabilities, card), decided, activation, slices)


def _after(chain: Compose, bundle: LoadedBundle, sample: dict[str, Any], prediction: torch.Tensor) -> Scores:
    """Return the prediction after a chain, as one row of numbers."""
    own = dict(sample) | {bundle.output_key: MetaTensor(prediction[0].clone())}
    output = postprocessed(bundle, chain, own)
    values: Scores = np.asarray(torch.as_tensor(output).cpu(), dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        raise ModelOutputInvalid("The postprocessing gave values that are not finite.")
    return values


def _activated(values: Scores, card: ModelCard) -> Scores:
    if card.activation == "softmax":
        powers = np.exp(values - values.max())
        return np.asarray(powers / powers.sum())
    return np.asarray(1.0 / (1.0 + np.exp(-values))) if card.activation == "sigmoid" else values


def _demand_probabilities(values: Scores, card: ModelCard) -> Scores:
    if len(values) != len(card.classes):
        raise ModelOutputInvalid(f"The model gave {len(values)} values for {len(card.classes)} classes.")
    if values.min() < -_SUM_TOLERANCE or values.max() > 1 + _SUM_TOLERANCE:
        raise ModelOutputInvalid(
            f"The model gave values from {values.min():.3g} to {values.max():.3g}, which are no probabilities; say "
            'activation = "softmax" or "sigmoid" in its entry.'
        )
    return np.clip(values, 0.0, 1.0)


def _classes(
    card: ModelCard, probabilities: Scores, decided: Scores | None, activation: str, slices: tuple[int, ...]
) -> tuple[Assessment, ...]:
    present = _present(card, probabilities, decided, activation)
    return tuple(
        Assessment(
            key=_key(entry.key, slices),
            label=_label(entry.label, slices),
            finding=entry.finding,
            site=entry.site,
            probability=float(probabilities[entry.index]),
            detected=present[entry.index],
            slices=slices,
        )
        for entry in card.classes
    )


def _present(card: ModelCard, probabilities: Scores, decided: Scores | None, activation: str) -> list[bool]:
    """Return which classes the model decides for: by its own decision where it makes one."""
    if decided is not None and len(decided) == len(card.classes):
        return [bool(value >= 0.5) for value in decided]
    if decided is not None and len(decided) == 1:
        return [entry.index == round(float(decided[0])) for entry in card.classes]
    if _is_exclusive(card, probabilities, activation):
        return [entry.index == int(np.argmax(probabilities)) for entry in card.classes]
    return [bool(probabilities[entry.index] >= entry.threshold) for entry in card.classes]


def _is_exclusive(card: ModelCard, probabilities: Scores, activation: str) -> bool:
    """Tell whether exactly one class holds: as the site says, as the activation shows, else as the sum does."""
    if card.exclusive is not None:
        return card.exclusive
    if activation != "none":
        return activation == "softmax"
    return len(card.classes) > 1 and abs(float(probabilities.sum()) - 1.0) <= _SUM_TOLERANCE


def _numbers(card: ModelCard, values: Scores, slices: tuple[int, ...]) -> tuple[Assessment, ...]:
    if max(entry.index for entry in card.numbers) >= len(values):
        raise ModelOutputInvalid(f"The model gave {len(values)} values, fewer than its entry describes.")
    for entry in card.numbers:
        value = float(values[entry.index])
        if (entry.low is not None and value < entry.low) or (entry.high is not None and value > entry.high):
            raise ModelOutputInvalid(
                f"{entry.label} is {value:.6g} {entry.unit.value}, outside of the range of its entry.",
                {"value": round(value, 6)},
            )
    return tuple(
        Assessment(
            key=_key(entry.key, slices),
            label=_label(entry.label, slices),
            finding=entry.finding,
            site=entry.site,
            measurements=(Measurement(entry.name, float(values[entry.index]), entry.unit, entry.derivation),),
            slices=slices,
        )
        for entry in card.numbers
    )


def _key(key: str, slices: tuple[int, ...]) -> str:
    return f"{key}-{slices[0] + 1}" if slices else key


def _label(label: str, slices: tuple[int, ...]) -> str:
    return f"{label}, image {slices[0] + 1}" if slices and slices[0] else label
