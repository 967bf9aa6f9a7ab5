"""A study whose results are in the outbox, for tests: leased, delivered, and seen as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import update

from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.tables import DeliveryRow
from db.work import jobs
from db.work.revisions import close_study
from study.entities import Delivery, StudyRecord
from tests.support.databases import STUDY, planned, results, stored


def report(database: Database, study: str = STUDY, peers: Sequence[str] = ("pacs",)) -> None:
    """Bring the SEG and SR of one study into the outbox."""
    made = results(study)
    with database.writing() as uow:
        add_instances(uow, [stored(1, study=study)])
        close_study(uow, study, [planned([stored(1, study=study)])], "", generation(uow, study))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        owed = [Outgoing(peer, position, result) for peer in peers for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()


def lease(database: Database, peer: str = "pacs", owner: str = "sender-1", limit: int = 10) -> list[Delivery]:
    """Lease what is due to a peer."""
    with database.writing() as uow:
        leased = outbox.lease_deliveries(uow, peer, owner, 60, limit)
        uow.commit()
    return leased


def forms(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the forms of deliveries."""
    return [delivery.result.form for delivery in deliveries]


def deliver(database: Database, delivery: Delivery, owner: str = "sender-1") -> None:
    """End a delivery that is leased."""
    with database.writing() as uow:
        outbox.delivered(uow, delivery.id, owner, 0)
        uow.commit()


def let_time_pass(database: Database) -> None:
    """Let every lease and every back-off have run out."""
    with database.writing() as uow:
        uow.execute(update(DeliveryRow).values(next_attempt_at=uow.now()))
        uow.commit()


def record(database: Database, study: str = STUDY) -> StudyRecord:
    """Return what is known of a study."""
    with database.reading() as uow:
        found = study_record(uow, study)
    assert found is not None
    return found
