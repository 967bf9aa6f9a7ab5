"""What should run on a study: the models of the configuration, asked about the series that are here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from hilum.admitting import why_not_admitted
from hilum.comparing import Comparison, compare
from hilum.config import Settings
from hilum.entries import ModelSettings
from inference.catalog import ModelCard, find_bundle, read_card
from inference.decoders import is_decodable
from sr_writer.version import WRITER_VERSION
from study.entities import PlannedJob, StoredInstance, Verdict
from study.errors import BundleInvalid, ConfigError, Reason, StudyRefused
from study.exclusion import reason_of, told
from study.forms import Form, Wish
from study.geometry import FrameOfReferencePolicy, UnevenSpacing, VolumeGeometry, assess
from study.headers import InstanceHeader
from study.identity import identity_conflicts, unidentified
from study.priors import EarlierStudy
from study.rejections import RejectionTitle
from study.selection import Selection, SeriesVerdict, select
from study.states import VerdictOutcome
from study.urgency import UrgencyRule, most_urgent


@dataclass(frozen=True)
class Plan:
    """The jobs that a study calls for.

    Parameters
    ----------
    words
        Why there is no job, where there is none: per model and series, what did not fit.
    verdicts
        What each model says of each series.
    not_admitted
        Why the study is stored only, and no model was asked; None where they were.
    """

    jobs: tuple[PlannedJob, ...]
    words: str
    verdicts: tuple[Verdict, ...] = ()
    not_admitted: Reason | None = None


@dataclass(frozen=True)
class Circumstances:
    """What is known of a study besides its images, when it is planned.

    Parameters
    ----------
    calling_ae_titles
        Who sent any of it; nobody where all of it was fetched. None: those whom the instances name.
    on_request, passed_over
        Whether a person wants it analysed, and whether it was let go of when a pause ended.
    part
        Why what is here is only a part of the study; None where nothing is known to lack.
    models
        The models whose turn it is; None: all. The others wait for series that are not complete yet.
    incomplete
        Why a series can not be analysed though what is here of it might be, by its UID: the archive holds more of it,
        or images of it came again with other pixels.
    earlier
        Earlier studies of the same patient that are here, the latest first.
    unfound
        Why a model has no earlier study, or fewer than it might, by its name.
    rejected
        Images that were rejected, each with why, by Series Instance UID; `plan_study` is not given them.
    today
        The date at the site, by which a study is too old; None: its age does not matter.
    """

    calling_ae_titles: frozenset[str] | None = None
    on_request: bool = False
    passed_over: bool = False
    part: Reason | None = None
    models: frozenset[str] | None = None
    incomplete: Mapping[str, Reason] = field(default_factory=dict)
    earlier: tuple[EarlierStudy, ...] = ()
    unfound: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)
    rejected: Mapping[str, Sequence[tuple[StoredInstance, RejectionTitle]]] = field(default_factory=dict)
    today: date | None = None


NOTHING_ELSE: Final = Circumstances()
"""What is known where only the images are."""


def read_cards(settings: Settings) -> dict[str, ModelCard]:
    """Return the cards of the configured models, by name.

    Raises
    ------
    ConfigError
        If a bundle can not be read.
    """
    return {model.name: _read_card(settings, model) for model in settings.models.values()}


def _read_card(settings: Settings, model: ModelSettings) -> ModelCard:
    try:
        return read_card(model.name, find_bundle(settings.bundle_location(model)), model, model.digest)
    except BundleInvalid as error:
        raise ConfigError(f"models.{model.name}: {error.words}") from None


def judge(
    settings: Settings,
    card: ModelCard,
    series: Mapping[str, Sequence[InstanceHeader]],
    incomplete: Mapping[str, Reason] = NOTHING_ELSE.incomplete,
) -> Selection:
    """Return what a model says of each series of a study, without running anything.

    Parameters
    ----------
    series
        The headers of each series, by Series Instance UID.
    incomplete
        Why a series can not be analysed though what is here of it might be, by its UID.
    """
    return select(series, card.rule, settings.geometry.frame_of_reference, is_decodable, incomplete)


def plan_study(
    settings: Settings,
    cards: Mapping[str, ModelCard],
    series: Mapping[str, Sequence[StoredInstance]],
    circumstances: Circumstances = NOTHING_ELSE,
) -> Plan:
    """Decide which models run on which series of a study, and which are refused.

    Parameters
    ----------
    series
        The current instances of each series, by Series Instance UID.
    """
    headers = _headers(series)
    not_admitted = why_not_admitted(settings, circumstances, (each for group in headers.values() for each in group))
    if not_admitted is not None:
        return Plan((), not_admitted.words, (), not_admitted)
    conflicts = identity_conflicts(header for group in headers.values() for header in group)
    urgent = _urgent(settings, series, circumstances)
    jobs: list[PlannedJob] = []
    words: list[str] = []
    verdicts: list[Verdict] = []
    for model in settings.models.values():
        if circumstances.models is not None and model.name not in circumstances.models:
            continue
        card = cards[model.name]
        selection, images = _select(settings, card, series, circumstances)
        verdicts += verdicts_of(card, selection)
        job = _job(settings, model, card, selection, images, conflicts, urgent, circumstances)
        if job is None:
            words.append(f"{model.name}: {_why_not(selection)}")
        else:
            jobs.append(job)
    return Plan(tuple(jobs), " ".join(words) or "No model is configured.", tuple(verdicts))


def _select(
    settings: Settings,
    card: ModelCard,
    series: Mapping[str, Sequence[StoredInstance]],
    circumstances: Circumstances,
) -> tuple[Selection, Mapping[str, Sequence[StoredInstance]]]:
    """Return what a model says of a study, and the images that it says it of.

    Where it wants none of what is left, and would have wanted a series with what was rejected, that one is refused:
    results on it may be out, and nobody may take them for valid.
    """
    why = {uid: [title for _, title in each] for uid, each in circumstances.rejected.items()}
    selection = told(judge(settings, card, _headers(series), circumstances.incomplete), why)
    if selection.chosen or selection.refused or not why:
        return selection, series
    rejected = {uid: [instance for instance, _ in each] for uid, each in circumstances.rejected.items()}
    whole = {uid: [*series.get(uid, ()), *rejected.get(uid, ())] for uid in {**series, **rejected}}
    reasons = {uid: reason_of(titles) for uid, titles in why.items()}
    had_been = judge(settings, card, _headers(whole), {**circumstances.incomplete, **reasons})
    refused = had_been.refused and had_been.refused.series_instance_uid in rejected
    return (had_been, whole) if refused else (selection, series)


def _headers(series: Mapping[str, Sequence[StoredInstance]]) -> dict[str, list[InstanceHeader]]:
    return {uid: [instance.header for instance in instances] for uid, instances in series.items()}


def _urgent(
    settings: Settings, series: Mapping[str, Sequence[StoredInstance]], circumstances: Circumstances
) -> UrgencyRule | None:
    instances = [instance for group in series.values() for instance in group]
    headers = [instance.header for instance in instances]
    return most_urgent(settings.urgency_rules, headers, _senders(instances, circumstances))


def _senders(instances: Iterable[StoredInstance], circumstances: Circumstances) -> Collection[str]:
    """Return who sent these; where all of them were fetched, who sent anything of their study."""
    sent = {instance.calling_ae_title for instance in instances if not instance.fetched}
    return sent or circumstances.calling_ae_titles or ()


def verdicts_of(card: ModelCard, selection: Selection) -> tuple[Verdict, ...]:
    """Return what a model says of each series and stack, as it is shown and kept."""
    return tuple(
        Verdict(
            model_name=card.name,
            series_instance_uid=verdict.series_instance_uid,
            series_number=verdict.series_number,
            series_description=verdict.series_description,
            stack=verdict.stack,
            outcome=_outcome(verdict, selection),
            reasons=verdict.reasons,
        )
        for verdict in selection.verdicts
    )


def reasons_against(
    settings: Settings, card: ModelCard, selection: Selection, conflicts: tuple[Reason, ...]
) -> tuple[Reason, ...]:
    """Return why a model does not run on a study of which it wants a series; empty where it runs, or wants none.

    Parameters
    ----------
    conflicts
        What keeps every model from the study.
    """
    verdict = selection.chosen or selection.refused
    if verdict is None:
        return ()
    nameless = () if settings.results.allow_empty_patient_id else unidentified(verdict.headers)
    return (card.objection,) if card.objection else conflicts or (*nameless, *selection.refusal)


def _outcome(verdict: SeriesVerdict, selection: Selection) -> VerdictOutcome:
    if verdict is selection.chosen:
        return VerdictOutcome.CHOSEN
    if verdict.accepted:
        return VerdictOutcome.ACCEPTED
    return VerdictOutcome.REFUSED if verdict.wanted else VerdictOutcome.NOT_WANTED


def planned_slices(
    instances: Sequence[tuple[str, InstanceHeader]], parameters: Mapping[str, Any]
) -> list[tuple[str, InstanceHeader]]:
    """Return (path, header) of each slice that a job is about: each image, or the planned frames of the images.

    Parameters
    ----------
    instances
        (path, header) of each of the job's instances, in their order.
    """
    frames = parameters.get("frames")
    if frames is None:
        return list(instances)
    by_frame = [(path, header.slices()) for path, header in instances]
    return [(by_frame[index][0], by_frame[index][1][(number or 1) - 1]) for index, number in frames]


def ordered_slices(
    instances: Sequence[tuple[str, InstanceHeader]], parameters: Mapping[str, Any]
) -> tuple[list[tuple[str, InstanceHeader]], VolumeGeometry | None]:
    """Return (path, header) of each slice that a job is about, in the order in which it is analysed, and their grid.

    Images that stand alone have no grid, and stay in the order in which they were planned.

    Raises
    ------
    StudyRefused
        If the slices of a job that wants a volume form none.
    """
    slices, form = planned_slices(instances, parameters), parameters.get("form")
    if form == "image":
        return slices, None
    try:
        geometry = planned_geometry(slices, parameters)
    except StudyRefused:
        if form is None:  # a job of an earlier version does not say what it wants
            return slices, None
        raise
    return [slices[index] for index in geometry.order], geometry


def planned_geometry(slices: Sequence[tuple[str, InstanceHeader]], parameters: Mapping[str, Any]) -> VolumeGeometry:
    """Return the grid of a job's slices, by the settings that it was planned with; StudyRefused if they form none."""
    return assess(
        [header for _, header in slices],
        FrameOfReferencePolicy(parameters["frame_of_reference"]),
        uneven_spacing=UnevenSpacing(parameters["uneven_spacing"]),
    )


KEPT_HERE = Wish("", (Form.SEG, Form.SR))
"""What is made, and sent to nobody, where no peer takes the results."""


def wishes_for(settings: Settings, model: str, calling_ae_titles: Collection[str]) -> tuple[Wish, ...]:
    """Return what each peer is to be sent of a model's results on images that came from these AE titles.

    They are no part of a job's key: another form for one peer must not make the others be sent everything anew.

    Nobody is sent anything of a model with ``deliver = false``, nor told of its refusals. What such a model found stays
    here for good: neither turning ``deliver`` on again nor ``hilum retry`` sends it later.
    """
    if not settings.models[model].deliver:
        return (KEPT_HERE,)
    wishes = settings.wishes(model, calling_ae_titles)
    if any(set(wish.forms) - {Form.REFUSAL} for wish in wishes):
        return wishes
    return (*wishes, KEPT_HERE)


def result_parameters(settings: Settings) -> dict[str, Any]:
    """Return every setting that changes what the same model finds in the same images, or what is said of it."""
    return {
        "frame_of_reference": settings.geometry.frame_of_reference.value,
        "disclaimer": settings.results.disclaimer,
        "allow_empty_patient_id": settings.results.allow_empty_patient_id,
        "writer_version": WRITER_VERSION,
    }


def model_parameters(settings: Settings, model: ModelSettings, card: ModelCard) -> dict[str, Any]:
    """Return what the configuration says of a model that changes its results, or their place in the study.

    What is not set is left out, so that jobs keep the keys that they had before there was such a setting.
    """
    parameters = {
        "series_position": list(settings.models).index(model.name),
        "description": card.description_digest,
        "uneven_spacing": card.rule.uneven_spacing.value,
    }
    if model.precision is not None:
        parameters["precision"] = model.precision
    if model.compile:
        parameters["compile"] = True
    return parameters


def json_digest(value: object) -> str:
    """Return the SHA-256, hexadecimal, of `value` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _job(
    settings: Settings,
    model: ModelSettings,
    card: ModelCard,
    selection: Selection,
    series: Mapping[str, Sequence[StoredInstance]],
    conflicts: tuple[Reason, ...],
    urgent: UrgencyRule | None,
    circumstances: Circumstances,
) -> PlannedJob | None:
    verdict = selection.chosen or selection.refused
    if verdict is None:
        return None
    digests = {instance.header.sop_instance_uid: instance.digest for instance in series[verdict.series_instance_uid]}
    chosen = tuple(dict.fromkeys(header.sop_instance_uid for header in verdict.headers))
    reasons = reasons_against(settings, card, selection, conflicts)
    comparison = Comparison()
    if not reasons:
        unfound = circumstances.unfound.get(model.name, ())
        comparison = compare(settings, card, verdict.headers, circumstances.earlier, unfound)
        reasons = comparison.refusal(card)
    senders = _senders(series[verdict.series_instance_uid], circumstances)
    wishes = wishes_for(settings, model.name, senders)
    parameters = result_parameters(settings) | model_parameters(settings, model, card)
    if any(header.frame_number for header in verdict.headers):
        place = {uid: index for index, uid in enumerate(chosen)}
        parameters["frames"] = [(place[header.sop_instance_uid], header.frame_number) for header in verdict.headers]
    without = {
        instance.header.sop_instance_uid for instance, _ in circumstances.rejected.get(verdict.series_instance_uid, ())
    }
    if not without.isdisjoint(chosen):  # refused for these alone: no result on the same images is meant
        parameters["rejected"] = sorted(without)
    if comparison.priors:
        parameters["priors"] = _key_of_priors(comparison)
    return PlannedJob(
        model_name=model.name,
        model_digest=card.digest,
        series_instance_uid=verdict.series_instance_uid,
        instances_digest=json_digest(sorted((uid, digests[uid]) for uid in chosen)),
        # No part of the job's key: what follows from the rest of it, to whom results go, and what it goes before.
        parameters=parameters
        | {"notes": verdict.notes, "form": card.rule.form, "wishes": [wish.to_json() for wish in wishes]}
        | ({"urgent": urgent.name} if urgent else {})
        | ({"not_compared": comparison.told} if comparison.told else {}),
        parameters_digest=json_digest(parameters),
        sop_instance_uids=chosen,
        deadline_seconds=settings.deadline(model.name),
        refusal=StudyRefused(reasons).reason if reasons else None,
        priority=model.priority + (urgent.priority if urgent else 0),
        priors=comparison.priors,
    )


def _key_of_priors(comparison: Comparison) -> list[dict[str, Any]]:
    """Return what of the earlier series decides the results."""
    return [
        {
            "study": prior.study_instance_uid,
            "date": prior.study_date,
            "series": prior.series_instance_uid,
            "instances_digest": json_digest(sorted(prior.instances)),
        }
        | ({} if frames is None else {"frames": list(frames)})
        for prior, frames in zip(comparison.priors, comparison.frames, strict=True)
    ]


def _why_not(selection: Selection) -> str:
    if not selection.verdicts:
        return "The study holds no series."
    words = {reason.words for verdict in selection.verdicts for reason in verdict.reasons}
    return f"none of {len(selection.verdicts)} series is wanted. {' '.join(sorted(words))}"
