"""Which reports of an earlier analysis the reports of a job take the place of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation
from db.tables import JobRow
from db.work import jobs
from db.work.results import predecessors_of
from db.work.revisions import close_study
from study.entities import Delivery, Predecessor, ResultObject
from tests.support.databases import DIALECTS, STUDY, migrated, planned, results, stored

SENDER = "node/host/sender/7/pacs"


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def lease_next(database: Database, images: int, model: str = "lung_ct") -> tuple[int, int]:
    """Close the study with so many images, and return job and attempt of its analysis, which begins."""
    slices = [stored(number) for number in range(1, images + 1)]
    with database.writing() as uow:
        add_instances(uow, slices)
        close_study(uow, STUDY, [planned(slices, model=model)], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert job is not None
    return job.id, job.attempt


def analyse(database: Database) -> list[ResultObject]:
    """Bring the results of a first analysis into the outbox."""
    job, attempt = lease_next(database, 1)
    made = results()
    with database.writing() as uow:
        jobs.finish_job(uow, job, attempt, made, [Outgoing("pacs", n, each) for n, each in enumerate(made)], {})
        uow.commit()
    return made


def hold(database: Database) -> list[Delivery]:
    with database.writing() as uow:
        held = outbox.lease_deliveries(uow, "pacs", SENDER, 60, 10)
        uow.commit()
    return held


def deliver(database: Database) -> None:
    for each in hold(database):
        with database.writing() as uow:
            outbox.delivered(uow, each.id, SENDER, 0)
            uow.commit()


def before(database: Database, job: int) -> tuple[Predecessor, ...]:
    with database.reading() as uow:
        return predecessors_of(uow, job)


def of_report(made: list[ResultObject]) -> tuple[Predecessor, ...]:
    (report,) = (each for each in made if each.form == "sr")
    return (Predecessor(report.variant, report.sop_class_uid, report.sop_instance_uid, report.series_instance_uid),)


def test_the_report_that_a_peer_has_is_named_and_nothing_else(database: Database) -> None:
    made = analyse(database)
    deliver(database)
    job, _ = lease_next(database, 2)
    assert before(database, job) == of_report(made)


def test_one_that_a_sender_holds_just_now_is_named(database: Database) -> None:
    made = analyse(database)
    hold(database)
    job, _ = lease_next(database, 2)
    assert before(database, job) == of_report(made)


def test_another_models_report_is_not_named(database: Database) -> None:
    analyse(database)
    deliver(database)
    job, _ = lease_next(database, 2, model="other_ct")
    assert before(database, job) == ()


def test_a_report_that_still_counts_is_not_named(database: Database) -> None:
    made = analyse(database)
    deliver(database)
    job, _ = lease_next(database, 2)
    assert before(database, job) == of_report(made)
    with database.writing() as uow:
        uow.execute(update(JobRow).where(JobRow.id != job).values(current=True))
        uow.commit()
    assert before(database, job) == ()
