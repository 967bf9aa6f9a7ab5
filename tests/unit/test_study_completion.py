"""Is a study complete? What an archive says, what is here and the time decide; nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from study.asking import (
    LONGEST_WAIT,
    TRIES,
    Answer,
    Terms,
    back_off,
    is_fetch_due,
    is_news,
    is_worth_asking,
    without_counts,
)
from study.asking import next_ask as next_ask_of
from study.asking import weigh as weigh_all
from study.completion import Clock, Completeness, judge, list_settles_at, may_want
from study.errors import Reason
from study.holdings import ArchivedSeries
from study.inquiry import HeldSeries, Inquiry, InquiryState, SeriesInquiry, Standing, set_digest
from study.rule import SelectionRule

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
CT = SelectionRule(modality=("CT",))
MR = SelectionRule(modality=("MR",))
TERMS = Terms(settle_seconds=2, quiet_seconds=60)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def series(
    uid: str = "1.1", instances: int | None = None, modality: str = "CT", description: str = ""
) -> ArchivedSeries:
    return ArchivedSeries(uid, modality=modality, series_description=description, instances=instances)


def held(count: int, uid: str = "1.1", modality: str = "CT") -> HeldSeries:
    return HeldSeries(series(uid, modality=modality), frozenset(f"{uid}.{number}" for number in range(count)))


def weigh(
    before: tuple[SeriesInquiry, ...],
    archived: int,
    here: int,
    seconds: float,
    *,
    quiet_since: float = 0,
    terms: Terms = TERMS,
    fetching: frozenset[str] = frozenset(),
) -> tuple[SeriesInquiry, ...]:
    """Return what one series is after the archive answered, half a tenth of a second after it was asked."""
    answer = answered(archived, seconds, quiet_since, fetching)
    return weigh_all(before, answer, {"1.1": held(here)} if here else {}, [CT], terms)


def answered(archived: int, seconds: float, quiet_since: float = 0, fetching: frozenset[str] = frozenset()) -> Answer:
    return Answer((series(instances=archived),), at(seconds), at(seconds + 0.05), at(quiet_since), fetching=fetching)


def standing(known: tuple[SeriesInquiry, ...]) -> Standing:
    (one,) = known
    return one.standing


@pytest.mark.parametrize(
    ("rule", "modality", "body_part", "description", "wanted"),
    [
        (CT, "CT", "", "", True),
        (CT, "ct", "", "", True),
        (CT, "MR", "", "", False),
        (CT, "", "", "", True),
        (SelectionRule(body_part=("CHEST",)), "CT", "chest ", "", True),
        (SelectionRule(body_part=("CHEST",)), "CT", "HEAD", "", False),
        (SelectionRule(body_part=("CHEST",)), "CT", "", "", True),
        (SelectionRule(body_part=("CHEST_ABDOMEN",)), "CT", "Chest Abdomen", "", True),
        (SelectionRule(description_include=("lung",)), "CT", "", "Lung 1.0", True),
        (SelectionRule(description_include=("lung",)), "CT", "", "Bone 1.0", False),
        (SelectionRule(description_include=("lung",)), "CT", "", "", True),
        (SelectionRule(description_exclude=("topo",)), "CT", "", "Topogram", False),
    ],
)
def test_only_what_can_never_fit_is_not_wanted(
    rule: SelectionRule, modality: str, body_part: str, description: str, wanted: bool
) -> None:
    known = ArchivedSeries("1.1", modality, series_description=description, body_part_examined=body_part)
    assert may_want(rule, known) is wanted


def test_one_equal_answer_proves_nothing_and_two_do_when_they_are_far_enough_apart() -> None:
    first = weigh((), 20, 20, 1)
    assert (standing(first), first[0].equal_since) == (Standing.OPEN, at(1.05))
    assert next_ask_of(first, answered(20, 1), TERMS) == at(3.05)  # just the settling time after the first
    assert standing(weigh(first, 20, 20, 3.04)) is Standing.OPEN
    second = weigh(first, 20, 20, 3.05)
    assert (standing(second), second[0].proof, second[0].settled_at) == (Standing.PROVEN, "archive", at(3.1))


@pytest.mark.parametrize(("archived", "here"), [(21, 21), (21, 20), (19, 20), (20, 21), (20, 0)])
def test_whatever_changes_in_between_begins_the_settling_anew(archived: int, here: int) -> None:
    first = weigh((), 20, 20, 1)
    assert standing(weigh(first, archived, here, 4)) is Standing.OPEN


def test_other_instances_of_the_same_number_are_no_unchanged_set() -> None:
    first = weigh((), 20, 20, 1)
    others = HeldSeries(series(), frozenset(f"1.1.{number}" for number in range(1, 21)))
    assert standing(weigh_all(first, answered(20, 4), {"1.1": others}, [CT], TERMS)) is Standing.OPEN


def test_one_answer_is_enough_where_the_sender_listed_just_what_is_here() -> None:
    listed = SeriesInquiry(series(), listed=set_digest(held(20).sop_instance_uids), listed_at=at(0))
    proven = weigh((listed,), 20, 20, 1)
    assert (standing(proven), proven[0].proof) == (Standing.PROVEN, "list")
    assert standing(weigh((listed,), 20, 19, 1)) is Standing.OPEN
    assert standing(weigh((listed,), 21, 20, 1)) is Standing.OPEN  # the archive knows of one that the list has not


def test_a_proof_is_no_more_where_the_archive_says_later_that_there_is_more() -> None:
    proven = weigh(weigh((), 20, 20, 1), 20, 20, 4)
    assert standing(weigh(proven, 25, 20, 8)) is Standing.OPEN


def test_what_is_missing_is_fetched_once_nothing_came_for_the_settling_time() -> None:
    lacking = weigh((), 27, 20, 1, quiet_since=0.5)
    assert lacking[0].lacks == 7
    assert not is_fetch_due(lacking[0], answered(27, 1, 0.5), TERMS)
    assert next_ask_of(lacking, answered(27, 1, 0.5), TERMS) == at(2.5)
    assert is_fetch_due(lacking[0], answered(27, 2.5, 0.5), TERMS)
    assert not is_fetch_due(lacking[0], answered(27, 2.5, 2.0), TERMS)  # something came since
    assert not is_fetch_due(lacking[0], answered(27, 9, 0.5, frozenset({"1.1"})), TERMS)  # it is under way
    assert not is_fetch_due(lacking[0], answered(27, 9, 0.5), replace(TERMS, can_fetch=False))


def test_a_fetch_is_tried_again_with_growing_pauses_and_afresh_once_something_came() -> None:
    tried = replace(weigh((), 27, 20, 5)[0], tries=1, tried_at=at(5))
    assert not is_fetch_due(tried, answered(27, 6.9), TERMS)
    assert is_fetch_due(tried, answered(27, 7), TERMS)
    again = weigh((replace(tried, tries=2),), 27, 20, 8.9)[0]
    assert (again.tries, is_fetch_due(again, answered(27, 8.9), TERMS)) == (2, False)
    assert is_fetch_due(again, answered(27, 9), TERMS)
    assert weigh((replace(tried, tries=3),), 27, 23, 30)[0].tries == 0


def test_a_series_is_known_to_be_incomplete_after_three_tries_and_the_quiet_period() -> None:
    lacking = replace(weigh((), 27, 20, 1)[0], tries=TRIES, tried_at=at(20), trouble="It would not.")
    assert standing(weigh((lacking,), 27, 20, 60)) is Standing.OPEN
    given_up = weigh((lacking,), 27, 20, 61.05)
    assert (standing(given_up), given_up[0].trouble) == (Standing.LACKING, "It would not.")
    assert standing(weigh((lacking,), 27, 20, 70, quiet_since=30)) is Standing.OPEN
    assert standing(weigh((lacking,), 27, 20, 70, fetching=frozenset({"1.1"}))) is Standing.OPEN
    assert standing(weigh((replace(lacking, tries=2),), 27, 20, 70)) is Standing.OPEN
    assert standing(weigh(given_up, 27, 27, 80)) is Standing.OPEN  # it came after all


def test_where_nothing_may_be_fetched_it_is_known_after_the_quiet_period() -> None:
    waiting = replace(TERMS, can_fetch=False)
    known = weigh((), 27, 20, 1, terms=waiting)
    assert standing(weigh(known, 27, 20, 60, terms=waiting)) is Standing.OPEN
    assert standing(weigh(known, 27, 20, 61.1, terms=waiting)) is Standing.LACKING


@pytest.mark.parametrize("here", [20, 100])
def test_an_archive_that_still_grows_is_waited_for_and_asked_less_and_less_often(here: int) -> None:
    waiting = replace(TERMS, can_fetch=False)
    known = weigh((), 30, here, 1, terms=waiting)
    grown = weigh(known, 40, here, 50, terms=waiting)
    assert standing(weigh(grown, 40, here, 100, terms=waiting)) is Standing.OPEN  # it grew 50 s ago
    rested = weigh(grown, 40, here, 110.1, terms=waiting)
    assert standing(rested) is (Standing.LACKING if here == 20 else Standing.BEHIND)


def test_an_archive_that_never_comes_to_rest_is_not_waited_for_for_ever() -> None:
    waiting = replace(TERMS, can_fetch=False)
    known: tuple[SeriesInquiry, ...] = ()
    for count, minute in enumerate(range(0, 70, 1)):
        known = weigh(known, 30 + count, 20, 60 * minute, terms=waiting)
        if standing(known) is not Standing.OPEN:
            break
    assert standing(known) is Standing.LACKING
    assert minute == LONGEST_WAIT.total_seconds() / 60


def test_questions_that_bring_no_news_are_asked_after_1_2_4_and_up_to_30_seconds() -> None:
    waiting = replace(TERMS, can_fetch=False, quiet_seconds=600)
    known = weigh((), 27, 20, 0, terms=waiting)
    asked, times = 0.0, []
    while asked < 150:
        asked = (next_ask_of(known, answered(27, asked), waiting) - NOON).total_seconds()
        times.append(asked)
        known = weigh(known, 27, 20, asked, terms=waiting)
    gaps = [round(later - earlier) for earlier, later in zip([0.0, *times], times, strict=False)]
    assert gaps[:4] == [1, 1, 2, 4]
    assert gaps == sorted(gaps)
    assert set(gaps[6:]) == {30}
    assert back_off(timedelta(0)) == timedelta(seconds=1)


def test_the_archive_is_asked_at_the_end_of_the_quiet_period_not_after_it() -> None:
    waiting = replace(TERMS, can_fetch=False)
    known = weigh((), 27, 20, 1, terms=waiting)
    assert next_ask_of(known, answered(27, 55), waiting) == known[0].changed_at + TERMS.quiet  # type: ignore[operator]


def test_series_that_no_model_may_want_are_nobodys_concern() -> None:
    answer = Answer((series("1.2", 3, "SR"), series("1.3", 7, "MR")), at(1), at(1), at(0))
    known = weigh_all((), answer, {"1.1": held(5), "1.3": held(2, "1.3", "MR")}, [CT], TERMS)
    assert {each.series_instance_uid: each.standing for each in known} == {
        "1.1": Standing.OPEN,
        "1.3": Standing.UNWANTED,
    }


def test_a_series_of_which_nothing_is_here_counts_unless_only_what_was_sent_does() -> None:
    answer = Answer((series("1.1", 5), series("1.2", 30)), at(9), at(9), at(0))
    wanted = weigh_all((), answer, {"1.1": held(5)}, [CT], TERMS)
    assert [(each.series_instance_uid, each.lacks) for each in wanted] == [("1.1", 0), ("1.2", 30)]
    sent = weigh_all((), answer, {"1.1": held(5)}, [CT], replace(TERMS, sent_only=True))
    assert [each.series_instance_uid for each in sent] == ["1.1"]


def test_what_the_images_say_of_a_series_goes_before_what_the_archive_says() -> None:
    answer = Answer((ArchivedSeries("1.1", modality="OT", series_description="x", instances=5),), at(1), at(1), at(0))
    (known,) = weigh_all((), answer, {"1.1": held(5)}, [CT], TERMS)
    assert (known.standing, known.series.modality, known.series.series_description) == (Standing.OPEN, "CT", "x")


def test_the_archive_is_worth_asking_while_it_may_prove_something() -> None:
    lacking = weigh((), 27, 20, 1)
    assert is_worth_asking((), {"1.1": 1})
    assert not is_worth_asking(lacking, {"1.1": 26})
    assert is_worth_asking(lacking, {"1.1": 27})
    assert is_worth_asking(lacking, {"1.1": 28})
    assert is_worth_asking(lacking, {"1.1": 26, "1.2": 1})  # a series that it was not asked of
    proven = weigh(weigh((), 20, 20, 1), 20, 20, 4)
    assert not is_worth_asking(proven, {"1.1": 20})
    assert is_worth_asking(proven, {"1.1": 21})


def test_news_is_what_may_let_a_model_go_to_work() -> None:
    first = weigh((), 20, 20, 1)
    second = weigh(first, 20, 20, 4)
    assert not is_news(first, weigh(first, 20, 20, 2))
    assert is_news(first, second)
    assert not is_news(second, weigh(second, 20, 20, 9))


def test_nothing_is_left_of_the_counts_of_an_archive_that_contradicts_itself() -> None:
    proven = weigh(weigh((), 20, 20, 1), 20, 20, 4)
    (forgotten,) = without_counts(weigh(proven, 30, 20, 5))
    assert (forgotten.archived, forgotten.standing, forgotten.lacks) == (None, Standing.OPEN, 0)
    assert standing(weigh((forgotten,), 20, 20, 9)) is Standing.OPEN


def test_an_inquiry_survives_json() -> None:
    full = replace(weigh(weigh((), 20, 20, 1), 20, 20, 4)[0], missing=("1", "2"), tried_at=at(1), listed_at=at(2))
    assert SeriesInquiry.from_json(full.to_json()) == full


# Whose turn it is

RULES = {"lung": CT, "brain": MR}
HELD = {"1.1": held(20), "1.2": held(8, "1.2", "MR")}


def inquiry(*known: SeriesInquiry, state: InquiryState = InquiryState.ASKING, failures: int = 0) -> Inquiry:
    reason = Reason("PeerUnreachable", "pacs did not answer.") if failures else None
    return Inquiry("pacs", state, 1, 1, 1, failures, at(0), known, reason)


def of(held_series: HeldSeries, standing_: Standing = Standing.PROVEN, archived: int | None = None) -> SeriesInquiry:
    here = len(held_series.sop_instance_uids)
    return SeriesInquiry(
        held_series.described,
        here=here,
        held=held_series.digest,
        archived=here if archived is None else archived,
        standing=standing_,
        proof="archive" if standing_ is Standing.PROVEN else "",
        settled_at=None if standing_ is Standing.OPEN else at(5),
    )


def turn(
    asked: Inquiry | None, here: Mapping[str, HeldSeries] = HELD, *, silent: bool = False, overdue: bool = False
) -> Completeness:
    return judge(asked, RULES, here, Clock(at(10), at(1), silent, overdue, settle_seconds=2, quiet_seconds=60))


def test_without_anybody_to_ask_the_quiet_period_decides() -> None:
    assert turn(None).models == frozenset()
    assert turn(None, silent=True).models is None
    assert turn(None, silent=True).unproven is None


def test_a_model_waits_for_its_own_series_and_for_no_others() -> None:
    judged = turn(inquiry(of(HELD["1.1"]), of(HELD["1.2"], Standing.OPEN, 20)))
    assert judged.models == frozenset({"lung"})
    assert judged.since == {"lung": at(5)}
    assert turn(inquiry(of(HELD["1.1"], Standing.OPEN), of(HELD["1.2"], Standing.OPEN))).models == frozenset()


def test_a_study_is_complete_when_all_that_anybody_wants_of_it_is_proven() -> None:
    report = HeldSeries(series("1.9", modality="SR"), frozenset({"1.9.1"}))
    judged = turn(inquiry(of(HELD["1.1"]), of(HELD["1.2"])), {**HELD, "1.9": report})
    assert (judged.models, judged.by, judged.unproven) == (None, "proven by pacs", None)


def test_what_came_since_the_answer_is_open_again() -> None:
    known = inquiry(of(HELD["1.1"]), of(HELD["1.2"]))
    assert turn(known, {**HELD, "1.1": held(21)}).models == frozenset({"brain"})
    # A series that the archive was not asked of
    assert turn(known, {**HELD, "1.3": held(1, "1.3")}).models == frozenset({"brain"})


def test_the_quiet_period_alone_does_not_close_what_the_archive_says_to_be_incomplete() -> None:
    known = inquiry(of(HELD["1.1"], Standing.OPEN, 27), of(HELD["1.2"]))
    assert turn(known, silent=True).models == frozenset({"brain"})


def test_an_archive_that_does_not_answer_leaves_it_to_the_quiet_period_on_record() -> None:
    silent = turn(inquiry(failures=2), silent=True)
    assert silent.models is None
    assert silent.unproven is not None
    assert silent.unproven.code == "PeerUnreachable"
    assert "pacs could not say" in silent.unproven.words
    assert "quiet period of 60 s decided" in silent.unproven.words
    assert turn(inquiry(failures=2)).models == frozenset()  # before its end it is tried again
    late = turn(inquiry(), silent=True, overdue=True)
    assert late.models is None
    assert late.unproven is not None
    assert "gave no answer in time" in late.unproven.words
    assert turn(inquiry(), silent=True).models == frozenset()  # its answer is waited for


def test_what_the_archive_said_to_be_incomplete_is_not_analysed_though_it_answers_no_more() -> None:
    known = inquiry(of(HELD["1.1"], Standing.OPEN, 27), of(HELD["1.2"]), failures=1)
    judged = turn(known, {**HELD, "1.1": held(23)}, silent=True)
    assert judged.models is None
    assert list(judged.incomplete) == ["1.1"]
    assert dict(judged.incomplete["1.1"].numbers) == {"archived": 27, "here": 23, "missing": 4, "tries": 0}


def test_a_series_that_could_not_be_had_whole_is_refused_in_words_and_numbers() -> None:
    lacking = replace(of(HELD["1.1"], Standing.LACKING, 27), tries=3, trouble="NoAcceptedContext: pacs serves none.")
    judged = turn(inquiry(lacking, of(HELD["1.2"])))
    assert judged.models is None
    assert judged.by == "but for 1 series of which pacs holds more"
    reason = judged.incomplete["1.1"]
    assert reason.code == "IncompleteSeries"
    for words in ("pacs holds 27 images of the series", "20 are here", "7", "could not be fetched", "pacs serves none"):
        assert words in reason.words
    assert "hilum retry" in reason.words
    waited = judge(inquiry(replace(lacking, tries=0)), RULES, {"1.1": HELD["1.1"]}, Clock(at(10), at(1), silent=False))
    assert '7 did not come, and nothing is fetched from it (retrieve = "none")' in waited.incomplete["1.1"].words


def test_an_archive_that_keeps_to_less_than_is_here_proves_nothing_and_holds_nothing_up() -> None:
    judged = turn(inquiry(of(HELD["1.1"], Standing.BEHIND, 15), of(HELD["1.2"])))
    assert judged.models is None
    assert judged.by == "by the quiet period"
    assert judged.unproven is not None
    assert judged.unproven.code == "ArchiveBehind"
    assert "15 of the 20 images" in judged.unproven.words


def test_a_study_that_is_looked_at_again_needs_no_new_answer_for_the_same_images() -> None:
    settled = inquiry(of(HELD["1.1"]), of(HELD["1.2"]), state=InquiryState.SETTLED)
    assert turn(settled).models is None
    assert turn(settled, {**HELD, "1.1": held(21)}).models == frozenset({"brain"})
    assert turn(settled, {**HELD, "1.1": held(21)}, silent=True).models is None


def test_without_an_archive_the_sender_s_list_is_the_proof_once_nothing_more_came() -> None:
    listed = SeriesInquiry(series(), listed=HELD["1.1"].digest, listed_at=at(4))
    asked = Inquiry("", InquiryState.LISTED, 0, 0, 0, 0, at(0), (listed,))
    early = Clock(at(5.9), at(1), silent=False, settle_seconds=2, quiet_seconds=60)
    assert judge(asked, RULES, HELD, early).models == frozenset()
    assert list_settles_at(asked, early) == at(6)
    late = replace(early, at=at(6))
    assert judge(asked, RULES, HELD, late).models == frozenset({"lung"})  # it listed nothing of the other series
    assert list_settles_at(asked, late) is None
    assert judge(asked, RULES, {"1.1": HELD["1.1"]}, late) == Completeness(
        None, "proven by the sender's list", since={"lung": at(6)}
    )
    assert judge(asked, RULES, {"1.1": held(19)}, late).models == frozenset()
    assert judge(asked, RULES, {"1.1": held(21)}, late).models == frozenset()
    assert judge(asked, RULES, HELD, replace(late, last_received_at=at(5))).models == frozenset()
    assert judge(asked, RULES, {"1.1": held(19)}, replace(late, silent=True)).models is None
