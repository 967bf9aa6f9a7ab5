"""One study from stored instances to results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hilum.authorship import model_identity, result_context
from hilum.config import Settings
from hilum.planning import ordered_slices, read_cards
from hilum.rejecting import rejected_kept
from hilum.working.capacity import Budgets, torch_device
from hilum.working.earlier import limits_of, priors_of
from hilum.working.wire import Request
from inference.account import Account
from inference.analysis import Analyst
from inference.catalog import ModelCard
from inference.options import RunOptions
from sr_writer.laps import Laps
from sr_writer.results import write_results
from study.entities import ResultObject
from study.errors import BundleInvalid


class Pipeline:
    """Turns the images of a series into checked result files, with the models of the configuration kept warm.

    Parameters
    ----------
    device
        Where models run, as the site calls it: "auto", "cpu", "cuda:1"; of the GPUs this process sees that one alone.
    threads
        Of the processor, for decoding and for models; 0 leaves torch's own choice.
    """

    def __init__(self, settings: Settings, device: str = "auto", threads: int = 0) -> None:
        self._settings = settings
        self._device = device
        self._threads = threads
        self._cards = read_cards(settings)
        self._budgets = Budgets(settings)
        self._made: Analyst | None = None

    @property
    def _analyst(self) -> Analyst:
        """Return what runs models; made at first use, so that a missing device fails the job, with its words."""
        if self._made is None:
            on_cpu = self._device == "cpu"
            self._made = Analyst(
                torch_device(self._device), self._threads, self._budgets.warm_bytes if on_cpu else None
            )
        return self._made

    def facts(self) -> dict[str, Any]:
        """Return what the keeper must know of the device: its memory, or why it can not be used."""
        try:
            return {"device_bytes": self._analyst.device_bytes}
        except BundleInvalid as error:
            return {"unusable": error.words}

    @property
    def is_usable(self) -> bool:
        """Tell whether more can be run here: a GPU on which a kernel failed refuses all that comes after."""
        return self._made is None or self._made.is_usable

    def warm(self, model: str, account: Account) -> None:
        """Load a configured model, so that its first study does not wait for it.

        Raises
        ------
        BundleInvalid
            If its bundle can not be loaded.
        """
        self._analyst.load(self._cards[model], self._options(model), account)

    def run(self, request: Request, account: Account) -> tuple[ResultObject, ...]:
        """Analyse one series and write its results; return them with their paths relative to the store.

        Parameters
        ----------
        account
            Is written while the analysis goes.

        Raises
        ------
        StudyRefused
            If the series can not be analysed; a normal outcome.
        InferenceError, EncodingError
            If the model or the writer failed.
        """
        card = self._card(request)
        # Jobs of before do not say what form of input they want: the model does
        ordered, geometry = ordered_slices(request.instances, {"form": card.rule.form} | request.parameters)
        paths, headers = [Path(path) for path, _ in ordered], [header for _, header in ordered]
        priors, words = priors_of(request, card, headers, self._analyst.threads)
        notes = [*request.parameters["notes"], *limits_of(request)]
        analysis = self._analyst.analyse(
            card, paths, headers, geometry, notes, self._options(card.name), account, priors
        )
        said = analysis.result_set
        laps = Laps()
        account.encode_seconds = laps.seconds
        with account.step("encode"), rejected_kept(Path(request.folder), self._settings.data_dir):
            objects = write_results(
                dataclasses.replace(said, not_compared=(*words, *said.not_compared)),
                analysis.datasets,
                model_identity(request, card),
                result_context(request, card, self._settings.results.time_zone),
                Path(request.folder),
                variants=request.variants,
                pixels=analysis.pixels,
                earlier=analysis.earlier,
                laps=laps,
            )
        return tuple(self._in_store(result, request) for result in objects)

    def details(self, account: Account) -> dict[str, Any]:
        """Return the record of an analysis, with the device as the site calls it."""
        found = account.details()
        return found | {"device": self._device} if found["device"] == torch_device(self._device) else found

    def _options(self, model: str) -> RunOptions:
        return self._budgets.options(model, self._device, self._analyst.device_bytes)

    def _card(self, request: Request) -> ModelCard:
        card = self._cards.get(request.model_name)
        if card is None:
            raise BundleInvalid(f"There is no model {request.model_name} in the configuration; hilum retry plans anew.")
        if card.digest != request.model_digest:
            raise BundleInvalid(
                f"The bundle of {card.name} changed since the job was planned: it was {request.model_digest}, it is "
                f"{card.digest}; hilum retry plans anew."
            )
        return card

    def _in_store(self, result: ResultObject, request: Request) -> ResultObject:
        path = (Path(request.folder) / result.path).relative_to(self._settings.data_dir)
        return dataclasses.replace(result, path=str(path))
