"""How long to wait before something is tried again that another node did not take."""

from __future__ import annotations

import random

from hilum.sections import DeliverySettings


def back_off(settings: DeliverySettings, attempts: int, *, problem: bool) -> float:
    """Return how long to wait before the next try [s]: doubling, bounded, with a tenth of jitter.

    A refusal that looks permanent is tried at the slow pace at once: only a person can change it, and the retry shows
    when they did. It has its jitter too: what was refused at one moment must not all come back at one.
    """
    seconds = settings.problem_retry_seconds if problem else _doubled(settings, attempts)
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret


def _doubled(settings: DeliverySettings, attempts: int) -> float:
    doubled: float = settings.retry_seconds * 2.0 ** min(max(attempts - 1, 0), 16)
    return min(doubled, settings.retry_max_seconds)
