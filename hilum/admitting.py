"""Which studies are analysed at all: the rules of `study.admission`, with what the configuration says of senders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hilum.config import Settings
from study.admission import why_let_go, why_too_old, why_unasked
from study.errors import Reason
from study.headers import InstanceHeader

if TYPE_CHECKING:
    from hilum.planning import Circumstances


def why_not_admitted(
    settings: Settings, circumstances: Circumstances, headers: Iterable[InstanceHeader]
) -> Reason | None:
    """Return why a study is stored and not analysed; None where its series are judged.

    A part of a study is stored only. What a person asked for is analysed whatever else is said of it, and so is what
    nobody says the senders of: that is a folder.

    Parameters
    ----------
    headers
        Of all that is here of it.
    """
    if circumstances.part is not None:
        return circumstances.part
    senders = circumstances.calling_ae_titles
    if circumstances.on_request or senders is None:
        return None
    stored_only = {title for title in senders if not settings.asks_for_analysis(title)}
    return (
        why_unasked(senders, stored_only)
        or why_let_go(passed_over=circumstances.passed_over)
        or why_too_old(headers, circumstances.today, settings.study.max_age_days)
    )
