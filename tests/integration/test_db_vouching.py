"""What peers ask us to commit ourselves to: taken over once, answered alike, and exempt from retention before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from db.delivery import vouching
from db.delivery.vouching import Vouch
from db.engine import Database
from db.images.index import add_instances
from db.tables import InstanceRow
from study.commitment import CommitmentReport, CommitmentRequest, Reference
from tests.support.databases import DIALECTS, migrated, stored

REQUEST = CommitmentRequest("1.2.9", (Reference("1.2", "1.2.3"), Reference("1.2", "1.2.4")))
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def enter(database: Database, message: str, peer: str = "ct") -> bool:
    with database.writing() as uow:
        entered = vouching.enter(uow, message, peer, REQUEST, AT)
        uow.commit()
    return entered


def take(database: Database, peer: str = "ct") -> Vouch | None:
    with database.writing() as uow:
        taken = vouching.take(uow, peer, 60)
        uow.commit()
    return taken


def test_a_request_is_taken_over_once_and_answered_until_it_was_heard(database: Database) -> None:
    assert [enter(database, message) for message in ("a", "a", "b")] == [True, False, True]
    assert take(database, "mr") is None
    first, second = take(database), take(database)
    assert first is not None
    assert second is not None
    assert take(database) is None  # both are under way
    assert (first.request, first.received_at, first.attempts, first.report) == (REQUEST, AT, 1, None)
    report = CommitmentReport("1.2.9", REQUEST.references[:1], ((REQUEST.references[1], 0x0112),))
    with database.writing() as uow:
        vouching.settle(uow, first.id, report)
        vouching.end(uow, second.id)
        vouching.postpone(uow, first.id, 0)
        uow.commit()
    again = take(database)
    assert again is not None
    assert (again.id, again.report, again.attempts) == (first.id, report, 2)
    with database.writing() as uow:
        vouching.hurry(uow)  # another process begins
        uow.commit()
    with database.reading() as uow:
        assert vouching.is_due(uow, "ct")
    assert take(database) is not None


def test_what_we_answer_for_is_exempt_from_then_on(database: Database) -> None:
    instances = [stored(1), stored(1, content="other"), stored(2), stored(3)]
    with database.writing() as uow:
        add_instances(uow, instances)
        uow.commit()
    uids = [stored(number).header.sop_instance_uid for number in (1, 2, 9)]
    with database.reading() as uow:
        held = vouching.versions(uow, uids)
    assert {uid: len(versions) for uid, versions in held.items()} == {uids[0]: 2, uids[1]: 1}
    keys = [each.key for versions in held.values() for each in versions]
    with database.writing() as uow:
        assert vouching.exempt(uow, [*keys, 999]) == frozenset(keys)
        uow.commit()
    before = exempt_since(database)
    assert sorted(before) == sorted(keys)
    with database.writing() as uow:
        vouching.exempt(uow, keys)
        uow.commit()
    assert exempt_since(database) == before  # since the first time


def exempt_since(database: Database) -> dict[int, datetime]:
    query = select(InstanceRow.id, InstanceRow.vouched_at).where(InstanceRow.vouched_at.is_not(None))
    with database.reading() as uow:
        return {row.id: row.vouched_at for row in uow.execute(query)}
