"""Load a MONAI bundle: its configuration without loader and writer, its network, its own code, its weights.

The layout is the Model Zoo's: ``configs/inference.json`` (or ``.yaml``), ``configs/metadata.json``, ``models/model.pt``
(a state dict) or ``models/model.ts`` (TorchScript), ``scripts/`` (code of the bundle). A bundle is a program; only a
folder that the configuration names is loaded.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from monai.inferers.inferer import SimpleInferer
from monai.transforms.compose import Compose

from inference.catalog import METADATA, read_json
from study.errors import BundleInvalid

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_TRANSFORM_ENDINGS = ("Dict", "D", "d")
_LOADERS = {"LoadImage"}
_WRITERS = {"SaveImage", "SaveClassification"}
_CODE_PACKAGE = "scripts"


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """A bundle, ready to run.

    Parameters
    ----------
    input_key, output_key
        What its transforms call the image and the prediction.
    channel_first
        Whether its loader would have put the channel axis first.
    modules
        The bundle's own Python modules, kept out of `sys.modules` while it does not run.
    """

    path: Path
    device: torch.device
    network: torch.nn.Module
    inferer: Callable[..., Any]
    preprocessing: Compose
    postprocessing: Compose
    input_key: str
    output_key: str
    channel_first: bool
    modules: dict[str, ModuleType] = field(default_factory=dict)


def choose_device(device: str) -> torch.device:
    """Return the torch device of a setting: "auto" is the first GPU where there is one, else the CPU.

    Raises
    ------
    BundleInvalid
        If the setting names no device, or one that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BundleInvalid(f'This machine has no device "{device}"; use "auto" or "cpu".') from error
    return chosen


def load_bundle(path: Path, device: torch.device) -> LoadedBundle:
    """Return the bundle in a folder, its network on the device and set to inference.

    Raises
    ------
    BundleInvalid
        With the file and what is wrong in it.
    """
    config = _config_file(path)
    modules: dict[str, ModuleType] = {}
    try:
        with own_code(path, modules):
            return _load(path, config, device, modules)
    except BundleInvalid:
        raise
    except Exception as error:  # the bundle's code and configuration may raise anything at all
        raise BundleInvalid(f"{config} can not be loaded: {root_cause(error)}") from error


def root_cause(error: BaseException) -> str:
    """Return what first went wrong: MONAI wraps it in errors that only name the transform or the expression."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


@contextmanager
def own_code(path: Path, modules: dict[str, ModuleType]) -> Iterator[None]:
    """Make a bundle's ``scripts`` importable within the block, and nothing of it visible after.

    Every bundle calls its code ``scripts``; kept in `sys.modules`, the first one's would serve for all.
    """
    hidden = _take_out(_CODE_PACKAGE)
    sys.modules.update(modules)
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        modules.update(_take_out(_CODE_PACKAGE))
        sys.modules.update(hidden)


def _take_out(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


def _config_file(path: Path) -> Path:
    for name in _CONFIGS:
        file = path / "configs" / name
        if file.is_file():
            return file
    raise BundleInvalid(f"{path / 'configs'} holds none of {', '.join(_CONFIGS)}; a bundle needs one.")


def _load(path: Path, config: Path, device: torch.device, modules: dict[str, ModuleType]) -> LoadedBundle:
    parser = ConfigParser()
    parser.read_config(str(config))
    parser[ConfigParser.meta_key] = read_json(path / METADATA)
    parser["bundle_root"] = str(path)
    parser["device"] = f"$torch.device('{device}')"
    loaders = _remove_transforms(parser, "preprocessing", _LOADERS)
    _remove_transforms(parser, "postprocessing", _WRITERS)
    parser.parse(reset=True)
    input_key, output_key = _keys(parser)
    return LoadedBundle(
        path=path,
        device=device,
        network=_network(parser, path, device),
        inferer=parser.get_parsed_content("inferer") if "inferer" in parser else SimpleInferer(),
        preprocessing=_compose(parser, "preprocessing"),
        postprocessing=_compose(parser, "postprocessing"),
        input_key=input_key,
        output_key=output_key,
        channel_first=any(loader.get("ensure_channel_first", False) for loader in loaders),
        modules=modules,
    )


def _remove_transforms(parser: ConfigParser, section: str, names: set[str]) -> list[dict[str, Any]]:
    """Take the transforms of these names out of a section of the configuration, and return them."""
    content = parser.get(section)
    if not isinstance(content, dict) or not isinstance(content.get("transforms"), list):
        return []
    removed = [entry for entry in content["transforms"] if _transform_name(entry) in names]
    kept = [entry for entry in content["transforms"] if _transform_name(entry) not in names]
    parser[section]["transforms"] = kept
    return removed


def _transform_name(entry: object) -> str:
    """Return the name of a transform's class without what marks its form for dictionaries."""
    if not isinstance(entry, dict):
        return ""
    name = str(entry.get("_target_", "")).rsplit(".", 1)[-1]
    for ending in _TRANSFORM_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _compose(parser: ConfigParser, section: str) -> Compose:
    if section not in parser:
        return Compose([])
    content = parser.get_parsed_content(section)
    return content if isinstance(content, Compose) else Compose(content)


def _keys(parser: ConfigParser) -> tuple[str, str]:
    """Return the names of the one image and the one prediction that the metadata declare."""
    formats = parser.get("_meta_::network_data_format") or {}
    inputs, outputs = list(formats.get("inputs", {"image": {}})), list(formats.get("outputs", {"pred": {}}))
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleInvalid(
            f"The bundle has {len(inputs)} inputs and {len(outputs)} outputs (network_data_format); a model with one "
            "image and one prediction can be run."
        )
    return inputs[0], outputs[0]


def _network(parser: ConfigParser, path: Path, device: torch.device) -> torch.nn.Module:
    script, weights = path / "models" / "model.ts", path / "models" / "model.pt"
    if "network_def" in parser:
        network = parser.get_parsed_content("network_def")
    elif script.is_file():
        network = torch.jit.load(str(script), map_location=device)  # type: ignore[no-untyped-call]  # torch's gap
    else:
        raise BundleInvalid(f"The bundle has neither a network_def nor {script}.")
    if not isinstance(network, torch.nn.Module):
        raise BundleInvalid("The bundle's network_def is no torch module.")
    if weights.is_file() and not isinstance(network, torch.jit.ScriptModule):
        network.load_state_dict(_state_dict(weights, device))
    network.to(device)
    network.eval()
    return network


def _state_dict(weights: Path, device: torch.device) -> dict[str, Any]:
    try:
        content = torch.load(weights, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleInvalid(f"{weights} holds more than weights, and is not loaded; save a state dict.") from error
    for name in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise BundleInvalid(f"{weights} holds no state dict.")
    return content
