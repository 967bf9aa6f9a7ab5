"""How long an analysis waits for earlier studies, by the database's time; and what is said where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from db.complete import priors
from db.engine import Database
from db.images import index
from db.tables import PriorSearchRow
from hilum.archives.awaiting import archive_for_priors, awaits_priors
from hilum.archives.earlier import why_unfound, without_archive
from hilum.config import Settings
from hilum.planning import read_cards
from hilum.wording import priors_words
from study.errors import Reason
from study.priors import NO_ANSWER, NO_ARCHIVE, NO_DATE, NO_PATIENT_ID
from study.searches import FoundStudy, PriorOutcome, SearchState
from tests.support.databases import STUDY, migrated, stored

ENTRY = {"name": "lung_ct", "bundle": "builtin:lung_ct"}
PACS = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}


def configured(**priors: object) -> Settings:
    peers = {
        "modality": {"name": "modality", "ae_title": "MODALITY", "archive": "pacs"},
        "other": {"name": "other", "ae_title": "OTHER", "archive": "second"},
        "pacs": {"name": "pacs", **PACS},
        "second": {"name": "second", **PACS},
    }
    return Settings.model_validate({"peers": peers, "models": {"lung_ct": ENTRY | {"priors": priors}}})


SETTINGS = configured(wait_seconds=60)
CARDS = read_cards(SETTINGS)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with migrated("sqlite", tmp_path) as database, database.writing() as uow:
        index.add_instances(uow, [stored(number, header={"study_date": "20240203"}) for number in range(3)])
        uow.commit()
        yield database


def searched(
    database: Database, state: SearchState, seconds: float, *found: FoundStudy, reason: Reason | None = None
) -> None:
    """Put on record a search that was begun so long ago [s]."""
    with database.writing() as uow:
        priors.begin_searches(uow, STUDY, ["lung_ct"])
        search = priors.searches_of(uow, STUDY)["lung_ct"]
        priors.note_search(uow, replace(search, state=state, found=found, reason=reason))
        uow.execute(update(PriorSearchRow).values(begun_at=uow.now() - timedelta(seconds=seconds)))
        uow.commit()


def waits(database: Database, seconds: float, *senders: str, settings: Settings = SETTINGS) -> bool:
    """Tell whether a study still waits whose series are complete for so long [s]."""
    with database.reading() as uow:
        since = uow.now() - timedelta(seconds=seconds)
        card = read_cards(settings)["lung_ct"]
        return awaits_priors(uow, settings, card, STUDY, senders or ("MODALITY",), since)


def test_it_waits_while_the_archive_is_asked_and_no_longer_than_the_model_may(database: Database) -> None:
    assert (waits(database, 30), waits(database, 90)) == (True, False)  # nobody has come to it yet
    searched(database, SearchState.SEARCHING, 200)
    assert (waits(database, 30), waits(database, 90)) == (True, False)
    for state in (SearchState.DONE, SearchState.FAILED):
        searched(database, state, 200)
        assert not waits(database, 0)


def test_a_search_that_was_begun_anew_is_waited_for_anew(database: Database) -> None:
    searched(database, SearchState.SEARCHING, 10)
    assert waits(database, 86_400)


def test_who_has_no_archive_or_no_wish_waits_for_nothing(database: Database) -> None:
    assert not waits(database, 0, "ELSEWHERE")
    assert not waits(database, 0, settings=configured(wait_seconds=0))
    plain = Settings.model_validate({"peers": SETTINGS.model_dump()["peers"], "models": {"lung_ct": ENTRY}})
    assert not waits(database, 0, settings=plain)


def test_one_archive_searches_for_a_study() -> None:
    def chosen(*senders: str) -> str | None:
        archive = archive_for_priors(SETTINGS, senders)
        return archive.name if archive else None

    assert [chosen("MODALITY"), chosen("OTHER"), chosen("OTHER", "MODALITY")] == ["pacs", "second", "pacs"]
    assert chosen("PACS") is None


def unfound(database: Database, settings: Settings = SETTINGS) -> list[tuple[str, str]]:
    with database.reading() as uow:
        seen = index.snapshot(uow, STUDY)
        found = why_unfound(uow, settings, CARDS, seen, ())
    return [(reason.code, reason.words) for reason in found["lung_ct"]]


def test_what_came_of_a_search_is_told_in_words(database: Database) -> None:
    silent = (NO_ANSWER, "Not compared with what the archive may hold: it did not answer in 60 s.")
    assert unfound(database) == [silent]
    searched(database, SearchState.SEARCHING, 0)
    assert unfound(database) == [silent]
    late = FoundStudy("1.9", "20230511", outcome=PriorOutcome.FETCHING)
    refused = FoundStudy("1.8", "20210302", outcome=PriorOutcome.REFUSED, reason=Reason("R", "Refused."))
    useful = FoundStudy("1.7", "20200302", outcome=PriorOutcome.HERE)
    searched(database, SearchState.SEARCHING, 0, late, refused, useful)
    assert unfound(database) == [
        (NO_ANSWER, "Not compared with the study of 2023-05-11: the archive had not sent it in 60 s."),
        ("R", "Refused."),
    ]
    searched(database, SearchState.FAILED, 0, reason=Reason("PeerUnreachable", "pacs can not be reached."))
    words = "Not compared with what the archive may hold: it could not be asked. pacs can not be reached."
    assert unfound(database) == [("PeerUnreachable", words)]


def test_that_no_archive_is_named_is_told(database: Database) -> None:
    alone = Settings.model_validate({"models": {"lung_ct": ENTRY | {"priors": {}}}})
    assert [code for code, _ in unfound(database, alone)] == [NO_ARCHIVE]
    assert "give a sender archive" in (without_archive(alone, CARDS["lung_ct"]) or "")
    assert without_archive(SETTINGS, CARDS["lung_ct"]) is None


@pytest.mark.parametrize(("header", "code"), [({"patient_id": ""}, NO_PATIENT_ID), ({"study_date": ""}, NO_DATE)])
def test_what_a_study_lacks_to_be_compared_is_told(tmp_path: Path, header: dict[str, str], code: str) -> None:
    with migrated("sqlite", tmp_path) as database:
        with database.writing() as uow:
            index.add_instances(uow, [stored(1, header={"study_date": "20240203"} | header)])
            uow.commit()
        assert [found for found, _ in unfound(database)] == [code]


def test_what_a_model_compares_with_in_words() -> None:
    card = read_cards(configured(count=2, body_part="CHEST", required=True))["lung_ct"]
    assert list(priors_words(card)) == [
        "the 2 latest earlier studies of the patient, at most 1825 days older",
        "what is measured is measured in them too, and the change is told",
        "of Modality CT, Body Part Examined CHEST",
        "waited for 120 s, and not run without one",
    ]
    handed = read_cards(configured(input="prior"))["lung_ct"]
    assert list(priors_words(handed))[:2] == [
        "the latest earlier study of the patient, at most 1825 days older",
        "handed to the bundle as prior",
    ]
