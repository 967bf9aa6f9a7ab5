"""The schema: migrations give what the models say, concurrently too, and another revision is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert, text

from db import schema
from db.engine import Database
from db.images.index import generation
from db.overview.queries import list_studies, study_record
from db.tables import JobRow, PatientRow, RevisionRow, StudyRow, Table
from db.work import jobs
from db.work.revisions import close_study
from study.entities import Verdict
from study.errors import SchemaMismatch
from study.states import JobState, StudyState, VerdictOutcome
from tests.support.databases import DIALECTS, START, STUDY, empty_url


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_url(request.param, tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


def test_migrations_make_what_the_models_say(database: Database, url: str) -> None:
    database.migrate()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_a_difference_between_models_and_migrations_is_noticed(database: Database, url: str) -> None:
    database.migrate()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_job_turn"))
        connection.execute(text("ALTER TABLE event DROP COLUMN words"))
        context = MigrationContext.configure(connection)
        assert len(compare_metadata(context, Table.metadata)) == 2
    engine.dispose()


def test_the_revision_that_is_checked_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(schema.migration_config()).get_heads() == [schema.REVISION]


def test_a_database_without_schema_is_refused_and_a_migrated_one_taken(database: Database) -> None:
    with pytest.raises(SchemaMismatch, match=r"not there yet.*hilum serve"):
        database.check_schema()
    database.migrate()
    database.check_schema()
    database.migrate()  # again changes nothing
    database.check_schema()


def test_the_schema_of_a_newer_program_is_refused(database: Database) -> None:
    database.migrate()
    with database.writing() as uow:
        uow.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        uow.commit()
    with pytest.raises(SchemaMismatch, match="9999"):
        database.check_schema()
    with pytest.raises(SchemaMismatch, match="does not know"):
        database.migrate()


def test_several_that_migrate_at_once_wait_for_each_other(url: str) -> None:
    errors: list[Exception] = []
    together = threading.Barrier(3)

    def migrate() -> None:
        database = Database.open(url)
        together.wait()
        try:
            database.migrate()
            database.check_schema()
        except Exception as error:  # noqa: BLE001 - handed to the test's thread
            errors.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_a_database_of_the_first_schema_keeps_its_studies_and_takes_verdicts(database: Database, url: str) -> None:
    _make_schema_with_a_study(url, "0001")
    with pytest.raises(SchemaMismatch, match=r"0001.*hilum serve"):
        database.check_schema()
    database.migrate()
    database.check_schema()
    with database.reading() as uow:
        (summary,) = list_studies(uow)
        before = study_record(uow, STUDY)
    assert (summary.study_instance_uid, summary.patient_id, summary.accession_number) == (STUDY, "P1", "A123")
    assert (summary.state, summary.last_received_at) == (StudyState.NOT_SELECTED, START)
    assert before is not None
    assert (before.revision, before.verdicts) == (1, ())
    verdict = Verdict("toy", "1.2.3", None, "", "", VerdictOutcome.ACCEPTED)
    with database.writing() as uow:
        close_study(uow, STUDY, [], "still nothing", generation(uow, STUDY), [verdict])
        uow.commit()
    with database.reading() as uow:
        after = study_record(uow, STUDY)
    assert after is not None
    assert after.verdicts == (verdict,)


def test_jobs_that_waited_in_a_database_without_turns_run_in_the_order_in_which_they_came(
    database: Database, url: str
) -> None:
    _make_schema_with_a_study(url, "0003", hours=(2, 0, 1))
    database.migrate()
    database.check_schema()
    with database.writing() as uow:
        leased = [jobs.lease_job(uow, f"keeper-{number}", 30) for number in range(3)]
        assert jobs.lease_job(uow, "keeper", 30) is None
        uow.commit()
    assert [job and (job.model_name, job.priority, job.attempt) for job in leased] == [
        ("after 0 h", 0, 1),
        ("after 1 h", 0, 1),
        ("after 2 h", 0, 1),
    ]


def _make_schema_with_a_study(url: str, revision_of_schema: str, hours: Sequence[int] = ()) -> None:
    """Make a database as an earlier version left it, with a job that was entered each of some hours after the start."""
    engine = create_engine(url)
    config = schema.migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision_of_schema)
        patient = dict.fromkeys(("issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex"), "")
        connection.execute(insert(PatientRow), [patient | {"identity_digest": "d", "patient_id": "P1"}])
        study = {
            "study_instance_uid": STUDY,
            "patient": 1,
            "accession_number": "A123",
            "study_description": "Phantom",
            "study_date": "20260102",
            "first_received_at": START,
            "last_received_at": START,
            "generation": 4,
            "receiving": False,
            "evaluation_due": False,
        }
        connection.execute(insert(StudyRow), [study])
        revision = {"study": 1, "number": 1, "created_at": START, "not_selected": "nothing"}
        connection.execute(insert(RevisionRow), [revision])
        for later in hours:
            connection.execute(insert(JobRow), [_queued(f"after {later} h", START + timedelta(hours=later))])
    engine.dispose()


def _queued(model: str, at: datetime) -> dict[str, Any]:
    """Return a row that waits, with the columns that a job had before it had a turn."""
    texts = dict.fromkeys(("model_digest", "series_instance_uid", "instances_digest", "parameters_digest"), "d")
    counts = dict.fromkeys(("attempt", "crashes", "interruptions"), 0)
    own = {"study": 1, "revision": 1, "model_name": model, "state": JobState.QUEUED.value, "current": True}
    times = {"created_at": at, "not_before": at, "deadline_seconds": 60.0}
    return {"parameters": {}, "details": {}} | texts | counts | own | times
