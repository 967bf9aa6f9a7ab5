"""Regular expressions as a site writes them: searched for anywhere in a text of a header, without regard to case."""

from __future__ import annotations

import re
from collections.abc import Iterable


def patterns(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return regular expressions as they are; ValueError where one is none."""
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return given


def occurs(pattern: str, texts: Iterable[str]) -> bool:
    """Tell whether a regular expression is found in any of the texts."""
    return any(re.search(pattern, text, re.IGNORECASE) for text in texts)
