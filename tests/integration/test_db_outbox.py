"""The outbox: order within a study and peer, fenced leases, and no peer that waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from db.delivery import deliveries, outbox, withdrawals
from db.delivery.outbox import Outgoing
from db.delivery.withdrawals import KeyObject
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import list_studies, retry_study
from db.tables import DeliveryRow, ResultRow
from db.work import jobs
from db.work.results import predecessors_of
from db.work.revisions import close_study
from study.entities import Delivery, Predecessor
from study.errors import LeaseLost, Reason
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, query_plans, results, stored
from tests.support.outbox import deliver, forms, lease, let_time_pass, record, report

AWAY = Reason("PeerUnreachable", "Connection refused.")
NEVER = Reason("StoreFailed", "The peer answered A900.", {"status": 0xA900})
OTHER_STUDY = "1.2.5"


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def postpone(
    database: Database, delivery: Delivery, *, owner: str = "sender-1", problem: bool = False, seconds: float = 3600
) -> None:
    with database.writing() as uow:
        outbox.postpone(uow, delivery.id, owner, AWAY, problem, seconds)
        uow.commit()


def test_a_study_is_delivered_once_every_object_was_taken(database: Database) -> None:
    report(database)
    batch = lease(database)
    assert forms(batch) == ["seg", "sr"]
    assert [delivery.attempts for delivery in batch] == [1, 1]
    for delivery in batch:
        assert record(database).summary.state is StudyState.REPORTED
        deliver(database, delivery)
    found = record(database)
    assert found.summary.state is StudyState.DELIVERED
    assert {(delivery.state, delivery.status) for delivery in found.deliveries} == {(DeliveryState.DELIVERED, 0)}
    assert all(delivery.delivered_at is not None for delivery in found.deliveries)
    assert [event.kind for event in found.events][-2:] == ["delivered", "delivered"]
    assert lease(database) == []


def test_the_next_object_of_a_study_waits_for_the_one_before_it(database: Database) -> None:
    report(database)
    (seg,) = lease(database, limit=1)
    assert seg.result.form == "seg"
    assert lease(database, owner="sender-2") == []
    deliver(database, seg)
    assert forms(lease(database, owner="sender-2")) == ["sr"]


def test_what_follows_a_postponed_object_waits_with_it(database: Database) -> None:
    report(database)
    batch = lease(database)
    postpone(database, batch[0])
    with database.writing() as uow:
        outbox.give_back(uow, [batch[1].id], "sender-1")
        uow.commit()
    assert lease(database) == []
    let_time_pass(database)
    again = lease(database)
    assert forms(again) == ["seg", "sr"]
    assert again[0].reason == AWAY


def test_what_was_not_tried_counts_no_attempt(database: Database) -> None:
    report(database)
    first, second = lease(database)
    postpone(database, first, seconds=0)
    first, second = lease(database)
    with database.writing() as uow:
        outbox.give_back(uow, [second.id], "sender-1")
        uow.commit()
    attempts = {delivery.result.form: delivery.attempts for delivery in record(database).deliveries}
    assert attempts["seg"] == 2
    assert attempts["sr"] == 0


def test_a_problem_lets_what_follows_pass(database: Database) -> None:
    """A peer that takes no SEG until somebody changes its settings still gets the SR."""
    report(database)
    first, _second = lease(database)
    postpone(database, first, problem=True)
    assert forms(lease(database, owner="sender-2")) == ["sr"]
    let_time_pass(database)
    assert forms(lease(database, owner="sender-3")) == ["seg", "sr"]


def close(database: Database, numbers: Sequence[int], refusal: Reason | None = None) -> None:
    """Bring a revision of these instances about."""
    with database.writing() as uow:
        add_instances(uow, [stored(number) for number in numbers])
        job = replace(planned([stored(number) for number in numbers]), refusal=refusal)
        close_study(uow, STUDY, [job], "", generation(uow, STUDY))
        uow.commit()


def test_an_outdated_result_is_owed_no_more(database: Database) -> None:
    report(database)
    close(database, [1, 2])
    assert lease(database) == []
    states = {delivery.state for delivery in record(database).deliveries}
    assert states == {DeliveryState.KEPT_ASIDE}
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    assert lease(database) == []


@pytest.mark.parametrize("where", ["with the peer", "perhaps with the peer", "nowhere", "taken back"])
def test_the_next_analysis_takes_the_place_of_reports_that_went_out(database: Database, where: str) -> None:
    report(database)
    for each in lease(database) if where != "nowhere" else ():
        if where == "perhaps with the peer":
            with database.writing() as uow:
                deliveries.doubt(uow, each.id, "sender-1")
                uow.commit()
        else:
            deliver(database, each)
    if where == "taken back":
        with database.writing() as uow:
            withdrawals.freeze(uow, 1, "person", 60)
            rejection = replace(results(forms=["rejection"])[0], sop_instance_uid="2.25.1")
            uids = frozenset(each.sop_instance_uid for each in results())
            written = [KeyObject("pacs", uids, rejection, "")]
            withdrawals.take_back(uow, 1, "person", "root", "Sides are confused.", False, written)
            uow.commit()
    close(database, [1, 2])
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        found = predecessors_of(uow, job.id)
        assert predecessors_of(uow, 1) == ()  # nothing came before it that has a report
    _, sr = results()
    named = [Predecessor("", sr.sop_class_uid, sr.sop_instance_uid, sr.series_instance_uid)]
    assert list(found) == (named if "with" in where else [])


def test_a_job_that_is_overtaken_while_it_runs_owes_nothing(database: Database) -> None:
    close(database, [1])
    with database.writing() as uow:
        running = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert running is not None
    close(database, [1, 2])
    with database.writing() as uow:
        made = results(STUDY)
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, running.id, running.attempt, made, owed, {})
        uow.commit()
    assert lease(database) == []


@pytest.mark.parametrize("running", [False, True])
def test_a_job_whose_study_is_refused_meanwhile_comes_to_nothing(database: Database, running: bool) -> None:
    """Another patient's object arrives while the job waits or runs."""
    refusal = Reason("ConflictingIdentity", "The study holds 2 different values of PatientID.")
    close(database, [1])
    held = None
    if running:
        with database.writing() as uow:
            held = jobs.lease_job(uow, "keeper", 30)
            uow.commit()
    close(database, [1], refusal)
    assert [job.state for job in record(database).jobs] == [JobState.REFUSED]
    assert record(database).summary.reason == refusal
    with database.writing() as uow:
        assert jobs.lease_job(uow, "keeper", 30) is None
        if held is not None:
            with pytest.raises(LeaseLost):
                jobs.finish_job(uow, held.id, held.attempt, results(STUDY), [], {})


def test_what_was_kept_aside_blocks_nobody(database: Database) -> None:
    report(database)
    batch = lease(database)
    with database.writing() as uow:
        outbox.keep_aside(uow, batch[0].id, "sender-1", NEVER, 0xA900)
        outbox.give_back(uow, [batch[1].id], "sender-1")
        uow.commit()
    (sr,) = lease(database)
    assert sr.result.form == "sr"
    deliver(database, sr)
    found = record(database)
    assert found.summary.state is StudyState.FAILED
    assert found.summary.reason == NEVER
    assert [(d.id, d.status) for d in found.deliveries if d.problem] == [(batch[0].id, 0xA900)]


def test_a_dead_peer_delays_no_other_peer_and_no_other_study(database: Database) -> None:
    report(database, peers=("dead", "pacs"))
    report(database, OTHER_STUDY, peers=("dead", "pacs"))
    for delivery in lease(database, "dead"):
        if delivery.position == 0:
            postpone(database, delivery)
    assert lease(database, "dead") == []
    assert [(d.study_instance_uid, d.result.form) for d in lease(database, "pacs")] == [
        (STUDY, "seg"), (STUDY, "sr"), (OTHER_STUDY, "seg"), (OTHER_STUDY, "sr"),
    ]  # fmt: skip


def test_a_batch_that_is_cut_off_keeps_the_order(database: Database) -> None:
    report(database)
    report(database, OTHER_STUDY)
    # The SR of the first study fell due first of all: its SEG must go before it all the same.
    with database.writing() as uow:
        now = uow.now()
        first = update(DeliveryRow).where(DeliveryRow.id == record(database).deliveries[1].id)
        uow.execute(first.values(next_attempt_at=now - timedelta(hours=1)))
        uow.commit()
    assert [(d.study_instance_uid, d.result.form) for d in lease(database, limit=1)] == [(STUDY, "seg")]


def test_a_sender_that_lost_its_lease_can_end_nothing(database: Database) -> None:
    report(database)
    late = lease(database)[0]
    let_time_pass(database)
    again = lease(database, owner="sender-2")[0]
    assert (again.id, again.attempts) == (late.id, 2)
    with database.writing() as uow:
        with pytest.raises(LeaseLost):
            outbox.delivered(uow, late.id, "sender-1", 0)
        with pytest.raises(LeaseLost):
            outbox.postpone(uow, late.id, "sender-1", AWAY, problem=False, seconds=1)
        with pytest.raises(LeaseLost):
            outbox.keep_aside(uow, late.id, "sender-1", NEVER)
        outbox.give_back(uow, [late.id], "sender-1")
        uow.commit()
    deliver(database, again, "sender-2")


def test_a_dead_senders_deliveries_are_due_again_at_once(database: Database) -> None:
    report(database)
    lease(database, owner="node-1/sender")
    assert lease(database) == []
    with database.writing() as uow:
        assert outbox.release_orphans(uow, "node-2/") == 0
        assert outbox.release_orphans(uow, "node-1/") == 2
        uow.commit()
    assert forms(lease(database)) == ["seg", "sr"]


def test_a_peer_that_stays_away_fills_no_journal(database: Database) -> None:
    report(database)
    for problem in (False, False, False, True, True):
        postpone(database, lease(database)[0], problem=problem)
        let_time_pass(database)
    assert [event.kind for event in record(database).events].count("delivery_postponed") == 2


def test_a_retry_brings_everything_back(database: Database) -> None:
    report(database)
    batch = lease(database)
    with database.writing() as uow:
        outbox.keep_aside(uow, batch[0].id, "sender-1", NEVER, 0xA900)
        uow.commit()
    postpone(database, batch[1], problem=True)
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    assert forms(lease(database)) == ["seg", "sr"]
    assert record(database).events[-1].numbers == {"jobs": 0, "deliveries": 2}


def test_a_retry_leaves_what_a_sender_holds_to_it(database: Database) -> None:
    report(database)
    held = lease(database)
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    assert lease(database, owner="sender-2") == []
    deliver(database, held[0])


def test_a_backlog_does_not_slow_the_outbox_down(database: Database) -> None:
    report(database)
    _multiply(database, 2000)
    plans = query_plans(database, lambda uow: outbox.lease_deliveries(uow, "pacs", "sender-1", 60, 10))
    assert "ix_delivery_due" in plans
    assert "SCAN delivery" not in plans
    assert "Seq Scan on delivery" not in plans
    assert forms(lease(database)) == ["seg", "sr"]


def _multiply(database: Database, count: int) -> None:
    """Add deliveries in back-off to the same peer."""
    with database.writing() as uow:
        result = dict(uow.execute(select(*ResultRow.__table__.c).limit(1)).mappings().one())
        delivery = dict(uow.execute(select(*DeliveryRow.__table__.c).limit(1)).mappings().one())
        del result["id"], delivery["id"]
        uow.execute(insert(ResultRow), [result | {"sop_instance_uid": f"1.3.{number}"} for number in range(count)])
        keys = uow.execute(select(ResultRow.id).where(ResultRow.sop_instance_uid.startswith("1.3."))).scalars()
        later = uow.now() + timedelta(hours=1)
        uow.execute(
            insert(DeliveryRow), [delivery | {"result": key, "position": 5, "next_attempt_at": later} for key in keys]
        )
        uow.execute(text("ANALYZE"))
        uow.commit()


def test_the_list_of_studies_asks_as_often_for_many_as_for_few(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        report(database, f"1.2.{number}")
    with database.reading() as uow:
        asked: list[object] = []
        execute = uow.execute

        def counting(statement: object, parameters: object = None) -> object:
            asked.append(statement)
            return execute(statement, parameters)  # type: ignore[arg-type] # passed on as it came

        monkeypatch.setattr(uow, "execute", counting)
        assert len(list_studies(uow, 1)) == 1
        few = len(asked)
        listed = list_studies(uow, 100)
        assert len(asked) == 2 * few
    assert [summary.state for summary in listed] == [StudyState.REPORTED] * 5
    assert {(summary.series, summary.instances) for summary in listed} == {(1, 1)}


def test_results_of_a_job_that_was_overtaken_are_owed_once_its_plan_returns(database: Database) -> None:
    close(database, [1])
    with database.writing() as uow:
        running = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert running is not None
    close(database, [1, 2])
    with database.writing() as uow:
        made = results(STUDY)
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, running.id, running.attempt, made, owed, {})
        uow.commit()
    assert lease(database) == []
    close(database, [1])
    assert forms(lease(database)) == ["seg", "sr"]


@pytest.mark.parametrize("how", ["postponed", "given back", "its sender died"])
def test_what_a_sender_held_while_it_was_overtaken_goes_nowhere(database: Database, how: str) -> None:
    close(database, [1])
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        made = results(STUDY)
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()
    held = lease(database)
    close(database, [1, 2])
    with database.writing() as uow:
        if how == "postponed":
            outbox.postpone(uow, held[0].id, "sender-1", AWAY, False, 0)
        elif how == "given back":
            outbox.give_back(uow, [delivery.id for delivery in held], "sender-1")
        else:
            outbox.release_orphans(uow, "sender-1")
        uow.commit()
    let_time_pass(database)
    assert lease(database) == []
