"""The commands for the day when something was lost: backup before it, restore and rebuild after it."""
# ruff: noqa: PLC0415 - as in hilum.cli: only what a command needs is imported, inside it

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilum.options import ConfigOption, SetOption, database_of, settings_of
from hilum.terminal import agrees, say
from study.errors import ConfigError

if TYPE_CHECKING:
    from hilum.backups import Copied
    from hilum.config import Settings

recovering = typer.Typer()


@recovering.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the backup is, or is to be: another disk.")],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Bring a backup of the whole node up to date, while it runs; only what is new is copied."""
    from db.files.filestore import FileStore
    from hilum.backups import back_up

    settings = settings_of(config, assignments)
    done = back_up(database_of(settings), FileStore(settings.data_dir), folder)
    say(f"backup of {settings.data_dir} and its database in {folder}: {_copied(done)}")
    if done.gone:
        say(f"{done.gone} files of studies that retention removed are gone from it")
    say("not in it: the configuration, the certificates and the models' bundles")


@recovering.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the backup is.", exists=True)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make the node of a backup again, here or on another machine, where nothing is in its place."""
    from db.engine import Database
    from db.files.filestore import FileStore
    from hilum.backups import made_at
    from hilum.backups import restore as restored
    from hilum.moments import local
    from hilum.working.leading import alone

    settings = settings_of(config, assignments)
    database, store = Database.open(settings.database_url), FileStore(settings.data_dir)
    say(f"the node as it was on {local(made_at(folder))[:19]} is made in {settings.data_dir}")
    say("the node that the backup is of must not run any more, anywhere: both would send what is owed")
    if not agrees("restore?", yes=yes):
        raise typer.Exit(1)
    with alone(settings, store, database):
        done, count = restored(database, store, folder, say)
    say(f"restored: {_copied(done)}")
    if count.studies:
        say(f"{count.studies} studies came or changed after the copy of the database; their files tell of it")
    say("hilum serve goes on where it was")


@recovering.command()
def rebuild(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a database anew that is damaged or lost, from the files; hilum serve does so itself where there is none."""
    from db.engine import Database
    from db.files.filestore import FileStore
    from hilum.rebuilding import begin, is_begun, prepare
    from hilum.working.leading import alone

    settings = settings_of(config, assignments)
    database, store = Database.open(settings.database_url), FileStore(settings.data_dir)
    with alone(settings, store, database):
        there = _database_files(settings)
        say(f"the database of {settings.data_dir} is made from the files of {len(store.studies())} studies")
        for path in there:
            say(f"  {path.name} is kept as {_kept(path).name}")
        if not agrees("rebuild?", yes=yes):
            raise typer.Exit(1)
        for path in there:
            path.rename(_kept(path))
        if database.has_schema() and not is_begun(store):
            raise ConfigError("database.url: the database there is not empty; make a new one, and name it here")
        begin(store)
        prepare(database, store, say, lambda: False)


def _database_files(settings: Settings) -> list[Path]:
    """Return the files of an SQLite database; the log of what was written last goes with it."""
    if settings.database.url != "sqlite":
        return []
    found = [settings.data_dir / f"hilum.db{suffix}" for suffix in ("", "-wal", "-shm")]
    return [path for path in found if path.exists()]


def _kept(path: Path) -> Path:
    """Return a name that is free for a file that is no longer used."""
    number = 1
    while (free := path.with_name(f"{path.name}.lost-{number}")).exists():
        number += 1
    return free


def _copied(done: Copied) -> str:
    return f"{done.files} files copied ({done.size / 1e6:.0f} MB), {done.there} were there"
