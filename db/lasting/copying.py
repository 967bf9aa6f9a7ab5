"""A whole database as it is at one moment, to and from an SQLite file: what a backup keeps, whatever the node has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.engine import make_url

from db.engine import Database, UnitOfWork
from db.tables import StudyRow, Table
from study.errors import ArchiveError

_ROWS = 1000  # at a time


def copy_to_file(database: Database, path: Path) -> None:
    """Write all that the database holds at one moment into a new SQLite file; the node may be at work meanwhile.

    Raises
    ------
    OSError
        If the file is there already.
    ArchiveError
        If the database can not be read.
    """
    path.open("xb").close()
    if database.dialect == "sqlite":
        _copy_file(_file_of(database), path)
        return
    copy = Database.open(f"sqlite:///{path}")
    try:
        copy.migrate()
        _copy_rows(database, copy)
    finally:
        copy.close()


def fill_from_file(database: Database, path: Path) -> None:
    """Let an empty database hold what the SQLite file at `path` does, in the newest schema; the file may change to it.

    Raises
    ------
    SchemaMismatch
        If a newer program made the file.
    ArchiveError
        If the file can not be read, or the database is not empty.
    """
    if holds_studies(database):
        raise ArchiveError("The database is not empty.")
    if database.dialect == "sqlite":
        _copy_file(path, _file_of(database))
        database.migrate()
        return
    copy = Database.open(f"sqlite:///{path}")
    try:
        copy.migrate()
        database.migrate()
        _copy_rows(copy, database)
    finally:
        copy.close()


def holds_studies(database: Database) -> bool:
    """Tell whether the database knows any study."""
    if not database.has_schema():
        return False
    with database.reading() as uow:
        return uow.execute(select(StudyRow.id).limit(1)).first() is not None


def renumber(uow: UnitOfWork) -> None:
    """Let the numbers that new rows get follow those that are there; rows were entered with numbers of their own.

    Let PostgreSQL know, too, how many there are: it does not ask by itself for a minute, and takes long ways meanwhile.
    """
    if uow.dialect != "postgresql":
        return  # SQLite gives the largest plus one
    for table in Table.metadata.sorted_tables:
        if "id" in table.c and table.c.id.autoincrement:
            largest = uow.execute(select(func.max(table.c.id))).scalar_one_or_none()
            if largest is not None:
                of_table = {"name": table.name, "largest": largest}
                uow.execute(text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :largest)"), of_table)
    uow.execute(text("ANALYZE"))


def _copy_file(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.backup(writing)  # all pages in one step: one moment of the database
    except sqlite3.Error as error:
        raise ArchiveError(f"The database can not be copied: {error.sqlite_errorname}.") from None


def _file_of(database: Database) -> Path:
    return Path(make_url(database.url).database or "")


def _copy_rows(source: Database, target: Database) -> None:
    with source.reading() as reading, target.writing() as writing:
        for table in reversed(Table.metadata.sorted_tables):
            writing.execute(delete(table))  # what a copy that was broken off left, which holds no study
        for table in Table.metadata.sorted_tables:
            rows = reading.execute(select(*table.c))
            while batch := rows.fetchmany(_ROWS):
                writing.execute(insert(table), [dict(row._mapping) for row in batch])
        renumber(writing)
        writing.commit()
