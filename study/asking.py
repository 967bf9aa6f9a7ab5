"""What follows from an archive's answer about a study: what is known of each series, what to fetch, when to ask again.

Equality proves only that we hold what the archive holds, and both may still grow: a series is proven when both hold as
many in two answers at least `settle_seconds` apart with nothing having come here in between; or in one, where the
sender itself has listed just what is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from study.completion import described, may_want
from study.holdings import ArchivedSeries
from study.inquiry import HeldSeries, SeriesInquiry, Standing
from study.rule import SelectionRule

SLOW_SECONDS: Final = 0.25
"""Reception has slowed, and the archive is worth asking, once no instance came for so long [s]."""
TRIES: Final = 3
"""How often what is missing is asked for before it is said that it can not be had."""
LONGEST_WAIT: Final = timedelta(hours=1)
"""How long a study waits for an archive that never comes to rest, since something last came here."""
_GAPS: Final = (1.0, 30.0)  # [s] the shortest and the longest between two answers that tell the same
_MOST_NAMED: Final = 10


@dataclass(frozen=True)
class Terms:
    """How long to wait for what.

    Parameters
    ----------
    can_fetch
        Whether what is missing may be fetched.
    sent_only
        Whether only series count of which something is here.
    """

    settle_seconds: float
    quiet_seconds: float
    can_fetch: bool = True
    sent_only: bool = False

    @property
    def settle(self) -> timedelta:
        """Return how far apart two answers must be."""
        return timedelta(seconds=self.settle_seconds)

    @property
    def quiet(self) -> timedelta:
        """Return the quiet period."""
        return timedelta(seconds=self.quiet_seconds)


@dataclass(frozen=True)
class Answer:
    """What an archive said of a study, and when.

    Parameters
    ----------
    series
        With the number of instances of each series that a model may want.
    quiet_since
        When something last came here, or the node began to listen.
    missing
        By series: instances that the archive named and that are not here.
    fetching
        The series that are being fetched.
    """

    series: tuple[ArchivedSeries, ...]
    sent_at: datetime
    answered_at: datetime
    quiet_since: datetime
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fetching: frozenset[str] = frozenset()


def concerns(
    series: Iterable[ArchivedSeries], held: Mapping[str, HeldSeries], rules: Collection[SelectionRule], terms: Terms
) -> dict[str, bool]:
    """Return which series an inquiry is about, by UID, and whether a model may want each."""
    archived = {each.series_instance_uid: each for each in series}
    wanted = {
        uid: any(may_want(rule, described(archived.get(uid), held.get(uid))) for rule in rules)
        for uid in (*archived, *(uid for uid in held if uid not in archived))
    }
    return {uid: of_use for uid, of_use in wanted.items() if uid in held or (of_use and not terms.sent_only)}


def weigh(
    before: Iterable[SeriesInquiry],
    answer: Answer,
    held: Mapping[str, HeldSeries],
    rules: Collection[SelectionRule],
    terms: Terms,
) -> tuple[SeriesInquiry, ...]:
    """Return what is known of each series after an answer, by what was known before it and what is here."""
    known = {each.series_instance_uid: each for each in before}
    archived = {each.series_instance_uid: each for each in answer.series}
    found = []
    for uid, is_wanted in concerns(answer.series, held, rules, terms).items():
        series = described(archived.get(uid), held.get(uid))
        if is_wanted:
            found.append(_weighed(known.get(uid), series, held.get(uid), answer, terms))
        else:
            found.append(SeriesInquiry(replace(series, instances=None), standing=Standing.UNWANTED))
    return tuple(found)


def _weighed(
    before: SeriesInquiry | None, series: ArchivedSeries, held: HeldSeries | None, answer: Answer, terms: Terms
) -> SeriesInquiry:
    earlier = before or SeriesInquiry(series)
    digest, here = (held.digest, len(held.sop_instance_uids)) if held else ("", 0)
    archived = series.instances or 0
    same = before is not None and earlier.held == digest
    grew = earlier.archived is None or archived > earlier.most
    equal = archived == here > 0
    now = replace(
        earlier,
        series=replace(series, instances=None),
        here=here,
        held=digest,
        archived=archived,
        most=max(archived, earlier.most),
        changed_at=earlier.changed_at if same and not grew else answer.answered_at,
        equal_since=((earlier.equal_since if same else None) or answer.answered_at) if equal else None,
        missing=_named(earlier, answer, same=same) if archived > here else (),
        tries=earlier.tries if same else 0,
        tried_at=earlier.tried_at if same else None,
        trouble=earlier.trouble if same and archived > here else "",
    )
    standing, proof = _standing(now, answer, terms)
    kept = same and standing is earlier.standing
    settled_at = earlier.settled_at if kept else None if standing is Standing.OPEN else answer.answered_at
    return replace(now, standing=standing, proof=proof, settled_at=settled_at)


def without_counts(series: Iterable[SeriesInquiry]) -> tuple[SeriesInquiry, ...]:
    """Return what is left of what was known once the archive has contradicted itself: not what it had counted."""
    return tuple(
        each
        if each.standing is Standing.UNWANTED
        else replace(
            each,
            archived=None,
            most=0,
            standing=Standing.OPEN,
            equal_since=None,
            proof="",
            settled_at=None,
            missing=(),
        )
        for each in series
    )


def is_news(before: Iterable[SeriesInquiry], after: Iterable[SeriesInquiry]) -> bool:
    """Tell whether an answer may have changed which models can go to work."""
    return {_gist(each) for each in before} != {_gist(each) for each in after}


def _gist(series: SeriesInquiry) -> tuple[str, Standing, str]:
    return series.series_instance_uid, series.standing, series.held if series.standing is not Standing.OPEN else ""


def _named(earlier: SeriesInquiry, answer: Answer, *, same: bool) -> tuple[str, ...]:
    named = answer.missing.get(earlier.series_instance_uid)
    return named[:_MOST_NAMED] if named is not None else earlier.missing if same else ()


def _standing(series: SeriesInquiry, answer: Answer, terms: Terms) -> tuple[Standing, str]:
    if series.equal_since is not None:
        if series.equal_since + terms.settle <= answer.sent_at:
            return Standing.PROVEN, "archive"
        return (Standing.PROVEN, "list") if series.listed == series.held else (Standing.OPEN, "")
    if answer.sent_at < min(_rests_at(series, answer, terms), answer.quiet_since + LONGEST_WAIT):
        return Standing.OPEN, ""
    if not series.lacks:
        return Standing.BEHIND, ""
    is_tried = not terms.can_fetch or series.tries >= TRIES
    if is_tried and series.series_instance_uid not in answer.fetching:
        return Standing.LACKING, ""
    return Standing.OPEN, ""


def _rests_at(series: SeriesInquiry, answer: Answer, terms: Terms) -> datetime:
    """Return when neither we nor the archive will have changed for the quiet period."""
    return max(series.changed_at or answer.quiet_since, answer.quiet_since) + terms.quiet


def is_fetch_due(series: SeriesInquiry, answer: Answer, terms: Terms) -> bool:
    """Tell whether what a series lacks is to be fetched now: whoever sent it seems to have ended."""
    return (
        series.standing is Standing.OPEN
        and series.lacks > 0
        and series.series_instance_uid not in answer.fetching
        and _may_be_fetched(series, terms)
        and _fetch_at(series, answer, terms) <= answer.sent_at
    )


def _may_be_fetched(series: SeriesInquiry, terms: Terms) -> bool:
    return terms.can_fetch and series.tries < TRIES


def _fetch_at(series: SeriesInquiry, answer: Answer, terms: Terms) -> datetime:
    settled = answer.quiet_since + terms.settle
    if series.tried_at is None:
        return settled
    return max(settled, series.tried_at + timedelta(seconds=2.0**series.tries))


def next_ask(series: Iterable[SeriesInquiry], answer: Answer, terms: Terms) -> datetime:
    """Return when the archive is to be asked again, unless something comes before."""
    times = [_next_of(each, answer, terms) for each in series if each.standing is Standing.OPEN]
    return min(times, default=answer.answered_at + timedelta(seconds=_GAPS[1]))


def _next_of(series: SeriesInquiry, answer: Answer, terms: Terms) -> datetime:
    now = answer.answered_at
    if series.equal_since is not None:
        return series.equal_since + terms.settle
    if series.series_instance_uid in answer.fetching:
        return now + timedelta(seconds=_GAPS[1])
    if series.lacks and _may_be_fetched(series, terms):
        return max(_fetch_at(series, answer, terms), now + timedelta(seconds=_GAPS[0]))
    again = now + back_off(now - (series.changed_at or now))
    rests_at = _rests_at(series, answer, terms)
    return min(again, rests_at) if rests_at > now else again


def back_off(elapsed: timedelta) -> timedelta:
    """Return how long to wait before the next question, when the last so long have told nothing new: as long again."""
    return timedelta(seconds=min(max(elapsed.total_seconds(), _GAPS[0]), _GAPS[1]))


def is_worth_asking(known: Iterable[SeriesInquiry], here: Mapping[str, int]) -> bool:
    """Tell whether the archive could prove something once reception slows: not while less is here than it said.

    Parameters
    ----------
    here
        How many instances of each series are here now.
    """
    by_uid = {each.series_instance_uid: each for each in known}
    if here.keys() - by_uid.keys():
        return True
    return any(
        here.get(uid, 0) >= max(each.archived or 0, 1)
        for uid, each in by_uid.items()
        if each.standing is not Standing.UNWANTED
        and not (each.standing is Standing.PROVEN and each.here == here.get(uid, 0))
    )
