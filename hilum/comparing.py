"""Which earlier series a model is given beside the one that it analyses, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hilum.config import Settings
from inference.catalog import ModelCard
from inference.decoders import is_decodable
from study.entities import PlannedPrior, StoredInstance
from study.errors import Reason
from study.headers import InstanceHeader
from study.identity import CONFLICTING
from study.priors import (
    ANOTHER_PATIENT,
    INCOMPLETE,
    NO_PRIOR,
    NONE_FOUND,
    NOT_EARLIER,
    NOTHING_NEW,
    EarlierStudy,
    day_words,
    why_another_patient,
    why_not_earlier,
)
from study.reconstruction import differences
from study.rule import SelectionRule
from study.selection import Selection, select
from study.verdicts import SeriesVerdict, preference

UNUSABLE: Final = "PriorUnusable"
_NOT_THE_READERS: Final = frozenset({ANOTHER_PATIENT, NOT_EARLIER})
"""Codes of what a reader of the results is not told: studies of others, and such as are no earlier ones."""
_MOST_TOLD: Final = 8


@dataclass(frozen=True)
class Comparison:
    """With what a model's results on a study are compared.

    Parameters
    ----------
    priors
        The latest study's first.
    frames
        Of each prior: (index of the image, frame number) of each slice; None where each image is a slice.
    reasons
        Why other earlier studies are not compared with, or none is.
    """

    priors: tuple[PlannedPrior, ...] = ()
    frames: tuple[tuple[tuple[int, int | None], ...] | None, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @property
    def told(self) -> list[dict[str, Any]]:
        """Return why others are not compared with, as JSON, without what is nobody's business who reads the results."""
        told = [reason for reason in self.reasons if reason.code not in _NOT_THE_READERS]
        return [{"code": reason.code, "words": reason.words} for reason in told[:_MOST_TOLD]]

    def refusal(self, card: ModelCard) -> tuple[Reason, ...]:
        """Return why a model that needs an earlier study is not run; empty where it has one, or needs none."""
        if card.priors is None or not card.priors.required or self.priors:
            return ()
        words = f"{card.name} compares with an earlier study of the patient, and there is none that it can use."
        return (Reason(NO_PRIOR, " ".join([words, *(each["words"] for each in self.told)])),)


def rule_for_priors(card: ModelCard) -> SelectionRule:
    """Return what is asked of an earlier series: the model's own rule, but for what is said of priors."""
    if card.priors is None:
        return card.rule
    return replace(
        card.rule,
        modality=card.priors.modality or card.rule.modality,
        body_part=card.priors.body_part or card.rule.body_part,
    )


def compare(
    settings: Settings,
    card: ModelCard,
    now: Sequence[InstanceHeader],
    earlier: Iterable[EarlierStudy],
    unfound: Sequence[Reason] = (),
) -> Comparison:
    """Choose the earlier series that the results on a series are compared with: the best of each study, latest first.

    A study that can not be used makes room for the next older one. Where several series of a study can be, one that was
    made as the present one was goes first, then the model's own preferences decide.

    Parameters
    ----------
    now
        Headers of the slices that are analysed.
    unfound
        Why there may be earlier studies that are not here.
    """
    if card.priors is None:
        return Comparison()
    priors: list[PlannedPrior] = []
    frames: list[tuple[tuple[int, int | None], ...] | None] = []
    reasons: list[Reason] = []
    for study in sorted(earlier, key=_moment, reverse=True):
        if len(priors) == card.priors.count:
            break
        verdict, against = judge_prior(settings, card, now, study)
        if verdict is None:
            reasons += against
            continue
        prior, of_frames = _planned(study, verdict)
        priors.append(prior)
        frames.append(of_frames)
    known = {reason.words for reason in reasons}
    quiet = NOTHING_NEW if priors else frozenset[str]()
    further = [reason for reason in unfound if reason.words not in known and reason.code not in quiet]
    # That a study under the same ID may be another patient's is told however many others there are
    is_lacking = len(priors) < card.priors.count
    reasons += [reason for reason in further if is_lacking or reason.code == CONFLICTING]
    if not priors and not reasons:
        reasons.append(Reason(NONE_FOUND, "Not compared: no earlier study of the patient was found."))
    return Comparison(tuple(priors), tuple(frames), tuple(reasons))


def judge_prior(
    settings: Settings, card: ModelCard, now: Sequence[InstanceHeader], study: EarlierStudy
) -> tuple[SeriesVerdict | None, tuple[Reason, ...]]:
    """Return the series of an earlier study that a model can use, in the order of its slices; or why there is none."""
    headers = {uid: [each.header for each in held] for uid, held in study.series.items()}
    every = [header for group in headers.values() for header in group]
    if card.priors is None or not every:
        return None, (Reason(UNUSABLE, f"The study of {day_words(study.study_date)} has no series for {card.name}."),)
    dated = {(header.study_date, header.study_time): header for header in every}.values()
    not_earlier = (why_not_earlier(now[0], header, card.priors.max_age_days) for header in dated)
    against = next(filter(None, not_earlier), None) or why_another_patient(now, every) or study.unready
    if against is not None:
        return None, (against,)
    rule = rule_for_priors(card)
    lacking = {uid: reason for uid, held in study.series.items() if (reason := _lacking(study, uid, held)) is not None}
    selection = select(headers, rule, settings.geometry.frame_of_reference, is_decodable, lacking)
    accepted = [verdict for verdict in selection.verdicts if verdict.accepted]
    if accepted:
        best = max(accepted, key=lambda verdict: (-len(differences(now, verdict.headers)), preference(verdict, rule)))
        return best, ()
    return None, (_unusable(study, selection),)


def _moment(study: EarlierStudy) -> tuple[str, str, str]:
    """Return what earlier studies are sorted by; the UID decides where nothing else does."""
    times = [each.header.study_time for held in study.series.values() for each in held[:1]]
    return day_words(study.study_date), max(times, default=""), study.study_instance_uid


def _lacking(study: EarlierStudy, uid: str, held: Sequence[StoredInstance]) -> Reason | None:
    most = study.archived.get(uid, 0)
    if len(held) >= most:
        return None
    words = f"{len(held)} of the {most} images that the archive has of the series are here."
    return Reason(INCOMPLETE, words, {"here": len(held), "archived": most})


def _unusable(study: EarlierStudy, selection: Selection) -> Reason:
    """Return in one reason why no series of a study can be used."""
    day = day_words(study.study_date)
    why = selection.refusal
    if not why:
        return Reason(UNUSABLE, f"Not compared with the study of {day}: no series there is the model's kind.")
    words = " ".join(reason.words for reason in why)
    return Reason(why[0].code, f"Not compared with the study of {day}: {words}", why[0].numbers)


def _planned(
    study: EarlierStudy, verdict: SeriesVerdict
) -> tuple[PlannedPrior, tuple[tuple[int, int | None], ...] | None]:
    digests = {each.header.sop_instance_uid: each.digest for each in study.series[verdict.series_instance_uid]}
    uids = tuple(dict.fromkeys(header.sop_instance_uid for header in verdict.headers))
    frames = None
    if any(header.frame_number for header in verdict.headers):
        place = {uid: index for index, uid in enumerate(uids)}
        frames = tuple((place[header.sop_instance_uid], header.frame_number) for header in verdict.headers)
    instances = tuple((uid, digests[uid]) for uid in uids)
    date = verdict.headers[0].study_date
    return PlannedPrior(study.study_instance_uid, date, verdict.series_instance_uid, instances), frames
