"""Pauses outlive the process, hold what is new and let what runs end; at their end studies can be let go of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation, snapshot, studies_due
from db.overview.queries import list_studies, retry_study, study_record
from db.work import admissions, jobs, notices, pauses
from db.work.admissions import Waiting
from db.work.revisions import close_study
from study.admission import PASSED_OVER, why_let_go
from study.entities import Job, PlannedJob, StoredInstance
from study.errors import ArchiveError, Reason
from study.forms import Form, Wish
from study.states import DeliveryState, Halted, JobState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, query_plans, results, stored

OTHER = "1.2.5"
TILTED = Reason("GantryTilt", "The gantry was tilted.")


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(getattr(request, "param", "sqlite"), tmp_path) as database:
        yield database


in_both = pytest.mark.parametrize("database", DIALECTS, indirect=True)
"""For the tests that between them make every statement."""


def image(number: int, study: str, **changes: object) -> StoredInstance:
    return dataclasses.replace(stored(number, study=study, header={"rows": 8}), **changes)  # type: ignore[arg-type]


def receive(database: Database, study: str, *numbers: int, refusal: Reason | None = None, close: bool = True) -> None:
    """Take images of a study into the index just now, and plan their job."""
    with database.writing() as uow:
        instances = [image(number, study, received_at=uow.now()) for number in numbers]
        add_instances(uow, instances)
        if close:
            close_study(uow, study, [wanted(instances, refusal)], "", generation(uow, study))
        uow.commit()


def wanted(instances: list[StoredInstance], refusal: Reason | None = None) -> PlannedJob:
    wishes = [Wish("pacs", (Form.SEG, Form.REFUSAL)).to_json()]
    job = planned(instances, refusal=refusal)
    return dataclasses.replace(job, parameters=job.parameters | {"wishes": wishes})


def pause(database: Database, what: Halted, words: str = "") -> pauses.Pause:
    with database.writing() as uow:
        begun = pauses.begin(uow, what, words)
        uow.commit()
    return begun


def lease(database: Database) -> Job | None:
    with database.reading() as uow:
        waits = jobs.is_work_waiting(uow)
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert waits == (job is not None)
    return job


def finish(database: Database, job: Job) -> None:
    with database.writing() as uow:
        made = results(job.study_instance_uid)
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()


def take_out(database: Database) -> int:
    """Return how many deliveries a sender gets, and end them."""
    with database.reading() as uow:
        waits = outbox.is_delivery_waiting(uow, "pacs")
    with database.writing() as uow:
        leased = outbox.lease_deliveries(uow, "pacs", "sender", 60, 10)
        for delivery in leased:
            outbox.delivered(uow, delivery.id, "sender", 0)
        uow.commit()
    assert waits == bool(leased)
    return len(leased)


def state(database: Database, study: str) -> tuple[StudyState, str | None]:
    with database.reading() as uow:
        found = {each.study_instance_uid: each for each in list_studies(uow)}[study]
    return found.state, None if found.reason is None else found.reason.code


def judge_again(database: Database, study: str) -> None:
    """Close a study anew, as the indexer does where it is due; nothing is planned where it was passed over."""
    with database.writing() as uow:
        assert studies_due(uow, 0, uow.now() + timedelta(days=1)) == [study]
        seen = snapshot(uow, study)
        not_admitted = None if seen.on_request else why_let_go(passed_over=seen.passed_over)
        plan = [] if not_admitted else [wanted([each for held in seen.series.values() for each in held])]
        words = not_admitted.words if not_admitted else ""
        assert close_study(uow, study, plan, words, seen.generation, not_admitted=not_admitted).closed
        uow.commit()


@in_both
def test_while_analyses_are_paused_none_begins_and_what_runs_ends(database: Database) -> None:
    receive(database, STUDY, 1)
    running = lease(database)
    assert running is not None
    begun = pause(database, Halted.ANALYSES, "migration")
    receive(database, OTHER, 1)
    assert lease(database) is None
    finish(database, running)
    assert take_out(database) == 2
    assert lease(database) is None
    assert pause(database, Halted.ANALYSES, "again") == begun
    with database.writing() as uow:
        assert pauses.end(uow, Halted.ANALYSES) == begun
        assert pauses.end(uow, Halted.ANALYSES) is None
        uow.commit()
    assert lease(database) is not None


def test_a_worker_that_died_is_noticed_while_analyses_are_paused(database: Database) -> None:
    receive(database, STUDY, 1)
    with database.writing() as uow:
        jobs.lease_job(uow, "keeper", -1)
        pauses.begin(uow, Halted.ANALYSES, "")
        uow.commit()
    with database.reading() as uow:
        assert jobs.is_work_waiting(uow)
    with database.writing() as uow:
        assert jobs.lease_job(uow, "other", 30) is None
        assert not jobs.is_work_waiting(uow)
        uow.commit()
    assert state(database, STUDY)[0] is StudyState.COMPLETE


def test_while_deliveries_are_paused_nothing_goes_out_and_analyses_go_on(database: Database) -> None:
    pause(database, Halted.DELIVERIES)
    receive(database, STUDY, 1)
    job = lease(database)
    assert job is not None
    finish(database, job)
    assert take_out(database) == 0
    with database.writing() as uow:
        pauses.end(uow, Halted.DELIVERIES)
        uow.commit()
    assert take_out(database) == 2


def test_a_pause_is_found_after_a_restart(database: Database) -> None:
    begun = pause(database, Halted.DELIVERIES, "the PACS is moved")
    again = Database.open(database.url)
    with again.reading() as uow:
        assert pauses.pauses(uow) == {Halted.DELIVERIES: begun}
    again.close()


def test_the_look_at_pauses_reads_no_whole_table(database: Database) -> None:
    plans = query_plans(database, lambda uow: pauses.is_paused(uow, Halted.ANALYSES))
    assert "SEARCH pause USING" in plans, plans


@in_both
def test_what_came_during_a_pause_and_was_not_analysed_is_passed_over(database: Database) -> None:
    receive(database, STUDY, 1)
    begun = pause(database, Halted.ANALYSES)
    receive(database, STUDY, 1, 2)  # more of what came before: it goes on
    receive(database, OTHER, 1)
    receive(database, "1.2.6", 1, refusal=TILTED)
    receive(database, "1.2.7", 1, close=False)
    with database.writing() as uow:
        assert notices.is_notice_waiting(uow)
        assert admissions.waiting_since(uow, begun.since) == Waiting(studies=3, jobs=1)
        assert len(admissions.pass_over(uow, begun.since)) == 3
        pauses.end(uow, Halted.ANALYSES)
        assert admissions.waiting_since(uow, begun.since) == Waiting(0, 0)
        assert not notices.is_notice_waiting(uow)
        uow.commit()
    job = lease(database)
    assert job is not None
    assert job.study_instance_uid == STUDY
    assert lease(database) is None
    with database.writing() as uow:
        for study in (OTHER, "1.2.6", "1.2.7"):
            seen = snapshot(uow, study)
            let_go = why_let_go(passed_over=seen.passed_over)
            assert let_go is not None
            close_study(uow, study, [], let_go.words, seen.generation, not_admitted=let_go)
        uow.commit()
    for study in (OTHER, "1.2.6", "1.2.7"):
        assert state(database, study) == (StudyState.NOT_SELECTED, PASSED_OVER)
    with database.reading() as uow:
        record = study_record(uow, OTHER)
    assert record is not None
    assert [job.state for job in record.jobs] == [JobState.SUPERSEDED]
    assert "passed_over" in [event.kind for event in record.events]


def test_what_was_begun_is_not_passed_over(database: Database) -> None:
    receive(database, STUDY, 1)
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.interrupt_job(uow, job.id, job.attempt)
        more = [image(1, STUDY), image(2, STUDY)]
        add_instances(uow, more)
        close_study(uow, STUDY, [wanted(more)], "", generation(uow, STUDY))
        assert admissions.pass_over(uow, job.created_at - timedelta(days=1)) == []


def pass_over(database: Database, study: str, refusal: Reason | None = None) -> None:
    begun = pause(database, Halted.ANALYSES)
    receive(database, study, 1, refusal=refusal)
    with database.writing() as uow:
        assert admissions.pass_over(uow, begun.since) == [study]
        pauses.end(uow, Halted.ANALYSES)
        uow.commit()
    judge_again(database, study)
    assert lease(database) is None


@pytest.mark.parametrize("number", [1, 2], ids=["the same image", "another image"])
def test_what_was_passed_over_is_analysed_once_somebody_sends_it_again(database: Database, number: int) -> None:
    pass_over(database, STUDY)
    with database.writing() as uow:
        # Neither what the node fetched for another study nor a report asks for it
        add_instances(uow, [image(3, STUDY, fetched=True)])
        add_instances(uow, [stored(4, study=STUDY, header={"modality": "SR"})])
        assert snapshot(uow, STUDY).passed_over
    with database.writing() as uow:
        add_instances(uow, [image(number, STUDY)])
        uow.commit()
    judge_again(database, STUDY)
    assert lease(database) is not None


@in_both
def test_a_person_has_what_was_passed_over_analysed(database: Database) -> None:
    pass_over(database, STUDY, refusal=TILTED)
    with database.writing() as uow:
        admissions.ask_for_analysis(uow, STUDY)
        seen = snapshot(uow, STUDY)
        uow.commit()
    assert (seen.on_request, seen.passed_over) == (True, False)
    judge_again(database, STUDY)
    assert lease(database) is not None
    with database.reading() as uow:
        record = study_record(uow, STUDY)
    assert record is not None
    assert "analysis_requested" in [event.kind for event in record.events]
    with database.writing() as uow, pytest.raises(ArchiveError, match="no such study"):
        admissions.ask_for_analysis(uow, "1.9")


def test_a_plan_that_was_made_before_a_person_spoke_does_not_hold(database: Database) -> None:
    receive(database, STUDY, 1, close=False)
    with database.writing() as uow:
        seen = snapshot(uow, STUDY)
        admissions.pass_over(uow, seen.last_received_at)
        plan = [wanted([image(1, STUDY)])]
        assert not close_study(uow, STUDY, plan, "", seen.generation).closed


def test_a_study_that_was_judged_before_is_retried_though_it_is_too_old_by_now(database: Database) -> None:
    receive(database, STUDY, 1)
    receive(database, OTHER, 1, close=False)
    with database.writing() as uow:
        close_study(uow, OTHER, [], "nothing fits", generation(uow, OTHER))
        for study in (STUDY, OTHER):
            retry_study(uow, study)
        assert snapshot(uow, STUDY).on_request
        assert not snapshot(uow, OTHER).on_request


@in_both
def test_images_of_an_analysed_study_that_come_too_late_are_told_in_its_journal(database: Database) -> None:
    receive(database, STUDY, 1)
    job = lease(database)
    assert job is not None
    finish(database, job)
    too_old = Reason("TooOld", "It is of 2019-03-02.", {"days": 2500})
    with database.writing() as uow:
        add_instances(uow, [image(2, STUDY)])
        close_study(uow, STUDY, [], too_old.words, generation(uow, STUDY), not_admitted=too_old)
        uow.commit()
    with database.reading() as uow:
        record = study_record(uow, STUDY)
    assert record is not None
    assert record.summary.state is StudyState.REPORTED
    assert {delivery.state for delivery in record.deliveries} == {DeliveryState.PENDING}
    told = record.events[-1]
    assert (told.kind, told.words, told.numbers) == ("not_selected", too_old.words, {"code": "TooOld"})
