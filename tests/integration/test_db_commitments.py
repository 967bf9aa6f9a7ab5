"""What peers stored is asked for until they commit themselves: transactions, late answers, failures, silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.delivery import commitments, settlements
from db.delivery.commitments import Begun, Patience
from db.delivery.settlements import Settled
from db.engine import Database
from db.overview.queries import retry_study
from db.tables import CommitmentRow, DeliveryRow, JobRow
from study.commitment import CommitmentReport, CommitmentState, Reference
from study.entities import Delivery
from study.errors import ArchiveError, LeaseLost, Reason
from study.states import DeliveryState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, query_plans
from tests.support.outbox import deliver, forms, lease, let_time_pass, record, report

PATIENCE = Patience(seconds=300, attempts=3, slow_seconds=900)
SEG, SR = (Reference("1.2.840.10008.5.1.4.1.1.66.4", f"{STUDY}.77.{number}") for number in (0, 1))
AWAY = Reason("AssociationRejected", "No.")


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


@pytest.fixture
def stored(database: Database) -> Database:
    """A study whose SEG and SR were stored by pacs."""
    report(database)
    store_all(database)
    return database


def store_all(database: Database, peer: str = "pacs") -> None:
    for delivery in lease(database, peer):
        with database.writing() as uow:
            commitments.stored(uow, delivery.id, "sender-1", 0)
            uow.commit()


def ask(database: Database, transaction_uid: str, *, patience: Patience = PATIENCE, peer: str = "pacs") -> Begun | None:
    let_time_pass(database)
    with database.writing() as uow:
        begun = commitments.begin(uow, peer, transaction_uid, patience)
        uow.commit()
    return begun


def settle(
    database: Database,
    transaction_uid: str,
    committed: tuple[Reference, ...] = (),
    failed: tuple[tuple[Reference, int], ...] = (),
    withheld: tuple[str, ...] = (),
) -> Settled:
    with database.writing() as uow:
        said = CommitmentReport(transaction_uid, committed, failed)
        settled = settlements.settle(uow, said, lambda failures: (failures > 1, 0.0), withheld)
        uow.commit()
    return settled


def by_form(database: Database, peer: str = "pacs") -> dict[str, Delivery]:
    return {each.result.form: each for each in record(database).deliveries if each.peer == peer}


def states(database: Database) -> dict[str, str]:
    return {form: delivery.state.value for form, delivery in by_form(database).items()}


def test_what_was_stored_is_delivered_once_the_peer_committed_itself(stored: Database) -> None:
    found = record(stored)
    assert states(stored) == {"seg": "STORED", "sr": "STORED"}
    assert found.summary.state is StudyState.REPORTED
    assert all(each.stored_at and each.delivered_at is None and each.status == 0 for each in found.deliveries)
    begun = ask(stored, "1.9")
    assert begun is not None
    assert begun.request.references == (SEG, SR)
    assert ask_again(stored, "1.10") is None  # it was asked: nothing is due
    assert settle(stored, "1.9", (SEG, SR)) == Settled(True, "pacs", committed=2)
    found = record(stored)
    assert found.summary.state is StudyState.DELIVERED
    assert {each.state for each in found.deliveries} == {DeliveryState.DELIVERED}
    assert all(each.delivered_at is not None and each.commitment is not None for each in found.deliveries)
    assert [each.commitment and each.commitment.state for each in found.deliveries] == [CommitmentState.ANSWERED] * 2
    assert [event.kind for event in found.events][-4:] == ["delivery_stored"] * 2 + ["delivered"] * 2


def ask_again(database: Database, transaction_uid: str) -> Begun | None:
    """Ask for what is due now, without letting time pass."""
    with database.writing() as uow:
        begun = commitments.begin(uow, "pacs", transaction_uid, PATIENCE)
        uow.commit()
    return begun


def test_what_is_stored_within_a_moment_is_asked_for_together(database: Database) -> None:
    report(database)
    seg, sr = lease(database)
    for delivery in (seg, sr):
        with database.writing() as uow:
            commitments.stored(uow, delivery.id, "sender-1", 0)
            uow.commit()
        assert ask_again(database, "1.8") is None  # not at once
    with database.writing() as uow:
        uow.execute(update(DeliveryRow).where(DeliveryRow.id == seg.id).values(next_attempt_at=uow.now()))
        uow.commit()
    begun = ask_again(database, "1.9")
    assert begun is not None
    assert begun.request.references == (SEG, SR)  # the SR, though it is due a little later


def test_only_who_holds_a_delivery_can_say_that_it_was_stored(database: Database) -> None:
    report(database)
    seg, _ = lease(database)
    with database.writing() as uow, pytest.raises(LeaseLost):
        commitments.stored(uow, seg.id, "somebody", 0)


def test_what_the_peer_does_not_keep_is_sent_again_in_order(stored: Database) -> None:
    ask(stored, "1.9")
    assert settle(stored, "1.9", (), ((SEG, 0x0112), (SR, 0x0112))) == Settled(True, "pacs", failed=2)
    found = by_form(stored)
    reason = found["seg"].reason
    assert reason is not None
    assert (reason.code, found["seg"].state, found["seg"].problem) == ("CommitmentFailed", DeliveryState.PENDING, False)
    assert "it does not have the object (0112)" in reason.words
    assert forms(lease(stored)) == ["seg", "sr"]
    assert [event.kind for event in record(stored).events][-2:] == ["commitment_failed"] * 2


def test_what_fails_again_and_again_is_a_problem_until_it_is_committed(stored: Database) -> None:
    for number in range(2):
        ask(stored, f"1.{number}")
        settle(stored, f"1.{number}", (SR,), ((SEG, 0x0110),))
        assert by_form(stored)["seg"].problem is (number == 1)
        store_all(stored)
    seg = by_form(stored)["seg"]
    assert (seg.state, seg.problem) == (DeliveryState.STORED, True)  # a C-STORE Success proves nothing new
    found = record(stored)
    assert found.summary.state is StudyState.REPORTED
    assert found.summary.reason is not None
    assert found.summary.reason.code == "CommitmentFailed"
    assert seg.commitment is not None
    assert (seg.commitment.asked, seg.commitment.failures) == (0, 2)
    ask(stored, "1.7")
    settle(stored, "1.7", (SEG,))
    seg = by_form(stored)["seg"]
    assert (seg.state, seg.problem, seg.reason) == (DeliveryState.DELIVERED, False, None)
    assert record(stored).summary.state is StudyState.DELIVERED


def test_a_peer_that_does_not_answer_is_asked_again_then_shown_then_asked_slowly(stored: Database) -> None:
    transactions = []
    for number in range(PATIENCE.attempts):
        begun = ask(stored, f"1.{number}")
        assert begun is not None
        assert begun.unproven == 0
        transactions.append(begun.request.transaction_uid)
        assert by_form(stored)["seg"].reason is None
        assert waits(stored) == pytest.approx(PATIENCE.seconds, abs=5)
    begun = ask(stored, "1.7")
    assert begun is not None
    assert begun.unproven == 2
    seg = by_form(stored)["seg"]
    assert seg.reason is not None
    assert (seg.state, seg.problem, seg.reason.code) == (DeliveryState.STORED, True, "Unproven")
    assert "asked 3 times" in seg.reason.words
    assert waits(stored) == pytest.approx(PATIENCE.slow_seconds, abs=5)
    ask(stored, "1.8")
    kinds = [event.kind for event in record(stored).events]
    assert kinds.count("commitment_unproven") == 2  # told once for each object
    assert record(stored).summary.reason == seg.reason
    settle(stored, transactions[0], (SEG, SR))  # late, after others were begun
    assert record(stored).summary.state is StudyState.DELIVERED


def waits(database: Database, form: str = "seg") -> float:
    """Return in how long the peer is asked again [s]."""
    return (by_form(database)[form].next_attempt_at - database.now()).total_seconds()


def test_a_report_that_comes_twice_changes_nothing_more(stored: Database) -> None:
    ask(stored, "1.9")
    settle(stored, "1.9", (SEG, SR))
    before = record(stored)
    assert settle(stored, "1.9", (SEG, SR)) == Settled(True, "pacs")
    assert settle(stored, "1.9", (), ((SEG, 0x0110),)) == Settled(True, "pacs")  # its first word stands
    assert record(stored) == before


def test_a_report_on_some_leaves_the_rest_open(stored: Database) -> None:
    ask(stored, "1.9")
    settle(stored, "1.9", (SR,))
    assert states(stored) == {"seg": "STORED", "sr": "DELIVERED"}
    seg = by_form(stored)["seg"]
    assert seg.commitment is not None
    assert seg.commitment.state is CommitmentState.OPEN
    begun = ask(stored, "1.10")
    assert begun is not None
    assert begun.request.references == (SEG,)


def test_what_was_not_asked_for_is_ignored(stored: Database) -> None:
    ask(stored, "1.9")
    other_class = Reference("1.2.840.10008.5.1.4.1.1.2", SEG.sop_instance_uid)
    settled = settle(stored, "1.9", (other_class, Reference("1.2", "1.2.3")), ((Reference("1.2", "1.2.4"), 0x0112),))
    assert settled == Settled(True, "pacs", strange=3)
    assert states(stored) == {"seg": "STORED", "sr": "STORED"}
    assert settle(stored, "1.10", (SEG, SR)) == Settled(known=False)


def test_old_news_of_an_earlier_sending_says_nothing_of_a_later_one(stored: Database) -> None:
    ask(stored, "1.1")
    ask(stored, "1.2")
    settle(stored, "1.2", (SR,), ((SEG, 0x0112),))
    assert settle(stored, "1.1", (SEG,)) == Settled(True, "pacs")  # it is to be sent again first
    store_all(stored)
    assert settle(stored, "1.1", (SEG,)) == Settled(True, "pacs")
    assert states(stored)["seg"] == "STORED"
    ask(stored, "1.3")
    assert settle(stored, "1.3", (SEG,)).committed == 1


def test_bad_news_that_comes_late_counts_too(stored: Database) -> None:
    """A PACS that is slower than `commitment_seconds` must be heard."""
    ask(stored, "1.1")
    ask(stored, "1.2")
    assert settle(stored, "1.1", (SR,), ((SEG, 0x0112),)).failed == 1
    assert states(stored) == {"seg": "PENDING", "sr": "DELIVERED"}


def test_a_refused_request_is_tried_again_and_no_attempt(stored: Database) -> None:
    for number in range(PATIENCE.attempts + 1):
        begun = ask(stored, f"1.{number}")
        assert begun is not None
        assert begun.unproven == 0
        with stored.writing() as uow:
            commitments.refused(uow, begun.id, Reason("CommitmentRefused", "0124."), 60, problem=number > 0)
            uow.commit()
        seg = by_form(stored)["seg"]
        assert seg.reason == Reason("CommitmentRefused", "0124.")
        assert (seg.problem, seg.state) == (number > 0, DeliveryState.STORED)
        assert waits(stored) == pytest.approx(60, abs=5)
        assert seg.commitment is not None
        assert (seg.commitment.state, seg.commitment.asked) == (CommitmentState.REFUSED, 0)
    assert settle(stored, "1.0", (SEG, SR)).committed == 2  # whoever refused it answers all the same


def test_a_peer_that_gives_no_answer_may_have_the_request(stored: Database) -> None:
    begun = ask(stored, "1.9")
    assert begun is not None
    with stored.writing() as uow:
        commitments.unanswered(uow, begun.id, AWAY)
        uow.commit()
    seg = by_form(stored)["seg"]
    assert (seg.reason, seg.problem) == (AWAY, False)
    assert waits(stored) == pytest.approx(PATIENCE.seconds, abs=5)
    assert seg.commitment is not None
    assert (seg.commitment.state, seg.commitment.asked) == (CommitmentState.OPEN, 1)
    assert settle(stored, "1.9", (SEG, SR)).committed == 2


def test_a_peer_that_is_not_reached_is_no_transaction(stored: Database) -> None:
    let_time_pass(stored)
    with stored.writing() as uow:
        commitments.not_reached(uow, "pacs", AWAY, 60, problem=False)
        commitments.not_reached(uow, "pacs", AWAY, 60, problem=False)
        uow.commit()
    seg = by_form(stored)["seg"]
    assert (seg.reason, seg.problem, seg.commitment) == (AWAY, False, None)
    assert waits(stored) == pytest.approx(60, abs=5)
    assert ask_again(stored, "1.9") is None
    with stored.reading() as uow:
        assert uow.execute(select(CommitmentRow.id)).all() == []


def test_what_a_peer_that_is_not_reached_owes_stays_a_problem(stored: Database) -> None:
    for number in range(PATIENCE.attempts + 1):
        ask(stored, f"1.{number}")
    let_time_pass(stored)
    with stored.writing() as uow:
        commitments.not_reached(uow, "pacs", AWAY, 60, problem=False)
        uow.commit()
    assert by_form(stored)["seg"].problem
    assert record(stored).summary.reason == AWAY


def test_what_was_taken_back_or_overtaken_is_left_alone(stored: Database) -> None:
    ask(stored, "1.9")
    with stored.writing() as uow:
        uow.execute(update(DeliveryRow).where(DeliveryRow.position == 0).values(state="WITHDRAWN"))
        uow.commit()
    assert settle(stored, "1.9", (SEG,), ((SR, 0x0112),)) == Settled(True, "pacs", failed=1)
    assert states(stored) == {"seg": "WITHDRAWN", "sr": "PENDING"}


def test_what_a_newer_revision_overtook_is_not_sent_again(stored: Database) -> None:
    ask(stored, "1.9")
    with stored.writing() as uow:
        uow.execute(update(JobRow).values(current=False))
        uow.commit()
    settle(stored, "1.9", (SEG,), ((SR, 0x0112),))
    sr = by_form(stored)["sr"]
    assert sr.reason is not None
    assert (sr.state, sr.problem, sr.reason.code) == (DeliveryState.KEPT_ASIDE, False, "Outdated")


def test_what_the_site_lets_go_no_more_is_not_sent_again(stored: Database) -> None:
    ask(stored, "1.9")
    settle(stored, "1.9", (SEG,), ((SR, 0x0112),), withheld=("lung_ct",))
    assert states(stored) == {"seg": "DELIVERED", "sr": "WITHHELD"}


def test_a_person_has_the_peer_asked_at_once(stored: Database) -> None:
    for number in range(PATIENCE.attempts + 1):
        ask(stored, f"1.{number}")
    with stored.writing() as uow:
        assert retry_study(uow, STUDY) == (0, 2)
        uow.commit()
    assert by_form(stored)["seg"].state is DeliveryState.STORED
    begun = ask_again(stored, "1.9")
    assert begun is not None
    assert begun.request.references == (SEG, SR)


def test_what_is_not_asked_for_any_more_counts_as_delivered(stored: Database) -> None:
    with stored.writing() as uow:
        assert commitments.stop_asking(uow, ["other"]) == 0
        assert commitments.stop_asking(uow, ["pacs"]) == 2
        uow.commit()
    assert states(stored) == {"seg": "DELIVERED", "sr": "DELIVERED"}
    assert "not asked for any more" in record(stored).events[-1].words


def test_what_was_delivered_before_stays_so(database: Database) -> None:
    report(database)
    for delivery in lease(database):
        deliver(database, delivery)
    assert ask(database, "1.9") is None
    assert record(database).summary.state is StudyState.DELIVERED


def test_no_peer_is_asked_for_what_another_stored(database: Database) -> None:
    report(database, peers=("pacs", "vna"))
    store_all(database, "pacs")
    store_all(database, "vna")
    assert ask(database, "1.9", peer="pacs") is not None
    begun = ask(database, "1.10", peer="vna")
    assert begun is not None
    settle(database, "1.10", (SEG, SR))
    assert {each.state for each in by_form(database, "vna").values()} == {DeliveryState.DELIVERED}
    assert {each.state for each in by_form(database, "pacs").values()} == {DeliveryState.STORED}


def test_proof_is_told_before_it_counts(stored: Database) -> None:
    ask(stored, "1.9")
    said = CommitmentReport("1.9", (SEG,), ((SR, 0x0112),))
    with stored.reading() as uow:
        (proof,) = settlements.proven(uow, said)
        assert settlements.proven(uow, CommitmentReport("1.10", (SEG,))) == []
    assert (proof.study_instance_uid, proof.peer, proof.sop_instance_uid) == (STUDY, "pacs", SEG.sop_instance_uid)
    settle(stored, "1.9", (SEG,), ((SR, 0x0112),))
    with stored.reading() as uow:
        assert settlements.proven(uow, said) == []


def test_a_transaction_has_its_uid_alone(stored: Database) -> None:
    ask(stored, "1.9")
    let_time_pass(stored)
    with pytest.raises(ArchiveError), stored.writing() as uow:
        commitments.begin(uow, "pacs", "1.9", PATIENCE)


def test_who_looks_often_reads_no_backlog(tmp_path: Path) -> None:
    with migrated("sqlite", tmp_path) as database:  # PostgreSQL reads small tables from end to end
        plans = query_plans(database, lambda uow: commitments.is_due(uow, "pacs"))
    assert "ix_delivery_due" in plans


def test_many_objects_go_in_several_transactions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "MOST_AT_ONCE", 1)
    report(database)
    store_all(database)
    first, second = ask(database, "1.1"), ask_again(database, "1.2")
    assert first is not None
    assert second is not None
    assert [*first.request.references, *second.request.references] == [SEG, SR]
    assert ask_again(database, "1.3") is None


def test_a_held_delivery_is_not_asked_for(database: Database) -> None:
    report(database)
    lease(database)
    assert ask(database, "1.9") is None
