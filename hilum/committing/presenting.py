"""How far a peer has come with committing itself, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hilum.moments import local, moment
from study.commitment import CommitmentState, Standing
from study.entities import Delivery


def commitment_json(standing: Standing | None) -> dict[str, Any] | None:
    """Return how far a peer has come with committing itself to an object; None where it was not asked."""
    if standing is None:
        return None
    return {
        "transaction_uid": standing.transaction_uid,
        "state": standing.state.value,
        "requested_at": moment(standing.requested_at),
        "asked": standing.asked,
        "failures": standing.failures,
    }


def commitment_words(stored: Sequence[Delivery]) -> list[str]:
    """Return since when a peer has stored what it has still to commit itself to, and what it was asked; or nothing."""
    if not stored:
        return []
    since = local(min((each.stored_at for each in stored if each.stored_at), default=None))
    asked = [each.commitment for each in stored if each.commitment and each.commitment.asked]
    if not asked:
        return [f"Stored there since {since}; not asked yet whether it is kept."]
    last = max(asked, key=lambda standing: standing.requested_at)
    times = max(standing.asked for standing in asked)
    heard = "the answer speaks of others alone" if last.state is CommitmentState.ANSWERED else "no report yet"
    asking = f"asked {times} time(s) whether it is kept, last at {local(last.requested_at)}"
    return [f"Stored there since {since}; {asking}: {heard} (transaction {last.transaction_uid})."]
