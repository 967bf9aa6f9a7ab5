"""A command as a person types it, within the process of the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db.engine import Database
from hilum.cli import app


def run_command(arguments: Sequence[str], config: Path, url: str) -> Result:
    """Run a command, and close the connections that end with its process elsewhere."""
    opened: list[Database] = []
    connect = Database.open

    def note(url: str) -> Database:
        opened.append(connect(url))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "open", note)
        done = CliRunner().invoke(app, [*arguments, "--config", str(config), "--set", f"database.url={url}"])
    for each in opened:
        each.close()
    return done
