"""The queue: one worker per job, fenced writes, and every way in which an attempt can end."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from db.delivery.outbox import Outgoing
from db.engine import Database, UnitOfWork
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.tables import JobRow, RevisionRow, StudyRow
from db.work import jobs
from db.work.revisions import close_study
from study.entities import Job, StudyRecord
from study.errors import ArchiveError, DatabaseUnavailable, LeaseLost, Reason
from study.states import JobState, StudyState
from study.urgency import HEAD_START_SECONDS
from tests.support.databases import DIALECTS, START, STUDY, migrated, planned, query_plans, results, stored

CRASH = Reason("RunnerDied", "The process that ran the model ended by signal 9.", {"signal": 9})


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def queue(
    database: Database, study: str = STUDY, numbers: Sequence[int] = (1,), *, model: str = "lung_ct", priority: int = 0
) -> int:
    """Bring one job into the queue."""
    slices = [stored(number, study=study) for number in numbers]
    job = replace(planned(slices, model=model), priority=priority)
    with database.writing() as uow:
        add_instances(uow, slices)
        closed = close_study(uow, study, [job], "", generation(uow, study))
        uow.commit()
    return closed.job_ids[0]


def lease(
    database: Database, owner: str = "keeper-1", seconds: float = 30, fits: jobs.Fits | None = None
) -> Job | None:
    with database.writing() as uow:
        job = jobs.lease_job(uow, owner, seconds, fits)
        uow.commit()
    return job


def leased(database: Database, owner: str = "keeper-1", seconds: float = 30, fits: jobs.Fits | None = None) -> Job:
    job = lease(database, owner, seconds, fits)
    assert job is not None
    return job


def fail(database: Database, job: Job, *, transient: bool = True, details: Mapping[str, Any] | None = None) -> JobState:
    with database.writing() as uow:
        state = jobs.fail_attempt(uow, job.id, job.attempt, CRASH, transient, 3, details)
        uow.commit()
    return state


def make_due(database: Database) -> None:
    """Let the back-off of every queued job have passed."""
    with database.writing() as uow:
        uow.execute(update(JobRow).values(not_before=uow.now()))
        uow.commit()


def let_pass(database: Database, key: int, seconds: float) -> None:
    """Let a job have waited that much longer."""
    passed = timedelta(seconds=seconds)
    with database.writing() as uow:
        row = uow.execute(select(JobRow.turn_at, JobRow.not_before).where(JobRow.id == key)).one()
        times = {"turn_at": row.turn_at - passed, "not_before": row.not_before - passed}
        uow.execute(update(JobRow).where(JobRow.id == key).values(times))
        uow.commit()


def alone(model: str, running: Sequence[jobs.RunningJob]) -> bool:
    """Let a large model run beside nothing, and small ones beside each other."""
    return model != "large" and all(each.model_name != "large" for each in running)


def let_leases_run_out(database: Database) -> None:
    with database.writing() as uow:
        uow.execute(update(JobRow).values(lease_until=uow.now() - timedelta(seconds=1)))
        uow.commit()


def the_job(database: Database, key: int) -> Job:
    with database.reading() as uow:
        return jobs.job_by_id(uow, key)


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def test_a_leased_job_runs_under_its_owner_and_nobody_else_gets_it(database: Database) -> None:
    key = queue(database)
    job = leased(database)
    assert (job.id, job.state, job.attempt) == (key, JobState.RUNNING, 1)
    assert job.started_at is not None
    assert lease(database, "keeper-2") is None
    assert record(database).summary.state is StudyState.PROCESSING


def test_jobs_are_leased_in_the_order_in_which_they_were_entered(database: Database) -> None:
    keys = [queue(database, f"1.2.{number}") for number in range(3)]
    assert [leased(database).id for _ in keys] == keys


def test_a_job_of_higher_priority_goes_first_and_one_of_lower_priority_last(database: Database) -> None:
    low, plain, urgent = (queue(database, f"1.2.{priority + 1}", priority=priority) for priority in (-1, 0, 100))
    first = leased(database)
    assert (first.id, first.priority) == (urgent, 100)
    assert [leased(database).id, leased(database).id] == [plain, low]


def test_priority_is_a_head_start_so_that_whoever_waits_is_served(database: Database) -> None:
    waits = queue(database, "1.2.1")
    let_pass(database, waits, 2 * HEAD_START_SECONDS + 60)
    ahead, behind = queue(database, "1.2.3", priority=3), queue(database, "1.2.2", priority=2)
    assert [leased(database).id for _ in range(3)] == [ahead, waits, behind]


@pytest.mark.parametrize("end", ["failed", "interrupted", "retried"])
def test_a_job_that_is_tried_again_keeps_its_turn(database: Database, end: str) -> None:
    key = queue(database)
    job = leased(database)
    later = queue(database, "1.2.2")
    if end == "interrupted":
        with database.writing() as uow:
            jobs.interrupt_job(uow, job.id, job.attempt)
            uow.commit()
    else:
        fail(database, job, transient=end == "failed")
    if end == "retried":
        with database.writing() as uow:
            retry_study(uow, STUDY)
            uow.commit()
    make_due(database)
    assert [leased(database).id, leased(database).id] == [key, later]


def test_a_back_off_lets_others_pass(database: Database) -> None:
    key = queue(database)
    fail(database, leased(database))
    later = queue(database, "1.2.2")
    assert leased(database).id == later
    assert lease(database) is None
    make_due(database)
    assert leased(database).id == key


def test_what_does_not_fit_beside_what_runs_is_overtaken_for_a_minute_and_no_longer(database: Database) -> None:
    running = queue(database, "1.2.1", model="small")
    assert leased(database, fits=alone).id == running
    large = queue(database, "1.2.2", model="large")
    small = [queue(database, f"1.2.{number}", model="small") for number in (3, 4)]
    assert leased(database, "keeper-2", fits=alone).id == small[0]
    let_pass(database, large, 61)
    assert lease(database, "keeper-3", fits=alone) is None
    with database.reading() as uow:
        assert jobs.is_work_waiting(uow)
        assert not jobs.is_work_waiting(uow, alone)
    finish(database, running)
    finish(database, small[0])
    assert leased(database, fits=alone).id == large  # alone, whatever `alone` says of it
    assert lease(database, "keeper-2", fits=alone) is None
    finish(database, large)
    assert leased(database, fits=alone).id == small[1]


def test_what_fits_is_asked_once_for_each_model_in_the_order_of_their_first_jobs(database: Database) -> None:
    leased_first = queue(database, "1.2.0", model="runs")
    assert leased(database, "node/keeper/7").id == leased_first
    for number, model in enumerate(("b", "a", "b", "a", "c", "b"), start=1):
        queue(database, f"1.2.{number}", model=model)
    asked: list[tuple[str, Sequence[jobs.RunningJob]]] = []

    def nothing(model: str, running: Sequence[jobs.RunningJob]) -> bool:
        asked.append((model, running))
        return False

    assert lease(database, fits=nothing) is None
    beside = [jobs.RunningJob("node/keeper/7", "runs")]
    assert asked == [("b", beside), ("a", beside), ("c", beside)]


def test_two_that_lease_at_once_do_not_judge_by_the_same_running_jobs(tmp_path: Path) -> None:
    """SQLite has one writer at a time; on PostgreSQL the second must wait for the first."""
    with migrated("postgresql", tmp_path) as database:
        for number in range(3):
            queue(database, f"1.2.{number}")
        leased(database)
        waited = []

        def judge(_model: str, _running: Sequence[jobs.RunningJob]) -> bool:
            with pytest.raises(DatabaseUnavailable, match="LockNotAvailable"):
                lease_without_waiting(database)
            waited.append(True)
            return True

        assert lease(database, "keeper-2", fits=judge) is not None
        assert waited == [True]


def test_only_the_very_first_of_the_queue_is_waited_for(database: Database) -> None:
    assert queue(database, "1.2.0", model="small") == leased(database).id
    second = queue(database, "1.2.1", model="larger")
    queue(database, "1.2.2", model="large", priority=9)
    small = queue(database, "1.2.3", model="small")
    let_pass(database, second, 61)
    assert leased(database, fits=lambda model, _running: model == "small").id == small


def lease_without_waiting(database: Database) -> None:
    with database.writing() as uow:
        uow.execute(text("SET LOCAL lock_timeout = '20ms'"))
        jobs.lease_job(uow, "keeper-3", 30)


def finish(database: Database, key: int) -> None:
    job = the_job(database, key)
    with database.writing() as uow:
        jobs.finish_job(uow, job.id, job.attempt, [], [], {})
        uow.commit()


def test_a_finished_job_has_its_results_and_what_is_owed(database: Database) -> None:
    queue(database)
    job, made = leased(database), results()
    owed = [Outgoing(peer, position, result) for peer in ("pacs", "archive") for position, result in enumerate(made)]
    with database.writing() as uow:
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {"seconds": 1.5})
        uow.commit()
    found = record(database)
    assert found.summary.state is StudyState.REPORTED
    assert found.results == tuple((job.id, result) for result in made)
    assert [(d.peer, d.position, d.result) for d in found.deliveries] == [
        (each.peer, each.position, each.result) for each in sorted(owed, key=lambda each: each.peer)
    ]
    assert found.jobs[0].details == {"seconds": 1.5}
    assert found.jobs[0].ended_at is not None
    assert [event.kind for event in found.events][-2:] == ["job_started", "job_done"]


def test_a_delivery_of_a_foreign_object_ends_nothing(database: Database) -> None:
    queue(database)
    job = leased(database)
    with database.writing() as uow, pytest.raises(ArchiveError, match="not among"):
        jobs.finish_job(uow, job.id, job.attempt, [], [Outgoing("pacs", 0, results()[0])], {})
    assert the_job(database, job.id).state is JobState.RUNNING


def test_a_worker_that_lost_its_lease_can_commit_nothing(database: Database) -> None:
    queue(database)
    late = leased(database)
    let_leases_run_out(database)
    other = leased(database, "keeper-2")
    assert (other.id, other.attempt, other.interruptions) == (late.id, 2, 1)
    writes = (
        lambda uow: jobs.finish_job(uow, late.id, late.attempt, results(), [], {}),
        lambda uow: jobs.refuse_job(uow, late.id, late.attempt, CRASH),
        lambda uow: jobs.fail_attempt(uow, late.id, late.attempt, CRASH, transient=True),
        lambda uow: jobs.interrupt_job(uow, late.id, late.attempt),
        lambda uow: jobs.renew_lease(uow, late.id, late.attempt, "keeper-1", 30),
    )
    for write in writes:
        with database.writing() as uow, pytest.raises(LeaseLost):
            write(uow)
    assert the_job(database, late.id) == other
    with database.writing() as uow:
        jobs.finish_job(uow, other.id, other.attempt, results(), [], {})
        uow.commit()
    assert len(record(database).results) == 2


def test_a_renewed_lease_does_not_run_out(database: Database) -> None:
    queue(database)
    job = leased(database)
    let_leases_run_out(database)
    with database.writing() as uow:
        jobs.renew_lease(uow, job.id, job.attempt, "keeper-1", 30)
        uow.commit()
    assert lease(database, "keeper-2") is None


def test_three_crashes_are_the_limit_and_the_attempts_between_wait(database: Database) -> None:
    key = queue(database)
    for crashes in (1, 2):
        job = leased(database)
        assert fail(database, job) is JobState.QUEUED
        assert lease(database) is None
        waiting = the_job(database, key)
        assert (waiting.crashes, waiting.reason) == (crashes, CRASH)
        make_due(database)
    assert fail(database, leased(database)) is JobState.FAILED
    make_due(database)
    assert lease(database) is None
    found = record(database)
    assert found.summary.state is StudyState.FAILED
    assert found.summary.reason == CRASH
    assert [event.kind for event in found.events].count("job_attempt_failed") == 2


@pytest.mark.parametrize("transient", [True, False])
def test_how_a_failed_attempt_went_is_kept_and_is_the_last_ones(database: Database, transient: bool) -> None:
    key = queue(database)
    fail(database, leased(database), details={"device": "cuda:0", "seconds": {"load": 1.5}})
    assert the_job(database, key).details == {"device": "cuda:0", "seconds": {"load": 1.5}}
    make_due(database)
    again = leased(database)
    with database.writing() as uow:
        jobs.interrupt_job(uow, again.id, again.attempt)
        uow.commit()
    assert the_job(database, key).details["device"] == "cuda:0"  # an interruption tells nothing
    fail(database, leased(database), transient=transient, details={"device": "cpu"})
    assert the_job(database, key).details == {"device": "cpu"}


def test_what_trying_again_can_not_help_fails_at_once(database: Database) -> None:
    queue(database)
    assert fail(database, leased(database), transient=False) is JobState.FAILED


def test_interruptions_never_make_a_job_fail(database: Database) -> None:
    key = queue(database)
    for interruptions in range(1, 9):
        job = leased(database)
        with database.writing() as uow:
            assert jobs.interrupt_job(uow, job.id, job.attempt) is JobState.QUEUED
            uow.commit()
        after = the_job(database, key)
        assert (after.interruptions, after.crashes) == (interruptions, 0)
        assert after.not_before is not None
        assert after.started_at is not None
        assert after.not_before - after.started_at < timedelta(seconds=120)
        make_due(database)


def test_the_first_interruption_costs_no_time(database: Database) -> None:
    queue(database)
    job = leased(database)
    with database.writing() as uow:
        jobs.interrupt_job(uow, job.id, job.attempt)
        uow.commit()
    assert leased(database).attempt == 2


def test_a_refusal_by_the_model_is_no_failure(database: Database) -> None:
    queue(database)
    job = leased(database)
    with database.writing() as uow:
        jobs.refuse_job(uow, job.id, job.attempt, Reason("TargetNotInFieldOfView", "No lungs."), {"slices": 3})
        uow.commit()
    found = record(database)
    assert found.summary.state is StudyState.REFUSED
    assert found.jobs[0].details == {"slices": 3}


def test_a_dead_nodes_jobs_are_released_and_a_living_nodes_are_not(database: Database) -> None:
    dead, alive = queue(database, "1.2.1"), queue(database, "1.2.2")
    assert leased(database, "node-1/keeper").id == dead
    assert leased(database, "node-10/keeper").id == alive
    with database.writing() as uow:
        assert jobs.release_orphans(uow, "node-1/") == 1
        uow.commit()
    assert the_job(database, dead).state is JobState.QUEUED
    assert the_job(database, alive).state is JobState.RUNNING
    with database.writing() as uow:
        assert jobs.release_orphans(uow, "node_1") == 0  # an underscore is no wildcard


def test_an_interrupted_job_of_an_older_revision_does_not_run_again(database: Database) -> None:
    key = queue(database)
    job = leased(database)
    queue(database, numbers=(1, 2))
    assert not the_job(database, key).current
    with database.writing() as uow:
        assert jobs.interrupt_job(uow, job.id, job.attempt) is JobState.SUPERSEDED
        uow.commit()
    assert leased(database).id != key
    assert lease(database) is None


def test_threads_that_lease_at_once_never_get_the_same_job(database: Database) -> None:
    keys = {queue(database, f"1.2.{number}") for number in range(12)}
    taken: list[tuple[int, int]] = []
    errors: list[Exception] = []
    together = threading.Barrier(4)

    def work(owner: str) -> None:
        together.wait()
        try:
            while (job := lease(database, owner)) is not None:
                taken.append((job.id, job.attempt))
        except Exception as error:  # noqa: BLE001 - handed to the test's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"keeper-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(taken) == [(key, 1) for key in sorted(keys)]


def _lease_all(url: str, owner: str, taken: multiprocessing.SimpleQueue[int]) -> None:
    database = Database.open(url)
    while (job := lease(database, owner)) is not None:
        taken.put(job.id)
    taken.put(-1)
    database.close()


def test_processes_that_lease_at_once_never_get_the_same_job(tmp_path: Path) -> None:
    with migrated("sqlite", tmp_path) as database:
        keys = [queue(database, f"1.2.{number}") for number in range(12)]
        context = multiprocessing.get_context("spawn")
        taken = context.SimpleQueue()
        url = f"sqlite:///{tmp_path / 'hilum.db'}"
        workers = [context.Process(target=_lease_all, args=(url, f"keeper-{n}", taken)) for n in range(2)]
        for worker in workers:
            worker.start()
        got: list[int] = []
        while got.count(-1) < len(workers):
            got.append(taken.get())
        for worker in workers:
            worker.join(30)
            worker.close()
        assert sorted(key for key in got if key != -1) == keys


def test_a_backlog_does_not_slow_the_lease_down(database: Database) -> None:
    queue(database)
    _multiply(database, 2000)
    assert leased(database).attempt == 1

    def nothing(_model: str, _running: Sequence[jobs.RunningJob]) -> bool:
        return False

    looks: tuple[Callable[[UnitOfWork], object], ...] = (
        lambda uow: jobs.lease_job(uow, "keeper", 30),
        lambda uow: jobs.lease_job(uow, "keeper", 30, nothing),
        lambda uow: (jobs.is_work_waiting(uow), jobs.is_work_waiting(uow, nothing)),
    )
    for look in looks:
        plans = query_plans(database, look)
        assert "ix_job_turn" in plans
        assert "ix_job_expiry" in plans
        assert "SCAN job" not in plans
        assert "TEMP B-TREE" not in plans
        assert "Seq Scan on job" not in plans
        assert "Sort" not in plans


def _multiply(database: Database, count: int) -> None:
    """Add jobs that wait, each of a study of its own."""
    with database.writing() as uow:
        study = dict(uow.execute(select(*StudyRow.__table__.c)).mappings().one())
        revision = dict(uow.execute(select(*RevisionRow.__table__.c)).mappings().one())
        job = dict(uow.execute(select(*JobRow.__table__.c)).mappings().one())
        for values in (study, revision, job):
            del values["id"]
        studies = [study | {"study_instance_uid": f"1.3.{number}"} for number in range(count)]
        uow.execute(insert(StudyRow), studies)
        keys = list(uow.execute(select(StudyRow.id).where(StudyRow.study_instance_uid.startswith("1.3."))).scalars())
        uow.execute(insert(RevisionRow), [revision | {"study": key} for key in keys])
        revisions = uow.execute(select(RevisionRow.study, RevisionRow.id).where(RevisionRow.study.in_(keys)))
        rows = [
            job | {"study": row.study, "revision": row.id, "not_before": START, "turn_at": START} for row in revisions
        ]
        uow.execute(insert(JobRow), rows)
        uow.execute(text("ANALYZE"))
        uow.commit()
