"""What headers say, put into words that any log, page or report can hold."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.config import IGNORE
from pydicom.uid import UID

_LONGEST_QUOTE = 64
_MOST_LISTED = 5


def quoted(text: str) -> str:
    """Return a stranger's text in printable ASCII, cut where it is very long."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 3]}..."
    return ascii(shown)[1:-1]


def listed(texts: Sequence[str], most: int = _MOST_LISTED) -> str:
    """Return several texts of a stranger as one, the first few where they are many; "none" for an empty one."""
    shown = ", ".join(quoted(text) or "none" for text in texts[:most])
    return f"{shown}, ..." if len(texts) > most else shown


def spanned(low: float, high: float) -> str:
    """Return "1" or "1 to 3"."""
    return _number(low) if _number(low) == _number(high) else f"{_number(low)} to {_number(high)}"


def allowed(limits: tuple[float | None, float | None]) -> str:
    """Return a range in words: "0.5 to 3", "at least 0.5", "at most 3"."""
    low, high = limits
    if low is None:
        return "any" if high is None else f"at most {_number(high)}"
    return f"at least {_number(low)}" if high is None else spanned(low, high)


def uid_name(uid: str) -> str:
    """Return the name of a well-known UID, any other as it is."""
    # It came from the wire: looked up as it is, without pydicom's own judgement (and warning) of it.
    return quoted(UID(uid, validation_mode=IGNORE).name)


def _number(value: float) -> str:
    return f"{round(value, 3):g}" if abs(value) < 1e5 else f"{value:.6g}"
