"""Searching one archive for earlier studies of a patient, and having fetched what a model may compare with.

It begins with the first images of a study, in parallel with their reception. The latest study is fetched first, of it
the few series that may be of use, and once they are here the model's own rule judges them: one that can not be used
makes room for the next older one. Nothing of what is under way needs to last: each step finds it again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from db.complete import priors, questions
from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from db.images import places
from hilum.admitting import why_not_admitted
from hilum.archives.awaiting import archive_for_priors
from hilum.archives.candidates import candidates, next_ones, question_for, series_to_fetch
from hilum.archives.fetching import Fetcher, Order, Urgency
from hilum.comparing import judge_prior, rule_for_priors
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.planning import Circumstances
from hilum.processes import StopSignal
from inference.catalog import ModelCard
from scp.association.requesting import Timeouts
from scp.retrieving.fetching import Retrieved, Wanted
from scp.retrieving.query import Questioner
from study.completion import may_want
from study.errors import ArchiveError, DeliveryError, HilumError, PeerUnreachable, Reason, RetrieveFailed
from study.headers import InstanceHeader
from study.priors import NO_PATIENT_ID, day_words
from study.searches import FoundStudy, PriorOutcome, PriorSearch, SearchState

log = structlog.get_logger()

TIMEOUTS: Final = Timeouts(connection=5.0, negotiation=10.0, answer=30.0)
"""Time limits of a question [s]; an archive may look through many years for an answer."""
_AT_ONCE: Final = 10  # searches that go on over one association
_MOST_TRIES: Final = 6  # of a question, with back-off; and then the analysis goes on without
_MOST_ORDERS: Final = 3  # for a series of an earlier study
_LOOK_SECONDS: Final = 0.2  # between looks at what is fetched
_INDEXED_SECONDS: Final = 60.0  # the longest that the index may lag behind what was fetched


class Searcher:
    """Searches one archive for earlier studies of those that its senders send.

    Parameters
    ----------
    fetcher
        Fetches from the same archive.
    """

    def __init__(
        self,
        archive: PeerSettings,
        settings: Settings,
        cards: Mapping[str, ModelCard],
        database: Database,
        fetcher: Fetcher,
        stop: StopSignal,
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._cards = {name: card for name, card in cards.items() if card.priors is not None}
        self._senders = settings.archives.get(archive.name, ())
        self._database = database
        self._store = FileStore(settings.data_dir)
        self._fetcher = fetcher
        self._stop = stop
        self._looked: dict[str, int] = {}  # the generation of each study at the last look for what it may want
        self._orders: Counter[tuple[str, str]] = Counter()
        self._troubles: dict[tuple[str, str], str] = {}
        self._fetched_at: dict[tuple[str, str], float] = {}

    def turn(self) -> bool:
        """Begin the searches that are new, and go on with those that are due; tell whether any was."""
        if not self._cards:
            return False
        self._begin()
        with self._database.reading() as uow:
            due = [
                each
                for each in priors.searches_due(uow, self._senders, _AT_ONCE)
                if each.model_name in self._cards and self._is_ours(uow, each.study_instance_uid)
            ]
        with ExitStack() as stack:
            ask = _Line(self._archive, self._settings, self._stop, stack)
            for search in due:
                if self._stop.is_set() or not self._went_on(search, ask):
                    break
        return bool(due)

    def _is_ours(self, uow: UnitOfWork, study_instance_uid: str) -> bool:
        """Tell whether this is the archive that is asked: of several that senders name it is one."""
        senders = places.senders(uow, places.study(uow, study_instance_uid).id)
        chosen = archive_for_priors(self._settings, senders)
        return chosen is not None and chosen.name == self._archive.name

    def _begin(self) -> None:
        """Have earlier studies searched for, for each model that may want a series of a study that came."""
        with self._database.reading() as uow:
            waiting = priors.unsearched(uow, self._senders, self._cards)
            fresh = [each for each in waiting if self._looked.get(each.study_instance_uid) != each.generation]
            wanting = {each.study_instance_uid: self._wanting(uow, each) for each in fresh}
        self._looked = {each.study_instance_uid: each.generation for each in waiting}
        for uid, models in wanting.items():
            if models:
                with self._database.writing() as uow:
                    priors.begin_searches(uow, uid, models)
                    uow.commit()
                log.info("priors.search_begun", study=uid, models=sorted(models))

    def _wanting(self, uow: UnitOfWork, study: priors.Unsearched) -> list[str]:
        """Return the models without a search that may want a series of a study; none of one that is only stored."""
        if not self._is_ours(uow, study.study_instance_uid):
            return []
        headers = questions.first_headers(uow, study.study)
        circumstances = Circumstances(
            calling_ae_titles=places.senders(uow, study.study),
            on_request=study.on_request,
            passed_over=study.passed_over,
            today=datetime.now(UTC).astimezone().date(),
        )
        if why_not_admitted(self._settings, circumstances, headers) is not None:
            return []
        described = [questions.describe(header) for header in headers]
        return [
            name
            for name, card in self._cards.items()
            if name not in study.models and any(may_want(card.rule, each) for each in described)
        ]

    def _went_on(self, search: PriorSearch, ask: _Line) -> bool:
        """Take a search a step further; False where the archive is better left alone for now."""
        try:
            now = self._now(search)
            found = search.found or self._asked(search, now, ask)
            if found is None:
                self._note(replace(search, state=SearchState.DONE, reason=_NOTHING_TO_ASK))
                return True
            self._look_into(replace(search, found=found), now, ask)
        except DeliveryError as error:
            if not self._stop.is_set():
                self._not_answered(search, error)
            return False
        return True

    def _now(self, search: PriorSearch) -> list[InstanceHeader]:
        """Return a header of each series of the study, those that the model may want first."""
        rule = self._cards[search.model_name].rule
        with self._database.reading() as uow:
            headers = questions.first_headers(uow, places.study(uow, search.study_instance_uid).id)
        return sorted(headers, key=lambda header: not may_want(rule, questions.describe(header)))

    def _asked(self, search: PriorSearch, now: Sequence[InstanceHeader], ask: _Line) -> tuple[FoundStudy, ...] | None:
        """Return the earlier studies that the archive names; None where the study does not say whose it is, or when."""
        card = self._cards[search.model_name]
        question = question_for(now, card)
        if question is None:
            return None
        studies = ask().studies_of(
            question.patient_id, question.issuer_of_patient_id, question.from_date, question.to_date
        )
        return candidates(now, studies, card)

    def _look_into(self, search: PriorSearch, now: Sequence[InstanceHeader], ask: _Line) -> None:
        """Go on with the latest candidates, as many as the model still lacks, and put on record how far they are."""
        card = self._cards[search.model_name]
        count = card.priors.count if card.priors is not None else 0
        found = list(search.found)
        for candidate in next_ones(found, count):
            place = found.index(candidate)
            found[place] = self._further(candidate, search, now, ask)
            self._note(replace(search, found=tuple(found)), again_in_seconds=_LOOK_SECONDS)
        if next_ones(found, count):
            waits = all(each.outcome is PriorOutcome.FETCHING for each in next_ones(found, count))
            self._note(replace(search, found=tuple(found)), again_in_seconds=_LOOK_SECONDS if waits else 0.0)
            return
        settled = [
            replace(each, outcome=PriorOutcome.NOT_NEEDED) if each.outcome is PriorOutcome.FOUND else each
            for each in found
        ]
        self._note(replace(search, found=tuple(settled), state=SearchState.DONE, reason=None))

    def _further(
        self, candidate: FoundStudy, search: PriorSearch, now: Sequence[InstanceHeader], ask: _Line
    ) -> FoundStudy:
        """Return an earlier study one step further: looked into, ordered, or judged once all of it is here."""
        card = self._cards[search.model_name]
        if candidate.outcome is PriorOutcome.FOUND:
            uid = candidate.study_instance_uid
            wanted = series_to_fetch(ask().series_of(uid), card)
            if not wanted:
                return replace(candidate, outcome=PriorOutcome.NOT_WANTED)
            counts = {
                each.series_instance_uid: each.instances or len(ask().instances_of(uid, each.series_instance_uid))
                for each in wanted
            }
            candidate = replace(candidate, outcome=PriorOutcome.FETCHING, series=counts)
        # Before the look at what is here: what is neither on its way nor to be indexed by then is in the index
        on_its_way = self._is_on_its_way(candidate)
        lacking = self._lacking(candidate)
        if not lacking:
            return self._judged(candidate, search, now)
        return candidate if on_its_way else self._ordered(candidate, lacking)

    def _is_on_its_way(self, candidate: FoundStudy) -> bool:
        """Tell whether anything of an earlier study is being fetched, or came just now and is still to be indexed."""
        study = candidate.study_instance_uid
        if any(self._fetcher.is_fetching(study, uid) for uid in candidate.series):
            return True
        since = time.monotonic() - _INDEXED_SECONDS
        came = any(self._fetched_at.get((study, uid), since) > since for uid in candidate.series)
        return came and self._store.first_received() is not None

    def _lacking(self, candidate: FoundStudy) -> list[str]:
        """Return the series of an earlier study of which the archive has more than is here."""
        with self._database.reading() as uow:
            try:
                held = questions.holdings(uow, places.study(uow, candidate.study_instance_uid).id)
            except ArchiveError:  # nothing of it is here yet
                held = {}
        return [
            uid
            for uid, count in candidate.series.items()
            if len(held[uid].sop_instance_uids if uid in held else ()) < (count or 0)
        ]

    def _ordered(self, candidate: FoundStudy, lacking: Sequence[str]) -> FoundStudy:
        """Have what is lacking fetched; what was ordered often enough in vain is given up."""
        study = candidate.study_instance_uid
        for uid in lacking:
            if self._orders[study, uid] >= _MOST_ORDERS or not self._fetcher.can_fetch:
                return self._given_up(candidate, study, uid)
            done = partial(self._fetched, study, uid)
            if self._fetcher.fetch(Order(Wanted(study, uid), Urgency.PRIOR, done)):
                self._orders[study, uid] += 1
        return candidate

    def _fetched(self, study: str, series: str, outcome: Retrieved | HilumError) -> None:
        self._troubles[study, series] = outcome.reason.words if isinstance(outcome, HilumError) else outcome.words
        self._fetched_at[study, series] = time.monotonic()
        log.info("prior.fetched", study=study, series=series, words=outcome.words)

    def _given_up(self, candidate: FoundStudy, study: str, series: str) -> FoundStudy:
        trouble = self._troubles.get((study, series), "")
        if not self._fetcher.can_fetch:
            trouble = f'nothing may be fetched from {self._archive.name} (retrieve = "none").'
        day = day_words(candidate.study_date)
        words = f"Not compared with the study of {day}: the archive did not give it. {trouble}"
        return replace(candidate, outcome=PriorOutcome.FAILED, reason=Reason(RetrieveFailed.code, words.strip()))

    def _judged(self, candidate: FoundStudy, search: PriorSearch, now: Sequence[InstanceHeader]) -> FoundStudy:
        """Return whether the model can use an earlier study that is here."""
        card = self._cards[search.model_name]
        with self._database.reading() as uow:
            here = priors.study_here(uow, candidate.study_instance_uid, rule_for_priors(card).modality)
        if here is None:
            return replace(candidate, outcome=PriorOutcome.NOT_WANTED)
        verdict, reasons = judge_prior(self._settings, card, now, here)
        if verdict is not None:
            return replace(candidate, outcome=PriorOutcome.HERE)
        return replace(candidate, outcome=PriorOutcome.UNUSABLE, reason=reasons[0])

    def _not_answered(self, search: PriorSearch, error: DeliveryError) -> None:
        """Put on record that the archive could not be asked; it is asked again, a few times."""
        attempts = search.attempts + 1
        ended = error.permanent or attempts >= _MOST_TRIES
        state = SearchState.FAILED if ended else SearchState.SEARCHING
        failed = replace(search, attempts=attempts, state=state, reason=error.reason)
        self._note(failed, again_in_seconds=2.0 ** (attempts - 1))
        log.warning("priors.not_answered", study=search.study_instance_uid, code=error.code, words=error.words)

    def _note(self, search: PriorSearch, again_in_seconds: float = 0.0) -> None:
        with self._database.writing() as uow:
            priors.note_search(uow, search, again_in_seconds=again_in_seconds)
            uow.commit()
        if search.state is not SearchState.SEARCHING:
            outcomes = Counter(each.outcome.value for each in search.found)
            log.info("priors.search_ended", study=search.study_instance_uid, model=search.model_name, **outcomes)
            for place in [(each.study_instance_uid, uid) for each in search.found for uid in each.series]:
                for noted in (self._orders, self._troubles, self._fetched_at):
                    noted.pop(place, None)


class _Line:
    """An association with the archive, made at the first question and kept until the turn ends."""

    def __init__(self, archive: PeerSettings, settings: Settings, stop: StopSignal, stack: ExitStack) -> None:
        self._archive = archive
        self._settings = settings
        self._stop = stop
        self._stack = stack
        self._questioner: Questioner | None = None

    def __call__(self) -> Questioner:
        """Return who asks; PeerUnreachable where the node stops."""
        if self._questioner is None:
            if not self._stack.enter_context(slot(self._settings.data_dir, self._archive, self._stop)):
                raise PeerUnreachable("The node is being stopped.")
            asking = Questioner(peer_of(self._archive), self._settings.node.ae_title, TIMEOUTS)
            self._questioner = self._stack.enter_context(asking)
        return self._questioner


_NOTHING_TO_ASK: Final = Reason(
    NO_PATIENT_ID, "The study has no Patient ID or no date, by which earlier studies are found."
)
