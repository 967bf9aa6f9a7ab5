"""Refusal reports that are owed: entered with the job's end, written once, and dropped when the job runs again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.tables import NoticeRow
from db.work import jobs, notices
from db.work.notices import Notice
from db.work.revisions import close_study
from study.entities import Job, PlannedJob, ResultObject, StudyRecord
from study.errors import LeaseLost, Reason
from study.forms import Form, Wish
from study.identity import CONFLICTING
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, results, stored

GAP = Reason("MissingSlices", "Slice gap of 7.00 mm between two slices.", {"gap_mm": 7.0})
OTHER = Reason("GantryTilt", "The gantry is tilted by 18.5 degrees.")
CRASH = Reason("RunnerDied", "The process that ran the model ended by signal 9.")
WISHES = [Wish("pacs", (Form.SEG, Form.REFUSAL)).to_json(), Wish("archive", (Form.SEG,)).to_json()]


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def plan(*numbers: int, refusal: Reason | None = None, told: bool = True) -> PlannedJob:
    job = planned([stored(number) for number in numbers or (1,)], refusal=refusal)
    return replace(job, parameters=job.parameters | {"wishes": WISHES}) if told else job


def close(database: Database, job: PlannedJob, *numbers: int) -> None:
    with database.writing() as uow:
        add_instances(uow, [stored(number) for number in numbers or (1,)])
        close_study(uow, STUDY, [job], "", generation(uow, STUDY))
        uow.commit()


def lease(database: Database, owner: str = "keeper-1") -> Notice | None:
    with database.writing() as uow:
        found = notices.lease_notice(uow, owner, 60)
        uow.commit()
    return found


def refusal_object(words: str = "a") -> ResultObject:
    (made,) = results(forms=("refusal",))
    return replace(made, sop_instance_uid=f"{STUDY}.99.{ord(words)}", variant="refusal")


def write(database: Database, notice: Notice, made: ResultObject, owner: str = "keeper-1") -> None:
    with database.writing() as uow:
        notices.written(uow, notice.job.id, owner, [made], [Outgoing("pacs", 0, made)])
        uow.commit()


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def kinds(database: Database) -> list[str]:
    return [event.kind for event in record(database).events]


def test_a_planned_refusal_is_told_to_whoever_wants_it(database: Database) -> None:
    close(database, plan(refusal=GAP))
    with database.reading() as uow:
        assert notices.is_notice_waiting(uow)
    found = lease(database)
    assert found is not None
    assert (found.job.state, found.job.reason, found.attempt) == (JobState.REFUSED, GAP, 1)
    assert lease(database, "keeper-2") is None
    write(database, found, refusal_object())
    (delivery,) = record(database).deliveries
    assert (delivery.peer, delivery.result.form, delivery.state) == ("pacs", "refusal", DeliveryState.PENDING)
    assert record(database).summary.state is StudyState.REFUSED  # whoever was told
    assert "notice_written" in kinds(database)
    assert lease(database) is None


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (GAP, False),
        (Reason(CONFLICTING, "The study may mix two patients."), True),
        (Reason("TargetNotInFieldOfView", "The lungs are not in the field of view."), True),
    ],
)
def test_nobody_is_told_who_did_not_ask_nor_in_a_doubtful_name(database: Database, refusal: Reason, told: bool) -> None:
    close(database, plan(refusal=refusal, told=told))
    assert lease(database) is None


@pytest.mark.parametrize("failed", [False, True])
def test_a_refusal_or_failure_of_the_model_is_told(database: Database, failed: bool) -> None:
    close(database, plan())
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        if failed:
            jobs.fail_attempt(uow, job.id, job.attempt, CRASH, transient=False)
        else:
            jobs.refuse_job(uow, job.id, job.attempt, GAP)
        uow.commit()
    found = lease(database)
    assert found is not None
    assert found.job.reason == (CRASH if failed else GAP)


def test_an_attempt_that_is_repeated_is_not_told(database: Database) -> None:
    close(database, plan())
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.fail_attempt(uow, job.id, job.attempt, CRASH, transient=True)
        uow.commit()
    assert lease(database) is None


def test_a_job_that_runs_again_owes_nothing_any_more(database: Database) -> None:
    """Neither the report that waits, nor the one that is on its way to the peer."""
    close(database, plan())
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.refuse_job(uow, job.id, job.attempt, GAP)
        uow.commit()
    found = lease(database)
    assert found is not None
    write(database, found, refusal_object())
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    (delivery,) = record(database).deliveries
    assert (delivery.state, delivery.problem) == (DeliveryState.KEPT_ASIDE, False)
    with database.writing() as uow:
        assert outbox.lease_deliveries(uow, "pacs", "sender", 60, 10) == []


def test_a_report_in_the_making_comes_too_late_for_a_job_that_runs_again(database: Database) -> None:
    close(database, plan(refusal=GAP))
    found = lease(database)
    assert found is not None
    close(database, plan())  # other settings accept it
    with pytest.raises(LeaseLost):
        write(database, found, refusal_object())
    assert record(database).deliveries == ()


def test_the_same_refusal_again_is_not_sent_twice_and_another_one_is(database: Database) -> None:
    close(database, plan())
    for reason, name in ((GAP, "a"), (GAP, "a"), (OTHER, "b")):
        with database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            jobs.refuse_job(uow, job.id, job.attempt, reason)
            uow.commit()
        found = lease(database)
        assert found is not None
        write(database, found, refusal_object(name))
        with database.writing() as uow:
            for delivery in outbox.lease_deliveries(uow, "pacs", "sender", 60, 10):
                outbox.delivered(uow, delivery.id, "sender", 0)
            retry_study(uow, STUDY)
            uow.commit()
    delivered = [each.result.sop_instance_uid for each in record(database).deliveries]
    assert delivered == [refusal_object("a").sop_instance_uid, refusal_object("b").sop_instance_uid]


def test_a_refusal_that_is_planned_again_is_not_told_again(database: Database) -> None:
    close(database, plan(refusal=GAP))
    found = lease(database)
    assert found is not None
    write(database, found, refusal_object())
    close(database, plan(refusal=GAP))
    assert lease(database) is None
    close(database, plan(refusal=OTHER))
    assert lease(database) is not None


def test_what_can_not_be_written_is_tried_three_times_and_then_on_record(database: Database) -> None:
    close(database, plan(refusal=GAP))
    for attempt in (1, 2, 3):
        with database.writing() as uow:
            uow.execute(update(NoticeRow).values(not_before=uow.now()))
            uow.commit()
        found = lease(database)
        assert found is not None
        assert found.attempt == attempt
        with database.writing() as uow:
            notices.not_written(uow, found.job.id, "keeper-1", CRASH, transient=True)
            uow.commit()
    with database.writing() as uow:
        uow.execute(update(NoticeRow).values(not_before=uow.now()))
        uow.commit()
    assert lease(database) is None
    assert kinds(database).count("notice_failed") == 1


def test_what_a_dead_worker_held_is_free_again(database: Database) -> None:
    close(database, plan(refusal=GAP))
    assert lease(database, "node/keeper/1") is not None
    assert lease(database, "node/keeper/2") is None
    with database.writing() as uow:
        notices.release_orphans(uow, "node/keeper/")
        uow.commit()
    assert lease(database, "node/keeper/2") is not None


def test_a_refusal_that_late_images_may_lift_is_not_told_at_once(database: Database) -> None:
    close(database, plan(refusal=GAP))
    with database.writing() as uow:
        assert not notices.is_notice_waiting(uow, 300)
        assert notices.lease_notice(uow, "keeper-1", 60, 300) is None
        uow.execute(update(NoticeRow).values(not_before=uow.now() - timedelta(seconds=301)))
        assert notices.is_notice_waiting(uow, 300)
        assert notices.lease_notice(uow, "keeper-1", 60, 300) is not None
        notices.not_written(uow, 1, "keeper-1", CRASH, transient=True)
        uow.execute(update(NoticeRow).values(not_before=uow.now()))
        assert notices.is_notice_waiting(uow, 300)  # the next attempt waits for its back-off alone


def the_job(database: Database) -> Job:
    (job,) = record(database).jobs
    return job


def refused_and_written(database: Database, reason: Reason = GAP, name: str = "a") -> None:
    """Have the model refuse the study, and the report of it written."""
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.refuse_job(uow, job.id, job.attempt, reason)
        uow.commit()
    found = lease(database)
    assert found is not None
    write(database, found, refusal_object(name))


def owed(database: Database) -> list[str]:
    return [each.result.form for each in record(database).deliveries if each.state is DeliveryState.PENDING]


def test_a_study_that_is_analysed_after_all_is_not_told_to_be_refused(database: Database) -> None:
    close(database, plan())
    refused_and_written(database)
    with database.writing() as uow:
        retry_study(uow, STUDY)
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        made = results(forms=("seg",))
        jobs.finish_job(uow, job.id, job.attempt, made, [Outgoing("pacs", 0, made[0])], {})
        uow.commit()
    assert owed(database) == ["seg"]
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    assert owed(database) == ["seg"]


def test_a_refusal_for_another_reason_takes_the_place_of_the_first(database: Database) -> None:
    close(database, plan())
    refused_and_written(database)
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    refused_and_written(database, OTHER, "b")
    pending = [each.result for each in record(database).deliveries if each.state is DeliveryState.PENDING]
    assert pending == [refusal_object("b")]


def test_a_refusal_that_was_overtaken_is_told_when_its_plan_returns(database: Database) -> None:
    close(database, plan())
    refused_and_written(database)
    close(database, plan(1, 2), 1, 2)
    assert owed(database) == []
    close(database, plan(), 1, 2)
    found = lease(database)
    assert found is not None
    write(database, found, refusal_object())
    assert owed(database) == ["refusal"]


def test_deaths_of_workers_give_no_notice_up_and_a_person_can_ask_again(database: Database) -> None:
    close(database, plan(refusal=GAP))
    for number in range(5):
        assert lease(database, f"node/keeper/{number}") is not None
        with database.writing() as uow:
            notices.release_orphans(uow, "node/")
            uow.commit()
    found = lease(database)
    assert found is not None
    assert found.attempt == 1
    with database.writing() as uow:
        notices.not_written(uow, found.job.id, "keeper-1", CRASH, transient=False)
        assert not notices.is_notice_waiting(uow)
        retry_study(uow, STUDY)
        assert notices.is_notice_waiting(uow, 300)
        uow.commit()


def test_another_deadline_holds_for_a_job_that_is_tried_again(database: Database) -> None:
    close(database, plan())
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.fail_attempt(uow, job.id, job.attempt, CRASH, transient=False)
        retry_study(uow, STUDY)
        uow.commit()
    close(database, replace(plan(), deadline_seconds=3600.0))
    assert the_job(database).deadline_seconds == 3600.0
