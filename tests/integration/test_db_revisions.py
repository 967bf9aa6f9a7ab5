"""Closing a study: new work for new images, none for anything else, and never the same work twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.images.index import add_instances, generation, instances_of_job, studies_due
from db.overview.queries import retry_study, study_record
from db.tables import JobRow
from db.work import jobs
from db.work.revisions import ClosedRevision, close_study
from study.entities import Job, PlannedJob, StoredInstance, StudyRecord, Verdict
from study.errors import ArchiveError, Reason
from study.states import JobState, StudyState, VerdictOutcome
from study.urgency import HEAD_START_SECONDS
from tests.support.databases import DIALECTS, STUDY, migrated, planned, stored, with_parameters

REFUSAL = Reason("MissingSlices", "2 slices are missing.", {"missing": 2})
CHOSEN = Verdict("lung_ct", "1.2.3", 3, "Körper", "echo time 4.6 ms", VerdictOutcome.CHOSEN)
REFUSED = Verdict("spleen", "1.2.4", None, "", "", VerdictOutcome.REFUSED, (REFUSAL, Reason("GantryTilt", "Tilted.")))


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def add(database: Database, instances: Sequence[StoredInstance]) -> None:
    with database.writing() as uow:
        add_instances(uow, instances)
        uow.commit()


def close(
    database: Database,
    plan: Sequence[PlannedJob],
    words: str = "no model wants it",
    verdicts: Sequence[Verdict] = (),
) -> ClosedRevision:
    with database.writing() as uow:
        closed = close_study(uow, STUDY, plan, words, generation(uow, STUDY), verdicts)
        uow.commit()
    return closed


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def run_next(database: Database) -> Job:
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.finish_job(uow, job.id, job.attempt, [], [], {})
        uow.commit()
    return job


def states(database: Database) -> list[tuple[JobState, bool]]:
    return [(job.state, job.current) for job in record(database).jobs]


def test_a_complete_study_gets_a_revision_and_its_jobs(database: Database) -> None:
    slices = [stored(3), stored(1), stored(2)]
    add(database, [stored(1), stored(2), stored(3)])
    assert record(database).summary.state is StudyState.RECEIVING
    closed = close(database, [planned(slices)])
    assert closed == ClosedRevision(closed=True, revision=1, created=True, job_ids=closed.job_ids)
    found = record(database)
    assert found.summary.state is StudyState.COMPLETE
    assert [event.kind for event in found.events] == ["first_instance", "complete", "job_queued"]
    assert found.events[1].numbers == {"instances": 3, "series": 1}
    (job,) = found.jobs
    assert (job.state, job.revision, job.attempt, job.parameters) == (
        JobState.QUEUED, 1, 0, {"frame_of_reference": "strict"},
    )  # fmt: skip
    with database.reading() as uow:
        assert instances_of_job(uow, job.id) == slices


def test_a_late_slice_makes_a_new_revision_and_job(database: Database) -> None:
    first, late = [stored(1), stored(2)], stored(3, seconds=100)
    add(database, first)
    close(database, [planned(first)])
    done = run_next(database)
    add(database, [late])
    assert record(database).summary.state is StudyState.RECEIVING
    closed = close(database, [planned([*first, late])])
    assert (closed.revision, closed.created) == (2, True)
    assert states(database) == [(JobState.DONE, False), (JobState.QUEUED, True)]
    assert record(database).summary.state is StudyState.COMPLETE
    with database.reading() as uow:
        assert instances_of_job(uow, done.id) == first
        assert instances_of_job(uow, closed.job_ids[0]) == [*first, late]
    assert "late_instances" in [event.kind for event in record(database).events]


def test_an_unrelated_instance_makes_neither_revision_nor_job(database: Database) -> None:
    slices = [stored(1), stored(2)]
    add(database, slices)
    close(database, [planned(slices)])
    run_next(database)
    for number in range(3):
        add(database, [stored(10 + number, series="1.2.826.0.1.1.99", seconds=100 + number)])
        closed = close(database, [planned(slices)])
        assert (closed.closed, closed.revision, closed.created) == (True, 1, False)
    assert states(database) == [(JobState.DONE, True)]
    assert record(database).summary.state is StudyState.DELIVERED


def test_other_bytes_of_a_slice_make_a_new_job_that_reads_them(database: Database) -> None:
    old, new = stored(1), stored(1, content="corrected", seconds=50)
    add(database, [old, stored(2)])
    close(database, [planned([old, stored(2)])])
    add(database, [new])
    closed = close(database, [planned([new, stored(2)])])
    assert closed.revision == 2
    assert states(database) == [(JobState.SUPERSEDED, False), (JobState.QUEUED, True)]
    with database.reading() as uow:
        assert instances_of_job(uow, closed.job_ids[0]) == [new, stored(2)]


def test_bytes_that_are_taken_back_make_the_old_job_current_again(database: Database) -> None:
    old, new = stored(1), stored(1, content="wrong", seconds=50)
    add(database, [old])
    first = close(database, [planned([old])])
    run_next(database)
    add(database, [new])
    close(database, [planned([new])])
    add(database, [stored(1, seconds=90)])
    again = close(database, [planned([old])])
    assert again.job_ids == first.job_ids
    assert states(database) == [(JobState.DONE, True), (JobState.SUPERSEDED, False)]


def test_instances_that_arrive_while_the_plan_is_made_keep_the_study_open(database: Database) -> None:
    add(database, [stored(1)])
    with database.reading() as uow:
        seen = generation(uow, STUDY)
    add(database, [stored(2, seconds=-100)])  # received earlier, indexed later
    with database.writing() as uow:
        closed = close_study(uow, STUDY, [planned([stored(1)])], "", seen)
        uow.commit()
    assert closed == ClosedRevision(closed=False, revision=0)
    assert record(database).jobs == ()
    assert record(database).summary.state is StudyState.RECEIVING


def test_a_study_that_no_model_wants_says_why_once(database: Database) -> None:
    add(database, [stored(1)])
    assert close(database, [], "The modality is MR.").created
    add(database, [stored(2, seconds=100)])
    assert not close(database, [], "The modality is MR, too.").created
    found = record(database)
    assert found.summary.state is StudyState.NOT_SELECTED
    assert found.summary.reason == Reason("NotSelected", "The modality is MR, too.")
    assert found.revision == 1
    assert [event.kind for event in found.events].count("not_selected") == 1


def test_a_refusal_is_a_job_of_its_own_and_shown_with_its_numbers(database: Database) -> None:
    add(database, [stored(1)])
    close(database, [planned([stored(1)], refusal=REFUSAL)])
    found = record(database)
    assert found.summary.state is StudyState.REFUSED
    assert found.summary.reason == REFUSAL
    assert found.jobs[0].reason == REFUSAL
    assert found.events[-1].numbers == {"code": "MissingSlices", "missing": 2}
    with database.writing() as uow:
        assert jobs.lease_job(uow, "keeper", 30) is None


def test_a_refusal_that_holds_no_more_is_queued_and_one_by_the_model_itself_is_not(database: Database) -> None:
    add(database, [stored(1)])
    (key,) = close(database, [planned([stored(1)], refusal=REFUSAL)]).job_ids
    close(database, [planned([stored(1)])])
    assert states(database) == [(JobState.QUEUED, True)]
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        assert job.id == key
        jobs.refuse_job(uow, job.id, job.attempt, Reason("TargetNotInFieldOfView", "No lungs."))
        uow.commit()
    close(database, [planned([stored(1)])])
    assert states(database) == [(JobState.REFUSED, True)]


def test_other_settings_make_another_job(database: Database) -> None:
    add(database, [stored(1)])
    close(database, [planned([stored(1)], refusal=REFUSAL)])
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    closed = close(database, [with_parameters(planned([stored(1)]), "q" * 64)])
    assert closed.revision == 2
    assert states(database) == [(JobState.REFUSED, False), (JobState.QUEUED, True)]
    with database.reading() as uow:
        assert studies_due(uow, 0, uow.now()) == []


def test_one_models_new_job_leaves_another_models_job_alone(database: Database) -> None:
    add(database, [stored(1)])
    close(database, [planned([stored(1)], model="a"), planned([stored(1)], model="b")])
    add(database, [stored(2, seconds=9)])
    close(database, [planned([stored(1), stored(2)], model="a"), planned([stored(1)], model="b")])
    assert [(job.model_name, job.state, job.current) for job in record(database).jobs] == [
        ("a", JobState.SUPERSEDED, False),
        ("b", JobState.QUEUED, True),
        ("a", JobState.QUEUED, True),
    ]


def test_what_waits_for_a_model_that_is_gone_is_superseded(database: Database) -> None:
    add(database, [stored(1)])
    close(database, [planned([stored(1)])])
    closed = close(database, [], "No model is configured.")
    assert (closed.revision, closed.created) == (2, True)
    assert states(database) == [(JobState.SUPERSEDED, False)]
    assert record(database).summary.state is StudyState.NOT_SELECTED


def test_a_plan_that_names_a_foreign_instance_changes_nothing(database: Database) -> None:
    add(database, [stored(1)])
    with pytest.raises(ArchiveError, match="does not hold"):
        close(database, [planned([stored(1), stored(2)])])
    assert record(database).jobs == ()


def test_what_models_said_is_kept_and_a_newer_look_replaces_it(database: Database) -> None:
    add(database, [stored(1)])
    assert record(database).verdicts == ()
    close(database, [planned([stored(1)])], verdicts=[CHOSEN, REFUSED])
    assert record(database).verdicts == (CHOSEN, REFUSED)
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    assert record(database).verdicts == (CHOSEN, REFUSED)
    close(database, [planned([stored(1)])], verdicts=[CHOSEN])
    assert record(database).verdicts == (CHOSEN,)


def test_what_models_said_of_instances_that_are_outdated_is_not_kept(database: Database) -> None:
    add(database, [stored(1)])
    with database.reading() as uow:
        seen = generation(uow, STUDY)
    add(database, [stored(2)])
    with database.writing() as uow:
        assert not close_study(uow, STUDY, [], "none", seen, [REFUSED]).closed
        uow.commit()
    assert record(database).verdicts == ()


def urgent(job: PlannedJob, priority: int, rule: str = "emergency") -> PlannedJob:
    return replace(job, priority=priority, parameters=job.parameters | {"urgent": rule})


def turns(database: Database) -> dict[str, tuple[int, float]]:
    """Return of each model's current job its priority, and how long before it was entered its turn is [s]."""
    with database.reading() as uow:
        rows = uow.execute(select(JobRow.model_name, JobRow.priority, JobRow.created_at, JobRow.turn_at))
        return {row.model_name: (row.priority, (row.created_at - row.turn_at).total_seconds()) for row in rows}


def queued_events(database: Database) -> list[tuple[str, int | None]]:
    events = [event for event in record(database).events if event.kind == "job_queued"]
    return [(event.words, event.numbers.get("priority")) for event in events]


def test_an_urgent_study_is_said_to_be_and_its_jobs_have_a_head_start(database: Database) -> None:
    add(database, [stored(1)])
    close(
        database, [urgent(planned([stored(1)], model="a"), 102), replace(planned([stored(1)], model="b"), priority=2)]
    )
    assert turns(database) == {"a": (102, 102 * HEAD_START_SECONDS), "b": (2, 2 * HEAD_START_SECONDS)}
    assert [job.priority for job in record(database).jobs] == [102, 2]
    assert queued_events(database) == [
        ("a is queued for 1 instance(s), urgent: emergency.", 102),
        ("b is queued for 1 instance(s).", 2),
    ]


def test_a_job_that_waits_takes_over_a_new_priority_and_keeps_how_long_it_has_waited(database: Database) -> None:
    add(database, [stored(1)])
    plan = [planned([stored(1)], model="a"), planned([stored(1)], model="b")]
    close(database, plan)
    with database.writing() as uow:
        running = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert running is not None
    for priority in (100, 100):  # the second time nothing is new
        close(database, [urgent(job, priority) for job in plan])
    assert running.model_name == "a"
    assert turns(database) == {"a": (0, 0), "b": (100, 100 * HEAD_START_SECONDS)}
    assert queued_events(database)[2:] == [("b waits with priority 100 from now on, urgent: emergency.", 100)]
    close(database, plan)
    assert turns(database) == {"a": (0, 0), "b": (0, 0)}
    assert queued_events(database)[3:] == [("b waits with priority 0 from now on.", None)]


def test_a_job_that_is_queued_again_has_a_turn_of_its_own(database: Database) -> None:
    add(database, [stored(1)])
    close(database, [planned([stored(1)])])
    close(database, [])  # no model wants it: it is superseded
    with database.writing() as uow:
        past = uow.now() - timedelta(hours=5)
        uow.execute(update(JobRow).values(created_at=past, turn_at=past))
        uow.commit()
    close(database, [urgent(planned([stored(1)]), 1)])
    priority, ahead = turns(database)["lung_ct"]
    assert priority == 1
    assert ahead == pytest.approx(HEAD_START_SECONDS - 5 * 3600, abs=60)
    assert queued_events(database)[-1] == ("lung_ct is queued again, urgent: emergency.", 1)
