"""Torch's switches for the whole process, read and put back: how products round, what is automatic, hooks, modes."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.modules import module as _modules
from torch.utils import _device
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

_PLACES: Final = (
    ("generic", "all"),
    *((backend, part) for backend in ("mkldnn", "cuda") for part in ("all", "matmul", "conv", "rnn")),
)
"""Where torch keeps how products of float32 round; what is set for all holds for the parts that say nothing."""
_AUTOCAST: Final = ("cpu", "cuda")
_SMALL: Final = 1e-40
"""No normal number of float32: gone where such numbers are flushed to zero."""
_C: Final[Any] = torch._C

_Switch = tuple[Callable[[], Any], Callable[[Any], object]]


@dataclass(frozen=True)
class Switches:
    """How torch's switches stood at one time."""

    states: tuple[Any, ...]
    hooks: dict[str, dict[Any, Any]]
    function_modes: tuple[Any, ...]
    dispatch_modes: int
    nesting: int
    threads: int

    @classmethod
    def found(cls) -> Switches:
        """Return how they stand."""
        return cls(
            states=tuple(read() for read, _ in _SWITCHES),
            hooks={name: dict(table) for name, table in _hook_tables()},
            function_modes=_function_modes(),
            dispatch_modes=_C._len_torch_dispatch_stack(),
            nesting=_nesting(),
            threads=torch.get_num_threads(),
        )

    def put_back(self) -> None:
        """Set them as they stood; modes first, in which all else would be done another way."""
        self._put_back_modes()
        for (read, write), state in zip(_SWITCHES, self.states, strict=True):
            if read() != state:
                write(state)
        for name, table in _hook_tables():
            if dict(table) != self.hooks[name]:
                table.clear()
                table.update(self.hooks[name])
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def _put_back_modes(self) -> None:
        while _C._len_torch_dispatch_stack() > self.dispatch_modes:
            _pop_dispatch_mode()
        if _function_modes() != self.function_modes:
            while _C._len_torch_function_stack():
                _C._pop_torch_function_stack()
            for mode in self.function_modes:
                _C._push_on_torch_function_stack(mode)
        while _nesting() > self.nesting:
            torch.autocast_decrement_nesting()
        while _nesting() < self.nesting:
            torch.autocast_increment_nesting()
        torch.clear_autocast_cache()


def rounding(device: torch.device) -> frozenset[str]:
    """Return how products and convolutions of float32 round on a device: "ieee", "none" (the same), "tf32", "bf16"."""
    backend = "cuda" if device.type == "cuda" else "mkldnn"
    return frozenset(_C._get_fp32_precision_getter(backend, part) for part in ("matmul", "conv", "rnn"))


def is_deterministic() -> bool:
    """Tell whether what runs is chosen the same way each time."""
    cudnn = torch.backends.cudnn
    return bool(cudnn.deterministic and not cudnn.benchmark) or torch.are_deterministic_algorithms_enabled()


def _hook_tables() -> list[tuple[str, MutableMapping[Any, Any]]]:
    """Return what is called for every module that there is."""
    named = sorted(name for name in vars(_modules) if name.startswith("_global_"))
    tables = [(name, getattr(_modules, name)) for name in named]
    return [(name, table) for name, table in tables if isinstance(table, MutableMapping)]


def _function_modes() -> tuple[Any, ...]:
    return tuple(_C._get_function_stack_at(index) for index in range(_C._len_torch_function_stack()))


def _nesting() -> int:
    """Return how many blocks of `torch.autocast` are entered."""
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return nesting


def _attribute(place: Any, name: str) -> _Switch:  # noqa: ANN401 - torch's modules stand in for objects
    return lambda: getattr(place, name), lambda state: setattr(place, name, state)


def _autocast(device: str) -> tuple[_Switch, _Switch]:
    return (
        (lambda: torch.is_autocast_enabled(device), lambda state: torch.set_autocast_enabled(device, state)),
        (lambda: torch.get_autocast_dtype(device), lambda state: torch.set_autocast_dtype(device, state)),
    )


def _rounding(backend: str, part: str) -> _Switch:
    """Return the switch of one place; by the names in `torch.backends`, some set another place than they read."""
    return (
        lambda: _C._get_fp32_precision_getter(backend, part),
        lambda state: _C._set_fp32_precision_setter(backend, part, state),
    )


def _older(read: Callable[[], Any], write: Callable[[Any], object]) -> _Switch:
    """Return a switch by its older name, which torch refuses to read once the newer ones say something else."""

    def read_or_none() -> Any:  # noqa: ANN401 - a switch's state is what it is
        try:
            return read()
        except RuntimeError:
            return None

    return read_or_none, lambda state: None if state is None else write(state)


def _default_device() -> object:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _set_default_device(context: object) -> None:
    torch._GLOBAL_DEVICE_CONTEXT.device_context = context  # its mode is put back with all others


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _current_gpu() -> int | None:
    cuda: Any = torch.cuda  # a gap of its declarations
    return int(cuda.current_device()) if cuda.is_initialized() else None


def _set_current_gpu(index: int | None) -> None:
    if index is not None:
        torch.cuda.set_device(index)


def _flushes() -> bool:
    """Tell whether numbers too small to be normal become zero, for which torch has no question."""
    return bool((torch.tensor([_SMALL], device="cpu", dtype=torch.float32) * 0.5 == 0).item())


_SWITCHES: Final[tuple[_Switch, ...]] = (
    _attribute(_device, "CURRENT_DEVICE"),
    (_default_device, _set_default_device),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    *(switch for device in _AUTOCAST for switch in _autocast(device)),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (_flushes, torch.set_flush_denormal),
    (_deterministic, lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1])),
    *(_attribute(torch.backends.cudnn, name) for name in ("enabled", "deterministic", "benchmark")),
    *(_attribute(torch.backends.mkldnn, name) for name in ("enabled", "deterministic")),
    _older(_C._get_float32_matmul_precision, _C._set_float32_matmul_precision),
    _older(_C._get_cudnn_allow_tf32, _C._set_cudnn_allow_tf32),
    *(_rounding(*place) for place in _PLACES),  # after the older names, which set some of these too
    *(
        _attribute(torch.backends.cuda.matmul, f"allow_{kind}")
        for kind in ("fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction")
    ),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (_current_gpu, _set_current_gpu),
)
