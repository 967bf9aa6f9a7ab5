"""What several commands share: their options, and what they open first. Imports nothing heavy before it is needed."""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.errors import ArchiveError

if TYPE_CHECKING:
    from db.engine import Database
    from hilum.config import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration; config.toml here by default.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. node.port=11113; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/json.md describes it.")]


def settings_of(config: Path | None, assignments: list[str] | None) -> Settings:
    """Return the settings that a command was given."""
    from hilum.config import load

    return load(config, assignments or ())


def database_of(settings: Settings) -> Database:
    """Return the node's database; ArchiveError where there is none yet, or one of another schema."""
    from db.engine import Database

    if settings.database.url == "sqlite" and not (settings.data_dir / "hilum.db").exists():
        raise ArchiveError(f"There is no database in {settings.data_dir} yet; hilum serve makes it.")
    database = Database.open(settings.database_url)
    database.check_schema()
    return database


def study_uid(database: Database, text: str) -> str:
    """Return the Study Instance UID that `text` stands for; ArchiveError where it is none or several."""
    from db.overview.queries import find_studies

    with database.reading() as uow:
        found = find_studies(uow, text)
    if not found:
        raise ArchiveError(f"No study {text}; hilum studies lists them.")
    if len(found) > 1:
        raise ArchiveError(f"{text} fits {len(found)} studies: {', '.join(found[:5])}; give more of the UID.")
    return found[0]
