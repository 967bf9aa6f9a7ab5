"""A bundle's network with its weights: a state dict, which holds no code, or TorchScript."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser

from inference.memory import HOST, lacks_device_memory, lacks_host_memory
from study.errors import BundleInvalid

_CHECKPOINT_LOADER = "CheckpointLoader"
_NETWORK_PLACES = ("network_def", "network", "evaluator::network")
_LIBRARIES = ("torch.", "monai.", "torchvision.")


def load_network(parser: ConfigParser, path: Path, device: torch.device) -> torch.nn.Module:
    """Return the bundle's network on the device, with its weights, set to inference.

    The weights are those that the configuration's CheckpointLoader names, else ``models/model.pt``; a bundle without
    either is run from ``models/model.ts``.

    Raises
    ------
    BundleInvalid
        If there is no network, its weights are missing, do not fit, hold more than weights, or lie outside the bundle.
    """
    script, weights = path / "models" / "model.ts", path / "models" / "model.pt"
    place = next((place for place in _NETWORK_PLACES if place in parser), None)
    loaders = list(_checkpoint_loaders(parser.get(), ""))
    loaders = [loader for loader in loaders if not _is_disabled(parser, loader)]
    if loaders and place is not None:
        weights = _named_file(parser, loaders, path)
    if script.is_file() and (place is None or not weights.is_file()) and not _makes_itself(parser, place):
        network = torch.jit.load(str(script), map_location=device)  # type: ignore[no-untyped-call]  # torch's gap
    elif place is not None:
        network = parser.get_parsed_content(place)
    else:
        raise BundleInvalid(f"The bundle has neither a network_def nor {script}.")
    if not isinstance(network, torch.nn.Module):
        raise BundleInvalid("The bundle's network_def is no torch module.")
    if not isinstance(network, torch.jit.ScriptModule):
        _fill(network, weights, _keys(parser, loaders), demanded=_needs_weights(parser, place, network, loaders))
    network.to(device)
    network.eval()
    return network


def _checkpoint_loaders(content: Any, place: str) -> Iterator[str]:  # noqa: ANN401 - a configuration holds anything
    """Yield where the configuration has a CheckpointLoader, as the parser names places."""
    if isinstance(content, Mapping):
        if str(content.get("_target_", "")).rsplit(".", 1)[-1] == _CHECKPOINT_LOADER:
            yield place
        items = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        items = [(str(index), value) for index, value in enumerate(content)]
    else:
        return
    for key, value in items:
        yield from _checkpoint_loaders(value, f"{place}::{key}" if place else key)


def _is_disabled(parser: ConfigParser, loader: str) -> bool:
    return f"{loader}::_disabled_" in parser and bool(parser.get_parsed_content(f"{loader}::_disabled_"))


def _named_file(parser: ConfigParser, loaders: list[str], path: Path) -> Path:
    """Return the file that the loaders name; of several that differ, those that MONAI's own run would use."""
    used = [loader for loader in loaders if "handlers" in loader or _is_called(parser, loader)] or loaders
    files = {str(parser.get_parsed_content(f"{loader}::load_path")) for loader in used}
    if len(files) > 1:
        raise BundleInvalid(f"The bundle names several checkpoints, and it is not clear which counts: {sorted(files)}.")
    named = Path(files.pop())
    file = (path / named).resolve()
    if not file.is_relative_to(path.resolve()):
        raise BundleInvalid(f"The bundle loads weights from outside of itself: {named}.")
    if not file.is_file():
        raise BundleInvalid(
            f"The bundle's weights are missing: {file}. Bundles of the Model Zoo keep them apart (large_files.yml); "
            "download the whole bundle, with python -m monai.bundle download for instance."
        )
    return file


def _is_called(parser: ConfigParser, loader: str) -> bool:
    """Tell whether the configuration's steps call a loader that stands beside them."""
    steps = " ".join(str(parser.get(name)) for name in ("initialize", "run", "evaluating") if name in parser)
    return f"@{loader}(" in steps


def _keys(parser: ConfigParser, loaders: list[str]) -> tuple[str, ...]:
    """Return under which names a checkpoint may hold the network's state dict."""
    named: tuple[str, ...] = ()
    if loaders:
        table = parser.get(f"{loaders[0]}::load_dict") or {}
        named = tuple(str(key) for key in table)
    return (*named, "model", "state_dict")


def _makes_itself(parser: ConfigParser, place: str | None) -> bool:
    """Tell whether the network comes from an expression, which loads its own weights."""
    return place is not None and isinstance(parser.get(place), str)


def _needs_weights(parser: ConfigParser, place: str | None, network: torch.nn.Module, loaders: list[str]) -> bool:
    """Tell whether the network would be random without a file: a library's, and nothing else fills it.

    A bundle's own network may have no weights, or set them itself.
    """
    if loaders:
        return True
    of_library = type(network).__module__.startswith(_LIBRARIES)
    return of_library and not _makes_itself(parser, place) and any(True for _ in network.parameters())


def _fill(network: torch.nn.Module, weights: Path, keys: tuple[str, ...], *, demanded: bool) -> None:
    if not weights.is_file():
        others = sorted(file.name for file in weights.parent.glob("*") if file.suffix in (".pt", ".pth", ".ckpt"))
        if others and not demanded:
            raise BundleInvalid(
                f"{weights.parent} holds {', '.join(others)}, and no CheckpointLoader says whose weights these are; "
                "call the file model.pt, or name it in one."
            )
        if demanded:
            raise BundleInvalid(
                f"The bundle's weights are missing: {weights}; without them the network would give random results."
            )
        return
    state = _state_dict(weights, keys)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        if lacks_device_memory(error) or lacks_host_memory(error):
            raise
        raise BundleInvalid(f"{weights} does not fit the bundle's network: {str(error)[:500]}") from error


def _state_dict(weights: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the weights in a file, on the host: a device need not hold them twice."""
    try:
        content = torch.load(weights, map_location=HOST, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleInvalid(f"{weights} holds more than weights, and is not loaded; save a state dict.") from error
    for name in keys:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise BundleInvalid(f"{weights} holds no state dict.")
    return content
