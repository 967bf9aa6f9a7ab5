"""What is tried, one after the other, when a device's memory does not suffice: each rung is on record.

First the other models leave; then fewer windows go through the network at a time, down to one, unless it was a
transform that lacked memory; then the volume stays on the host, where windows are put together and the bundle's
transforms run; then, if the site allows it, the processor takes the GPU's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

import torch

from inference.account import Account
from inference.machine import MEGABYTE
from inference.memory import HOST, OutOfDeviceMemory, PerhapsOutOfDeviceMemory, give_back
from study.errors import DeviceOutOfMemory, InferenceError

Place = Literal["device", "host", "cpu"]
"""Where a model works: all of it on its device; the network there and the volume on the host; or on the processor."""

_PLACES: Final = {
    "device": "all of it on the device",
    "host": "the volume on the host and the network on the device",
    "cpu": "all of it on the processor",
}
_OF_TRANSFORMS: Final = frozenset({"preprocess", "postprocess"})
_LONGEST_USE_S: Final = 3600.0
_MOST_USES: Final = 50
_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True)
class Foothold:
    """With what demand a model is run.

    Parameters
    ----------
    windows
        How many go through the network at a time; None where the model has no windows.
    place
        Where it works.
    """

    windows: int | None
    place: Place = "device"

    def next(self, *, on_host_already: bool, may_use_cpu: bool, in_transforms: bool = False) -> Foothold | None:
        """Return the next smaller demand; None where there is none.

        Parameters
        ----------
        in_transforms
            Whether memory was short before or after the network ran, which fewer windows do not cure.
        """
        if self.place == "cpu":
            return None
        if self.windows is not None and self.windows > 1 and not in_transforms:
            return replace(self, windows=self.windows // 2)
        if on_host_already:
            return None
        if self.place == "device":
            return replace(self, place="host")
        return Foothold(None, "cpu") if may_use_cpu else None

    @property
    def words(self) -> str:
        """Return the demand in words."""
        windows = "" if self.windows is None else f", {self.windows} window{'s' * (self.windows > 1)} at a time"
        return _PLACES[self.place] + (windows if self.place != "cpu" else "")


@dataclass
class _Needed:
    foothold: Foothold
    since: float
    uses: int = 0

    def is_worn(self, now: float) -> bool:
        return self.uses >= _MOST_USES or now - self.since >= _LONGEST_USE_S


class Footholds:
    """What each model needed in the end, for series of its size and larger ones.

    Forgotten after an hour or 50 series: another process may have held the memory that was short then.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._needed: dict[Hashable, dict[int, _Needed]] = {}
        self._clock = clock

    def note(self, key: Hashable, voxels: int, foothold: Foothold) -> None:
        """Note what a model needed for a series of so many voxels."""
        self._needed.setdefault(key, {})[voxels] = _Needed(foothold, self._clock())

    def of(self, key: Hashable, voxels: int) -> Foothold | None:
        """Return what a model needed for the largest series that was no larger; None: all went well, or none was run.

        A smaller series is not held back by what a larger one needed. Each answer is a use.
        """
        now = self._clock()
        known = {size: each for size, each in self._needed.get(key, {}).items() if not each.is_worn(now)}
        self._needed[key] = known
        size = max((size for size in known if size <= voxels), default=None)
        if size is None:
            return None
        known[size].uses += 1
        return known[size].foothold


@dataclass
class Ladder:
    """Climbs down for one analysis.

    Parameters
    ----------
    device
        Whose memory it is about.
    limit
        How much of it the model may take [bytes]; None: all that there is.
    let_go
        Lets the other models go, and returns their names.
    takes_each_alone
        Whether the result is known not to depend on how many windows go through the network at a time.
    """

    account: Account
    device: torch.device
    limit: int | None
    may_use_cpu: bool
    let_go: Callable[[], list[str]]
    takes_each_alone: bool = True
    _suspected: bool = False
    _tried: list[str] = field(default_factory=list)

    def begin(self, foothold: Foothold) -> Foothold:
        """Note that an analysis begins with a demand that another one needed, and return it."""
        if foothold.place == "cpu":
            self.account.moves_to_cpu()
        words = f"Begun with {foothold.words}, since a series of this size, or a smaller one, needed it before."
        if foothold.place != "cpu" and foothold.windows is not None:
            words += self._doubt
        self.account.note_memory("begun_with", words, windows=foothold.windows, place=foothold.place)
        return foothold

    def climb(self, foothold: Foothold, attempt: Callable[[Foothold], _Outcome]) -> tuple[_Outcome, Foothold]:
        """Return what an attempt gives, and the demand with which it did.

        Raises
        ------
        DeviceOutOfMemory
            If the device's memory does not suffice for any; the words say what was tried, and what helps.
        """
        while True:
            outcome = self._attempted(foothold, attempt)
            if outcome is not None:
                return outcome, foothold
            give_back(self.device)  # here, where no error holds the tensors of its attempt any more
            if not self.make_room():
                foothold = self._next(foothold)

    def make_room(self) -> bool:
        """Let the other models go; tell whether there were any."""
        names = self.let_go()
        if names:
            give_back(self.device)
            words = f"The memory of {self.device} did not suffice; let go of {', '.join(names)}."
            self.account.note_memory("let_go", words, models=names)
        return bool(names)

    def to_cpu(self, why: str) -> Foothold:
        """Note that the processor takes the device's place, and return the demand."""
        self.account.note_memory("cpu", f"{why}; the processor took the place of {self.device}.")
        self.account.moves_to_cpu()
        return Foothold(None, "cpu")

    def _attempted(self, foothold: Foothold, attempt: Callable[[Foothold], _Outcome]) -> _Outcome | None:
        """Return what an attempt gives; None where the device's memory did not suffice."""
        self._tried.append(foothold.words)
        try:
            return attempt(foothold)
        except PerhapsOutOfDeviceMemory as error:
            if self._suspected:  # not a second time: it is something else
                raise InferenceError(f"{error.words} With a smaller demand it failed again.") from error
            self._suspected = True
            self.account.note_memory("suspected", f"{error.words} It is tried once more, with a smaller demand.")
            return None
        except OutOfDeviceMemory:
            return None

    @property
    def _doubt(self) -> str:
        if self.takes_each_alone:
            return ""
        return " The result may differ from that of the bundle's own number: the network may look at windows together."

    def _next(self, foothold: Foothold) -> Foothold:
        further = foothold.next(
            on_host_already=self.device == HOST,
            may_use_cpu=self.may_use_cpu,
            in_transforms=self.account.begun in _OF_TRANSFORMS,
        )
        if further is None:
            raise DeviceOutOfMemory(self.lament("this series"), {"tried": len(self._tried)})
        if further.place == "cpu":
            return self.to_cpu(f"The memory of {self.device} did not suffice for {foothold.words}")
        words = f"The memory of {self.device} did not suffice for {foothold.words}; went on with {further.words}."
        if further.place == foothold.place:
            self.account.note_memory(
                "smaller_batch", words + self._doubt, windows=further.windows, before=foothold.windows
            )
        else:
            self.account.note_memory("stitch_on_host", words, windows=further.windows)
        return further

    def lament(self, what: str) -> str:
        """Return in words that memory does not suffice, what was tried, and what helps."""
        tried = "; ".join(dict.fromkeys(self._tried)) or "letting all others go"
        least = "" if self.limit is None else f" ({self.limit // MEGABYTE} MB of it allowed by device_memory_mb)"
        words = f"The memory of {self.device}{least} does not suffice for {what}. Tried: {tried}."
        if self.device == HOST:
            return f"{words} A machine with more memory can run it."
        if self.limit is not None:
            words += " Raise device_memory_mb in the model's entry."
        if not self.may_use_cpu:
            words += " With cpu_deadline_seconds in the model's entry, the processor takes over."
        return f"{words} A GPU with more memory can run it."
