"""The earlier series of a job, as its runner gives them to the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hilum.planning import ordered_slices
from hilum.working.wire import Images, Request
from inference.catalog import ModelCard
from inference.priors import Prior
from inference.series import Series
from study.errors import StudyRefused
from study.headers import InstanceHeader
from study.imaging import EarlierSeries
from study.priors import NOTHING_NEW, day_words
from study.reconstruction import differences


def limits_of(request: Request) -> list[str]:
    """Return in words that there is no earlier study, where that is all that is to be said of any."""
    told = request.parameters.get("not_compared", ())
    return [each["words"] for each in told if each["code"] in NOTHING_NEW]


def priors_of(
    request: Request, card: ModelCard, now: Sequence[InstanceHeader], threads: int
) -> tuple[list[Prior], list[str]]:
    """Return the earlier series of a job, the latest first, and in words why others are not compared with.

    Parameters
    ----------
    now
        Headers of the slices that the job is about.
    threads
        For decoding.
    """
    told = request.parameters.get("not_compared", ())
    words = [each["words"] for each in told if each["code"] not in NOTHING_NEW]
    if request.without_priors and not (card.priors is not None and card.priors.required):
        return [], [*words, request.without_priors]
    priors = []
    for images, planned in zip(request.priors, request.parameters.get("priors", ()), strict=True):
        try:
            parameters = request.parameters | {"form": "volume", "frames": planned.get("frames")}
            priors.append(_prior(images, parameters, now, threads))
        except StudyRefused as refusal:  # its headers were read otherwise by an earlier version
            day = day_words(images[0][1].study_date)
            words.append(f"Not compared with the study of {day}: {refusal.words}")
    return priors, words


def _prior(images: Images, parameters: dict[str, Any], now: Sequence[InstanceHeader], threads: int) -> Prior:
    ordered, geometry = ordered_slices(images, parameters)
    then = tuple(header for _, header in ordered)
    series = Series(tuple(Path(path) for path, _ in ordered), then, geometry, threads)
    notes = geometry.notes if geometry is not None else ()
    return Prior(_earlier(then[0]), series, tuple(_limits(now, then, notes)))


def _earlier(header: InstanceHeader) -> EarlierSeries:
    return EarlierSeries(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        study_date=header.study_date,
        study_time=header.study_time,
        series_number=header.series_number,
        series_description=header.series_description,
        modality=header.modality,
    )


def _limits(now: Sequence[InstanceHeader], then: Sequence[InstanceHeader], notes: Sequence[str]) -> list[str]:
    """Return what a reader must know of a comparison, in words."""
    day = day_words(then[0].study_date)
    limits = [f"Of the images of {day}: {note}" for note in notes]
    found = differences(now, then)
    if found:
        listed = "; ".join(found)
        limits.append(f"The images of {day} were made otherwise ({listed}): a change since then may be technical.")
    return limits
