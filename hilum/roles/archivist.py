"""Archivist: asks the archives whether studies are complete, and fetches from them what is missing. One per store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from db.complete import inquiries
from db.engine import Database
from db.leading import Lead
from hilum.archives.completing import Completer
from hilum.archives.fetching import Fetcher
from hilum.archives.searching import Searcher
from hilum.bells import Bells
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.outages import at_work, keep_at
from hilum.planning import read_cards
from hilum.processes import Station, StopSignal, yield_to_reception
from hilum.working.leading import lead_of
from inference.catalog import ModelCard

_PAUSE_SECONDS = 0.25  # between looks whether the lead is held
_GOES_ON_SECONDS = 0.2  # after a turn in which there was something to do
_REST_SECONDS = 5.0  # after a turn that crashed


def run(station: Station) -> None:
    """Ask and fetch until told to stop, while no other archivist of the store does.

    Each archive has threads of its own, so that a dead one delays nobody else.
    """
    yield_to_reception()
    settings = station.settings
    database = Database.open(settings.database_url)
    database.check_schema()
    cards = read_cards(settings)
    with lead_of(settings, database, "archivist") as lead:
        station.announce({"archives": list(settings.archives)})
        while not station.stop.wait(_PAUSE_SECONDS):
            if lead.is_held:
                _serve(station, cards, database, lead)
    database.close()


def _serve(station: Station, cards: Mapping[str, ModelCard], database: Database, lead: Lead) -> None:
    """Ask and fetch until the node stops or the lead is lost."""
    settings, over = station.settings, StopSignal()
    works = [
        work
        for name in settings.archives
        for work in works_for(settings.peers[name], settings, cards, database, over, station.bells)
    ]
    threads = at_work(works, over)
    while lead.is_held and not (over.is_set() or station.stop.wait(_PAUSE_SECONDS)):
        pass
    over.set()
    for thread in threads:
        thread.join()


def works_for(
    archive: PeerSettings,
    settings: Settings,
    cards: Mapping[str, ModelCard],
    database: Database,
    stop: StopSignal,
    bells: Bells | None = None,
) -> list[Callable[[], None]]:
    """Return what is done all the time with one archive, each for a thread of its own; ends when `stop` is set.

    The first of it fetches; the others ask.
    """
    bells = bells or Bells()
    fetcher = Fetcher(archive, settings, stop, bells)
    completer = Completer(archive, settings, cards, database, fetcher, stop)
    works = [fetcher.run, _keeping_at(completer.turn, archive, database, stop, bells)]
    if any(card.priors is not None for card in cards.values()):
        searcher = Searcher(archive, settings, cards, database, fetcher, stop)
        works.append(_keeping_at(searcher.turn, archive, database, stop, bells))
    return works


def _keeping_at(
    turn: Callable[[], bool], archive: PeerSettings, database: Database, stop: StopSignal, bells: Bells
) -> Callable[[], None]:
    """Return work that takes turns, one after the other while there is something to do, until the node stops."""
    ear = bells.ear(stop)

    def all_turns() -> None:
        while not stop.is_set() and turn():
            bells.ring("indexer")
            ear.look_within(_GOES_ON_SECONDS)
        with database.reading() as uow:
            ear.look_within(inquiries.seconds_until_due(uow, archive.name))

    def work() -> None:
        structlog.contextvars.bind_contextvars(peer=archive.name)
        keep_at(all_turns, stop, "archive.turn_crashed", _REST_SECONDS, ear=ear)

    return work
