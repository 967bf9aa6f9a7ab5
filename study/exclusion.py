"""What a model's choice among the series of a study says of images that were rejected, and left out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from study.errors import Reason
from study.rejections import RejectionTitle
from study.verdicts import Selection, SeriesVerdict

IMAGES_REJECTED: Final = "ImagesRejected"
"""Code of the refusal of a series of which images were rejected, so that too few are left, or none."""


def told(selection: Selection, rejected: Mapping[str, Sequence[RejectionTitle]]) -> Selection:
    """Return a selection that says what was left out of the series on which it decides.

    Parameters
    ----------
    rejected
        Why each rejected image of a series is, by Series Instance UID.
    """

    def with_note(verdict: SeriesVerdict) -> SeriesVerdict:
        titles = rejected.get(verdict.series_instance_uid, ())
        if not titles or not verdict.wanted:
            return verdict
        if verdict.accepted:
            return replace(verdict, notes=(*verdict.notes, f"{_left_out(titles)}; they were left out."))
        return replace(verdict, reasons=(*verdict.reasons, reason_of(titles)))

    after = {id(verdict): with_note(verdict) for verdict in selection.verdicts}
    chosen, refused = (each and after[id(each)] for each in (selection.chosen, selection.refused))
    return Selection(tuple(after.values()), chosen, refused)


def reason_of(titles: Sequence[RejectionTitle]) -> Reason:
    """Return why a series is refused of which images were rejected, one title each."""
    return Reason(IMAGES_REJECTED, f"{_left_out(titles)}, and are not analysed.", {"rejected": len(titles)})


def _left_out(titles: Sequence[RejectionTitle]) -> str:
    why = ", ".join(title.words for title in RejectionTitle if title in titles)
    return f"{len(titles)} image{'s' if len(titles) != 1 else ''} of the series were rejected ({why})"
