"""A database that an older version left in the middle of its work goes on after the migration."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, MetaData, Table, create_engine

from db import schema
from db.delivery import outbox
from db.engine import Database
from db.images import index
from db.lasting.dispensable import Ground, Limits, kept_studies, used_bytes
from db.overview.queries import study_record
from db.overview.tending import resend, sendable
from db.work import jobs, notices
from study.entities import StudyRecord
from study.forms import Form
from study.states import DeliveryState, JobState
from tests.support.databases import DIALECTS, START, STUDY, empty_url, stored
from tests.support.outbox import deliver, lease

BEFORE = "0004"  # priorities; no commitment, no withdrawals, nothing on completeness


class Old:
    """A database of the older version, filled as that version filled it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables = MetaData()
        self._tables.reflect(connection)

    def add(self, name: str, **values: Any) -> int:  # noqa: ANN401 - a column's value
        """Insert a row; what is not given is empty."""
        table: Table = self._tables.tables[name]
        empty = {
            column.name: _empty(column.type.python_type)
            for column in table.c
            if not column.nullable and column.server_default is None and column.name != "id"
        }
        inserted = self._connection.execute(table.insert().values(empty | values))
        key = inserted.inserted_primary_key
        assert key is not None
        return int(key[0])


def _empty(kind: type) -> Any:  # noqa: ANN401 - a column's value
    return {str: "", int: 0, bool: False, float: 60.0, datetime: START}.get(kind, {})


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = empty_url(request.param, tmp_path)
    engine, config = create_engine(url), schema.migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, BEFORE)
        _fill(Old(connection))
    engine.dispose()
    database = Database.open(url)
    database.migrate()
    yield database
    database.close()


def _fill(old: Old) -> None:
    patient = old.add("patient", patient_id="P1", identity_digest="d")
    study = old.add(
        "study", study_instance_uid=STUDY, patient=patient, accession_number="A123", generation=1, evaluation_due=False
    )
    series = old.add("series", study=study, series_instance_uid=f"{STUDY}.1", modality="CT")
    image = stored(1)
    instance = old.add(
        "instance",
        study=study,
        series=series,
        sop_instance_uid=image.header.sop_instance_uid,
        digest=image.digest,
        current=True,
        header=image.header.to_json(),
        path=image.path,
        size=image.size,
        calling_ae_title="MODALITY",
    )
    revision = old.add("revision", study=study, number=1)

    def job(state: JobState, model: str, **values: Any) -> int:  # noqa: ANN401 - a column's value
        own = {"study": study, "revision": revision, "model_name": model, "model_digest": "m", "state": state.value}
        key = old.add("job", **own, current=True, **values)
        old.add("job_instance", job=key, position=0, instance=instance)
        return key

    job(JobState.QUEUED, "second", turn_at=START + timedelta(hours=1))
    job(JobState.QUEUED, "first", turn_at=START)
    job(JobState.RUNNING, "third", attempt=1, lease_owner="gone", lease_until=START, turn_at=START + timedelta(hours=2))
    refused = job(JobState.REFUSED, "refusing", reason={"code": "GantryTilt", "words": "Tilted.", "numbers": {}})
    old.add("notice", study=study, job=refused)
    done = job(JobState.DONE, "done", attempt=1, ended_at=START)
    states = {
        "seg": (DeliveryState.PENDING, DeliveryState.DELIVERED),
        "sr": (DeliveryState.PENDING, DeliveryState.KEPT_ASIDE),
    }
    for position, (form, (of_pacs, of_viewer)) in enumerate(states.items()):
        result = old.add(
            "result", job=done, form=form, sop_instance_uid=f"{STUDY}.7.{position}", path=f"results/{form}.dcm"
        )
        for peer, state in (("pacs", of_pacs), ("viewer", of_viewer)):
            own = {"study": study, "job": done, "result": result, "peer": peer, "position": position}
            old.add("delivery", **own, state=state.value, problem=state is DeliveryState.KEPT_ASIDE)


def record(database: Database) -> StudyRecord:
    with database.reading() as uow:
        found = study_record(uow, STUDY)
    assert found is not None
    return found


def test_queued_jobs_run_in_their_order_and_one_that_ran_is_taken_over(database: Database) -> None:
    with database.writing() as uow:
        taken = [jobs.lease_job(uow, f"keeper-{number}", 30) for number in range(3)]
        uow.commit()
    assert [job and (job.model_name, job.attempt) for job in taken] == [("first", 1), ("second", 1), ("third", 2)]
    with database.reading() as uow:
        assert [each.path for each in index.instances_of_job(uow, record(database).jobs[0].id)] == [stored(1).path]


def test_what_is_owed_is_delivered_in_its_order_and_nothing_else(database: Database) -> None:
    sent = lease(database)
    assert [(each.peer, each.result.form) for each in sent] == [("pacs", "seg"), ("pacs", "sr")]
    for each in sent:
        deliver(database, each)
    assert lease(database, "viewer") == []
    states = {(each.peer, each.result.form): each.state for each in record(database).deliveries}
    assert states == {
        ("pacs", "seg"): DeliveryState.DELIVERED,
        ("pacs", "sr"): DeliveryState.DELIVERED,
        ("viewer", "seg"): DeliveryState.DELIVERED,
        ("viewer", "sr"): DeliveryState.KEPT_ASIDE,
    }
    with database.writing() as uow:
        resend(uow, STUDY, sendable(uow, STUDY), "bob")
        uow.commit()
    assert [each.result.form for each in lease(database, "viewer", owner="sender-2")] == [Form.SEG.value]


def test_a_refusal_report_that_was_owed_is_written(database: Database) -> None:
    with database.writing() as uow:
        notice = notices.lease_notice(uow, "keeper", 60)
        uow.commit()
    assert notice is not None
    assert (notice.job.model_name, notice.job.reason and notice.job.reason.code) == ("refusing", "GantryTilt")


def test_a_sender_that_died_with_the_old_program_lets_go(database: Database) -> None:
    assert len(lease(database, owner="old/sender/1")) == 2
    with database.writing() as uow:
        assert outbox.release_orphans(uow, "old/") == 2
        uow.commit()
    assert len(lease(database, owner="new/sender/1")) == 2


def test_what_was_here_is_counted(database: Database) -> None:
    with database.reading() as uow:
        assert used_bytes(uow) == stored(1).size
        (kept,) = kept_studies(uow, Limits())
    assert (kept.size, kept.ground) == (stored(1).size, Ground.AT_WORK)
