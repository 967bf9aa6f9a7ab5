"""What the log says of storage commitment messages."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

log = structlog.get_logger()


def write_down(name: str, facts: Mapping[str, object]) -> None:
    """Log what came of a storage commitment message from a peer."""
    (log.warning if name == "commitment_refused" else log.info)(name.replace("_", ".", 1), **facts)
