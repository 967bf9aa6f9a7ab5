"""What an archive was asked of a study and said, as lines for a person and as JSON; described in docs/json.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hilum.moments import local, moment
from study.completion import series_words
from study.inquiry import Inquiry, InquiryState, SeriesInquiry, Standing

_STANDINGS = {
    Standing.OPEN: "",
    Standing.PROVEN: "proven to be all",
    Standing.LACKING: "known to be incomplete",
    Standing.BEHIND: "the archive has less",
}


def inquiry_words(inquiry: Inquiry | None) -> Iterator[str]:
    """Give what an archive was asked of a study and said, a line each; nothing where nobody was asked."""
    if inquiry is None or not (inquiry.asked or inquiry.failures or any(each.listed for each in inquiry.series)):
        return
    yield f"{_who(inquiry)}: {_how_often(inquiry)}"
    if inquiry.reason is not None:
        yield f"  {inquiry.reason.code}: {inquiry.reason.words}"
    for each in inquiry.series:
        if each.standing is not Standing.UNWANTED:
            yield f"  {series_words(each)}: {_of_series(each)}"


def _who(inquiry: Inquiry) -> str:
    return f"Archive {inquiry.peer}" if inquiry.peer else "The sender"


def _how_often(inquiry: Inquiry) -> str:
    if not inquiry.peer:
        return "listed what it had sent"
    told = [f"asked {_times(inquiry.asked)}"] if inquiry.asked or not inquiry.failures else []
    if inquiry.failures:
        told.append(f"no answer {_times(inquiry.failures)} in a row")
    if inquiry.state is InquiryState.ASKING:
        told.append(f"asked again at {local(inquiry.next_ask_at)}")
    return ", ".join(told)


def _of_series(series: SeriesInquiry) -> str:
    told = [f"{series.here} of {series.archived} are here" if series.archived is not None else "listed by its sender"]
    if series.lacks:
        named = f" ({', '.join(series.missing)}{', ...' if series.lacks > len(series.missing) else ''})"
        told.append(f"{series.lacks} missing{named if series.missing else ''}")
    if series.tries:
        told.append(f"asked for {_times(series.tries)}, last at {local(series.tried_at)}")
    told += [text for text in (series.trouble, _STANDINGS[series.standing]) if text]
    return "; ".join(told)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def inquiry_json(inquiry: Inquiry | None) -> dict[str, Any] | None:
    """Return what an archive was asked of a study and said; None where nobody was ever to be asked."""
    if inquiry is None:
        return None
    reason = inquiry.reason
    return {
        "archive": inquiry.peer or None,
        "state": inquiry.state.value,
        "asked": inquiry.asked,
        "failures": inquiry.failures,
        "next_ask_at": moment(inquiry.next_ask_at) if inquiry.state is InquiryState.ASKING else None,
        "reason": reason and {"code": reason.code, "words": reason.words, "numbers": dict(reason.numbers)},
        "series": [_series_json(each) for each in inquiry.series],
    }


def _series_json(series: SeriesInquiry) -> dict[str, Any]:
    return {
        "series_instance_uid": series.series_instance_uid,
        "standing": series.standing.value,
        "proof": series.proof or None,
        "here": series.here,
        "archived": series.archived,
        "missing": series.lacks,
        "missing_sop_instance_uids": list(series.missing),
        "tries": series.tries,
        "tried_at": moment(series.tried_at),
        "trouble": series.trouble or None,
    }
