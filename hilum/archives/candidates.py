"""Which of the studies and series that an archive names a model may compare with: answers in, candidates out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

from hilum.comparing import rule_for_priors
from inference.catalog import ModelCard
from study.completion import may_want
from study.errors import Reason
from study.headers import InstanceHeader
from study.holdings import ArchivedSeries, ArchivedStudy
from study.priors import NO_DATE, day_of, day_words, why_another_patient, why_not_earlier
from study.searches import SETTLED, FoundStudy, PriorOutcome

_MOST_STUDIES: Final = 24
"""How many earlier studies are kept on record for a model, the latest ones."""
_MOST_SERIES: Final = 3
"""How many series of an earlier study are fetched, so that the model's rule has a choice."""
_OF_NO_CONCERN: Final = frozenset({"NotEarlier", "PriorTooOld"})


@dataclass(frozen=True)
class Question:
    """What an archive is asked for earlier studies: whose, from when to when (DA)."""

    patient_id: str
    issuer_of_patient_id: str
    from_date: str
    to_date: str


def question_for(now: Sequence[InstanceHeader], card: ModelCard) -> Question | None:
    """Return what is asked for the earlier studies of a study's patient; None where it does not say enough.

    Parameters
    ----------
    now
        Headers of images of the study.
    """
    named = next((header for header in now if header.patient_id.strip() and day_of(header.study_date)), None)
    day = None if named is None else day_of(named.study_date)
    if named is None or day is None or card.priors is None:
        return None
    first = day - timedelta(days=min(card.priors.max_age_days, day.toordinal() - 1))
    issuer = next((header.issuer_of_patient_id.strip() for header in now if header.issuer_of_patient_id.strip()), "")
    return Question(named.patient_id.strip(), issuer, _da(first), _da(day))


def _da(day: date) -> str:
    return day.isoformat().replace("-", "")  # strftime leaves the zeros of early years out


def candidates(
    now: Sequence[InstanceHeader], studies: Iterable[ArchivedStudy], card: ModelCard
) -> tuple[FoundStudy, ...]:
    """Return the earlier studies among an archive's answers, the latest first; refused where they may be another's.

    What is not earlier, or too old, is left out.
    """
    judged = [_judged(now, study, card) for study in studies if study.study_instance_uid != now[0].study_instance_uid]
    found = [each for each in judged if each is not None]
    found.sort(key=lambda each: (day_words(each.study_date), each.study_time, each.study_instance_uid), reverse=True)
    return tuple(found[:_MOST_STUDIES])


def _judged(now: Sequence[InstanceHeader], study: ArchivedStudy, card: ModelCard) -> FoundStudy | None:
    found = FoundStudy(study.study_instance_uid, study.study_date, study.study_time)
    if card.priors is None:
        return None
    against = why_not_earlier(now[0], study, card.priors.max_age_days)
    if against is not None:
        if against.code in _OF_NO_CONCERN:
            return None
        return replace(found, outcome=PriorOutcome.NOT_WANTED, reason=Reason(NO_DATE, against.words))
    another = why_another_patient(now, [study])
    if another is not None:
        return replace(found, outcome=PriorOutcome.REFUSED, reason=another)
    wanted = {modality.upper() for modality in rule_for_priors(card).modality}
    if study.modalities and wanted.isdisjoint(modality.upper() for modality in study.modalities):
        return replace(found, outcome=PriorOutcome.NOT_WANTED)
    return found


def series_to_fetch(series: Iterable[ArchivedSeries], card: ModelCard) -> tuple[ArchivedSeries, ...]:
    """Return which series of an earlier study the model may want: the few largest, by what is known at that level."""
    rule = rule_for_priors(card)
    fewest = int(rule.slices[0]) if rule.slices and rule.slices[0] else 1
    # One image alone may be an Enhanced one of many slices; where nobody counts, any may be large
    wanted = [each for each in series if may_want(rule, each) and _is_enough(each.instances, fewest)]
    wanted.sort(key=lambda each: each.instances or 0, reverse=True)
    return tuple(wanted[:_MOST_SERIES])


def _is_enough(images: int | None, fewest: int) -> bool:
    return images is None or images == 1 or images >= fewest


def next_ones(found: Sequence[FoundStudy], count: int) -> list[FoundStudy]:
    """Return the candidates to go on with: as many of the latest as are still lacking."""
    lacking = count - sum(each.outcome is PriorOutcome.HERE for each in found)
    return [each for each in found if each.outcome not in SETTLED][: max(lacking, 0)]
