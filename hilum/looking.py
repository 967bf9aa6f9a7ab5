"""A look at one study, for whoever plans its work: whose turn it is, what it holds, and all else that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from db.complete import inquiries, questions
from db.engine import UnitOfWork
from db.files.filestore import FileStore
from db.images import index, places
from db.images.index import StudySnapshot
from db.lasting import removals
from hilum.archives.awaiting import awaits_priors
from hilum.archives.earlier import earlier_here, why_unfound
from hilum.config import Settings
from hilum.planning import Circumstances
from hilum.versions import changed_pixels
from inference.catalog import ModelCard
from study.completion import Clock, Completeness, judge, list_settles_at
from study.errors import Reason
from study.inquiry import Inquiry, InquiryState


@dataclass(frozen=True)
class Turn:
    """Whose turn it is in a study.

    Parameters
    ----------
    completeness
        Its `models` are those that may go to work now.
    waiting
        Models whose series are complete, and since when, that wait for earlier studies.
    inquiry
        What the archive was asked; None where nobody was ever to be asked.
    look_again_at
        Of a study without an archive: when its sender's list may be the proof.
    calling_ae_titles
        Who sent any of it.
    """

    completeness: Completeness
    waiting: Mapping[str, datetime]
    inquiry: Inquiry | None
    look_again_at: datetime | None
    calling_ae_titles: frozenset[str]

    @property
    def is_anybodys(self) -> bool:
        """Tell whether a model may go to work, or the study can be closed."""
        return self.completeness.models is None or bool(self.completeness.models)


@dataclass(frozen=True)
class Look:
    """A study at one moment: what it holds, and what is known of it besides."""

    seen: StudySnapshot
    circumstances: Circumstances


def whose_turn(
    uow: UnitOfWork,
    settings: Settings,
    cards: Mapping[str, ModelCard],
    study_instance_uid: str,
    quiet_as_of: datetime | None = None,
) -> Turn:
    """Return which models may go to work on a study.

    Parameters
    ----------
    quiet_as_of
        The time by which all that had come was indexed, and at which its quiet period is judged; None: it decides
        nothing, since the node has not listened long enough.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    study = places.study(uow, study_instance_uid)
    inquiry = inquiries.of_study(uow, study_instance_uid)
    quiet = timedelta(seconds=settings.study.quiet_seconds)
    clock = Clock(
        at=uow.now(),
        last_received_at=study.last_received_at,
        silent=quiet_as_of is not None and study.last_received_at <= quiet_as_of - quiet,
        overdue=inquiry is not None and inquiries.is_overdue(uow, inquiry),
        settle_seconds=settings.study.settle_seconds,
        quiet_seconds=settings.study.quiet_seconds,
    )
    rules = {name: card.rule for name, card in cards.items()}
    # What an archive said that is asked no more holds nothing up
    relied_on = inquiry if inquiry is None or not inquiry.peer or inquiry.peer in settings.archives else None
    completeness = judge(relied_on, rules, questions.holdings(uow, study.id), clock)
    senders = places.senders(uow, study.id)
    waiting = {
        name: since
        for name, since in completeness.since.items()
        if awaits_priors(uow, settings, cards[name], study_instance_uid, senders, since)
    }
    look_again_at = None
    if inquiry is not None and inquiry.state is InquiryState.LISTED:
        look_again_at = list_settles_at(inquiry, clock) or clock.at + quiet
    return Turn(_without(completeness, waiting, cards), waiting, inquiry, look_again_at, senders)


def _without(
    completeness: Completeness, waiting: Mapping[str, datetime], cards: Mapping[str, ModelCard]
) -> Completeness:
    """Return what is complete, without the models that wait for something else."""
    if not waiting:
        return completeness
    models = frozenset(cards) if completeness.models is None else completeness.models
    return Completeness(models - waiting.keys(), incomplete=completeness.incomplete)


def look_at(
    uow: UnitOfWork,
    settings: Settings,
    cards: Mapping[str, ModelCard],
    study_instance_uid: str,
    completeness: Completeness,
    *,
    accepting: bool = False,
) -> Look:
    """Return what a study holds, and what is known of it besides, at one moment.

    Parameters
    ----------
    cards
        Of the configured models, by name.
    completeness
        What of it is complete.
    accepting
        Whether the newest version of each image counts, whatever is held against it: a person says so just now.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    seen = index.snapshot(uow, study_instance_uid)
    # What was only fetched is not analysed, and the headers of other studies are many
    here = earlier_here(uow, cards, study_instance_uid) if seen.calling_ae_titles or seen.on_request else ()
    changed = {} if accepting or seen.newest_accepted else changed_pixels(uow, FileStore(settings.data_dir), seen)
    circumstances = Circumstances(
        calling_ae_titles=seen.calling_ae_titles,
        on_request=seen.on_request,
        passed_over=seen.passed_over,
        part=None if accepting or seen.newest_accepted else _part(uow, study_instance_uid, completeness),
        models=completeness.models,
        incomplete={**completeness.incomplete, **changed},
        earlier=here,
        unfound=why_unfound(uow, settings, cards, seen, here),
        rejected=seen.rejected,
        today=datetime.now(UTC).astimezone().date(),
    )
    return Look(seen, circumstances)


def _part(uow: UnitOfWork, study_instance_uid: str, completeness: Completeness) -> Reason | None:
    """Return why what is here is a part of a study that was removed; None where an archive proves that it is all."""
    inquiry = inquiries.of_study(uow, study_instance_uid)
    is_proof = completeness.models is None and completeness.by and completeness.unproven is None
    if inquiry is not None and inquiry.peer and is_proof and not completeness.incomplete:
        return None
    return removals.why_not_whole(uow, study_instance_uid)
