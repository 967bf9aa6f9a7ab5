"""The schema's revision: bringing a database to it, and refusing one of another."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from study.errors import SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0010"
"""The newest migration. Checking against it spares every role the import of alembic."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 4_712_011  # any number that nothing else in the database uses


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the schema in the database; None where there is no schema yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return revision


def check(engine: Engine) -> None:
    """Make sure that the database has the revision that this program knows, else raise SchemaMismatch."""
    with engine.connect() as connection:
        found = current_revision(connection)
    if found != REVISION:
        raise SchemaMismatch(
            f"The database schema is {found or 'not there yet'}, this program needs {REVISION}; "
            "start the supervisor (hilum serve) once to migrate it.",
            {"found": found or "", "needed": REVISION},
        )


def migrate(engine: Engine) -> None:
    """Bring the database to `REVISION`; several at once wait for each other."""
    from alembic import command  # noqa: PLC0415 - a third of a second that only the supervisor pays
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = migration_config()
    with _alone(engine), engine.begin() as connection:
        found = current_revision(connection)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise SchemaMismatch(
                f"The database schema is {found}, which this program does not know; use the program that made it.",
                {"found": found, "needed": REVISION},
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def migration_config() -> Config:
    """Return alembic's configuration, which needs no file."""
    from alembic.config import Config  # noqa: PLC0415 - see `migrate`

    config = Config()
    # alembic reads its options with % for interpolation; a folder's name may hold one.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            connection.commit()
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
                connection.commit()
        return
    with Path(f"{engine.url.database}.migrating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
