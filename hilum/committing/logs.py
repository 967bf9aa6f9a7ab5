"""What the log says of storage commitment messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from hilum.bells import Bells

log = structlog.get_logger()


def write_down(name: str, facts: Mapping[str, object]) -> None:
    """Log what came of a storage commitment message from a peer."""
    (log.warning if name == "commitment_refused" else log.info)(name.replace("_", ".", 1), **facts)


def writing_down(bells: Bells) -> Callable[[str, Mapping[str, object]], None]:
    """Return what logs a message, and has the sender look, which acts upon it."""

    def note(name: str, facts: Mapping[str, object]) -> None:
        write_down(name, facts)
        bells.ring("sender")

    return note
