"""Memory of the machine and of its devices: how much there is, what an error says of it, how it is given back."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from inference.machine import machine_bytes
from study.errors import DeviceOutOfMemory

HOST: Final = torch.device("cpu")

_OF_DEVICE: Final = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "cudaErrorMemoryAllocation",
    "OutOfMemoryError",  # TorchScript raises its own error with the name of the first in its text
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)
"""How the libraries below torch say that a device's memory does not suffice: not always as `torch.OutOfMemoryError`."""
_SUSPECT: Final = (
    "unable to find an engine to execute this computation",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
"""What they say where memory is short for what they need themselves, and also where something else is wrong."""
_OF_HOST: Final = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


class OutOfDeviceMemory(DeviceOutOfMemory):
    """A device's memory did not suffice: a smaller demand may be met."""


class PerhapsOutOfDeviceMemory(OutOfDeviceMemory):
    """A library below torch failed as it does where a device's memory is short, and may have failed of something else.

    A smaller demand is worth one try.
    """


def memory_error(error: BaseException, device: torch.device, what: str) -> DeviceOutOfMemory | None:
    """Return what an error says of memory; None if it says nothing.

    Parameters
    ----------
    what
        Did not fit, as in "this series".
    """
    if (said := next((words for words in _SUSPECT if _in_chain(error, (words,))), None)) and not _is_certain(error):
        return PerhapsOutOfDeviceMemory(f"The model failed on {device}, perhaps since its memory is short: {said}.")
    if lacks_device_memory(error):
        return OutOfDeviceMemory(f"The memory of {device} does not suffice for {what}.")
    if lacks_host_memory(error):
        return DeviceOutOfMemory(
            f"The machine's own memory does not suffice for {what}; give it more, or let fewer models run side by side "
            "(memory_mb)."
        )
    return None


def lacks_device_memory(error: BaseException) -> bool:
    """Tell whether an error means that the device's memory did not suffice, or may mean it."""
    return _is_certain(error) or _in_chain(error, _SUSPECT)


def lacks_host_memory(error: BaseException) -> bool:
    """Tell whether an error means that the machine's own memory did not suffice."""
    return any(isinstance(each, MemoryError) for each in _chain(error)) or _in_chain(error, _OF_HOST)


def device_bytes(device: torch.device) -> int:
    """Return how much memory a device has [bytes]; of the processor, what this process may have."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes()


def weight_bytes(network: torch.nn.Module) -> int:
    """Return what a network holds as long as it is loaded [bytes]: its parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))


def answers(device: torch.device) -> bool:
    """Tell whether a device does what it is told; a GPU on which a kernel failed refuses all that comes after."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


@contextmanager
def at_most(device: torch.device, limit_bytes: int | None) -> Iterator[None]:
    """Let this process have no more of a GPU's memory than `limit_bytes` within the block; None: all that there is.

    What it holds already counts. The processor's memory is not limited so.
    """
    if device.type != "cuda" or limit_bytes is None:
        yield
        return
    torch.cuda.empty_cache()  # what is cached but not used would count
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / device_bytes(device)), device)
    try:
        yield
    finally:
        if answers(device):
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def set_aside() -> None:
    """Have the garbage collector pass over all that is alive now, until `look_at_all`.

    Libraries and a loaded model are some hundred thousand objects. To go over them takes a third of a second, several
    times in each study: what a study makes itself is enough to set the collector off.
    """
    gc.collect()
    gc.freeze()


def look_at_all() -> None:
    """Have the garbage collector look at what was set aside too: some of it may be used no more."""
    gc.unfreeze()


def give_back(device: torch.device) -> None:
    """Give memory that is no longer used back to the device, for other processes, and to the machine."""
    gc.collect()  # a traceback that went round in a circle may still hold tensors
    if device.type == "cuda" and answers(device):
        torch.cuda.empty_cache()
    _trim()(0)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from: MONAI raises its own, that names the transform, from the first."""
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _is_certain(error: BaseException) -> bool:
    return any(isinstance(each, torch.OutOfMemoryError) for each in _chain(error)) or _in_chain(error, _OF_DEVICE)


def _in_chain(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(_says(each, words) for each in _chain(error))


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError | torch.jit.Error) and any(word in str(error) for word in words)


@functools.cache
def _trim() -> Callable[[int], object]:
    """Return glibc's `malloc_trim`, which gives free pages back to the machine; elsewhere, what does nothing."""
    try:
        function: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda pad: pad
    return function
