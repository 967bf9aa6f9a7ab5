"""How long an analysis waits for earlier studies: while its archive is asked, and no longer than its model may."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from db.complete import priors
from db.engine import UnitOfWork
from hilum.config import Settings
from hilum.entries import PeerSettings
from inference.catalog import ModelCard
from study.searches import SearchState


def archive_for_priors(settings: Settings, calling_ae_titles: Collection[str]) -> PeerSettings | None:
    """Return the archive that is asked for earlier studies of what these sent; None where none of them names one.

    Where several do, it is the first of the configuration: one archive searches for a study.
    """
    for name, senders in settings.archives.items():
        if not set(senders).isdisjoint(calling_ae_titles):
            return settings.peers[name]
    return None


def awaits_priors(
    uow: UnitOfWork,
    settings: Settings,
    card: ModelCard,
    study_instance_uid: str,
    calling_ae_titles: Collection[str],
    complete_since: datetime,
) -> bool:
    """Tell whether a model's analysis of a study, of which the model wants a series, still waits for earlier studies.

    Parameters
    ----------
    calling_ae_titles
        Who sent any of the study.
    complete_since
        Since when the model's own series are complete, by the database's time; it waits from then on, or from when the
        search was begun if that was later, as after ``hilum retry``.
    """
    if card.priors is None or archive_for_priors(settings, calling_ae_titles) is None:
        return False
    search = priors.searches_of(uow, study_instance_uid).get(card.name)
    if search is not None and search.state is not SearchState.SEARCHING:
        return False
    # Without one the archivist has not come to it yet: it looks for studies without a search in each of its turns
    since = complete_since if search is None else max(complete_since, search.begun_at)
    return uow.now() < since + timedelta(seconds=card.priors.wait_seconds)
