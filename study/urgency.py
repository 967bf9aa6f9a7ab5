"""Which studies go before others: rules on what their images say and who sent them, and what a priority is worth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from study.headers import InstanceHeader
from study.patterns import occurs

HEAD_START_SECONDS: Final = 600.0
"""How much longer than others a job counts as waiting for each level of its priority.

Urgency is a head start in one queue, and not a queue of its own: whoever waits long enough is served, whatever comes.
"""

_FIELDS: Final = {
    "department": "institutional_department_name",
    "study_description": "study_description",
    "series_description": "series_description",
    "requested_priority": "requested_procedure_priority",
}
"""By condition: the header's field that it is about."""

_LONGEST_TEXT: Final = 256
"""How much of a text a rule looks at [characters]; DICOM allows 64 (PS3.5 6.2), and a pattern's time grows with it."""


@dataclass(frozen=True)
class UrgencyRule:
    """When a study is urgent: every condition that is given holds, each for at least one of its images.

    Images that versions before this one indexed say nothing of their department and their requested priority: rules see
    those of images that were received since.

    Parameters
    ----------
    priority
        Added to that of the model.
    department, study_description, series_description, requested_priority
        Regular expressions, without regard to case, of which one is found in Institutional Department Name (0008,1040),
        Study Description (0008,1030), Series Description (0008,103E), Requested Procedure Priority (0040,1003).
    calling_ae_titles
        Who sent an image of the study; None: whoever.
    """

    name: str
    priority: int
    department: tuple[str, ...] = ()
    study_description: tuple[str, ...] = ()
    series_description: tuple[str, ...] = ()
    requested_priority: tuple[str, ...] = ()
    calling_ae_titles: frozenset[str] | None = None

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """Return the given regular expressions by the header's field that they are about."""
        return {field: given for name, field in _FIELDS.items() if (given := getattr(self, name))}

    def applies(self, headers: Collection[InstanceHeader], senders: Collection[str]) -> bool:
        """Tell whether a study is urgent by this rule."""
        if self.calling_ae_titles is not None and self.calling_ae_titles.isdisjoint(senders):
            return False
        return all(_is_found(given, headers, field) for field, given in self.conditions.items())


def most_urgent(
    rules: Iterable[UrgencyRule], headers: Collection[InstanceHeader], senders: Collection[str]
) -> UrgencyRule | None:
    """Return which rule says how urgent a study is: of those that apply the one worth most; None where none does.

    Parameters
    ----------
    headers, senders
        Of all images of the study, whichever a model gets.
    """
    return max((rule for rule in rules if rule.applies(headers, senders)), key=lambda rule: rule.priority, default=None)


def turn(entered: datetime, priority: int) -> datetime:
    """Return when a job counts as entered, whose turn comes by that: its head start before it was."""
    return entered - timedelta(seconds=priority * HEAD_START_SECONDS)


def _is_found(given: Iterable[str], headers: Iterable[InstanceHeader], field: str) -> bool:
    texts = {getattr(header, field)[:_LONGEST_TEXT] for header in headers}
    return any(occurs(pattern, texts) for pattern in given)
