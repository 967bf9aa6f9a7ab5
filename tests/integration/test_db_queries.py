"""What a person asks: which studies are there, one study in full, and to try again what failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.engine import Database
from db.images.index import add_instances, generation, studies_due
from db.overview.queries import find_studies, list_studies, retry_study, study_record
from db.work import jobs
from db.work.revisions import close_study
from study.errors import ArchiveError, Reason
from study.states import JobState, StudyState
from tests.support.databases import DIALECTS, START, STUDY, migrated, planned, stored


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def test_a_study_is_found_by_uid_accession_number_or_the_beginning_of_its_uid(database: Database) -> None:
    with database.writing() as uow:
        add_instances(
            uow,
            [
                stored(1, study="1.2.3", header={"accession_number": "B7"}),
                stored(1, study="1.2.34", seconds=1, header={"accession_number": "B_"}),
                stored(1, study="1.9", seconds=2, header={"accession_number": ""}),
            ],
        )
        uow.commit()
    with database.reading() as uow:
        assert find_studies(uow, "1.2.3") == ["1.2.3"]
        assert find_studies(uow, "1.2") == ["1.2.34", "1.2.3"]
        assert find_studies(uow, "B7") == ["1.2.3"]
        assert find_studies(uow, "B_") == ["1.2.34"]
        assert find_studies(uow, "1_2") == []
        assert find_studies(uow, "%") == []


def test_the_list_shows_the_latest_study_first_with_what_its_newest_instance_says(database: Database) -> None:
    with database.writing() as uow:
        add_instances(uow, [stored(1), stored(2, series=f"{STUDY}.2")])
        add_instances(uow, [stored(1, study="1.2.3", seconds=5)])
        add_instances(uow, [stored(3, seconds=9, header={"patient_id": "P2", "study_description": "Corrected"})])
        uow.commit()
    with database.reading() as uow:
        latest, other = list_studies(uow)
        assert list_studies(uow, 1) == [latest]
        record = study_record(uow, STUDY)
    assert (latest.study_instance_uid, other.study_instance_uid) == (STUDY, "1.2.3")
    assert (latest.patient_id, latest.study_description) == ("P2", "Corrected")
    assert (latest.series, latest.instances, latest.first_received_at) == (2, 3, START)
    assert record is not None
    assert record.summary == latest
    assert [(series["series_number"], series["instances"]) for series in record.series] == [(3, 2), (3, 1)]


def test_an_unknown_study_has_no_record_and_can_not_be_retried(database: Database) -> None:
    with database.reading() as uow:
        assert study_record(uow, "1.2.3") is None
    with database.writing() as uow, pytest.raises(ArchiveError, match="no such study"):
        retry_study(uow, "1.2.3")


def test_a_retry_queues_what_failed_as_if_it_had_never_crashed_and_judges_the_study_again(database: Database) -> None:
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.fail_attempt(uow, job.id, job.attempt, Reason("BundleInvalid", "No."), transient=False)
        uow.commit()
    with database.reading() as uow:
        assert list_studies(uow)[0].state is StudyState.FAILED
        assert studies_due(uow, 0, uow.now()) == []
    with database.writing() as uow:
        retry_study(uow, STUDY)
        uow.commit()
    with database.writing() as uow:
        assert studies_due(uow, 0, uow.now()) == [STUDY]
        assert not close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY)).created
        again = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert again is not None
    assert (again.id, again.attempt, again.crashes, again.reason, again.state) == (
        job.id, 2, 0, None, JobState.RUNNING,
    )  # fmt: skip
