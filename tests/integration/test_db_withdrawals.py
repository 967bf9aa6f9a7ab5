"""What was taken back never goes out (again), and whoever has it, or may come to have it, is sent a rejection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from db.delivery import commitments, deliveries, outbox, withdrawals, withdrawn
from db.delivery.outbox import Outgoing
from db.delivery.withdrawals import Changed, KeyObject, Placed, Whereabouts
from db.engine import Database, UnitOfWork
from db.images.index import add_instances, generation
from db.overview.queries import list_studies, retry_study, study_record
from db.tables import DeliveryRow
from db.work import jobs, notices
from db.work.revisions import close_study
from study.entities import Delivery, ResultObject, StudyRecord
from study.errors import ArchiveError, Reason
from study.forms import Form
from study.states import DeliveryState, StudyState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, results, stored

AWAY = Reason("PeerUnreachable", "pacs did not answer the C-STORE.")
REFUSED = Reason("StoreFailed", "pacs answered C-STORE with A900.")
ME = "node/host/withdraw/1"
SENDER = "node/host/sender/7/pacs"

PENDING, STANDBY = DeliveryState.PENDING, DeliveryState.STANDBY
GONE = DeliveryState.WITHDRAWN


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(getattr(request, "param", "sqlite"), tmp_path) as database:
        yield database


in_both = pytest.mark.parametrize("database", DIALECTS, indirect=True)
"""For the tests that between them make every statement."""


def report(database: Database, peers: Sequence[str] = ("pacs",), forms: Sequence[str] = ("seg", "sr")) -> int:
    """Bring the results of a job into the outbox; return the job's key."""
    made = results(forms=forms)
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        owed = [Outgoing(peer, position, result) for peer in peers for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()
    return job.id


def lease(database: Database, peer: str = "pacs", limit: int = 10, seconds: float = 60) -> list[Delivery]:
    with database.writing() as uow:
        leased = outbox.lease_deliveries(uow, peer, SENDER, seconds, limit)
        uow.commit()
    return leased


def do(database: Database, action: Callable[[UnitOfWork], object]) -> None:
    with database.writing() as uow:
        action(uow)
        uow.commit()


def deliver(database: Database, each: Delivery) -> None:
    do(database, lambda uow: outbox.delivered(uow, each.id, SENDER, 0))


def postpone(database: Database, each: Delivery) -> None:
    do(database, lambda uow: outbox.postpone(uow, each.id, SENDER, AWAY, problem=False, seconds=0))


def doubt_and_postpone(database: Database, each: Delivery) -> None:
    do(database, lambda uow: deliveries.doubt(uow, each.id, SENDER))
    postpone(database, each)


def keep_aside(database: Database, each: Delivery) -> None:
    do(database, lambda uow: outbox.keep_aside(uow, each.id, SENDER, REFUSED, 0xA900))


def give_back(database: Database, each: Delivery) -> None:
    do(database, lambda uow: outbox.give_back(uow, [each.id], SENDER))


def die(database: Database, each: Delivery) -> None:
    del each
    do(database, lambda uow: outbox.release_orphans(uow, "node/host/sender/"))


def store_without_commitment(database: Database, each: Delivery) -> None:
    do(database, lambda uow: commitments.stored(uow, each.id, SENDER, 0))


def freeze(database: Database, job: int) -> list[Placed]:
    with database.writing() as uow:
        withdrawals.freeze(uow, job, ME, 60)
        placed = withdrawals.placed(uow, job, ME)
        uow.commit()
    return placed


def key_objects(placed: Sequence[Placed], refused: str = "") -> list[KeyObject]:
    """Return what `hilum withdraw` would have written: what is there together, everything else alone."""
    found = []
    for peer in dict.fromkeys(each.peer for each in placed):
        there = [each for each in placed if each.peer == peer and each.whereabouts is Whereabouts.THERE]
        others = [
            [each]
            for each in placed
            if each.peer == peer and each.whereabouts in (Whereabouts.HELD, Whereabouts.UNSURE)
        ]
        for group in [*([there] if there else []), *others]:
            uids = frozenset(each.object.sop_instance_uid for each in group)
            found.append(KeyObject(peer, uids, key_object(uids), refused))
    return found


def key_object(uids: frozenset[str]) -> ResultObject:
    (made,) = results(forms=["rejection"])
    uid = "2.25." + "".join(uid.rsplit(".", 1)[1] for uid in sorted(uids)) + "9"
    return replace(made, sop_instance_uid=uid, path=f"results/{uid}/rejection.dcm")


def take_back(database: Database, job: int, written: Sequence[KeyObject]) -> None:
    with database.writing() as uow:
        done = withdrawals.take_back(uow, job, ME, "root", "Sides are confused.", False, written)
        uow.commit()
    assert (done.job_id, done.account, done.words) == (job, "root", "Sides are confused.")


def withdraw(database: Database, job: int, refused: str = "") -> None:
    take_back(database, job, key_objects(freeze(database, job), refused))


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def states(database: Database, peer: str = "pacs") -> dict[str, DeliveryState]:
    """Return the state of each object's delivery, by the last part of its UID."""
    there = record(database).deliveries
    return {each.result.sop_instance_uid.rsplit(".", 1)[1]: each.state for each in there if each.peer == peer}


def let_time_pass(database: Database) -> None:
    do(database, lambda uow: uow.execute(update(DeliveryRow).values(next_attempt_at=uow.now())))


def sent_by_anything(database: Database, peer: str = "pacs") -> list[str]:
    """Return what senders get however often they look, after all that may bring deliveries back."""
    do(database, lambda uow: retry_study(uow, STUDY))
    do(database, lambda uow: outbox.release_orphans(uow, "node/host/"))
    let_time_pass(database)
    return [each.result.form for each in lease(database, peer)]


def test_what_did_not_go_out_stays_here_and_nothing_brings_it_back(database: Database) -> None:
    job = report(database)
    withdraw(database, job)
    assert set(states(database).values()) == {GONE}
    assert sent_by_anything(database) == []
    found = record(database)
    assert (found.summary.state, found.summary.reason and found.summary.reason.code) == (
        StudyState.DELIVERED,
        "Withdrawn",
    )
    assert found.summary.reason is not None
    assert "lung_ct were taken back: Sides are confused." in found.summary.reason.words
    (told,) = found.withdrawals
    assert (told.job_id, told.account, told.safety, told.objects) == (job, "root", False, 2)
    assert [event.words for event in found.events if event.kind == "withdrawn"] == [
        "root took 2 result object(s) back: Sides are confused."
    ]
    with pytest.raises(ArchiveError, match="Nothing of these results is left"):
        withdraw(database, job)


def test_a_late_revision_of_a_withdrawn_result_brings_neither_it_nor_its_deliveries_back(database: Database) -> None:
    job = report(database)
    withdraw(database, job)
    with database.writing() as uow:
        add_instances(uow, [stored(1), stored(2)])
        close_study(uow, STUDY, [planned([stored(1), stored(2)])], "", generation(uow, STUDY))
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))  # the first one again
        outbox.owe_again(uow, job)
        uow.commit()
    assert sent_by_anything(database) == []
    made = results()
    with database.writing() as uow:
        keys = {each.object.sop_instance_uid: each.result for each in withdrawals.placed(uow, job)}
        assert keys == {}
        there = {result.sop_instance_uid: number for number, result in enumerate(made, 1)}
        outbox.add_deliveries(uow, 1, job, [Outgoing("viewer", 0, made[0])], there)
        uow.commit()
    assert states(database, "viewer") == {}


def test_a_new_revision_goes_out_as_usual(database: Database) -> None:
    withdraw(database, report(database))
    with database.writing() as uow:
        add_instances(uow, [stored(1), stored(2)])
        close_study(uow, STUDY, [planned([stored(1), stored(2)])], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        made = [replace(each, sop_instance_uid=f"{each.sop_instance_uid}.2") for each in results()]
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()
    assert [each.result.form for each in lease(database)] == ["seg", "sr"]
    assert record(database).summary.state is StudyState.REPORTED


@in_both
def test_what_peers_have_is_rejected_where_they_have_it_and_only_there(database: Database) -> None:
    job = report(database, ("pacs", "viewer", "idle"))
    for delivery in lease(database):
        deliver(database, delivery)
    deliver(database, lease(database, "viewer", limit=1)[0])
    withdraw(database, job)
    assert states(database) == {"0": GONE, "1": GONE, "019": PENDING}
    assert states(database, "viewer") == {"0": GONE, "1": GONE, "09": PENDING}
    assert states(database, "idle") == {"0": GONE, "1": GONE}
    assert record(database).summary.state is StudyState.REPORTED
    for peer in ("pacs", "viewer"):
        (rejection,) = lease(database, peer)
        assert (rejection.result.form, rejection.position) == ("rejection", withdrawn.REJECTION_POSITION)
        deliver(database, rejection)
    assert record(database).summary.state is StudyState.DELIVERED
    assert sent_by_anything(database) == []
    delivered = [each for each in record(database).deliveries if each.delivered_at is not None]
    assert len(delivered) == 5  # that it went out, and when, stays on record


def test_what_a_peer_stored_and_did_not_commit_itself_to_is_rejected(database: Database) -> None:
    job = report(database, forms=["seg"])
    store_without_commitment(database, lease(database)[0])
    withdraw(database, job)
    assert states(database) == {"0": GONE, "09": PENDING}


ENDS = {
    "delivered": (deliver, PENDING),
    "stored": (store_without_commitment, PENDING),
    "no answer": (doubt_and_postpone, PENDING),
    "the sender died": (die, PENDING),
    "not reached": (postpone, GONE),
    "refused": (keep_aside, GONE),
    "not tried": (give_back, GONE),
}


@pytest.mark.parametrize("how", sorted(ENDS))
def test_what_a_sender_holds_ends_with_it_and_is_rejected_where_it_may_have_arrived(
    database: Database, how: str
) -> None:
    end, rejection = ENDS[how]
    job = report(database, forms=["seg"])
    (held,) = lease(database)
    withdraw(database, job)
    assert states(database) == {"0": PENDING, "09": STANDBY}
    assert record(database).summary.state is StudyState.REPORTED
    assert sent_by_a_restart_of_others(database) == []
    end(database, held)
    assert states(database) == {"0": GONE, "09": rejection}
    told = [event.words for event in record(database).events if event.kind == "rejection_owed"]
    assert len(told) == (rejection is PENDING)
    assert sent_by_anything(database) == (["rejection"] if rejection is PENDING else [])


def sent_by_a_restart_of_others(database: Database) -> list[str]:
    do(database, lambda uow: retry_study(uow, STUDY))
    return [each.result.form for each in lease(database)]


@in_both
def test_a_sender_that_is_never_heard_of_again_may_have_brought_it_there(database: Database) -> None:
    job = report(database, forms=["seg"])
    lease(database)
    withdraw(database, job)
    let_time_pass(database)
    assert [each.result.form for each in lease(database)] == []  # ended, and its rejection switched on, just now
    assert states(database) == {"0": GONE, "09": PENDING}
    assert [each.result.form for each in lease(database)] == ["rejection"]


@pytest.mark.parametrize("end", [doubt_and_postpone, die])
def test_what_a_peer_may_have_is_rejected_by_itself(
    database: Database, end: Callable[[Database, Delivery], None]
) -> None:
    """An archive refuses a rejection altogether that names one object which it does not have."""
    job = report(database)
    deliver(database, lease(database, limit=1)[0])
    (unsure,) = lease(database)
    end(database, unsure)
    withdraw(database, job)
    assert states(database) == {"0": GONE, "1": GONE, "09": PENDING, "19": PENDING}


@in_both
def test_one_that_another_sender_takes_over_may_be_there_already(database: Database) -> None:
    job = report(database, forms=["seg"])
    lease(database, seconds=-1)
    (again,) = lease(database)
    postpone(database, again)
    withdraw(database, job)
    assert states(database) == {"0": GONE, "09": PENDING}


def test_forms_on_stand_by_are_taken_back_too_and_not_called_for(database: Database) -> None:
    made = results(forms=["seg_labelmap", "seg"])
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        owed = [Outgoing("pacs", 0, made[0], doubted=True), Outgoing("pacs", 1, made[1], stand_by=True)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()
    (held,) = lease(database)
    withdraw(database, job.id)
    with database.writing() as uow:
        assert outbox.fall_back(uow, held.id, SENDER, REFUSED) == 0
        outbox.keep_aside(uow, held.id, SENDER, REFUSED)
        uow.commit()
    assert states(database) == {"0": GONE, "1": GONE, "09": GONE}
    assert sent_by_anything(database) == []


@in_both
def test_what_goes_out_between_the_look_and_the_withdrawal_is_not_forgotten(database: Database) -> None:
    job = report(database)
    held, _ = lease(database)
    written = key_objects(freeze(database, job))
    deliver(database, held)
    take_back(database, job, written)
    assert states(database) == {"0": GONE, "1": PENDING, "09": PENDING, "19": STANDBY}


def test_what_none_of_the_rejections_covers_stops_the_withdrawal(database: Database) -> None:
    job = report(database)
    placed = freeze(database, job)
    assert lease(database) == []  # frozen
    with database.writing() as uow:
        withdrawals.thaw(uow, job, ME)
        uow.commit()
    deliver(database, lease(database, limit=1)[0])
    with pytest.raises(Changed):
        take_back(database, job, key_objects(placed))
    assert record(database).withdrawals == ()
    withdraw(database, job)
    assert states(database) == {"0": GONE, "1": GONE, "09": PENDING}


def test_a_frozen_job_goes_out_where_nobody_took_it_back(database: Database) -> None:
    job = report(database)
    freeze(database, job)
    assert lease(database) == []
    let_time_pass(database)  # the command was killed
    assert len(lease(database)) == 2


@in_both
def test_a_rejection_is_owed_whatever_becomes_of_its_model_and_its_revision(database: Database) -> None:
    job = report(database)
    for delivery in lease(database):
        deliver(database, delivery)
    withdraw(database, job)
    with database.writing() as uow:
        assert outbox.withhold(uow, ["lung_ct"]) == 0
        add_instances(uow, [stored(1), stored(2)])
        close_study(uow, STUDY, [planned([stored(1), stored(2)])], "", generation(uow, STUDY))
        uow.commit()
    (rejection,) = lease(database)
    assert rejection.result.form == "rejection"
    postpone(database, rejection)
    (again,) = lease(database)
    keep_aside(database, again)
    assert sent_by_anything(database) == ["rejection"]  # on request, though its revision is an older one


def test_a_peer_that_takes_no_rejection_is_left_to_a_person(database: Database) -> None:
    job = report(database)
    for delivery in lease(database):
        deliver(database, delivery)
    withdraw(database, job, refused="it takes no Key Objects")
    found = record(database)
    assert found.summary.state is StudyState.FAILED
    assert found.summary.reason is not None
    assert found.summary.reason.code == withdrawn.UNHEEDED
    words = f"Have 2 object(s) removed at pacs by hand, {STUDY}.77.0, {STUDY}.77.1: it takes no Key Objects"
    assert found.summary.reason.words == words
    with database.writing() as uow:
        (rejection,) = [each for each in found.deliveries if each.result.form == "rejection"]
        again = withdrawn.by_hand(uow, rejection.id, Reason("StoreFailed", "it answered A772."))
    assert again.words == words.replace("it takes no Key Objects", "it answered A772.")


def test_a_refusal_report_is_taken_back_and_not_owed_again(database: Database) -> None:
    (notice,) = results(forms=["refusal"])
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        job = replace(planned([stored(1)], refusal=REFUSED), parameters=WISHES)
        close_study(uow, STUDY, [job], "", generation(uow, STUDY))
        leased = notices.lease_notice(uow, "keeper", 60)
        assert leased is not None
        notices.written(uow, leased.job.id, "keeper", [notice], [Outgoing("pacs", 0, notice)])
        uow.commit()
    deliver(database, lease(database)[0])
    with database.reading() as uow:
        assert withdrawals.jobs_of_study(uow, STUDY) == [leased.job.id]
    withdraw(database, leased.job.id)
    assert states(database) == {"0": GONE, "09": PENDING}
    with database.writing() as uow:
        notices.owe(uow, 1, leased.job.id, WISHES, REFUSED)
        again = notices.lease_notice(uow, "keeper", 60)
        assert again is not None
        notices.written(uow, leased.job.id, "keeper", [notice], [Outgoing("pacs", 0, notice)])
        uow.commit()
    assert [each.result.form for each in lease(database)] == ["rejection"]


WISHES = {"wishes": [{"peer": "pacs", "forms": ["seg", "refusal"], "description_prefix": "", "most_frames": None,
                      "most_images": None, "compressed": False}]}  # fmt: skip


@in_both
def test_results_are_found_by_their_uid_its_beginning_and_their_study(database: Database) -> None:
    job = report(database)
    with database.reading() as uow:
        assert withdrawals.jobs_of(uow, f"{STUDY}.77.1", exactly=True) == [job]
        assert withdrawals.jobs_of(uow, f"{STUDY}.77", exactly=True) == []
        assert withdrawals.jobs_of(uow, f"{STUDY}.77", exactly=False) == [job]
        assert withdrawals.jobs_of(uow, "%", exactly=False) == []
        assert withdrawals.jobs_of_study(uow, STUDY) == [job]
        assert withdrawals.jobs_of_study(uow, "1.9") == []


def test_what_nobody_was_sent_is_taken_back_too(database: Database) -> None:
    job = report(database, peers=())
    withdraw(database, job)
    with database.reading() as uow:
        (summary,) = list_studies(uow)
    assert (summary.state, summary.reason and summary.reason.code) == (StudyState.DELIVERED, "Withdrawn")
    assert Form.REJECTION.value not in [result.form for _, result in record(database).results]
