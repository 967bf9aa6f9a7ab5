"""Make small MONAI bundles in a folder, with code and weights of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
