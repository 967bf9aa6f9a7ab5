"""Make small MONAI bundles in a folder, with code and weights of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

NETWORK = """
import torch

class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor({threshold}))

    def forward(self, image):
        {body}
"""
ABOVE_THRESHOLD = "return (image > self.threshold).float()"


def write_bundle(
    folder: Path,
    *,
    body: str = ABOVE_THRESHOLD,
    threshold: float = 0.0,
    preprocessing: Sequence[dict[str, Any]] = (),
    postprocessing: Sequence[dict[str, Any]] = (),
    config: dict[str, Any] | None = None,
) -> Path:
    """Return the folder of a bundle whose network is `body`, between a loader and a writer that can not work here."""
    (folder / "configs").mkdir(parents=True)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    (folder / "scripts" / "toy.py").write_text(NETWORK.format(body=body, threshold=threshold))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1"}))
    graph: dict[str, Any] = {
        "imports": ["$import os"],
        "bundle_root": "nowhere",
        "device": "$torch.device('cuda:7')",
        "network_def": {"_target_": "scripts.toy.Toy"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                *preprocessing,
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *postprocessing,
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$os.path.join(@bundle_root, 'out')"},
            ],
        },
        "evaluator": {"_target_": "NoSuchEvaluator", "network": "@network"},
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(graph | (config or {})))
    return folder


def zoo_bundle(
    folder: Path,
    *,
    network: str,
    weights: Mapping[str, torch.Tensor] | None = None,
    preprocessing: Sequence[dict[str, Any]] = (),
    postprocessing: Sequence[dict[str, Any]] = (),
    inferer: dict[str, Any] | None = None,
    modality: str = "CT",
    spatial_shape: Sequence[object] = ("*", "*", "*"),
    output: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Return the folder of a bundle as the Model Zoo has them, which MONAI itself can run on files.

    Parameters
    ----------
    network
        The source of a module with a torch module ``Net``.
    weights
        Its state dict, saved as ``models/model.pt`` and loaded by a CheckpointLoader.
    preprocessing, postprocessing
        Transforms behind the loader, and before the writer.
    output
        Of ``network_data_format``; segmentation of one structure by default.
    """
    for name in ("configs", "scripts", "models", "docs"):
        (folder / name).mkdir(parents=True)
    (folder / "scripts" / "__init__.py").write_text("")
    (folder / "scripts" / "net.py").write_text(network)
    (folder / "LICENSE").write_text("MIT\n")
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": list(spatial_shape),
        "channel_def": {"0": "image"},
    }
    pred = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "block"}}
    content = {
        "version": "0.3.1",
        "name": folder.name,
        "task": "A task made for tests",
        "copyright": "nobody's",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": dict(output or pred)}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(content | dict(metadata or {})))
    graph: dict[str, Any] = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": "/workspace/bundles/made_elsewhere",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii*')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "scripts.net.Net"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureTyped", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                *preprocessing,
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer or {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *postprocessing,
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_dtype": "$torch.float32",
                },
            ],
        },
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }
    if weights is not None:
        torch.save(dict(weights), folder / "models" / "model.pt")
        graph["checkpointloader"] = {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        }
        graph["initialize"].append("$@checkpointloader(@evaluator)")
    (folder / "configs" / "inference.json").write_text(json.dumps(graph | dict(config or {})))
    return folder


INVERT: dict[str, Any] = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "@image_key",
    "nearest_interp": False,
    "to_tensor": True,
}
"""Back to the grid of the source, as zoo bundles do it."""

BLOCKS_NET = """
import torch

class Net(torch.nn.Module):
    '''Logits of background and two blocks, each known by its intensity.'''

    def __init__(self):
        super().__init__()
        self.register_buffer("levels", torch.zeros(3))

    def forward(self, image):
        return torch.cat([-20.0 * (image - level).abs() for level in self.levels], dim=1)
"""


def blocks_bundle(folder: Path, **changes: Any) -> Path:  # noqa: ANN401 - arguments of `zoo_bundle`
    """Return a bundle in three dimensions that finds the blocks of `tests.support.blocks` after resampling.

    It works in 1.5 mm and RAS, in sliding windows, and goes back by probabilities before it decides.
    """
    arguments: dict[str, Any] = {
        "network": BLOCKS_NET,
        "weights": {"levels": torch.tensor([0.0, 0.5, 1.0])},
        "preprocessing": [
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "@image_key",
                "a_min": 0,
                "a_max": 400,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            },
        ],
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [32, 32, 32],
            "sw_batch_size": 2,
            "overlap": 0.25,
            "mode": "gaussian",
        },
        "postprocessing": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            INVERT,
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
        "output": {
            "type": "image",
            "format": "segmentation",
            "channel_def": {"0": "background", "1": "liver", "2": "spleen"},
        },
    }
    return zoo_bundle(folder, **(arguments | changes))


BRIGHT_NET = """
import torch

class Net(torch.nn.Module):
    '''Channels that overlap: everything bright, and the brightest.'''

    def __init__(self):
        super().__init__()
        self.register_buffer("levels", torch.zeros(2))

    def forward(self, image):
        return torch.cat([30.0 * (image - level) for level in self.levels], dim=1)
"""


def overlapping_bundle(folder: Path) -> Path:
    """Return a bundle whose first channel is both blocks, and whose second is the spleen's alone."""
    return blocks_bundle(
        folder,
        network=BRIGHT_NET,
        weights={"levels": torch.tensor([0.25, 0.75])},
        postprocessing=[
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            INVERT,
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        ],
        output={"type": "image", "format": "segmentation", "channel_def": {"0": "bright", "1": "brightest"}},
    )
