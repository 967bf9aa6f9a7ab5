"""The database: opening it, and a unit of work that rolls back unless it is committed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Row, Select, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.base import Executable

from db import schema
from db.columns import encode_json
from study.errors import ArchiveError, DatabaseUnavailable

AnyRow = Row[*tuple[Any, ...]]
AnyQuery = Select[*tuple[Any, ...]]

_BUSY_TIMEOUT_MS = 30_000
_IDLE_WRITER_SECONDS = 60  # between two statements of a transaction that may hold locks
_WRITING = "hilum_writing"
_OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
_READ_ONLY = "25006"  # SQLSTATE: the server is a standby just now
_LINE: Mapping[str, int] = {
    # A server that vanishes without a word must not hold a role for the quarter of an hour that the kernel would wait
    "connect_timeout": 10,  # [s]
    "keepalives_idle": 30,  # [s]
    "keepalives_interval": 10,  # [s]
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # [ms]
}

_NOW = {
    "sqlite": text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"),
    "postgresql": text("SELECT date_trunc('milliseconds', clock_timestamp())"),
}


class UnitOfWork:
    """One transaction. What it wrote lasts only if `commit` was called.

    Parameters
    ----------
    connection
        With its transaction begun.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Return the result of `statement`, run once, or once for each of several sets of parameters."""
        if parameters is None:
            return self._connection.execute(statement)
        return self._connection.execute(statement, parameters)

    def now(self) -> datetime:
        """Return the present by the database's clock, UTC, to the millisecond."""
        value = self._connection.execute(_NOW[self._connection.dialect.name]).scalar_one()
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    @property
    def dialect(self) -> str:
        """Return "sqlite" or "postgresql"."""
        return self._connection.dialect.name

    def serialise(self, name: str) -> None:
        """Wait until no other transaction that named `name` is under way, and keep later ones waiting.

        SQLite has one writer at a time anyway.
        """
        if self._connection.dialect.name == "postgresql":
            lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
            self._connection.execute(lock, {"name": f"hilum {name}"})

    def commit(self) -> None:
        """Make everything that was written last."""
        self._connection.commit()


class Database:
    """The node's database, opened; safe to use from several threads, not across a fork."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Return the database at `url`: ``sqlite:////path`` or ``postgresql+psycopg://...``.

        Raises
        ------
        ArchiveError
            If the URL names no database that the node can use.
        """
        try:
            parsed = make_url(url)
            engine = _create_engine(parsed)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ArchiveError(f"The database URL can not be used: {type(error).__name__}.") from error
        return cls(engine)

    @property
    def url(self) -> str:
        """Return the URL that opens this database, its password included."""
        return self._engine.url.render_as_string(hide_password=False)

    @property
    def dialect(self) -> str:
        """Return "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[UnitOfWork]:
        """Give a unit of work that may write; without its `commit` nothing of it lasts.

        Raises
        ------
        DatabaseUnavailable
            If the database can not be reached, is full, or stays busy for 30 s.
        ArchiveError
            If it refuses what was to be written.
        """
        with self._connected(writing=True) as connection:
            yield UnitOfWork(connection)

    @contextmanager
    def reading(self) -> Iterator[UnitOfWork]:
        """Give a unit of work that sees one moment of the database, and can not write.

        Raises
        ------
        DatabaseUnavailable
            If the database can not be reached.
        """
        with self._connected(writing=False) as connection:
            yield UnitOfWork(connection)

    def now(self) -> datetime:
        """Return the present by the database's clock, UTC, to the millisecond."""
        with self.reading() as uow:
            return uow.now()

    def migrate(self) -> None:
        """Bring the schema to the revision that this program knows; alone, under a lock.

        Raises
        ------
        SchemaMismatch
            If the database is of a revision that this program does not know (a newer program made it).
        """
        with _words_for_errors():
            schema.migrate(self._engine)

    def has_schema(self) -> bool:
        """Tell whether the database was ever migrated; one that was lost is empty.

        Raises
        ------
        DatabaseUnavailable
            If it can not be reached.
        """
        with _words_for_errors(), self._engine.connect() as connection:
            return schema.current_revision(connection) is not None

    def check_schema(self) -> None:
        """Make sure that the schema is of the revision that this program knows.

        Raises
        ------
        SchemaMismatch
            If it is not.
        """
        with _words_for_errors():
            schema.check(self._engine.execution_options(**{_WRITING: False}))  # a look waits for no writer

    @contextmanager
    def _connected(self, *, writing: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {_WRITING: writing}
        if not writing and self.dialect == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _words_for_errors(), self._engine.connect() as connection:
            # Leaving the block without a commit rolls back: SQLAlchemy does so when it takes the connection back.
            yield connection.execution_options(**options)


@contextmanager
def _words_for_errors() -> Iterator[None]:
    # The driver's own words quote values, which may be a patient's: only the kind of error is passed on.
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnavailable("No connection to the database became free.") from None
    except DBAPIError as error:
        kind = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
        words = f"The database answered {type(error.orig).__name__} {kind}".rstrip()
        if isinstance(error, OperationalError) or error.connection_invalidated or kind == _READ_ONLY:
            worded: ArchiveError = DatabaseUnavailable(f"{words}; is it reachable, and its disk not full?")
        else:
            worded = ArchiveError(f"{words}.")
        raise worded.with_traceback(error.__traceback__) from None


def _create_engine(url: URL) -> Engine:
    dialect = url.get_backend_name()
    if dialect == "sqlite":
        return _create_sqlite_engine(url)
    if dialect == "postgresql":
        line = {name: value for name, value in _LINE.items() if name not in url.query}
        engine = create_engine(
            url, hide_parameters=True, json_serializer=encode_json, pool_pre_ping=True, connect_args=line
        )
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
        return engine
    raise ArgumentError("neither SQLite nor PostgreSQL")


def _prepare_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's
    # Files leave the inbox once the index is committed: a commit that a crash of the server undoes would lose them.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    # A machine that freezes in the middle of a transaction would keep its locks, and all others waiting, for ever.
    if connection.get_execution_options().get(_WRITING, False):
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_WRITER_SECONDS}s'")


def _create_sqlite_engine(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ArchiveError(f"This Python's SQLite is {sqlite3.sqlite_version}; Hilum needs 3.35 or later.")
    engine = create_engine(url, hide_parameters=True, json_serializer=encode_json)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by its own rules: `_begin_sqlite` does.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes SQLite's one write lock at once: one that reads first and writes later could be refused in between.
    writing = connection.get_execution_options().get(_WRITING, True)
    connection.exec_driver_sql(f"PRAGMA query_only = {0 if writing else 1}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
