"""Is a study complete? What an archive said, what is here and a time in; the models whose turn it is out, with the why.

By proof: the archive holds just what is here, or the sender listed it (`study.asking`). By the quiet period, where
there is nobody to ask or no answer that can be relied on; then that is on record. A model waits for the series that it
may want, and for no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from study.errors import QueryFailed, Reason
from study.holdings import ArchivedSeries
from study.inquiry import HeldSeries, Inquiry, InquiryState, SeriesInquiry, Standing
from study.patterns import occurs
from study.rule import SelectionRule
from study.words import quoted


@dataclass(frozen=True)
class Completeness:
    """Which models may go to work on a study.

    Parameters
    ----------
    models
        Those of which each series that they may want is here; None: all, and the study is closed.
    by
        Who says so, as it is put on record; "" where nothing but the quiet period was ever to decide.
    unproven
        Why the quiet period decided although somebody was asked; None otherwise.
    incomplete
        Why a series can not be analysed though what is here of it might be, by its UID.
    since
        Since when the series are complete that a model may want, by its name; of models that may want any.
    """

    models: frozenset[str] | None
    by: str = ""
    unproven: Reason | None = None
    incomplete: Mapping[str, Reason] = field(default_factory=dict)
    since: Mapping[str, datetime] = field(default_factory=dict)


WHOLE: Final = Completeness(None)
"""A study that is complete, by nothing but its quiet period."""


@dataclass(frozen=True)
class Clock:
    """The time, and what it means for a study.

    Parameters
    ----------
    silent
        Whether the quiet period is over.
    overdue
        Whether the archive should have been asked long ago.
    """

    at: datetime
    last_received_at: datetime
    silent: bool
    overdue: bool = False
    settle_seconds: float = 2.0
    quiet_seconds: float = 60.0


def may_want(rule: SelectionRule, series: ArchivedSeries) -> bool:
    """Tell whether a model may want a series, by the little that is known of it; what is unknown excludes nothing."""
    modality, body_part, description = (
        text.strip() for text in (series.modality, series.body_part_examined, series.series_description)
    )
    if modality and modality.upper() not in {each.upper() for each in rule.modality}:
        return False
    if body_part and rule.body_part and _reduced(body_part) not in {_reduced(each) for each in rule.body_part}:
        return False
    if not description:
        return True
    included = not rule.description_include or any(occurs(each, [description]) for each in rule.description_include)
    return included and not any(occurs(each, [description]) for each in rule.description_exclude)


def _reduced(text: str) -> str:
    return "".join(text.replace("_", " ").replace("-", " ").split()).upper()


def described(archived: ArchivedSeries | None, held: HeldSeries | None) -> ArchivedSeries:
    """Return what is known of a series: what its images say goes before what the archive says; the number is its."""
    if archived is None or held is None:
        found = archived or (held.described if held else ArchivedSeries(""))
        return found if archived else replace(found, instances=None)
    of_images = held.described
    return replace(
        archived,
        modality=of_images.modality or archived.modality,
        series_number=archived.series_number if of_images.series_number is None else of_images.series_number,
        series_description=of_images.series_description or archived.series_description,
        body_part_examined=of_images.body_part_examined or archived.body_part_examined,
    )


def judge(
    inquiry: Inquiry | None, rules: Mapping[str, SelectionRule], held: Mapping[str, HeldSeries], clock: Clock
) -> Completeness:
    """Return which models may go to work.

    Parameters
    ----------
    inquiry
        None where nobody was ever to be asked.
    rules
        What each model asks of a series, by its name.
    held
        What is here now, by Series Instance UID.
    """
    series = [SeriesInquiry(each.described) for each in held.values()]
    if inquiry is not None:
        series = _as_they_are(inquiry, held, clock)
    wanted = {name: _wanted(rule, series) for name, rule in rules.items()}
    series = [each for each in series if any(each in found for found in wanted.values())]
    is_open = any(map(_is_open, series))
    if clock.silent and (is_open or not series) and _is_left_to_itself(inquiry, clock):
        silent_since = clock.last_received_at + timedelta(seconds=clock.quiet_seconds)
        since = {name: silent_since for name, found in wanted.items() if found}
        return replace(_by_quiet_period(inquiry, series, clock), since=since)
    if inquiry is None or not series:
        return Completeness(frozenset())
    ready = {name: found for name, found in wanted.items() if found and not any(map(_is_open, found))}
    judged = Completeness(
        frozenset(ready),
        incomplete={each.series_instance_uid: _incomplete(inquiry, each) for each in series if _is_lacking(each)},
        since={name: max(each.settled_at or clock.at for each in found) for name, found in ready.items()},
    )
    if is_open:
        return judged
    return replace(judged, models=None, by=_by(inquiry, series), unproven=_behind(inquiry, series, clock))


def list_settles_at(inquiry: Inquiry, clock: Clock) -> datetime | None:
    """Return when what the sender listed may next be the proof, where there is no archive; None where it never will."""
    settle = timedelta(seconds=clock.settle_seconds)
    times = [max(each.listed_at, clock.last_received_at) + settle for each in inquiry.series if each.listed_at]
    return min((time for time in times if time > clock.at), default=None)


def _is_left_to_itself(inquiry: Inquiry | None, clock: Clock) -> bool:
    """Tell whether nobody can be waited for to say more than the quiet period does."""
    if inquiry is None or inquiry.state is not InquiryState.ASKING:
        return True
    return inquiry.failures > 0 or clock.overdue


def _as_they_are(inquiry: Inquiry, held: Mapping[str, HeldSeries], clock: Clock) -> list[SeriesInquiry]:
    """Return the standing of each series now: what came since the answer is open again."""
    known = {each.series_instance_uid: each for each in inquiry.series}
    fresh = [SeriesInquiry(held[uid].described) for uid in held if uid not in known]
    return [_as_it_is(inquiry, each, held.get(each.series_instance_uid), clock) for each in (*known.values(), *fresh)]


def _wanted(rule: SelectionRule, series: list[SeriesInquiry]) -> list[SeriesInquiry]:
    return [each for each in series if may_want(rule, each.series)]


def _as_it_is(inquiry: Inquiry, series: SeriesInquiry, held: HeldSeries | None, clock: Clock) -> SeriesInquiry:
    digest, here = (held.digest, len(held.sop_instance_uids)) if held else ("", 0)
    now = replace(series, series=described(series.series, held))
    if not inquiry.peer:
        settled_at = max(series.listed_at or clock.at, clock.last_received_at) + timedelta(seconds=clock.settle_seconds)
        if digest and series.listed == digest and clock.at >= settled_at:
            return replace(now, standing=Standing.PROVEN, proof="list", settled_at=settled_at)
        return replace(now, standing=Standing.OPEN, archived=None)
    if series.held != digest or series.standing is Standing.UNWANTED:
        return replace(now, standing=Standing.OPEN, here=here)
    return now


def _is_open(series: SeriesInquiry) -> bool:
    return series.standing is Standing.OPEN


def _is_lacking(series: SeriesInquiry) -> bool:
    return series.standing is Standing.LACKING


def _by(inquiry: Inquiry, series: list[SeriesInquiry]) -> str:
    who = inquiry.peer if any(each.proof == "archive" for each in series) or inquiry.peer else "the sender's list"
    lacking = sum(_is_lacking(each) for each in series)
    if any(each.standing is Standing.BEHIND for each in series):
        return "by the quiet period"
    return f"but for {lacking} series of which {who} holds more" if lacking else f"proven by {who}"


def _by_quiet_period(inquiry: Inquiry | None, series: list[SeriesInquiry], clock: Clock) -> Completeness:
    """Return what the quiet period decides; of what the archive said to be incomplete it makes nothing complete."""
    if inquiry is None:
        return WHOLE
    # What an archive says that contradicts itself is no ground for a refusal either
    is_relied_on = inquiry.reason is None or inquiry.reason.code != QueryFailed.code
    incomplete = {
        each.series_instance_uid: _incomplete(inquiry, each) for each in series if each.lacks and is_relied_on
    }
    if not inquiry.peer or inquiry.state is not InquiryState.ASKING:
        return Completeness(None, incomplete=incomplete)
    return Completeness(None, "by the quiet period", _unanswered(inquiry, clock), incomplete)


def _unanswered(inquiry: Inquiry, clock: Clock) -> Reason:
    decided = f"the quiet period of {clock.quiet_seconds:g} s decided."
    if inquiry.reason is not None and inquiry.failures:
        said = f"{inquiry.reason.code}: {inquiry.reason.words}"
        words = f"The archive {inquiry.peer} could not say whether the study is complete ({said}): {decided}"
        return Reason(inquiry.reason.code, words, {"failures": inquiry.failures})
    words = f"The archive {inquiry.peer} gave no answer in time: {decided} Is the role archivist at work?"
    return Reason("ArchiveNotAsked", words)


def _behind(inquiry: Inquiry, series: list[SeriesInquiry], clock: Clock) -> Reason | None:
    behind = [each for each in series if each.standing is Standing.BEHIND]
    if not behind:
        return None
    told = "; ".join(f"{each.archived} of the {each.here} images of {series_words(each)}" for each in behind[:5])
    words = (
        f"The archive {inquiry.peer} holds less than is here ({told}), which proves nothing: the quiet period of "
        f"{clock.quiet_seconds:g} s decided."
    )
    return Reason("ArchiveBehind", words, {"series": len(behind)})


def _incomplete(inquiry: Inquiry, series: SeriesInquiry) -> Reason:
    """Return why a series is not analysed of which the archive holds more than is here."""
    if series.tries:
        why = f"could not be fetched ({series.trouble.rstrip('.') or 'the archive gives no reason'})"
    elif series.standing is Standing.LACKING:
        why = 'did not come, and nothing is fetched from it (retrieve = "none")'
    else:
        why = "did not come, and it answers no more"
    words = (
        f"The archive {inquiry.peer} holds {series.archived} images of the series, and {series.here} are here: "
        f"{series.lacks} {why}. Send them again, or mend that and have the archive asked again by hilum retry."
    )
    numbers = {"archived": series.archived or 0, "here": series.here, "missing": series.lacks, "tries": series.tries}
    return Reason("IncompleteSeries", words, numbers)


def awaited(inquiry: Inquiry) -> Reason | None:
    """Return what is waited for while an archive is asked; None where nothing is known to be missing."""
    if inquiry.failures and inquiry.reason is not None:
        words = (
            f"The archive {inquiry.peer} does not say whether all is here, and is asked again: {inquiry.reason.words}"
        )
        return Reason(inquiry.reason.code, words, {"failures": inquiry.failures})
    lacking = [each for each in inquiry.series if each.lacks]
    if not lacking:
        return None
    told = "; ".join(f"{each.here} of {each.archived} images of {series_words(each)} are here" for each in lacking[:5])
    missing = sum(each.lacks for each in lacking)
    return Reason("AwaitsImages", f"The archive {inquiry.peer} holds more: {told}.", {"missing": missing})


def series_words(series: SeriesInquiry) -> str:
    """Return which series it is, in words that any log can hold."""
    known = series.series
    number = "" if known.series_number is None else f" {known.series_number}"
    named = f" ({quoted(known.series_description)})" if known.series_description else ""
    return f"series{number}{named}" if number or named else f"series {series.series_instance_uid}"
