"""Load a MONAI bundle: its configuration without loader and writer, its network, its own code, its weights.

The layout is the Model Zoo's: ``configs/inference.json`` (or ``.yaml``), ``configs/metadata.json``, ``models/model.pt``
(a state dict) or ``models/model.ts`` (TorchScript), ``scripts/`` (code of the bundle). A bundle is a program; only a
folder that the configuration names, with the digest that it names, is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from monai.inferers.inferer import SimpleInferer, SliceInferer, SlidingWindowInferer
from monai.transforms.compose import Compose

from inference.catalog import read_json
from inference.chains import (
    Intake,
    Loader,
    forgive_missing_labels,
    invert_labels_by_nearest,
    prepare_intake,
    remove_writers,
)
from inference.memory import memory_error
from inference.metadata import CONFIGS, METADATA, Metadata
from inference.options import Precision, RunOptions
from inference.own_code import own_code
from inference.placing import place_on
from inference.precision import precision_on
from inference.speed import MemoryFormat, compiled, laid_out, takes_each_alone, windows_at_a_time
from inference.surroundings import surroundings_kept
from inference.weights import load_network
from study.errors import BundleInvalid

_TRANSFORM_ENDINGS = ("Dict", "D", "d")
_LOADERS = frozenset({"LoadImage"})
_WRITERS = frozenset({"SaveImage", "SaveClassification"})
_LONGEST_CAUSE = 300
_PREDICTION = "pred"  # what MONAI's evaluators call the network's output (monai.engines.utils.CommonKeys)

_PLACES = {
    "preprocessing": ("preprocessing", "dataset::transform", "validate::preprocessing"),
    "postprocessing": ("postprocessing", "evaluator::postprocessing"),
    "inferer": ("inferer", "evaluator::inferer"),
}
"""Where a configuration may keep each part: under its usual name, else where the evaluator would take it from."""


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """A bundle, ready to run.

    Parameters
    ----------
    intake
        How its transforms expect the image: the key, and whether with a channel axis.
    output_key
        What its transforms call the prediction.
    channels
        How many the network takes.
    is_planar
        Whether it works on two-dimensional images and does not itself go through a volume slice by slice.
    notes
        Where it is run otherwise than as it stands, in words for the results.
    modules
        The bundle's own Python modules, kept out of `sys.modules` while it does not run.
    precision, memory_format, compiled
        How the network computes, how its weights lie in memory, and whether it went through `torch.compile`.
    windows
        How many go through the network at a time; None where the inferer has none that are known.
    stitches_on_host
        Whether the volume stays on the host, with the bundle's transforms, while the network is on a device.
    takes_each_alone
        Whether the network is known to give for each window the same, whatever others go through with it.
    """

    path: Path
    device: torch.device
    network: torch.nn.Module
    inferer: Callable[..., Any]
    preprocessing: Compose
    postprocessing: Compose
    intake: Intake
    output_key: str = _PREDICTION
    channels: int = 1
    is_planar: bool = False
    notes: tuple[str, ...] = ()
    modules: dict[str, ModuleType] = field(default_factory=dict)
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    compiled: bool = False
    windows: int | None = None
    stitches_on_host: bool = False
    takes_each_alone: bool = False

    def at_a_time(self, windows: int | None) -> LoadedBundle:
        """Return the same bundle with so many windows at a time; its own number is kept where None is given.

        Where they are put together is said outright, unless the bundle itself has it depend on the size
        (``cpu_thresh``): MONAI's adaptive inferer would choose another place by itself when memory is short, unsaid.
        """
        if not isinstance(self.inferer, SlidingWindowInferer):
            return self
        inferer = copy.copy(self.inferer)
        inferer.sw_batch_size = windows or self.windows or inferer.sw_batch_size
        inferer.sw_device = self.device
        if self.stitches_on_host:
            inferer.device, inferer.buffer_steps = torch.device("cpu"), None  # a buffer would be on the device again
        elif inferer.device is None and inferer.cpu_thresh is None:
            inferer.device = self.device
        return replace(self, inferer=inferer, windows=inferer.sw_batch_size)

    def with_volume_on_host(self, twin: LoadedBundle) -> LoadedBundle:
        """Return the bundle with its network where it is, and the inferer and transforms of its twin on the host."""
        return replace(
            twin,
            device=self.device,
            network=self.network,
            precision=self.precision,
            memory_format=self.memory_format,
            compiled=self.compiled,
            windows=self.windows,
            stitches_on_host=True,
            takes_each_alone=self.takes_each_alone,
        )


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


def load_bundle(
    path: Path,
    device: torch.device,
    options: RunOptions = RunOptions(),  # noqa: B008
    priors: Collection[str] = (),
) -> LoadedBundle:
    """Return the bundle in a folder, its network on the device and set to inference.

    Parameters
    ----------
    priors
        The keys under which its transforms get earlier series: none of them is the image.

    Raises
    ------
    BundleInvalid
        With the file and what is wrong in it.
    DeviceOutOfMemory
        If the network does not fit into the memory of the device (OutOfDeviceMemory), or of the machine.
    """
    config = _config_file(path)
    modules: dict[str, ModuleType] = {}
    try:
        with surroundings_kept(device), own_code(path, modules):
            return _load(path, config, device, modules, options, priors)
    except BundleInvalid:
        raise
    except Exception as error:  # the bundle's code and configuration may raise anything at all
        short = memory_error(error, device, "this model")
        raise short or BundleInvalid(f"{config} can not be loaded: {root_cause(error)}") from error


def root_cause(error: BaseException) -> str:
    """Return what first went wrong: MONAI wraps it in errors that only name the transform or the expression."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    words = "".join(character for character in lines[0] if character.isprintable())
    return f"{type(error).__name__}: {words[:_LONGEST_CAUSE]}"


def _config_file(path: Path) -> Path:
    file = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    if file is None:
        raise BundleInvalid(f"{path} holds none of {', '.join(CONFIGS)}; a bundle needs one.")
    return file


def _load(
    path: Path,
    config: Path,
    device: torch.device,
    modules: dict[str, ModuleType],
    options: RunOptions,
    priors: Collection[str],
) -> LoadedBundle:
    metadata = Metadata.of(read_json(path / METADATA), path / METADATA)
    parser = _parser(path, config, device)
    loaders = _take_out_loaders(parser)
    _take_out_transforms(parser, "postprocessing", _WRITERS)
    parser.parse(reset=True)
    preprocessing, postprocessing = _compose(parser, "preprocessing"), _compose(parser, "postprocessing")
    remove_writers(postprocessing)
    forgive_missing_labels(postprocessing, _PREDICTION)
    inferer_id = _place(parser, "inferer")
    inferer = parser.get_parsed_content(inferer_id) if inferer_id else SimpleInferer()
    place_on(device, inferer, preprocessing, postprocessing)
    network = load_network(parser, path, device)
    windows = windows_at_a_time(inferer, network, device, as_it_stands=options.as_it_stands)
    memory_format: MemoryFormat = "contiguous" if options.as_it_stands else laid_out(network, device)
    compiles = options.compile and not options.as_it_stands
    mixed, mixed_dtype = _mixed_precision(parser)
    loaded = LoadedBundle(
        path=path,
        device=device,
        network=compiled(network, same_shapes=windows is not None) if compiles else network,
        inferer=inferer,
        preprocessing=preprocessing,
        postprocessing=postprocessing,
        intake=prepare_intake(preprocessing, loaders, tuple(metadata.inputs), priors),
        channels=metadata.input_channels,
        is_planar=metadata.is_planar and not isinstance(inferer, SliceInferer),
        notes=invert_labels_by_nearest(postprocessing),
        modules=modules,
        precision=precision_on(
            device, "float32" if options.as_it_stands else options.precision, mixed=mixed, mixed_dtype=mixed_dtype
        ),
        memory_format=memory_format,
        compiled=compiles,
        windows=windows,
        takes_each_alone=takes_each_alone(network),
    )
    return loaded.at_a_time(windows)


def _mixed_precision(parser: ConfigParser) -> tuple[bool, torch.dtype | None]:
    """Return whether the bundle's evaluator runs in mixed precision, and in which type where it says so."""
    mixed = "evaluator::amp" in parser and bool(parser.get_parsed_content("evaluator::amp"))
    given = parser.get_parsed_content("evaluator::amp_kwargs") if "evaluator::amp_kwargs" in parser else None
    return mixed, (given or {}).get("dtype")


def _parser(path: Path, config: Path, device: torch.device) -> ConfigParser:
    """Return the bundle's configuration as it stands, but for where it lies and where it runs."""
    parser = ConfigParser()
    parser.read_config(str(config))
    content = parser.get()
    if not isinstance(content, dict):
        raise BundleInvalid(f"{config} is no table of a bundle's parts.")
    origin = content.get("bundle_root")
    if isinstance(origin, str) and Path(origin).is_absolute():
        parser.set(_moved(content, origin.rstrip("/"), str(path)))
    parser[ConfigParser.meta_key] = read_json(path / METADATA)
    parser["bundle_root"] = str(path)
    parser["device"] = f"$torch.device('{device}')"
    parser.parse(reset=True)
    return parser


def _moved(content: Any, origin: str, path: str) -> Any:  # noqa: ANN401 - a configuration holds anything
    """Return a configuration whose paths below the folder where it was written lead to where it lies now."""
    if isinstance(content, dict):
        return {key: _moved(value, origin, path) for key, value in content.items()}
    if isinstance(content, list):
        return [_moved(value, origin, path) for value in content]
    if isinstance(content, str) and (content == origin or content.startswith(origin + "/")):
        return path + content[len(origin) :]
    return content


def _place(parser: ConfigParser, part: str) -> str | None:
    return next((place for place in _PLACES[part] if place in parser), None)


def _take_out_loaders(parser: ConfigParser) -> list[Loader]:
    """Take the loaders out before they are made: making one looks for every library that reads image files."""
    taken = _take_out_transforms(parser, "preprocessing", _LOADERS)
    return [
        Loader(_resolved(parser, entry.get("keys", ())), entry.get("ensure_channel_first") is True) for entry in taken
    ]


def _resolved(parser: ConfigParser, keys: Any) -> tuple[str, ...]:  # noqa: ANN401 - one key or several, as MONAI allows
    """Return the names that a transform's keys stand for; a reference is looked up."""
    listed = (keys,) if isinstance(keys, str) else tuple(keys)
    return tuple(str(parser.get_parsed_content(key[1:])) if str(key).startswith("@") else str(key) for key in listed)


def _take_out_transforms(parser: ConfigParser, part: str, names: frozenset[str]) -> list[dict[str, Any]]:
    """Take the transforms of these names out of a part of the configuration, and return them.

    What stands in expressions is not found here, but in the chain once it is made.
    """
    place = _place(parser, part)
    content = parser.get(place) if place else None
    if not isinstance(content, dict) or not isinstance(content.get("transforms"), list):
        return []
    entries = content["transforms"]
    content["transforms"] = [entry for entry in entries if _transform_name(entry) not in names]
    return [entry for entry in entries if _transform_name(entry) in names]


def _transform_name(entry: object) -> str:
    """Return the name of a transform's class without what marks its form for dictionaries."""
    if not isinstance(entry, dict):
        return ""
    name = str(entry.get("_target_", "")).rsplit(".", 1)[-1]
    for ending in _TRANSFORM_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _compose(parser: ConfigParser, part: str) -> Compose:
    place = _place(parser, part)
    if place is None:
        return Compose([])
    content = parser.get_parsed_content(place)
    return content if isinstance(content, Compose) else Compose(content)
