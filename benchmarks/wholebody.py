"""A bundle as the Model Zoo's whole-body CT segmentation, with random weights, and a CT for it.

Network, transforms and inferer are those of `wholeBody_ct_segmentation`. Its weights come from a fixed seed. Random
weights alone give speckle, of which no Segmentation has the size of a real one; what the two finest levels of the
network add is therefore made faint, and the background likelier, by factors on the weights: the labels form regions of
some centimetres, and every layer is computed as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from monai.networks.nets.segresnet import SegResNet
from pydicom import dcmread

from benchmarks.studies import generate_thorax
from inference.catalog import ModelCard, read_card
from study.geometry import FrameOfReferencePolicy, VolumeGeometry, assess
from study.headers import InstanceHeader
from tests.support.bundles import zoo_bundle

SPACING: Final = (1.0, 0.7)
"""Of the CT, between slices and between pixels [mm]: 512 slices of 512 x 512 are 239 x 239 x 342 voxels of 1.5 mm."""

_SEED: Final = 0
_FAINT: Final = 0.02
_BACKGROUND: Final = 0.5
_NETWORK: Final[dict[str, Any]] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
    "dropout_prob": 0.2,
}


@dataclass(frozen=True)
class Size:
    """How large a case is.

    Parameters
    ----------
    slices, pixels
        Of the CT, and along each side of a slice.
    window, batch
        The edge of a window in voxels of the network's grid, and how many go through it at a time.
    filters
        Of the network's first layer; another number than the Model Zoo's is for tests.
    """

    slices: int
    pixels: int
    segments: int
    window: int
    batch: int
    filters: int = 32

    @property
    def network(self) -> dict[str, Any]:
        """Return the arguments of the network."""
        return {**_NETWORK, "init_filters": self.filters, "out_channels": self.segments + 1}

    @property
    def words(self) -> str:
        """Return the size in words."""
        return (
            f"{self.segments + 1} channels, {self.slices} slices of {self.pixels} x {self.pixels}, "
            f"windows of {self.window}^3, {self.batch} at a time"
        )


@dataclass(frozen=True, eq=False)
class Case:
    """A CT on disk, in slice order, and the card of a bundle for it.

    Parameters
    ----------
    parameters
        How many the network has.
    """

    size: Size
    card: ModelCard
    parameters: int
    paths: tuple[Path, ...]
    headers: tuple[InstanceHeader, ...]
    geometry: VolumeGeometry


def make_case(folder: Path, size: Size) -> Case:
    """Write a bundle and a CT into a folder, and return the case."""
    network = random_network(size)
    bundle = write_bundle(folder / "wholebody", network, size)
    study = generate_thorax(folder / "ct", size.slices, size.pixels, SPACING)
    headers = [InstanceHeader.of(dcmread(path, stop_before_pixels=True)) for path in study.paths]
    geometry = assess(headers, FrameOfReferencePolicy.STRICT)
    return Case(
        size=size,
        card=read_card("wholebody", bundle),
        parameters=sum(each.numel() for each in network.parameters()),
        paths=tuple(study.paths[index] for index in geometry.order),
        headers=tuple(headers[index] for index in geometry.order),
        geometry=geometry,
    )


def random_network(size: Size) -> SegResNet:
    """Return the network with random weights, the same each time, whose labels form regions."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        network = SegResNet(**size.network)
        for part in (network.convInit, *network.down_layers[:2], *network.up_layers[1:]):
            for parameter in part.parameters():
                if parameter.dim() > 1:  # a convolution's, not a normalisation's
                    parameter.mul_(_FAINT)
        network.conv_final[2].conv.bias[0] += _BACKGROUND
    return network


def write_bundle(folder: Path, network: torch.nn.Module, size: Size) -> Path:
    """Write the bundle, its network's weights as models/model.pt, and return its folder."""
    image, pred = {"keys": "@image_key"}, {"keys": "pred"}
    names = {str(value): f"structure {value}" for value in range(1, size.segments + 1)}
    return zoo_bundle(
        folder,
        network="",
        weights=network.state_dict(),
        preprocessing=[
            {"_target_": "Orientationd", **image, "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", **image, "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"},
            {"_target_": "NormalizeIntensityd", **image, "nonzero": True},
            {"_target_": "ScaleIntensityd", **image, "minv": -1.0, "maxv": 1.0},
        ],
        inferer={
            "_target_": "SlidingWindowInferer",
            "roi_size": [size.window] * 3,
            "sw_batch_size": size.batch,
            "overlap": 0.25,
            "padding_mode": "replicate",
            "mode": "gaussian",
        },
        postprocessing=[
            {"_target_": "Activationsd", **pred, "softmax": True},
            {"_target_": "AsDiscreted", **pred, "argmax": True},
            {
                "_target_": "Invertd",
                **pred,
                "transform": "@preprocessing",
                "orig_keys": "@image_key",
                "nearest_interp": True,
                "to_tensor": True,
            },
        ],
        output={"type": "image", "format": "segmentation", "channel_def": {"0": "background", **names}},
        config={
            "network_def": {"_target_": "SegResNet", **size.network},
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@dataloader",
                "network": "@network",
                "inferer": "@inferer",
                "postprocessing": "@postprocessing",
                "val_handlers": "@handlers",
                "amp": True,
            },
        },
    )
