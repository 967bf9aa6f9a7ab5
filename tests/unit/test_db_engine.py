"""Opening the database and the unit of work's promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from db.columns import encode_json, storable_text
from db.engine import Database
from db.tables import SetAsideRow
from study.errors import ArchiveError, DatabaseUnavailable
from tests.support.databases import migrated

_PATIENT = "Secret^Sally"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with migrated("sqlite", tmp_path) as database:
        yield database


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "", "sqlite+nothing:///x", "postgresql+nothing://h/d"])
def test_a_url_that_names_no_usable_database_is_refused(url: str) -> None:
    with pytest.raises(ArchiveError, match="URL"):
        Database.open(url)


def test_a_database_that_can_not_be_reached_is_said_to_be_unavailable(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'missing' / 'hilum.db'}")
    with pytest.raises(DatabaseUnavailable, match="reachable") as caught:
        database.now()
    assert caught.value.transient


def test_a_refused_write_is_an_error_without_the_values(database: Database) -> None:
    row = {"at": datetime.now(UTC), "path": _PATIENT, "reason": {}}
    with pytest.raises(ArchiveError) as caught, database.writing() as uow:
        uow.execute(insert(SetAsideRow), [row, row])
    assert "IntegrityError" in str(caught.value)
    assert caught.value.__suppress_context__
    assert _PATIENT not in str(caught.value)


def test_sqlite_is_set_to_survive_a_power_cut(database: Database) -> None:
    with database.writing() as uow:
        settings = {
            name: uow.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_a_reader_can_not_write_and_a_writer_after_it_can(database: Database) -> None:
    row = {"at": datetime.now(UTC), "path": "a", "reason": {}}
    with pytest.raises(ArchiveError), database.reading() as uow:
        uow.execute(insert(SetAsideRow), [row])
    with database.writing() as uow:
        uow.execute(insert(SetAsideRow), [row])
        uow.commit()


def test_a_reader_sees_one_moment_while_others_write(database: Database) -> None:
    with database.reading() as reader:
        assert reader.execute(select(SetAsideRow.path)).all() == []
        with database.writing() as writer:
            writer.execute(insert(SetAsideRow), [{"at": writer.now(), "path": "a", "reason": {}}])
            writer.commit()
        assert reader.execute(select(SetAsideRow.path)).all() == []
    with database.reading() as reader:
        assert len(reader.execute(select(SetAsideRow.path)).all()) == 1


def test_the_databases_time_is_in_utc_and_to_the_millisecond(database: Database) -> None:
    now = database.now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_stored_time_comes_back_in_utc_and_a_naive_one_is_refused(database: Database) -> None:
    from datetime import timezone

    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    with database.writing() as uow:
        uow.execute(insert(SetAsideRow), [{"at": at, "path": "a", "reason": {}}])
        stored = uow.execute(select(SetAsideRow.at)).scalar_one()
        assert (stored, stored.tzinfo) == (at, UTC)
        with pytest.raises(Exception, match="zone"):
            uow.execute(insert(SetAsideRow), [{"at": at.replace(tzinfo=None), "path": "b", "reason": {}}])


def test_text_is_made_storable_and_ordinary_text_left_alone() -> None:
    assert storable_text("Müller^Ж\U0001f600") == "Müller^Ж\U0001f600"
    assert storable_text("a\0b\udcffc") == "ab?c"
    assert encode_json({"a\0": ["\ud800", "😀", 1.5, None]}) == '{"a":["?","\\ud83d\\ude00",1.5,null]}'
    with pytest.raises(ValueError, match="JSON"):
        encode_json({"a": float("nan")})


def test_reading_studies_loads_neither_alembic_nor_torch_nor_pynetdicom() -> None:
    program = (
        "import sys, db.overview.queries, db.engine, db.files.filestore;"
        "print(sorted({'alembic', 'torch', 'pynetdicom', 'highdicom', 'mako'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
