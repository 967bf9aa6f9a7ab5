"""Asking one archive whether studies are complete, and having what they lack fetched; `study.asking` decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from db.complete import questions
from db.complete.questions import DueInquiry
from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from hilum.admitting import why_not_admitted
from hilum.archives.fetching import Fetcher
from hilum.archives.lacking import order_for
from hilum.archives.senders import terms
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.network import peer_of, slot
from hilum.planning import Circumstances
from hilum.processes import StopSignal
from inference.catalog import ModelCard
from scp.association.requesting import Timeouts
from scp.retrieving.query import Questioner
from study.asking import Answer, Terms, back_off, concerns, is_fetch_due, is_news, next_ask, weigh, without_counts
from study.errors import DeliveryError, QueryFailed
from study.holdings import ArchivedInstance, ArchivedSeries
from study.inquiry import HeldSeries, InquiryState, SeriesInquiry

log = structlog.get_logger()

TIMEOUTS: Final = Timeouts(connection=5.0, negotiation=10.0, answer=15.0)
"""Time limits of a question [s]: a study does not wait for an archive much longer than for its quiet period."""
_AT_ONCE = 20  # studies that are asked about over one association
_LONGEST_BACK_OFF = 30.0  # [s]

_Listings = Mapping[str, Sequence[ArchivedInstance]]


class _Contradiction(QueryFailed):
    """An archive counts other than it names: nothing that it said of the study is relied on."""


class Completer:
    """Asks one archive about the studies of its senders.

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
        self._rules = [card.rule for card in cards.values()]
        self._database = database
        self._store = FileStore(settings.data_dir)
        self._fetcher = fetcher
        self._stop = stop
        self._failures = 0
        # While the node was down nobody could reach it: that was no silence of the sender's.
        self._listens_since = database.now()

    def turn(self) -> bool:
        """Ask about the studies whose turn it is; tell whether there were any."""
        with self._database.reading() as uow:
            due = questions.due(uow, self._archive.name, _AT_ONCE)
            asked = [each for each in due if self._is_of_use(uow, each)]
        for each in due:
            if each not in asked:
                self._leave_out(each)
        if asked:
            self._ask_about(asked)
        return bool(due)

    def _is_of_use(self, uow: UnitOfWork, due: DueInquiry) -> bool:
        """Tell whether a study is to be analysed, and a model may want any of it: of others nobody is asked."""
        circumstances = Circumstances(
            calling_ae_titles=due.calling_ae_titles,
            on_request=due.on_request,
            passed_over=due.passed_over,
            today=datetime.now(UTC).astimezone().date(),
        )
        if why_not_admitted(self._settings, circumstances, questions.first_headers(uow, due.study)) is not None:
            return False
        return any(concerns((), questions.holdings(uow, due.study), self._rules, self._terms(due)).values())

    def _leave_out(self, due: DueInquiry) -> None:
        with self._database.writing() as uow:
            inquiry = questions.lock(uow, due.study)
            if inquiry is not None and not self._is_of_use(uow, due):
                questions.keep(uow, due.study, replace(inquiry, state=InquiryState.SETTLED, generation=due.generation))
                uow.commit()

    def _ask_about(self, due: Sequence[DueInquiry]) -> None:
        try:
            with slot(self._settings.data_dir, self._archive, self._stop) as held:
                if not held:
                    return
                with Questioner(peer_of(self._archive), self._settings.node.ae_title, TIMEOUTS) as questioner:
                    self._ask_each(questioner, due)
        except DeliveryError as error:
            self._no_answer(error)

    def _ask_each(self, questioner: Questioner, due: Sequence[DueInquiry]) -> None:
        for each in due:
            if self._stop.is_set():
                return
            try:
                self._ask(questioner, each)
            except QueryFailed as error:  # of this study; the association may be of no use any more
                self._no_use(each, error)
                return
            self._failures = 0

    def _no_answer(self, error: DeliveryError) -> None:
        """Put on record that the archive can not be asked, and leave it alone for a while."""
        self._failures += 1
        # A study that comes while the archive is down has it asked a few times within its quiet period all the same
        longest = min(_LONGEST_BACK_OFF, max(self._settings.study.quiet_seconds / 4, 1.0))
        seconds = min(2.0 ** min(self._failures - 1, 10), longest)
        with self._database.writing() as uow:
            studies = questions.unanswered(uow, self._archive.name, error.reason, seconds)
            uow.commit()
        log.warning("archive.no_answer", code=error.code, words=error.words, studies=studies, again_in=seconds)

    def _no_use(self, due: DueInquiry, error: QueryFailed) -> None:
        """Put on record that what the archive answered about a study is of no use."""
        with self._database.writing() as uow:
            inquiry = questions.lock(uow, due.study)
            if inquiry is not None:
                failures = inquiry.failures + 1
                again_at = uow.now() + back_off(timedelta(seconds=2.0 ** min(failures - 1, 10)))
                failed = replace(inquiry, failures=failures, reason=error.reason, next_ask_at=again_at)
                if isinstance(error, _Contradiction):
                    series = without_counts(inquiry.series)
                    version = inquiry.version + is_news(inquiry.series, series)
                    failed = replace(failed, series=series, version=version)
                questions.keep(uow, due.study, failed)
                uow.commit()
        log.warning("archive.answer_of_no_use", study=due.study_instance_uid, code=error.code, words=error.words)

    def _ask(self, questioner: Questioner, due: DueInquiry) -> None:
        with self._database.reading() as uow:
            held, sent_at = questions.holdings(uow, due.study), uow.now()
        agreed = self._terms(due)
        listings: dict[str, Sequence[ArchivedInstance]] = {}
        archived = self._counted(questioner, due, held, agreed, listings)
        answer = Answer(
            archived,
            sent_at,
            self._database.now(),
            max(due.last_received_at, self._listens_since),
            fetching=self._fetching(due, archived),
        )
        weighed = weigh(due.inquiry.series, answer, held, self._rules, agreed)
        if self._store.first_received() is None:  # what is still to be indexed is not missing
            for each in (each for each in weighed if is_fetch_due(each, answer, agreed)):
                self._list(questioner, due, each, listings)
        self._keep(due, answer, listings, agreed)

    def _terms(self, due: DueInquiry) -> Terms:
        return terms(self._settings, self._archive, due.calling_ae_titles)

    def _counted(
        self,
        questioner: Questioner,
        due: DueInquiry,
        held: Mapping[str, HeldSeries],
        agreed: Terms,
        listings: dict[str, Sequence[ArchivedInstance]],
    ) -> tuple[ArchivedSeries, ...]:
        """Return the archive's series, each that a model may want with its number of instances."""
        archived = questioner.series_of(due.study_instance_uid)
        wanted = concerns(archived, held, self._rules, agreed)
        counted = []
        for series in archived:
            uid = series.series_instance_uid
            if wanted.get(uid) and series.instances is None:
                listings[uid] = questioner.instances_of(due.study_instance_uid, uid)
                counted.append(replace(series, instances=len(listings[uid])))
            else:
                counted.append(series)
        return tuple(counted)

    def _fetching(self, due: DueInquiry, archived: Sequence[ArchivedSeries]) -> frozenset[str]:
        uids = (series.series_instance_uid for series in archived)
        return frozenset(uid for uid in uids if self._fetcher.is_fetching(due.study_instance_uid, uid))

    def _list(
        self,
        questioner: Questioner,
        due: DueInquiry,
        series: SeriesInquiry,
        listings: dict[str, Sequence[ArchivedInstance]],
    ) -> None:
        """Have the instances of a series named; _Contradiction if they are fewer than the archive counts."""
        uid = series.series_instance_uid
        if uid not in listings:
            listings[uid] = questioner.instances_of(due.study_instance_uid, uid)
        if len(listings[uid]) < (series.archived or 0):
            raise _Contradiction(
                f"{self._archive.name} counts {series.archived} instances of the series {uid}, and names "
                f"{len(listings[uid])}."
            )

    def _keep(self, due: DueInquiry, answer: Answer, listings: _Listings, agreed: Terms) -> None:
        """Put on record what follows from an answer, and have what is missing fetched."""
        with self._database.writing() as uow:
            inquiry = questions.lock(uow, due.study)
            if inquiry is None:
                return
            held, study = questions.holdings(uow, due.study), questions.standing(uow, due.study)
            answer = replace(
                answer,
                quiet_since=max(study.last_received_at, self._listens_since),
                missing={uid: _not_here(listing, held.get(uid)) for uid, listing in listings.items()},
            )
            weighed = weigh(inquiry.series, answer, held, self._rules, agreed)
            ordered = frozenset(
                each.series_instance_uid
                for each in weighed
                if each.series_instance_uid in listings
                and is_fetch_due(each, answer, agreed)
                and self._fetch(due, each, listings[each.series_instance_uid], held)
            )
            series = tuple(
                replace(each, tries=each.tries + 1, tried_at=answer.answered_at)
                if each.series_instance_uid in ordered
                else each
                for each in weighed
            )
            answer = replace(answer, fetching=answer.fetching | ordered)
            known = replace(
                inquiry,
                generation=study.generation,
                version=inquiry.version + is_news(inquiry.series, series),
                asked=inquiry.asked + 1,
                failures=0,
                next_ask_at=next_ask(series, answer, agreed),
                series=series,
                reason=None,
            )
            questions.keep(uow, due.study, known)
            uow.commit()

    def _fetch(
        self,
        due: DueInquiry,
        series: SeriesInquiry,
        listing: Sequence[ArchivedInstance],
        held: Mapping[str, HeldSeries],
    ) -> bool:
        uid = series.series_instance_uid
        return self._fetcher.fetch(order_for(self._archive, self._database, due, uid, listing, held.get(uid)))


def _not_here(listing: Sequence[ArchivedInstance], held: HeldSeries | None) -> tuple[str, ...]:
    here = held.sop_instance_uids if held else frozenset()
    return tuple(sorted(each.sop_instance_uid for each in listing if each.sop_instance_uid not in here))
