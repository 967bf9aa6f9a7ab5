"""Models kept warm: loaded once, and let go, the least recently used first, when memory is short."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from inference.bundle import LoadedBundle
from inference.catalog import ModelCard
from inference.memory import device_bytes, look_at_all, weight_bytes
from inference.options import Precision, RunOptions

_SHARE: Final = {"cuda": 2, "cpu": 4}
"""Which part of a device's memory is for models: the rest is for images, and the processor's for all else that runs."""


@dataclass(frozen=True)
class Key:
    """Which model, and how its network is made: what differs in any of it is loaded apart."""

    path: Path
    digest: str
    precision: Precision | None
    compile: bool
    as_it_stands: bool = False

    @classmethod
    def of(cls, card: ModelCard, options: RunOptions) -> Key:
        """Return the key of a model that is run with these options."""
        return cls(card.path, card.digest, options.precision, options.compile, options.as_it_stands)


@dataclass(frozen=True, eq=False)
class _Kept:
    name: str
    bundle: LoadedBundle
    footprint: int


class Shelf:
    """The loaded models of one device.

    Parameters
    ----------
    limit
        How much they may hold together [bytes]: one that is alone may hold more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[Hashable, _Kept] = {}  # in the order of their last use

    @classmethod
    def on(cls, device: torch.device, limit: int | None = None) -> Shelf:
        """Return the shelf of a device; its limit, where none is given, is a part of the device's memory."""
        return cls(device_bytes(device) // _SHARE.get(device.type, 4) if limit is None else limit)

    @property
    def footprint(self) -> int:
        """What the models hold together [bytes]: their parameters and buffers."""
        return sum(kept.footprint for kept in self._kept.values())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def take(self, key: Hashable) -> LoadedBundle | None:
        """Return a model that is kept, which is used from now on; None if it is not."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        self._kept[key] = kept
        return kept.bundle

    def put(self, key: Hashable, name: str, bundle: LoadedBundle) -> list[str]:
        """Keep a model, and return the names of those that left for it."""
        self._kept[key] = _Kept(name, bundle, weight_bytes(bundle.network))
        return self.let_go(key, down_to=self.limit)

    def let_go(self, key: Hashable, down_to: int = 0) -> list[str]:
        """Let models go but that of `key`, until the rest hold no more than `down_to` bytes; return their names."""
        left = []
        for other in [each for each in self._kept if each != key]:
            if self.footprint <= down_to:
                break
            left.append(self._kept.pop(other).name)
        if left:
            look_at_all()  # a network that goes round in circles is let go by the collector alone
        return left
