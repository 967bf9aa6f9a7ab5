"""Leads: one process of a store has it; who stands by has it as soon as the other ends, however that ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import text

from db import leading
from db.engine import Database
from db.leading import Lead, candidates
from tests.support.databases import DIALECTS, migrated
from tests.support.network import wait_until

_END_THE_SESSION = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hilum indexer leads one'"
)


@pytest.fixture(scope="module", params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with migrated(request.param, tmp_path_factory.mktemp("leading")) as database:
        yield database


def _lead(url: str, folder: Path, line: Connection) -> None:
    """Hold the lead, tell so, and keep it until killed."""
    with Lead(Database.open(url), folder, "indexer", "one") as lead:
        line.send(lead.is_held)
        line.recv()


def test_who_stands_by_leads_once_the_other_is_killed(database: Database, tmp_path: Path) -> None:
    said: list[bool] = []
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    other = context.Process(target=_lead, args=(database.url, tmp_path, its))
    other.start()
    try:
        assert ours.poll(20)
        assert ours.recv() is True
        with Lead(database, tmp_path, "indexer", "two", on_change=said.append) as lead:
            assert not lead.is_held
            other.kill()
            assert lead.wait(10)
            assert said == [False, True]
    finally:
        other.kill()
        other.join()


def test_a_lead_is_one_s_at_a_time_and_each_has_its_own(database: Database, tmp_path: Path) -> None:
    with Lead(database, tmp_path, "indexer", "two") as first:
        assert first.is_held
        with (
            Lead(database, tmp_path, "indexer", "one") as second,
            Lead(database, tmp_path, "archivist", "one") as other,
        ):
            assert other.is_held
            assert not second.wait(0.1)
    with Lead(database, tmp_path, "indexer", "three") as third:
        assert third.is_held


def test_those_who_share_a_lead_keep_out_who_wants_it_alone(database: Database, tmp_path: Path) -> None:
    with Lead(database, tmp_path, "node", "one", shared=True) as one:
        with Lead(database, tmp_path, "node", "two", shared=True) as two:
            assert one.is_held
            assert two.is_held
        with Lead(database, tmp_path, "node", "three") as alone:
            assert not alone.is_held
    with Lead(database, tmp_path, "node", "three") as alone:
        assert alone.is_held


def test_a_session_that_the_server_ends_is_a_lead_lost_and_taken_again(tmp_path: Path) -> None:
    said: list[bool] = []
    with (
        migrated("postgresql", tmp_path) as database,
        Lead(database, tmp_path, "indexer", "one", on_change=said.append) as lead,
    ):
        assert candidates(database) == [("indexer", "one", True)]
        with Lead(database, tmp_path, "indexer", "two") as other:
            with database.writing() as uow:
                uow.execute(_END_THE_SESSION)
            wait_until(lambda: other.is_held and said == [True, False], 10, "the lead at who stands by")
            by_now = [("indexer", "one", False), ("indexer", "two", True)]
            wait_until(lambda: candidates(database) == by_now, 10, "the one who lost it standing by")
        assert lead.wait(10)
        assert said == [True, False, True]


def test_a_process_that_is_frozen_loses_its_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(leading._AT_THE_SERVER, "idle_session_timeout", "500ms")
    with migrated("postgresql", tmp_path) as database:
        frozen = leading._ServerLock(database.url, "indexer", "one", shared=False)
        assert frozen.hold()  # and says nothing more
        with Lead(database, tmp_path, "indexer", "two") as lead:
            assert not lead.is_held
            assert lead.wait(10)
            assert not frozen.hold()
        frozen.let_go()
