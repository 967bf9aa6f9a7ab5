"""How the commands speak: tables and progress on a terminal, plain unwrapped lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

_NEVER_WRAPS = 10_000


def console() -> Console:
    """Return standard output: as wide as the terminal, or lines that are never wrapped."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=_NEVER_WRAPS, highlight=False, no_color=True, soft_wrap=True)


def say(text: str) -> None:
    """Print one line, as it is."""
    console().print(text, markup=False)


def complain(text: str) -> None:
    """Print one line to standard error, as it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; where nobody looks on, a line a row with tabs between the cells."""
    if not sys.stdout.isatty():
        say("\t".join(columns))
        for row in rows:
            say("\t".join(cell.replace("\n", " ") for cell in row))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console().print(table)
