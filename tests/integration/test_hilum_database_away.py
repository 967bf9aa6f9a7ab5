"""A database that is locked, stopped or breaks off: each role waits, counts it for nobody's failure, goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text

from db import engine
from db.engine import Database, UnitOfWork
from db.tables import SetAsideRow
from hilum.clock import Clock
from hilum.working.wire import Answer
from study.errors import DatabaseUnavailable
from study.states import JobState, StudyState
from tests.support.databases import DIALECTS, START, empty_url, migrated, server_away
from tests.support.network import free_port, wait_until
from tests.support.outages import Pacs, Site, locked, site

QUIET_SECONDS = 3600.0
PORT = free_port()


@pytest.fixture(params=DIALECTS)
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_MS", 50)  # of 30 s: a lock is to outlast it
    url = "sqlite" if request.param == "sqlite" else empty_url(request.param, tmp_path)
    with site(tmp_path, tmp_path / "var", url, port=PORT, quiet_seconds=QUIET_SECONDS) as here:
        yield here


def away(here: Site) -> AbstractContextManager[None]:
    """Have PostgreSQL stopped, as by a crash; of SQLite, have another hold the write lock for as long."""
    return server_away() if here.database.dialect == "postgresql" else locked(here.database)


def test_a_study_is_closed_whole_though_the_index_was_away_for_longer_than_its_quiet_period(here: Site) -> None:
    ahead = timedelta()
    clock = Clock(lambda: datetime.now(UTC) + ahead, lambda: time.monotonic() + ahead.total_seconds())
    indexer = here.indexer(clock)
    first, *others = here.images(4)
    here.receive(first)
    with here.at_work(indexer.turn):
        wait_until(lambda: here.state() is StudyState.RECEIVING, what="the first image in the index")
        with away(here):
            here.receive(*others)
            wait_until(here.is_away, what="the outage")
            ahead = timedelta(seconds=2 * QUIET_SECONDS)
        wait_until(lambda: here.state() is StudyState.NOT_SELECTED, what="the study's end")
    record = here.record()
    assert record is not None
    assert (record.summary.instances, record.revision) == (4, 1), here.logs
    assert len(here.told("outage.began")) == len(here.told("outage.over")) == 1
    assert here.told("clock.jumped") == here.told("crashed") == []


@pytest.mark.parametrize(
    ("outcome", "state", "crashes"),
    [("done", JobState.DONE, 0), ("failed", JobState.QUEUED, 1)],
)
def test_what_came_of_an_analysis_is_kept_until_it_can_be_written(
    here: Site, outcome: str, state: JobState, crashes: int
) -> None:
    job, made = here.lease()
    answers = {
        "done": Answer(job.id, job.attempt, "done", tuple(made)),
        "failed": Answer(job.id, job.attempt, "failed", code="RunnerDied", words="It ended.", transient=True),
    }
    keeper = here.keeper()
    with ExitStack() as outage:
        outage.enter_context(away(here))
        with here.at_work(lambda: keeper._commit(job, answers[outcome], []), once=True) as thread:
            wait_until(here.is_away, what="the outage")
            outage.close()
            thread.join(20)
    ended = here.job()
    assert (ended.state, ended.crashes, ended.interruptions) == (state, crashes, 0)


def test_results_that_the_peer_took_meanwhile_are_sent_once(here: Site) -> None:
    pacs = Pacs(port=PORT)
    here.owe()
    courier = here.courier()
    with pacs.running(), ExitStack() as outage:
        pacs.at_first_object = lambda: outage.enter_context(away(here))
        with here.at_work(courier.turn):
            wait_until(here.is_away, what="the outage")
            assert len(pacs.arrivals) == 1
            outage.close()
            wait_until(here.is_all_delivered, what="all results")
    assert len(pacs.arrivals) == len(pacs.first_arrivals()) == 2
    assert here.told("crashed") == []


def test_who_only_looks_does_not_wait_for_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_MS", 0)
    with migrated("sqlite", tmp_path) as database, locked(database):
        onlooker = Database.open(database.url)
        onlooker.check_schema()
        assert entries(onlooker) == 0
        onlooker.close()


def an_entry(uow: UnitOfWork) -> None:
    uow.execute(insert(SetAsideRow), [{"at": START, "path": "aside/1.dcm", "reason": {}}])


def entries(database: Database) -> int:
    with database.reading() as uow:
        count: int = uow.execute(select(func.count()).select_from(SetAsideRow)).scalar_one()
    return count


def write_and_be_killed(database: Database) -> None:
    with database.writing() as uow:
        an_entry(uow)
        backend = uow.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with database.reading() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
        uow.commit()


def test_a_connection_that_is_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    with migrated("postgresql", tmp_path) as database:
        with pytest.raises(DatabaseUnavailable):
            write_and_be_killed(database)
        assert entries(database) == 0
        with database.writing() as uow:
            an_entry(uow)
            uow.commit()
        assert entries(database) == 1


def test_a_server_that_takes_no_writes_just_now_is_unavailable_and_nothing_worse(tmp_path: Path) -> None:
    """As the one that stands by while another takes over."""
    with migrated("postgresql", tmp_path) as database:
        name = database.url.partition("@/")[2].partition("?")[0]
        with database.writing() as uow:
            uow.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
            uow.commit()
        database.close()  # the connections of before
        with pytest.raises(DatabaseUnavailable), database.writing() as uow:
            an_entry(uow)
