"""How the site wants a model to be run: what changes its speed and memory, and may change its numbers a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "tf32", "float16", "bfloat16"]
"""How a network computes: plainly; with matrix products and convolutions in TensorFloat-32 (GPU alone); or under
`torch.autocast` of that type, its weights staying float32."""


@dataclass(frozen=True)
class RunOptions:
    """What an entry of ``[[models]]`` says of running its model.

    Parameters
    ----------
    precision
        None: as the bundle allows, which is float16 on a GPU where its evaluator has ``amp``, and float32 otherwise.
    compile
        Whether the network goes through `torch.compile`.
    memory_bytes
        How much of the machine's memory an analysis may take: what does not fit is refused before it is read. None:
        whatever there is.
    device_memory_bytes
        How much of a GPU's memory the model may take; None: all that there is.
    may_use_cpu
        Whether a series that does not fit into the GPU's memory may be analysed on the processor.
    as_it_stands
        Whether nothing is done for speed: its weights lie as they come, as many windows go through the network at a
        time as the bundle says, all in plain float32; `precision` and `compile` do not count then.
    """

    precision: Precision | None = None
    compile: bool = False
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    may_use_cpu: bool = False
    as_it_stands: bool = False
