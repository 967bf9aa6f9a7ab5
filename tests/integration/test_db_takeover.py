"""Two processes on one PostgreSQL: each job runs once, and the job of one that stops heart-beating is taken over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import pytest
from sqlalchemy import select, text

from db import engine
from db.engine import Database
from db.images.index import add_instances, generation
from db.tables import JobRow, ResultRow
from db.work import jobs
from db.work.revisions import close_study
from study.entities import Job
from study.errors import DatabaseUnavailable, LeaseLost
from study.states import JobState
from tests.support.databases import empty_url, planned, results, stored
from tests.support.network import wait_until

LEASE_SECONDS = 1.5
BEAT_SECONDS = 0.1


def queue(database: Database, study: str) -> int:
    images = [stored(1, study=study)]
    with database.writing() as uow:
        add_instances(uow, images)
        closed = close_study(uow, study, [planned(images)], "", generation(uow, study))
        uow.commit()
    return closed.job_ids[0]


def _work(url: str, owner: str, line: Connection) -> None:
    """Lease jobs and run them until told to stop; tell what becomes of each."""
    database = Database.open(url)
    while True:
        with database.writing() as uow:
            job = jobs.lease_job(uow, owner, LEASE_SECONDS)
            uow.commit()
        if job is not None:
            line.send(("leased", job.id, job.attempt))
            _run(database, owner, job, line)
        elif line.poll(BEAT_SECONDS):
            break
    database.close()


def _run(database: Database, owner: str, job: Job, line: Connection) -> None:
    """Renew the lease at every beat until told to end the job, or to freeze as a machine does."""
    held = True
    while (order := line.recv() if line.poll(BEAT_SECONDS) else "") != "end":
        if order == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if held:
            held = _renew(database, owner, job)
            line.send(("renewed" if held else "renewal lost", job.id, job.attempt))
    line.send(("done" if _finish(database, job) else "end lost", job.id, job.attempt))


def _renew(database: Database, owner: str, job: Job) -> bool:
    try:
        with database.writing() as uow:
            jobs.renew_lease(uow, job.id, job.attempt, owner, LEASE_SECONDS)
            uow.commit()
    except LeaseLost:
        return False
    return True


def _finish(database: Database, job: Job) -> bool:
    made = [replace(each, sop_instance_uid=f"1.2.{job.id}.{job.attempt}.{n}") for n, each in enumerate(results())]
    try:
        with database.writing() as uow:
            jobs.finish_job(uow, job.id, job.attempt, made, [], {})
            uow.commit()
    except LeaseLost:
        return False
    return True


@dataclass
class Worker:
    """A process that works, and the line to it."""

    pid: int
    line: Connection

    def hear(self, *words: str) -> tuple[str, int, int]:
        """Return the next that it says of these."""
        while self.line.poll(20):
            said: tuple[str, int, int] = self.line.recv()
            if said[0] in words:
                return said
        raise AssertionError(f"the worker did not say {words}")

    def tell(self, order: str) -> None:
        """Order it to "end" its job, to "freeze", or, where it has none, to "stop"."""
        self.line.send(order)


@contextlib.contextmanager
def worker(url: str, owner: str) -> Iterator[Worker]:
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_work, args=(url, owner, its))
    process.start()
    assert process.pid is not None
    try:
        yield Worker(process.pid, ours)
        ours.send("stop")
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_url("postgresql", tmp_path_factory.mktemp("database"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    database.migrate()
    yield database
    database.close()


def ends(database: Database) -> dict[int, tuple[str, int, int]]:
    """Return the state, attempts and number of results of each job."""
    with database.reading() as uow:
        made = Counter(uow.execute(select(ResultRow.job)).scalars())
        rows = uow.execute(select(JobRow.id, JobRow.state, JobRow.attempt))
        return {row.id: (row.state, row.attempt, made[row.id]) for row in rows}


def test_each_job_runs_once_and_that_of_a_frozen_worker_is_taken_over(url: str, database: Database) -> None:
    with worker(url, "node-a/keeper") as one, worker(url, "node-b/keeper") as two:
        keys = [queue(database, f"1.2.826.0.1.{number}") for number in range(1, 7)]
        ran = [each.hear("leased")[1] for each in (one, two)]  # each has one now
        for number in range(len(keys)):
            each = (one, two)[number % 2]
            each.tell("end")
            assert each.hear("done", "end lost")[0] == "done"
            if number < len(keys) - 2:
                ran.append(each.hear("leased")[1])
        assert sorted(ran) == keys
        assert ends(database) == dict.fromkeys(keys, (JobState.DONE, 1, 2))

        held = queue(database, "1.2.826.0.1.7")
        wait_until(lambda: one.line.poll() or two.line.poll(), what="a lease")
        first, other = (one, two) if one.line.poll() else (two, one)
        assert first.hear("leased")[1:] == (held, 1)
        since = time.monotonic()
        while time.monotonic() - since < 1.2 * LEASE_SECONDS:
            first.hear("renewed")
        assert not other.line.poll()  # the heart-beat keeps it
        first.tell("freeze")
        assert other.hear("leased")[1:] == (held, 2)
        os.kill(first.pid, signal.SIGCONT)
        assert first.hear("renewal lost")[1:] == (held, 1)
        first.tell("end")
        assert first.hear("done", "end lost")[0] == "end lost"
        following = queue(database, "1.2.826.0.1.8")
        assert first.hear("leased")[1:] == (following, 1)
        for each in (first, other):
            each.tell("end")
            assert each.hear("done", "end lost")[0] == "done"
        assert ends(database) == dict.fromkeys((*keys, following), (JobState.DONE, 1, 2)) | {
            held: (JobState.DONE, 2, 2)
        }


def _freeze_in_a_transaction(url: str, line: Connection) -> None:
    """Lease a job, and freeze when its renewal is written and not committed; tell what came of it after that."""
    engine._IDLE_WRITER_SECONDS = 1  # of this process
    database = Database.open(url)
    with database.writing() as uow:
        job = jobs.lease_job(uow, "node-a/keeper", LEASE_SECONDS)
        uow.commit()
    assert job is not None
    with contextlib.suppress(DatabaseUnavailable), database.writing() as uow:
        jobs.renew_lease(uow, job.id, job.attempt, "node-a/keeper", 100)
        line.send(("leased", job.id, job.attempt))
        os.kill(os.getpid(), signal.SIGSTOP)
        uow.commit()
    line.send(("done" if _finish(database, job) else "end lost", job.id, job.attempt))
    database.close()


def test_who_freezes_in_a_transaction_holds_its_locks_for_a_minute_and_no_longer(url: str, database: Database) -> None:
    held = queue(database, "1.2.826.0.1.9")
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_freeze_in_a_transaction, args=(url, its))
    process.start()
    assert process.pid is not None
    frozen = Worker(process.pid, ours)
    try:
        assert frozen.hear("leased") == ("leased", held, 1)
        wait_until(lambda: _lease_soon(database) == (held, 2), 10, "the job of the frozen one")
        os.kill(process.pid, signal.SIGCONT)
        assert frozen.hear("done", "end lost")[0] == "end lost"
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def _lease_soon(database: Database) -> tuple[int, int] | None:
    """Lease a job without waiting for the locks of others for long; return it, where there is one, with its attempt."""
    with contextlib.suppress(DatabaseUnavailable), database.writing() as uow:
        uow.execute(text("SET LOCAL lock_timeout = '100ms'"))
        job = jobs.lease_job(uow, "node-b/keeper", 30)
        uow.commit()
        return (job.id, job.attempt) if job else None
    return None
