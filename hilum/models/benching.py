"""``hilum models bench``: how long each step of a model takes here, and how far its result is from plain float32."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hilum.config import Settings
from hilum.models.bench import Apart, Bench
from hilum.models.benched import apart_json, bench_json, show_bench
from hilum.models.measured import Measured, keep
from hilum.models.picking import Picked, pick
from hilum.planning import read_cards
from hilum.terminal import complain, is_terminal, say
from hilum.working.capacity import Budgets, threads_of, with_devices
from inference.account import Account
from inference.analysis import Analysis, Analyst
from inference.catalog import ModelCard
from inference.comparing import compare
from inference.options import RunOptions
from inference.timing import ForwardClock
from study.errors import ArchiveError
from study.imaging import Assessment


def run_bench(settings: Settings, model: str, text: str, runs: int, device: str, *, as_json: bool) -> None:
    """Print how long each step of a model takes; the errors are those of `bench`."""
    found = bench(settings, model, text, runs, device)
    if as_json:
        say(json.dumps(bench_json(found), indent=1))
    else:
        show_bench(found)


def bench(settings: Settings, model: str, text: str, runs: int, device: str) -> Bench:
    """Run a model on a study so many times, and keep how far its result is from plain float32.

    Nothing is stored of the study, and nothing is sent.

    Parameters
    ----------
    text
        A folder with the DICOM files of one study, or what stands for a study of the node's database.
    device
        "auto", "cpu", "cuda:0".

    Raises
    ------
    ArchiveError
        If there is no such model or study.
    NoEligibleSeries, StudyRefused
        If the model would not run on it, or refuses it.
    InferenceError
        If the model fails.
    """
    if model not in settings.models:
        raise ArchiveError(f"No model {model}; there are: {', '.join(settings.models) or 'none'}.")
    card = read_cards(settings)[model]
    picked = pick(settings, card, text)
    settings = with_devices(settings)
    analyst = Analyst(device, threads_of(settings))
    options = Budgets(settings).options(model, str(analyst.device), analyst.device_bytes)
    found = _measure(analyst, card, picked, options, runs)
    keep(settings, _measured(settings, found))
    return found


def _measure(analyst: Analyst, card: ModelCard, picked: Picked, options: RunOptions, runs: int) -> Bench:
    def run(words: str, options: RunOptions, clock: ForwardClock | None = None) -> Analysis:
        account = Account(forward=clock)
        _tell(words)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values, and may be a patient's
            return analyst.analyse(
                card, picked.paths, picked.headers, picked.geometry, picked.notes, options=options, account=account
            )

    records = [run(f"run {number} of {runs}", options).account.details() for number in range(1, runs + 1)]
    clock = ForwardClock()
    timed = run("a run whose network is timed", options, clock)
    plain = run("a run as the bundle stands, in plain float32", replace(options, as_it_stands=True))
    return Bench(
        card=card,
        picked=picked,
        runs=tuple(records),
        forward_seconds=clock.seconds,
        forward_calls=clock.calls,
        inference_seconds=timed.account.seconds["inference"],
        apart=_apart(timed, plain),
    )


def _apart(analysis: Analysis, plain: Analysis) -> Apart:
    ours, theirs = analysis.result_set, plain.result_set
    pairs = _pairs(ours.assessments, theirs.assessments)
    probabilities = [
        abs(one.probability - other.probability)
        for one, other in pairs
        if one.probability is not None and other.probability is not None
    ]
    return Apart(
        labels=compare(ours.label_map, theirs.label_map) if ours.label_map and theirs.label_map else None,
        probability=max(probabilities, default=None),
        decisions=sum(one.detected != other.detected for one, other in pairs),
        numbers=tuple(_numbers(analysis.account.measurements, plain.account.measurements)),
    )


def _pairs(ours: Iterable[Assessment], theirs: Iterable[Assessment]) -> list[tuple[Assessment, Assessment]]:
    by_key = {each.key: each for each in theirs}
    return [(each, by_key[each.key]) for each in ours if each.key in by_key]


def _numbers(ours: Iterable[dict[str, Any]], theirs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give each measurement of either run with both its values."""
    found, plain = _by_name(ours), _by_name(theirs)
    for key in dict.fromkeys((*found, *plain)):
        finding, name, unit = key
        yield {"finding": finding, "name": name, "unit": unit, "value": found.get(key), "plain": plain.get(key)}


def _by_name(measurements: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    return {(each["finding"], each["name"], each["unit"]): each["value"] for each in measurements}


def _measured(settings: Settings, found: Bench) -> Measured:
    entry, last = settings.models[found.card.name], found.runs[-1]
    return Measured(
        model=found.card.name,
        digest=found.card.digest,
        precision=entry.precision,
        compile=entry.compile,
        device=last["device"],
        device_name=last["device_name"],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        difference=apart_json(found.apart),
    )


def _tell(words: str) -> None:
    if is_terminal():
        complain(f"{words} ...")
