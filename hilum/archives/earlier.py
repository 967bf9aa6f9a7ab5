"""What is known of a patient's earlier studies when a study is planned: those that are here, and why others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from db.complete import priors
from db.engine import UnitOfWork
from db.images.index import StudySnapshot
from hilum.archives.awaiting import archive_for_priors
from hilum.comparing import rule_for_priors
from hilum.config import Settings
from inference.catalog import ModelCard
from study.errors import Reason
from study.priors import NO_ANSWER, NO_ARCHIVE, NO_DATE, NO_PATIENT_ID, EarlierStudy, day_of, day_words
from study.searches import PriorOutcome, PriorSearch, SearchState

_MORE = 4
"""How many studies more than a model compares with are looked at, since some may be of no use."""
_TOLD = frozenset({PriorOutcome.REFUSED, PriorOutcome.FAILED, PriorOutcome.UNUSABLE})


def modalities_of_priors(cards: Mapping[str, ModelCard]) -> frozenset[str]:
    """Return the modalities of the earlier series that any of the models may want."""
    return frozenset(
        modality for card in cards.values() if card.priors is not None for modality in rule_for_priors(card).modality
    )


def earlier_here(uow: UnitOfWork, cards: Mapping[str, ModelCard], study_instance_uid: str) -> tuple[EarlierStudy, ...]:
    """Return the earlier studies under the same Patient ID that are here, as many as may be needed, latest first."""
    counts = [card.priors.count for card in cards.values() if card.priors is not None]
    if not counts:
        return ()
    return priors.earlier_studies(uow, study_instance_uid, modalities_of_priors(cards), max(counts) + _MORE)


def why_unfound(
    uow: UnitOfWork,
    settings: Settings,
    cards: Mapping[str, ModelCard],
    seen: StudySnapshot,
    here: Collection[EarlierStudy],
) -> dict[str, tuple[Reason, ...]]:
    """Return why each model that compares may lack earlier studies, by its name."""
    comparing = [card for card in cards.values() if card.priors is not None]
    if not comparing:
        return {}
    searches = priors.searches_of(uow, seen.study_instance_uid)
    found: dict[str, tuple[Reason, ...]] = {}
    for card in comparing:
        missing = _missing(seen)
        archive = archive_for_priors(settings, seen.calling_ae_titles)
        if missing is None and archive is None:
            words = "Not compared: no earlier study is here that can be used, and no archive is named to be asked."
            missing = Reason(NO_ARCHIVE, words)
        of_search = _of_search(searches.get(card.name), card, {study.study_instance_uid for study in here})
        found[card.name] = (missing,) if missing is not None else tuple(of_search)
    return found


def without_archive(settings: Settings, card: ModelCard) -> str | None:
    """Return what to do where a model compares with earlier studies and no archive is asked for any; None elsewhere."""
    if card.priors is None or settings.archives:
        return None
    return (
        f"{card.name} compares with earlier studies, and finds only those that the node was sent: give a sender "
        'archive = "NAME" of the peer that holds them'
    )


def _missing(seen: StudySnapshot) -> Reason | None:
    """Return what a study lacks by which earlier ones could be found."""
    headers = [each.header for held in seen.series.values() for each in held]
    if not any(header.patient_id.strip() for header in headers):
        return Reason(NO_PATIENT_ID, "Not compared: the study has no Patient ID, by which earlier ones are found.")
    if not any(day_of(header.study_date) for header in headers):
        return Reason(NO_DATE, "Not compared: the study has no date, so it is not known which are earlier.")
    return None


def _of_search(search: PriorSearch | None, card: ModelCard, here: Collection[str]) -> Iterator[Reason]:
    """Yield what came of a search that a reader of the results must know, but for what is judged by what is here."""
    seconds = card.priors.wait_seconds if card.priors is not None else 0
    if search is None or (search.state is SearchState.SEARCHING and not search.found):
        words = f"Not compared with what the archive may hold: it did not answer in {seconds:g} s."
        yield Reason(NO_ANSWER, words, {"seconds": seconds})
        return
    if search.state is SearchState.FAILED and search.reason is not None:
        words = f"Not compared with what the archive may hold: it could not be asked. {search.reason.words}"
        yield Reason(search.reason.code, words, search.reason.numbers)
    for each in search.found:
        if search.state is SearchState.SEARCHING and each.outcome in (PriorOutcome.FOUND, PriorOutcome.FETCHING):
            day = day_words(each.study_date)
            words = f"Not compared with the study of {day}: the archive had not sent it in {seconds:g} s."
            yield Reason(NO_ANSWER, words, {"seconds": seconds})
        elif each.outcome in _TOLD and each.reason is not None and each.study_instance_uid not in here:
            yield each.reason
