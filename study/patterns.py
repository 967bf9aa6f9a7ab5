"""Regular expressions as a site writes them: searched for anywhere in a text of a header, without regard to case."""

from __future__ import annotations

import re
from collections.abc import Iterable


def patterns(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return regular expressions as they are; ValueError where one is none, or is empty and so found everywhere."""
    for pattern in given:
        if not pattern:
            raise ValueError("an empty regular expression is found in every text; leave it out")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return given


def occurs(pattern: str, texts: Iterable[str]) -> bool:
    """Tell whether a regular expression is found in any of the texts.

    Each is looked at as a whole, however long: what a rule leaves out must not be let in by a long text. Where a miss
    harms nobody, the caller cuts them.
    """
    return any(re.search(pattern, text, re.IGNORECASE) for text in texts)
