"""One series in, everything that a model says about it out: the composition of this wing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from pydicom.dataset import Dataset

from inference.account import Account
from inference.bundle import LoadedBundle, choose_device, load_bundle
from inference.catalog import ModelCard, digest_of
from inference.ladder import Foothold, Footholds, Ladder
from inference.machine import MEGABYTE
from inference.memory import HOST, OutOfDeviceMemory, answers, at_most, device_bytes, give_back, set_aside
from inference.options import RunOptions
from inference.pixels import Pixels
from inference.priors import Prior, compared_with, handed_over
from inference.series import Said, Series, figures
from inference.shelf import Key, Shelf
from inference.surroundings import SEED
from inference.traces import Traces
from study.errors import BundleInvalid, DeviceOutOfMemory
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.imaging import ResultSet

_AS_IT_COMES: Final = RunOptions()
_MOST_WORDS: Final = 5


@dataclass(frozen=True, eq=False)
class Analysis:
    """What became of one series.

    Parameters
    ----------
    datasets
        The source images' headers, in slice order, without pixel data.
    pixels
        Of each slice or image by its index, for pictures.
    account
        How it went.
    earlier
        The headers of the images of each earlier series that the result names, in slice order.
    """

    result_set: ResultSet
    datasets: tuple[Dataset, ...]
    pixels: Pixels
    account: Account
    earlier: tuple[tuple[Dataset, ...], ...] = ()


class Analyst:
    """Runs models on series on one device, and keeps those that it loaded warm.

    Parameters
    ----------
    device
        "cpu", "cuda:0"; "auto" is a GPU where there is one.
    threads
        For decoding and for torch on the CPU; 0 leaves torch's own choice.
    warm_bytes
        How much the loaded models may hold together [bytes]; None: half of a GPU's memory, a quarter of the machine's.
    clock
        Seconds that never go back, by which is forgotten how little memory there once was.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 0,
        warm_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if threads > 0:
            torch.set_num_threads(threads)
        self.device = choose_device(device)
        self.threads = threads or torch.get_num_threads()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # also what a bundle's own code calls "cuda" is this one
        self._shelves = {HOST: Shelf.on(HOST), self.device: Shelf.on(self.device, warm_bytes)}
        self._footholds = Footholds(clock)
        self._left: list[str] = []

    @property
    def device_bytes(self) -> int | None:
        """Return the memory of the GPU [bytes]; None where the device is the processor."""
        return None if self.device == HOST else device_bytes(self.device)

    @property
    def is_usable(self) -> bool:
        """Tell whether another model may run here.

        Not where the device answers no more, as after an illegal access, nor where a bundle left something in the
        process that can not be put back (`inference.traces`).
        """
        return not self._left and answers(self.device)

    @contextmanager
    def _watched(self, account: Account) -> Iterator[None]:
        """Have on record what a bundle leaves in the process for good within the block."""
        before = Traces.found()
        try:
            yield
        finally:
            if left := before.left():
                self._left += left
                account.running["left_behind"] = left[:_MOST_WORDS]

    def load(self, card: ModelCard, options: RunOptions = _AS_IT_COMES, account: Account | None = None) -> LoadedBundle:
        """Return the card's bundle, loaded once for each digest and each way to run it.

        Raises
        ------
        BundleInvalid
            If it can not be loaded, or is not the one that was approved.
        DeviceOutOfMemory
            If it does not fit, even after all others were let go.
        """
        account = account or Account()
        with self._watched(account), at_most(self.device, options.device_memory_bytes):
            return self._load(card, options, account, self._ladder(card, options, account))

    def analyse(
        self,
        card: ModelCard,
        paths: Sequence[Path],
        headers: Sequence[InstanceHeader],
        geometry: VolumeGeometry | None,
        notes: Sequence[str] = (),
        options: RunOptions = _AS_IT_COMES,
        account: Account | None = None,
        priors: Sequence[Prior] = (),
    ) -> Analysis:
        """Return what the model says about a series.

        Parameters
        ----------
        paths, headers
            Of each slice or image, in their order.
        geometry
            The grid that the slices form, its `order` not applied again; None for images that stand alone.
        notes
            What a reader of the results must know of the series, in words.
        options
            How the site wants the model to be run.
        account
            Is told of each step, and has the record of it, also of an analysis that fails; one is made where none is
            given.
        priors
            Earlier series, the latest first: what is measured is compared with each, or the bundle gets them.

        Raises
        ------
        StudyRefused
            If the pixel data can not be decoded, or the organ is not in the images (TargetNotInFieldOfView).
        InferenceError
            If the model can not be run, or gives what can not be used.
        """
        account = account or Account()
        account.begins_on(self.device)
        series = Series(tuple(paths), tuple(headers), geometry, self.threads, options.memory_bytes)
        try:
            with self._watched(account), at_most(self.device, options.device_memory_bytes):
                handed = priors if card.priors is not None and card.priors.input else ()
                said = self._climb(card, series, options, account, handed)
                account.measurements = figures(said.result_set)
                if priors and not handed:
                    say = partial(self._said_then, card, options)
                    said = compared_with(said, priors, say, card, account)
        finally:
            give_back(self.device)
        result = replace(said.result_set, limits=(*notes, *said.result_set.limits))
        return Analysis(result, said.datasets, series.pixels(), account, said.earlier)

    def _said_then(self, card: ModelCard, options: RunOptions, series: Series, account: Account) -> Said:
        """Return what the model says of an earlier series; none of its memory is held any more."""
        give_back(self.device)
        account.device = self.device
        return self._climb(card, replace(series, most_bytes=options.memory_bytes), options, account)

    def _climb(
        self, card: ModelCard, series: Series, options: RunOptions, account: Account, handed: Sequence[Prior] = ()
    ) -> Said:
        """Return what the model says, with as small a demand for memory as it takes.

        Parameters
        ----------
        handed
            Earlier series that the bundle gets too.
        """
        key, voxels = (Key.of(card, options), options), series.voxels
        ladder = self._ladder(card, options, account)
        first, needed = self._first(card, options, account, ladder), self._footholds.of(key, voxels)
        begin = first if needed is None or first.place == "cpu" else ladder.begin(needed)
        said, foothold = ladder.climb(
            begin, lambda foothold: self._attempt(card, series, options, account, foothold, handed)
        )
        if foothold not in (first, needed):  # one that was needed before grows old from then on
            self._footholds.note(key, voxels, foothold)
        return said

    def _first(self, card: ModelCard, options: RunOptions, account: Account, ladder: Ladder) -> Foothold:
        """Return the whole demand, with the model loaded; the processor's where the model itself does not fit."""
        try:
            bundle = self._load(card, options, account, ladder)
            ladder.takes_each_alone = bundle.takes_each_alone
            return Foothold(bundle.windows)
        except OutOfDeviceMemory as error:
            if self.device == HOST or not options.may_use_cpu:
                raise DeviceOutOfMemory(ladder.lament("this model")) from error
        return ladder.to_cpu(f"The model does not fit into the memory of {self.device}")

    def _attempt(
        self,
        card: ModelCard,
        series: Series,
        options: RunOptions,
        account: Account,
        foothold: Foothold,
        handed: Sequence[Prior],
    ) -> Said:
        """Run the model from the files on: what another attempt left in the volume, or on the device, is gone."""
        if account.forward is not None:
            account.forward.start_anew()
        bundle = self._standing(card, options, account, foothold)
        account.running = self._way_of(bundle)
        if handed:
            beside = handed_over(handed, card, account)
            said = beside.noted_in(series.said_by(bundle, card, account, beside.volumes))
        else:
            said = series.said_by(bundle, card, account)
        if account.forward is not None:
            account.running |= account.forward.figures()
        return replace(said, result_set=replace(said.result_set, limits=(*bundle.notes, *said.result_set.limits)))

    def _standing(self, card: ModelCard, options: RunOptions, account: Account, foothold: Foothold) -> LoadedBundle:
        """Return the bundle as it runs with a demand."""
        if foothold.place == "cpu":
            return self._loaded(HOST, card, options, account).at_a_time(None)
        bundle = self._loaded(self.device, card, options, account)
        if foothold.place == "host":
            plain = replace(options, compile=False)  # of this one, only the transforms run
            bundle = bundle.with_volume_on_host(self._loaded(HOST, card, plain, account))
        return bundle.at_a_time(foothold.windows)

    def _load(self, card: ModelCard, options: RunOptions, account: Account, ladder: Ladder) -> LoadedBundle:
        """Return the card's bundle on our device; where it does not fit, the others are let go first."""
        try:
            return self._loaded(self.device, card, options, account)
        except OutOfDeviceMemory:
            pass  # only behind this block does no error hold what was loaded in part
        give_back(self.device)
        ladder.make_room()
        return self._loaded(self.device, card, options, account)

    def _loaded(self, device: torch.device, card: ModelCard, options: RunOptions, account: Account) -> LoadedBundle:
        """Return the card's bundle on a device, from the shelf where it is there."""
        if card.objection is not None:
            raise BundleInvalid(card.objection.words)
        shelf, key = self._shelves[device], Key.of(card, options)
        bundle = shelf.take(key)
        was_warm = bundle is not None
        if bundle is None:
            with account.step("load"):
                _demand_unchanged(card)
                bundle = load_bundle(card.path, device, options, card.priors.inputs if card.priors else ())
            if left := shelf.put(key, card.name, bundle):
                words = f"The models that are kept on {device} hold more than {shelf.limit // MEGABYTE} MB; let go of "
                account.note_memory("let_go", f"{words}{', '.join(left)}.", models=left)
            set_aside()
        if account.was_warm is None:  # not before: one that can not be loaded was not loaded for this
            account.was_warm = was_warm
        return bundle

    def _ladder(self, card: ModelCard, options: RunOptions, account: Account) -> Ladder:
        key, shelf = Key.of(card, options), self._shelves[self.device]
        return Ladder(
            account=account,
            device=self.device,
            limit=options.device_memory_bytes,
            may_use_cpu=options.may_use_cpu,
            let_go=lambda: shelf.let_go(key),
        )

    def _way_of(self, bundle: LoadedBundle) -> dict[str, Any]:
        """Return how a bundle is run, for the record."""
        return {
            "precision": bundle.precision,
            "compiled": bundle.compiled,
            "memory_format": bundle.memory_format,
            "threads": torch.get_num_threads(),
            "interop_threads": torch.get_num_interop_threads(),
            "windows_at_a_time": bundle.windows,
            "stitched_on_host": bundle.stitches_on_host,
            "seed": SEED,
        }


def _demand_unchanged(card: ModelCard) -> None:
    """Demand that the bundle is still the one that the card was read from: it may lie there for days before it runs."""
    found = digest_of(card.path)
    if found != card.digest:
        raise BundleInvalid(
            f"The bundle of {card.name} changed while the node ran: its digest was {card.digest}, it is {found}; "
            "restart the node once it is as it should be."
        )
