"""The schema: migrations give what the models say, concurrently too, and another revision is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from db import schema
from db.engine import Database
from db.tables import Table
from study.errors import SchemaMismatch
from tests.support.databases import DIALECTS, empty_url


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_url(request.param, tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


def test_migrations_make_what_the_models_say(database: Database, url: str) -> None:
    database.migrate()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_a_difference_between_models_and_migrations_is_noticed(database: Database, url: str) -> None:
    database.migrate()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_job_lease"))
        connection.execute(text("ALTER TABLE event DROP COLUMN words"))
        context = MigrationContext.configure(connection)
        assert len(compare_metadata(context, Table.metadata)) == 2
    engine.dispose()


def test_the_revision_that_is_checked_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(schema.migration_config()).get_heads() == [schema.REVISION]


def test_a_database_without_schema_is_refused_and_a_migrated_one_taken(database: Database) -> None:
    with pytest.raises(SchemaMismatch, match=r"not there yet.*hilum serve"):
        database.check_schema()
    database.migrate()
    database.check_schema()
    database.migrate()  # again changes nothing
    database.check_schema()


def test_the_schema_of_a_newer_program_is_refused(database: Database) -> None:
    database.migrate()
    with database.writing() as uow:
        uow.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        uow.commit()
    with pytest.raises(SchemaMismatch, match="9999"):
        database.check_schema()
    with pytest.raises(SchemaMismatch, match="does not know"):
        database.migrate()


def test_several_that_migrate_at_once_wait_for_each_other(url: str) -> None:
    errors: list[Exception] = []
    together = threading.Barrier(3)

    def migrate() -> None:
        database = Database.open(url)
        together.wait()
        try:
            database.migrate()
            database.check_schema()
        except Exception as error:  # noqa: BLE001 - handed to the test's thread
            errors.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
