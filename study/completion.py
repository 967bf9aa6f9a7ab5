"""Is this study complete? Facts and a time in, a decision with its reason out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Completion:
    """Whether a study is complete, and why."""

    complete: bool
    reason: str


def by_quiet_period(*, last_received_at: datetime, now: datetime, quiet_seconds: float) -> Completion:
    """Decide by silence: DICOM has no signal for the end of a study, so a quiet period stands for it.

    Parameters
    ----------
    last_received_at, now
        When the study's last new instance arrived, and the present, by one clock, in UTC.
    quiet_seconds
        How long nothing new must have come [s].
    """
    silence = now - last_received_at
    if silence >= timedelta(seconds=quiet_seconds):
        return Completion(True, f"no new instance for {quiet_seconds:g} s")
    left = timedelta(seconds=quiet_seconds) - silence
    return Completion(False, f"complete in {left.total_seconds():.1f} s unless a new instance arrives")
