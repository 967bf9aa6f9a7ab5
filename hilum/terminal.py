"""How the commands speak: tables and progress on a terminal, plain unwrapped lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.errors import ConfigError


def is_terminal() -> bool:
    """Tell whether a person looks at standard output."""
    return sys.stdout.isatty()


def console() -> Console:
    """Return standard output for what only a terminal shows: tables and progress."""
    return Console(highlight=False)


def say(text: str) -> None:
    """Print one line, as it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print one line to standard error, as it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def agrees(question: str, *, yes: bool) -> bool:
    """Tell whether the person at the terminal agrees.

    Parameters
    ----------
    yes
        Whether that was said beforehand, so that nobody is asked.

    Raises
    ------
    ConfigError
        If there is nobody to be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("Nobody can be asked here; add --yes, and it is done without asking.")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; where nobody looks on, a line a row with tabs between the cells."""
    if not is_terminal():
        for row in (columns, *rows):
            say("\t".join(" ".join(cell.split()) for cell in row))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what came from the wire is no markup
    console().print(table)
