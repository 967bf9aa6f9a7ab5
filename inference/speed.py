"""What makes a network quick on the processor: chosen by measurement, and never at run time.

So a series always goes the same way. Measured on two cores with torch 2.13, a U-Net of two dimensions on 60 slices of
512 x 512: 21.9 s as it comes, 14.9 s with its weights by channels, 8.7 s with one slice at a time besides; the mask is
the same, and `torch.jit.freeze` gains no more. Networks of three dimensions stay as they are, here in windows of 96^3:
by channels, MONAI's UNet takes up to 15 % less, SegResNet 18 % less with values up to 8e-4 apart, DynUNet 2 to 7 %
more; and one window at a time takes UNet twice as long as two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, Literal, cast

import torch
from monai.inferers.inferer import SlidingWindowInferer

from study.errors import BundleInvalid

MemoryFormat = Literal["contiguous", "channels_last"]

_PLANAR_WEIGHTS: Final = 4  # axes of a two-dimensional convolution's weights: out, in, rows, columns
_SOLID_WEIGHTS: Final = 5
_MOST_SHAPES: Final = 64
_KNOWN: Final = ("torch.nn.modules.", "monai.networks.")
_TRAINS: Final = 5  # which argument of batch_norm says so
_NORMS: Final = ("BatchNorm", "SyncBatchNorm")
_LAYERS: Final = (
    "conv2d conv_transpose2d batch_norm instance_norm group_norm max_pool2d avg_pool2d adaptive_avg_pool2d pad "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d pixel_shuffle constant_pad_nd reflection_pad2d dropout "
    "relu relu6 leaky_relu elu gelu silu mish hardswish prelu sigmoid tanh softplus "
    "cat add sub mul div neg exp clamp clone contiguous detach"
)
_SHAPES: Final = (  # with numbers and lists of these, a network finds out what it was given
    "size dim len format append list slice __getitem__ eq ne lt le gt ge __is__ __isnot__ __not__ __and__ __or__ "
    "floordiv remainder Int Bool Float ceil floor warn"
)
_OF_EACH: Final = frozenset(f"{_LAYERS} {_SHAPES}".split())
"""Operations of TorchScript that take each window for itself."""


def laid_out(network: torch.nn.Module, device: torch.device) -> MemoryFormat:
    """Lay a network's weights out as they are quickest on a device, and return how they lie."""
    if device.type != "cpu" or not is_planar(network):
        return "contiguous"
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a gap of torch's declarations
    return "channels_last"


def compiled(network: torch.nn.Module, *, same_shapes: bool) -> torch.nn.Module:
    """Return a network that is compiled as it first runs.

    Parameters
    ----------
    same_shapes
        Whether its images have few shapes, as windows do: each is compiled for itself. Else one form serves every
        shape from the first on, so that a series does not go another way once others were seen.

    Raises
    ------
    BundleInvalid
        If it is TorchScript.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise BundleInvalid(
            "The bundle's network is TorchScript, which torch.compile does not take; set compile = false in its entry."
        )
    return cast(torch.nn.Module, torch.compile(network, dynamic=not same_shapes))


@contextmanager
def compiling(*, is_compiled: bool) -> Iterator[None]:
    """Never let a compiled network fall back to running as it stands, unsaid: after many shapes torch would."""
    if not is_compiled:
        yield
        return
    settings = import_module("torch._dynamo.config")
    with settings.patch({"fail_on_recompile_limit_hit": True, "recompile_limit": _MOST_SHAPES}):
        yield


def is_of_compiler(error: BaseException) -> bool:
    """Tell whether an error means that a network can not be compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def is_planar(network: torch.nn.Module) -> bool:
    """Tell whether a network convolves in two dimensions alone."""
    axes = {parameter.dim() for parameter in network.parameters()}
    return _PLANAR_WEIGHTS in axes and _SOLID_WEIGHTS not in axes


def windows_at_a_time(
    inferer: Any,  # noqa: ANN401 - a bundle's own may be anything
    network: torch.nn.Module,
    device: torch.device,
    *,
    as_it_stands: bool = False,
) -> int | None:
    """Return how many windows go through the network at a time; None where the inferer has none.

    The bundle's own number stays where it is asked for, and where the result might depend on it.
    """
    if not isinstance(inferer, SlidingWindowInferer):
        return None
    if not as_it_stands and device.type == "cpu" and is_planar(network) and takes_each_alone(network):
        return 1
    return max(1, int(inferer.sw_batch_size))


def takes_each_alone(network: torch.nn.Module) -> bool:
    """Tell whether a network is known to give for each window the same, whatever others go through with it.

    Known are torch's and MONAI's own modules, but for norms that look at the whole batch, and TorchScript of operations
    that take each window for itself. Of a bundle's own code nothing is known.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return _operates_on_each(network)
    return all(_is_of_each(module) for module in network.modules())


def _is_of_each(module: torch.nn.Module) -> bool:
    if module.training or not type(module).__module__.startswith(_KNOWN):
        return False
    is_batch_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return not is_batch_norm or module.running_mean is not None


def _operates_on_each(network: torch.jit.ScriptModule) -> bool:
    norms = [module for module in network.modules() if str(getattr(module, "original_name", "")).startswith(_NORMS)]
    if any(module.training for module in network.modules()) or any(_looks_at_batch(norm) for norm in norms):
        return False
    graph: Any = network.inlined_graph
    return all(_is_operation_on_each(node) for node in _nodes(graph))


def _is_operation_on_each(node: Any) -> bool:  # noqa: ANN401 - a gap of torch's declarations
    kind, inputs = str(node.kind()), list(node.inputs())
    if kind == "aten::batch_norm" and inputs[_TRAINS].toIValue() is True:
        return False
    if kind == "aten::slice" and str(inputs[0].type()) == "Tensor":
        return False  # perhaps of the windows
    name = kind.removeprefix("aten::")
    return kind.startswith("prim::") or name in _OF_EACH or name.removesuffix("_") in _OF_EACH


def _looks_at_batch(norm: torch.nn.Module) -> bool:
    """Tell whether a norm in TorchScript has no statistics of its own."""
    return getattr(norm, "running_mean", None) is None


def _nodes(block: Any) -> Iterator[Any]:  # noqa: ANN401 - a gap of torch's declarations
    """Give each operation of a piece of TorchScript, and of the pieces in it."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
