"""Inquiries outlive every process: whose turn it is, what was answered, and that a model may go before the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, text, update

from db.complete import inquiries, questions
from db.complete.inquiries import OVERDUE_SECONDS, Asked
from db.engine import Database
from db.events import EventKind
from db.images.index import add_instances, generation, studies_due
from db.overview.queries import list_studies, retry_study, study_record
from db.tables import InquiryRow, StudyRow, Table
from db.work.revisions import close_study
from study.asking import SLOW_SECONDS
from study.completion import Completeness
from study.entities import PlannedJob, StoredInstance, StudyRecord, Verdict
from study.errors import Reason
from study.inquiry import Inquiry, InquiryState, SeriesInquiry, Standing, set_digest
from study.states import JobState, StudyState, VerdictOutcome
from tests.support.databases import DIALECTS, SERIES, START, STUDY, migrated, planned, query_plans, stored

ASKED = Asked({"pacs": ("MODALITY", "CT2"), "vna": ("CT2", "CT3")}, stored_only=("SCANNER",))
OTHER = f"{STUDY}.2"


@pytest.fixture(scope="module", params=DIALECTS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with migrated(request.param, tmp_path_factory.mktemp("database")) as database:
        yield database


@pytest.fixture
def database(opened: Database) -> Database:
    """Give a database without a row: making one takes longer than any test here."""
    with opened.writing() as uow:
        for table in reversed(Table.metadata.sorted_tables):
            uow.execute(table.delete())
        uow.commit()
    return opened


def add(database: Database, *instances: StoredInstance, asked: Asked = ASKED) -> None:
    with database.writing() as uow:
        add_instances(uow, instances)
        studies = {instance.header.study_instance_uid for instance in instances}
        inquiries.begin(uow, studies, asked, settle_seconds=2)
        uow.commit()


def from_(title: str, instance: StoredInstance) -> StoredInstance:
    return replace(instance, calling_ae_title=title)


def asked_of(database: Database, study: str = STUDY) -> Inquiry:
    with database.reading() as uow:
        found = inquiries.of_study(uow, study)
    assert found is not None
    return found


def change(database: Database, **values: object) -> None:
    with database.writing() as uow:
        uow.execute(update(InquiryRow).values(values))
        uow.commit()


def answer(database: Database, *series: SeriesInquiry, archive: str = "pacs") -> None:
    """Let the archive answer what puts these series on record."""
    change(database, next_ask_at=START)
    with database.writing() as uow:
        (due,) = questions.due(uow, archive, 10)
        inquiry = questions.lock(uow, due.study)
        assert inquiry is not None
        later = uow.now() + timedelta(seconds=30)
        known = replace(inquiry, generation=due.generation, version=inquiry.version + 1, asked=inquiry.asked + 1)
        questions.keep(uow, due.study, replace(known, series=series, next_ask_at=later))
        uow.commit()


def of(here: Sequence[StoredInstance], standing: Standing, archived: int) -> SeriesInquiry:
    """Return what is known of a series of which these are here."""
    return SeriesInquiry(
        questions.describe(here[0].header),
        here=len(here),
        held=set_digest(instance.header.sop_instance_uid for instance in here),
        archived=archived,
        standing=standing,
    )


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def close(database: Database, *plan: PlannedJob, completeness: Completeness, verdicts: Sequence[Verdict] = ()) -> None:
    with database.writing() as uow:
        at = generation(uow, STUDY)
        assert close_study(uow, STUDY, plan, "", at, verdicts, completeness=completeness).closed
        uow.commit()


@pytest.mark.parametrize(
    ("titles", "archive"),
    [
        (["MODALITY"], "pacs"),
        (["CT3"], "vna"),
        (["CT3", "CT2"], "pacs"),
        (["STRANGER"], ""),
        (["SCANNER"], ""),
        (["SCANNER", "MODALITY"], "pacs"),
        ([], ""),
    ],
)
def test_the_first_archive_of_any_sender_is_asked(titles: list[str], archive: str) -> None:
    assert ASKED.of(titles) == archive


def test_an_inquiry_begins_with_the_first_image_and_is_due_once_reception_slows(database: Database) -> None:
    add(database, stored(1))
    with database.reading() as uow:
        now = uow.now()
        assert questions.due(uow, "pacs", 10) == []
    inquiry = asked_of(database)
    assert (inquiry.peer, inquiry.state, inquiry.asked) == ("pacs", InquiryState.ASKING, 0)
    assert timedelta(0) < inquiry.next_ask_at - now <= timedelta(seconds=SLOW_SECONDS)
    change(database, next_ask_at=START)
    with database.reading() as uow:
        (due,) = questions.due(uow, "pacs", 10)
        assert questions.due(uow, "vna", 10) == []
        assert (due.study_instance_uid, due.calling_ae_titles) == (STUDY, frozenset({"MODALITY"}))
        held = questions.holdings(uow, due.study)
    assert held[SERIES].sop_instance_uids == frozenset({f"{STUDY}.9.1"})
    assert (held[SERIES].described.modality, held[SERIES].described.series_number) == ("CT", 3)


def test_nobody_is_asked_of_what_was_fetched_or_is_only_stored(database: Database) -> None:
    add(database, replace(stored(1), fetched=True), from_("SCANNER", stored(1, study="1.9")))
    with database.reading() as uow:
        assert inquiries.of_study(uow, STUDY) is None
        assert inquiries.of_study(uow, "1.9") is None
    add(database, stored(1))  # the same bytes, and now somebody sends them
    assert asked_of(database).peer == "pacs"


def test_images_that_come_put_a_question_off_while_it_could_prove_nothing(database: Database) -> None:
    here = [stored(1), stored(2)]
    add(database, *here)
    answer(database, of(here, Standing.OPEN, archived=4))
    later = asked_of(database).next_ask_at
    add(database, stored(3))
    assert asked_of(database).next_ask_at == later
    add(database, stored(4))
    assert asked_of(database).next_ask_at < later


def test_a_late_image_begins_a_settled_inquiry_again(database: Database) -> None:
    here = [stored(1), stored(2)]
    add(database, *here)
    answer(database, of(here, Standing.PROVEN, archived=2))
    close(database, planned(here), completeness=Completeness(None, "proven by pacs"))
    with database.writing() as uow:
        version = asked_of(database).version
        assert not inquiries.settle(uow, STUDY, version - 1, None)  # more is known than was considered
        assert inquiries.settle(uow, STUDY, version, Reason("X", "x"))
        uow.commit()
    assert asked_of(database).state is InquiryState.SETTLED
    add(database, stored(1))  # again, byte for byte
    assert asked_of(database).state is InquiryState.SETTLED
    add(database, stored(3, seconds=100))
    assert (asked_of(database).state, asked_of(database).reason) == (InquiryState.ASKING, None)


def test_news_is_told_once(database: Database) -> None:
    here = [stored(1)]
    add(database, *here)
    with database.reading() as uow:
        assert inquiries.news(uow, 10) == []
    answer(database, of(here, Standing.PROVEN, archived=1))
    with database.writing() as uow:
        assert inquiries.news(uow, 10) == [STUDY]
        inquiries.consider(uow, STUDY, asked_of(database).version)
        assert inquiries.news(uow, 10) == []


def test_the_quiet_period_waits_for_an_archive_that_answers_and_for_no_other(database: Database) -> None:
    add(database, stored(1))
    late = START + timedelta(days=1)

    def due() -> list[str]:
        with database.reading() as uow:
            return studies_due(uow, 60, late)

    assert due() == []
    change(database, failures=1)
    assert due() == [STUDY]
    with database.reading() as uow:
        overdue = uow.now() - timedelta(seconds=OVERDUE_SECONDS + 1)
    change(database, failures=0, next_ask_at=overdue)
    assert due() == [STUDY]
    change(database, next_ask_at=overdue + timedelta(seconds=10))
    assert due() == []
    change(database, state=InquiryState.SETTLED.value)
    assert due() == [STUDY]


def test_an_archive_that_does_not_answer_is_on_record_in_each_study_that_was_due(database: Database) -> None:
    add(database, stored(1), stored(1, study="1.9"))
    change(database, next_ask_at=START)
    with database.writing() as uow:
        assert questions.unanswered(uow, "vna", Reason("PeerUnreachable", "It is gone."), 4) == 0
        assert questions.unanswered(uow, "pacs", Reason("PeerUnreachable", "It is gone."), 4) == 2
        uow.commit()
    inquiry = asked_of(database, "1.9")
    assert (inquiry.failures, inquiry.reason) == (1, Reason("PeerUnreachable", "It is gone."))
    with database.reading() as uow:
        assert questions.due(uow, "pacs", 10) == []
        reasons = {summary.study_instance_uid: summary.reason for summary in list_studies(uow)}
    told = reasons[STUDY]
    assert told is not None
    assert "pacs does not say whether all is here" in told.words


def test_a_node_that_starts_asks_by_the_settings_of_now(database: Database) -> None:
    add(database, stored(1), asked=Asked({}))  # nobody was to be asked then
    add(database, from_("CT3", stored(1, study="1.9")))
    with database.writing() as uow:
        inquiries.resume(uow, Asked({"pacs": ("MODALITY",)}))
        uow.commit()
    assert (asked_of(database).peer, asked_of(database).state) == ("pacs", InquiryState.ASKING)
    assert asked_of(database, "1.9").state is InquiryState.SETTLED  # the archive is asked no more
    with database.writing() as uow:
        inquiries.resume(uow, ASKED)
        uow.commit()
        assert [due.study_instance_uid for due in questions.due(uow, "vna", 10)] == ["1.9"]


def test_a_retry_asks_again_what_could_not_be_had(database: Database) -> None:
    here = [stored(1), stored(2)]
    add(database, *here)
    answer(database, replace(of(here, Standing.LACKING, archived=4), tries=3, trouble="It would not."))
    close(database, completeness=Completeness(None))
    with database.writing() as uow:
        assert inquiries.settle(uow, STUDY, asked_of(database).version, None)
        retry_study(uow, STUDY)
        uow.commit()
    inquiry = asked_of(database)
    assert inquiry.state is InquiryState.ASKING
    assert [(each.tries, each.trouble) for each in inquiry.series] == [(0, "")]
    with database.reading() as uow:
        assert studies_due(uow, 60, START + timedelta(days=1)) == []


def test_a_retry_of_what_was_proven_asks_nobody(database: Database) -> None:
    here = [stored(1)]
    add(database, *here)
    answer(database, of(here, Standing.PROVEN, archived=1))
    close(database, completeness=Completeness(None))
    with database.writing() as uow:
        assert inquiries.settle(uow, STUDY, asked_of(database).version, None)
        retry_study(uow, STUDY)
        uow.commit()
    assert asked_of(database).state is InquiryState.SETTLED


def test_what_was_fetched_is_on_record_and_brings_the_next_question_forward(database: Database) -> None:
    here = [stored(1)]
    add(database, *here)
    answer(database, of(here, Standing.OPEN, archived=2))
    later = asked_of(database).next_ask_at
    with database.writing() as uow:
        study = questions.due(uow, "pacs", 10)
        assert study == []
        key = uow.execute(StudyRow.__table__.select()).one().id
        questions.fetched(uow, key, SERIES, "1 of 2 did not come.", (EventKind.MISSING_FETCHED, "One came.", 1))
        uow.commit()
    inquiry = asked_of(database)
    assert inquiry.next_ask_at < later
    assert [each.trouble for each in inquiry.series] == ["1 of 2 did not come."]
    event = record(database).events[-1]
    assert (event.kind, event.words) == ("missing_fetched", "One came.")
    assert event.numbers == {"instances": 1, "series": SERIES}


def test_a_sender_s_list_is_proof_where_there_is_no_archive(database: Database) -> None:
    here = [stored(1), stored(2)]
    listed = {SERIES: frozenset(each.header.sop_instance_uid for each in here), "1.2.3": frozenset({"1"})}
    nobody = Asked({})
    with database.writing() as uow:
        inquiries.listed_by_sender(uow, STUDY, listed)  # unknown
        uow.commit()
    add(database, *here, asked=nobody)
    with database.writing() as uow:
        inquiries.listed_by_sender(uow, STUDY, listed)
        uow.commit()
        assert inquiries.lists_due(uow, 10) == [STUDY]
    inquiry = asked_of(database)
    assert (inquiry.peer, inquiry.state) == ("", InquiryState.LISTED)
    assert [(each.series_instance_uid, each.listed) for each in inquiry.series] == [
        (SERIES, set_digest(listed[SERIES]))
    ]
    add(database, stored(3), asked=nobody)
    with database.reading() as uow:
        assert inquiries.lists_due(uow, 10) == []  # what just came must settle first
        assert uow.now() < asked_of(database).next_ask_at
    close(database, completeness=Completeness(None))
    with database.writing() as uow:
        assert inquiries.settle(uow, STUDY, 0, None)
        inquiries.listed_by_sender(uow, STUDY, listed)  # closed: nothing is left to be proven
        uow.commit()
    assert asked_of(database).state is InquiryState.SETTLED


def test_a_sender_s_list_has_the_archive_asked_at_once(database: Database) -> None:
    here = [stored(1)]
    add(database, *here)
    answer(database, of(here, Standing.OPEN, archived=1))
    with database.writing() as uow:
        inquiries.listed_by_sender(uow, STUDY, {SERIES: frozenset({f"{STUDY}.9.1"})})
        uow.commit()
        assert [due.study_instance_uid for due in questions.due(uow, "pacs", 10)] == [STUDY]
    assert asked_of(database).series[0].listed == asked_of(database).series[0].held


def test_one_model_may_go_to_work_before_the_study_is_complete(database: Database) -> None:
    lung, bone = [stored(1), stored(2)], [stored(10, series=OTHER), stored(11, series=OTHER)]
    add(database, *lung, *bone)
    chosen = Verdict("lung", SERIES, 3, "", "", VerdictOutcome.CHOSEN)
    early = planned(lung, model="lung")
    close(database, early, completeness=Completeness(frozenset({"lung"})), verdicts=[chosen])
    seen = record(database)
    assert [(job.model_name, job.state) for job in seen.jobs] == [("lung", JobState.QUEUED)]
    assert seen.summary.state is StudyState.RECEIVING
    assert "complete" not in [event.kind for event in seen.events]
    with database.reading() as uow:
        assert studies_due(uow, 60, START + timedelta(days=1)) == []  # it still awaits its archive

    late = [*bone, stored(12, series=OTHER)]
    add(database, late[-1])
    other = replace(chosen, model_name="bone", series_instance_uid=OTHER)
    close(database, planned(late, model="bone"), completeness=Completeness(frozenset({"bone"})), verdicts=[other])
    assert [(job.model_name, job.state, job.current) for job in record(database).jobs] == [
        ("lung", JobState.QUEUED, True),
        ("bone", JobState.QUEUED, True),
    ]
    assert record(database).verdicts == (chosen, other)

    whole = Completeness(None, "proven by pacs")
    close(database, early, planned(late, model="bone"), completeness=whole, verdicts=[chosen, other])
    seen = record(database)
    assert [(job.model_name, job.state) for job in seen.jobs] == [("lung", JobState.QUEUED), ("bone", JobState.QUEUED)]
    assert seen.summary.state is StudyState.COMPLETE
    assert seen.revision == 2
    assert [event.words for event in seen.events if event.kind == "complete"] == [
        "Complete: 5 instance(s) in 2 series, proven by pacs."
    ]


def test_a_model_that_goes_first_takes_back_its_own_older_work_alone(database: Database) -> None:
    lung, bone = [stored(1), stored(2)], [stored(10, series=OTHER)]
    add(database, *lung, *bone)
    both = [planned(lung, model="lung"), planned(bone, model="bone")]
    close(database, *both, completeness=Completeness(None))
    add(database, stored(3, seconds=100))
    close(database, planned([*lung, stored(3)], model="lung"), completeness=Completeness(frozenset({"lung"})))
    assert [(job.model_name, job.state) for job in record(database).jobs] == [
        ("lung", JobState.SUPERSEDED),
        ("bone", JobState.QUEUED),
        ("lung", JobState.QUEUED),
    ]
    close(database, completeness=Completeness(frozenset({"lung"})))  # nothing of it fits any more
    assert [job.state for job in record(database).jobs if job.model_name == "lung"] == [JobState.SUPERSEDED] * 2
    assert record(database).summary.state is StudyState.RECEIVING


def test_why_it_is_not_proven_and_what_is_incomplete_are_events(database: Database) -> None:
    add(database, stored(1))
    unproven, incomplete = (
        Reason("PeerUnreachable", "It could not say."),
        Reason("IncompleteSeries", "7 lack.", {"missing": 7}),
    )
    close(database, completeness=Completeness(None, "by the quiet period", unproven, {SERIES: incomplete}))
    told = {event.kind: event for event in record(database).events}
    assert told["complete"].words == "Complete: 1 instance(s) in 1 series, by the quiet period."
    assert told["complete_unproven"].words == "It could not say."
    assert told["series_incomplete"].numbers == {"series_instance_uid": SERIES, "missing": 7}


def test_a_backlog_slows_no_question_down(database: Database) -> None:
    add(database, stored(1))
    with database.writing() as uow:
        row = uow.execute(StudyRow.__table__.select()).one()._asdict()
        asked = uow.execute(InquiryRow.__table__.select()).one()._asdict()
        others = range(1000, 3000)
        studies = [row | {"id": number, "study_instance_uid": f"1.7.{number}"} for number in others]
        uow.execute(insert(StudyRow), studies)
        later = uow.now() + timedelta(days=1)
        uow.execute(insert(InquiryRow), [asked | {"study": number, "next_ask_at": later} for number in others])
        uow.commit()
    if database.dialect == "postgresql":
        with database.writing() as uow:
            uow.execute(text("ANALYZE"))
            uow.commit()
    plans = query_plans(
        database,
        lambda uow: (questions.due(uow, "pacs", 10), inquiries.news(uow, 10), inquiries.lists_due(uow, 10)),
    )
    assert "ix_inquiry_peer_state_next_ask_at" in plans
    assert "ix_inquiry_news" in plans
    # SQLite goes through the whole of the index of news, which holds none but these
    assert "SCAN inquiry" not in plans.replace("SCAN inquiry USING INDEX ix_inquiry_news", "")
    assert "Seq Scan on inquiry" not in plans
    assert "Seq Scan on study " not in plans
