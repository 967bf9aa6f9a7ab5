"""One study from stored instances to results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hilum.authorship import model_identity, result_context
from hilum.config import Settings
from hilum.planning import ordered_slices, read_cards
from hilum.rejecting import rejected_kept
from hilum.wire import Request
from inference.analysis import Analyst
from inference.catalog import ModelCard
from sr_writer.results import write_results
from study.entities import ResultObject
from study.errors import BundleInvalid


@dataclass(frozen=True)
class Outcome:
    """What came of a request: objects on disk, their paths relative to the store, and how it went."""

    results: tuple[ResultObject, ...]
    details: dict[str, Any]


class Pipeline:
    """Turns the images of a series into checked result files, with the models of the configuration kept warm."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cards = read_cards(settings)
        self._made: Analyst | None = None

    @property
    def _analyst(self) -> Analyst:
        """Return what runs models; made at first use, so that a missing device fails the job, with its words."""
        if self._made is None:
            self._made = Analyst(self._settings.inference.device, self._settings.inference.threads)
        return self._made

    def warm_up(self) -> None:
        """Load every configured model, so that the first study does not wait for it.

        Raises
        ------
        BundleInvalid
            If a bundle can not be loaded.
        """
        for card in self._cards.values():
            self._analyst.load(card)

    def run(self, request: Request) -> Outcome:
        """Analyse one series and write its results.

        Raises
        ------
        StudyRefused
            If the series can not be analysed; a normal outcome.
        InferenceError, EncodingError
            If the model or the writer failed.
        """
        card = self._card(request)
        clock = Clock()
        # Jobs of before do not say what form of input they want: the model does
        ordered, geometry = ordered_slices(request.instances, {"form": card.rule.form} | request.parameters)
        paths, headers = [Path(path) for path, _ in ordered], [header for _, header in ordered]
        analysis = self._analyst.analyse(card, paths, headers, geometry, request.parameters["notes"])
        with clock.measure("encode"), rejected_kept(Path(request.folder), self._settings.data_dir):
            objects = write_results(
                analysis.result_set,
                analysis.datasets,
                model_identity(request, card),
                result_context(request, card),
                Path(request.folder),
                variants=request.variants,
                pixels=analysis.pixels,
            )
        results = tuple(self._in_store(result, request) for result in objects)
        seconds = {**analysis.timings, **clock.seconds}
        details = {
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "versions": dict(analysis.versions) | {"hilum": version("hilum")},
        }
        return Outcome(results, details)

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


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Count the time of the block towards a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
