"""What people see of jobs that ran: `hilum models report` and `hilum show`, on a database that the queue wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db.delivery.outbox import Outgoing
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.tables import JobRow
from db.work import jobs
from db.work.revisions import close_study
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.models.watching import read_report, run_report
from hilum.models.weeks import monday_of
from hilum.presenting import record_json, show_record
from study.errors import ArchiveError, Reason
from tests.support.databases import DIALECTS, migrated, planned, results, stored

MODEL = ModelSettings(name="lung_ct", bundle="builtin:lung_ct", deliver=False)
TILT = Reason("GantryTilt", "The slices are tilted.", {"degrees": 12.5})
CRASH = Reason("RunnerDied", "The process that ran the model ended by signal 9.", {"signal": 9})


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def settings_for(database: Database) -> Settings:
    url = database.url
    where = {"url": url} if database.dialect == "postgresql" else {}
    folder = Path(url.removeprefix("sqlite:///")).parent
    return Settings.model_validate({"database": where, "node": {"data_dir": folder}, "models": {"lung_ct": MODEL}})


def queue(database: Database, study: str, *, model: str = "lung_ct", numbers: int = 1, weeks_ago: int = 0) -> int:
    """Bring one job into the queue, as if some weeks ago."""
    slices = [stored(number, study=study) for number in range(numbers)]
    with database.writing() as uow:
        add_instances(uow, slices)
        (job,) = close_study(uow, study, [planned(slices, model=model)], "", generation(uow, study)).job_ids
        entered = uow.now() - timedelta(weeks=weeks_ago)
        uow.execute(update(JobRow).where(JobRow.id == job).values(created_at=entered))
        uow.commit()
    return job


def end(database: Database, details: Mapping[str, Any] | None = None, reason: Reason | None = None) -> int:
    """Lease the next job, and end it as its runner said."""
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper-1", 30)
        assert job is not None
        if reason is TILT:
            jobs.refuse_job(uow, job.id, job.attempt, reason, details)
        elif reason is CRASH:
            jobs.fail_attempt(uow, job.id, job.attempt, reason, transient=False, details=details)
        else:
            objects = results(job.study_instance_uid)
            owed = [Outgoing("pacs", 0, objects[0])] if job.model_name == "sent" else []
            jobs.finish_job(uow, job.id, job.attempt, objects, owed, details or {})
        uow.commit()
    return job.id


def analysed(volume: float | None = None, inference: float = 8.0) -> dict[str, Any]:
    measured = {"finding": "left_lung", "name": "Volume", "value": volume, "unit": "ml"}
    return {
        "seconds": {"inference": inference},
        "measurements": [measured] if volume is not None else [],
        "running": {"precision": "float32"},
    }


def this_week(database: Database) -> datetime:
    return monday_of(database.now())


def test_a_report_has_every_week_and_every_way_in_which_a_job_ends(database: Database) -> None:
    for number, (ago, details, reason) in enumerate(
        [
            (2, analysed(2000.0), None),
            (2, analysed(3000.0, 10.0), None),
            (2, analysed(None, 12.0), None),  # looked for, and not detected
            (2, {"seconds": {"inference": 9.0}}, None),  # of an earlier version
            (0, analysed(2500.0), None),
            (0, {}, TILT),
            (0, {"device": "cpu"}, CRASH),
        ]
    ):
        queue(database, f"1.2.{number}", weeks_ago=ago)
        end(database, details, reason)
    queue(database, "1.2.77")
    queue(database, "1.2.78", model="other")
    report = read_report(settings_for(database), "lung_ct", 8)
    assert [week.monday for week in report.weeks] == [this_week(database) - timedelta(weeks=ago) for ago in (2, 1, 0)]
    old, empty, new = report.weeks
    assert (len(old.studies), old.outcomes, old.recorded) == (4, {"done": 4}, 3)
    assert (old.inference, old.values) == ([8.0, 10.0, 12.0, 9.0], {("left_lung", "Volume", "ml"): [2000.0, 3000.0]})
    assert empty.outcomes.total() == 0
    assert new.outcomes == {"done": 1, "refused": 1, "failed": 1, "waiting": 1}
    assert report.reasons == {
        ("refused", "GantryTilt"): {new.name: 1},
        ("failed", "RunnerDied"): {new.name: 1},
    }
    assert (report.deliver, report.older_revisions) == (False, 0)
    assert all(value >= timedelta(weeks=2).total_seconds() for value in old.wait)


def test_only_the_weeks_that_are_asked_for_count(database: Database) -> None:
    for ago in (0, 1, 2):
        queue(database, f"1.2.{ago}", weeks_ago=ago)
    report = read_report(settings_for(database), "lung_ct", 2)
    assert [week.outcomes["waiting"] for week in report.weeks] == [1, 1]


def test_a_job_that_a_newer_revision_replaced_is_left_out_and_said(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    queue(database, "1.2.1")
    end(database, analysed(2000.0))
    queue(database, "1.2.1", numbers=2)
    end(database, analysed(2100.0))
    settings = settings_for(database)
    (week,) = read_report(settings, "lung_ct", 8).weeks
    assert (len(week.studies), week.values) == (1, {("left_lung", "Volume", "ml"): [2100.0]})
    run_report(settings, "lung_ct", 8, as_json=False)
    assert "left out: 1 job(s) of older revisions" in capsys.readouterr().out


def test_the_tables_and_the_json_say_the_same(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    for number, details in enumerate((analysed(2000.0), analysed(3000.0), analysed(None), {})):
        queue(database, f"1.2.{number}")
        end(database, details)
    settings = settings_for(database)
    week = read_report(settings, "lung_ct", 8).weeks[0].name
    run_report(settings, "lung_ct", 8, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lung_ct runs in shadow: its results are kept here and sent to nobody (deliver = false)"
    assert lines[1] == "1 job(s) say nothing of what they measured: an earlier version made them"
    assert f"{week}\t4\t4\t0\t0\t0" in lines
    assert lines[-1] == f"left_lung\tVolume\tml\t{week}\t2/3\t2500 (2050 to 2950)\t2000\t3000"
    run_report(settings, "lung_ct", 8, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["configured"], told["deliver"]) == ("lung_ct", True, False)
    assert {"week": week, "studies": 4, "done": 4, "refused": 0, "failed": 0, "waiting": 0, "recorded": 3}.items() <= (
        told["weeks"][0].items()
    )
    assert told["weeks"][0]["seconds"]["inference"]["n"] == 3
    (measured,) = told["measurements"]
    assert (measured["finding"], measured["unit"], measured["weeks"][0]["studies"]) == ("left_lung", "ml", 2)
    assert measured["weeks"][0]["values"] == {
        "n": 2,
        "median": 2500,
        "percentile_5": 2050,
        "percentile_95": 2950,
        "lowest": 2000,
        "highest": 3000,
    }


def test_a_model_that_left_the_configuration_has_a_report_and_an_unknown_one_does_not(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    queue(database, "1.2.1", model="gone")
    settings = settings_for(database)
    run_report(settings, "gone", 8, as_json=False)
    assert capsys.readouterr().out.startswith("gone is not in the configuration any more\n")
    run_report(settings, "lung_ct", 8, as_json=False)
    assert capsys.readouterr().out.endswith("it had no job in this time\n")
    with pytest.raises(ArchiveError, match=r"No model lung; there are: lung_ct, gone\."):
        read_report(settings, "lung", 8)


def test_a_study_shows_how_its_jobs_went_and_that_results_are_kept_here(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    queue(database, "1.2.1")
    end(database, {"seconds": {"inference": 1.0}})
    queue(database, "1.2.1", numbers=2)
    job = end(database, analysed(2000.0) | {"shadow": True})
    queue(database, "1.2.1", numbers=2, model="sent")
    sent = end(database, analysed(2000.0))
    with database.reading() as uow:
        record = study_record(uow, "1.2.1")
    assert record is not None
    show_record(record)
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(f"Job {job}, lung_ct:")
    assert lines[place + 1 : place + 3] == ["  8.00 s: inference 8.00", "  float32"]
    assert sum(line.startswith("Job ") and line.endswith(":") for line in lines) == 2  # none of the older revision
    standing = {tuple(row[:2]): row[5:7] for row in (line.split("\t") for line in lines) if len(row) == 10}
    assert standing[str(job), "seg"] == ["", "kept here: deliver = false"]
    assert standing[str(sent), "seg"] == ["pacs", "PENDING"]
    assert standing[str(sent), "sr"] == ["", "kept here"]
    assert record_json(record)["jobs"][1]["details"] == analysed(2000.0) | {"shadow": True}
