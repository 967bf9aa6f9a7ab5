"""What peers take is remembered by address, and what they refuse is replaced by what stands by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.delivery import acceptance, outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.work import jobs
from db.work.revisions import close_study
from study.entities import Delivery, StudyRecord
from study.errors import LeaseLost, Reason
from study.forms import Acceptance
from study.states import DeliveryState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, results, stored

A, B = "1.2.3", "1.2.4"
REFUSED = Reason("NoAcceptedContext", "pacs takes no Label Map Segmentation Storage.")


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def learn(database: Database, found: dict[str, Acceptance], address: str = "PACS@host:104") -> dict[str, Acceptance]:
    with database.writing() as uow:
        news = acceptance.learn(uow, "pacs", address, found)
        uow.commit()
    return news


def known(database: Database, address: str = "PACS@host:104") -> dict[str, Acceptance]:
    with database.reading() as uow:
        return acceptance.known(uow, "pacs", address)


def test_what_is_learnt_is_known_at_that_address_alone(database: Database) -> None:
    assert known(database) == {}
    assert learn(database, {A: Acceptance.ACCEPTED, B: Acceptance.REFUSED}) == known(database)
    assert known(database) == {A: Acceptance.ACCEPTED, B: Acceptance.REFUSED}
    assert known(database, "PACS@elsewhere:104") == {}
    assert learn(database, {A: Acceptance.ACCEPTED}) == {}


def test_a_stored_object_says_more_than_an_accepted_context_and_a_refusal_more_than_both(database: Database) -> None:
    for found, expected in (
        (Acceptance.STORED, Acceptance.STORED),
        (Acceptance.ACCEPTED, Acceptance.STORED),
        (Acceptance.REFUSED, Acceptance.REFUSED),
        (Acceptance.ACCEPTED, Acceptance.ACCEPTED),
    ):
        learn(database, {A: found})
        assert known(database) == {A: expected}


def report(database: Database) -> None:
    """Bring a set with a doubted Segmentation, a doubted and a common report, and what stands by, into the outbox."""
    made = results(forms=("seg_labelmap", "sr", "sr_segments", "seg", "sr_segments"))
    marks = [(False, True), (False, False), (False, True), (True, False), (True, False)]
    owed = [
        Outgoing("pacs", position, result, stand_by=stand_by, doubted=doubted)
        for position, (result, (stand_by, doubted)) in enumerate(zip(made, marks, strict=True))
    ]
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()


def lease(database: Database) -> list[Delivery]:
    with database.writing() as uow:
        leased = outbox.lease_deliveries(uow, "pacs", "sender", 60, 10)
        uow.commit()
    return leased


def deliver(database: Database, *deliveries: Delivery) -> None:
    with database.writing() as uow:
        for delivery in deliveries:
            outbox.delivered(uow, delivery.id, "sender", 0)
        uow.commit()


def fall_back(database: Database, delivery: Delivery, owner: str = "sender") -> int:
    with database.writing() as uow:
        called = outbox.fall_back(uow, delivery.id, owner, REFUSED)
        uow.commit()
    return called


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def test_what_stands_by_goes_nowhere_while_the_peer_takes_what_it_is_sent(database: Database) -> None:
    report(database)
    batch = lease(database)
    assert [each.result.form for each in batch] == ["seg_labelmap", "sr", "sr_segments"]
    deliver(database, *batch)
    assert lease(database) == []
    assert record(database).summary.state is StudyState.DELIVERED
    assert [each.state for each in record(database).deliveries][3:] == [DeliveryState.STANDBY] * 2


def test_what_stands_by_takes_the_place_of_what_is_refused(database: Database) -> None:
    report(database)
    refused, *rest = lease(database)
    assert fall_back(database, refused) == 2
    with database.writing() as uow:
        outbox.give_back(uow, [each.id for each in rest], "sender")
        uow.commit()
    batch = lease(database)
    assert [(each.position, each.result.form) for each in batch] == [(1, "sr"), (3, "seg"), (4, "sr_segments")]
    deliver(database, *batch)
    found = record(database)
    assert found.summary.state is StudyState.DELIVERED
    assert [each.state for each in found.deliveries if each.position in (0, 2)] == [DeliveryState.REPLACED] * 2
    assert "delivery_replaced" in [event.kind for event in found.events]


def test_what_nothing_stands_by_for_is_left_to_the_sender(database: Database) -> None:
    report(database)
    _, common, _ = lease(database)
    assert fall_back(database, common) == 0
    deliver(database, common)


def test_only_the_holder_falls_back(database: Database) -> None:
    report(database)
    held, *_ = lease(database)
    with pytest.raises(LeaseLost):
        fall_back(database, held, "another")
