"""The index: what arrives is there once, newer bytes replace older ones, and silence is found quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from db.engine import Database
from db.images.arrivals import Arrival
from db.images.index import (
    add_instances,
    current_instances,
    generation,
    list_set_aside,
    set_aside,
    snapshot,
    studies_due,
)
from db.overview.queries import retry_study, study_record
from db.tables import PatientRow, StudyRow
from db.work.revisions import close_study
from study.entities import StoredInstance
from study.errors import ArchiveError, Reason
from tests.support.databases import DIALECTS, SERIES, START, STUDY, migrated, query_plans, stored


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def add(database: Database, instances: Sequence[StoredInstance]) -> list[Arrival]:
    with database.writing() as uow:
        arrivals = add_instances(uow, instances)
        uow.commit()
    return arrivals


def current(database: Database, study: str = STUDY) -> dict[str, list[StoredInstance]]:
    with database.reading() as uow:
        return current_instances(uow, study)


def kinds(database: Database, study: str = STUDY) -> list[str]:
    with database.reading() as uow:
        record = study_record(uow, study)
    assert record is not None
    return [event.kind for event in record.events]


def test_instances_come_back_as_they_were_put_in(database: Database) -> None:
    first, second = stored(1), stored(2, seconds=1.25, series="1.2.826.0.1.1.2")
    assert add(database, [first, second]) == [Arrival.NEW, Arrival.NEW]
    assert current(database) == {SERIES: [first], "1.2.826.0.1.1.2": [second]}
    assert kinds(database) == ["first_instance"]


def test_the_same_bytes_again_change_nothing(database: Database) -> None:
    instances = [stored(number) for number in range(3)]
    add(database, instances)
    with database.reading() as uow:
        before = snapshot(uow, STUDY)
    again = [stored(number, seconds=100) for number in range(3)]
    assert add(database, again) == [Arrival.DUPLICATE] * 3
    with database.reading() as uow:
        assert snapshot(uow, STUDY) == before
    assert kinds(database) == ["first_instance", "duplicate_instances"]


def test_the_same_bytes_twice_in_one_batch_are_one_instance(database: Database) -> None:
    assert add(database, [stored(1), stored(1, seconds=1)]) == [Arrival.NEW, Arrival.DUPLICATE]
    assert current(database) == {SERIES: [stored(1)]}


def test_other_bytes_under_a_known_uid_become_current_and_the_old_ones_are_kept(database: Database) -> None:
    old = stored(1)
    new = stored(1, content="corrected name", seconds=5, header={"patient_name": "Phantom^Pauline"})
    add(database, [old, stored(2)])
    assert add(database, [new]) == [Arrival.OTHER_VERSION]
    assert current(database)[SERIES] == [stored(2), new]
    with database.reading() as uow:
        record = study_record(uow, STUDY)
        assert generation(uow, STUDY) == 2
    assert record is not None
    assert record.other_versions == (old,)
    assert record.summary.instances == 2
    assert "other_version" in [event.kind for event in record.events]


def test_of_versions_that_arrive_out_of_order_the_newest_is_current(database: Database) -> None:
    newer, older = stored(1, content="b", seconds=5), stored(1, content="a", seconds=1)
    assert add(database, [newer, older]) == [Arrival.NEW, Arrival.OTHER_VERSION]
    assert current(database)[SERIES] == [newer]


def test_a_version_that_is_sent_again_after_another_is_current_again(database: Database) -> None:
    add(database, [stored(1, content="a")])
    add(database, [stored(1, content="b", seconds=5)])
    assert add(database, [stored(1, content="a", seconds=9)]) == [Arrival.OTHER_VERSION]
    assert [instance.digest for instance in current(database)[SERIES]] == [stored(1, content="a").digest]


def test_files_read_again_after_a_crash_do_not_bring_an_old_version_back(database: Database) -> None:
    batch = [stored(1, content="a"), stored(1, content="b", seconds=5)]
    add(database, batch)
    assert add(database, batch) == [Arrival.DUPLICATE, Arrival.DUPLICATE]
    assert current(database)[SERIES] == [batch[1]]


def test_a_uid_that_another_study_claims_takes_nothing_from_the_first(database: Database) -> None:
    ours = stored(1)
    theirs = stored(1, content="stolen", seconds=5, study="1.2.3", header={"sop_instance_uid": f"{STUDY}.9.1"})
    add(database, [ours])
    assert add(database, [theirs]) == [Arrival.OTHER_VERSION]
    assert current(database) == {SERIES: [ours]}
    assert current(database, "1.2.3") == {SERIES: [theirs]}
    assert "uid_elsewhere" in kinds(database, "1.2.3")


def test_a_uid_that_moves_to_another_series_of_its_study_is_there_once(database: Database) -> None:
    add(database, [stored(1)])
    moved = stored(1, series="1.2.826.0.1.1.2", seconds=5)
    assert add(database, [moved]) == [Arrival.OTHER_VERSION]
    assert current(database) == {"1.2.826.0.1.1.2": [moved]}
    assert "uid_elsewhere" in kinds(database)


def test_a_header_that_databases_can_not_keep_is_kept_without_what_they_refuse(database: Database) -> None:
    odd = {"patient_name": "A\0B\ud800", "study_description": "\0", "series_number": 10**30, "patient_id": "Ж\0"}
    add(database, [stored(1, header=odd)])
    (kept,) = current(database)[SERIES]
    assert kept.header.patient_name == "AB?"
    assert kept.header.series_number == 10**30
    with database.reading() as uow:
        record = study_record(uow, STUDY)
    assert record is not None
    assert record.summary.patient_id == "Ж"
    assert record.series[0]["series_number"] is None


def test_a_study_is_due_once_it_was_silent_and_no_more_once_it_is_closed(database: Database) -> None:
    add(database, [stored(1), stored(2, seconds=10)])
    add(database, [stored(1, study="1.2.4", seconds=-50)])
    with database.reading() as uow:
        assert studies_due(uow, 60, START + timedelta(seconds=69.999)) == ["1.2.4"]
        assert studies_due(uow, 60, START + timedelta(seconds=70)) == ["1.2.4", STUDY]
    with database.writing() as uow:
        assert close_study(uow, "1.2.4", [], "no model", generation(uow, "1.2.4")).closed
        uow.commit()
    with database.reading() as uow:
        assert studies_due(uow, 60, START + timedelta(days=1)) == [STUDY]
    with database.writing() as uow:
        assert retry_study(uow, "1.2.4") == (0, 0)
        uow.commit()
    with database.reading() as uow:
        assert studies_due(uow, 60, START + timedelta(days=1)) == ["1.2.4", STUDY]


def test_an_unknown_study_is_named_as_such(database: Database) -> None:
    with database.reading() as uow, pytest.raises(ArchiveError, match="no such study"):
        current_instances(uow, "1.2.3.4")


def test_files_set_aside_are_listed_once_with_their_reason(database: Database) -> None:
    reason = Reason("ArchiveError", "It is no DICOM file.", {"bytes": 3})
    for path in ("aside/a.dcm", "aside/b.dcm", "aside/a.dcm"):
        with database.writing() as uow:
            set_aside(uow, path, reason)
            uow.commit()
    with database.reading() as uow:
        found = list_set_aside(uow)
    assert [(aside.path, aside.reason) for aside in found] == [("aside/b.dcm", reason), ("aside/a.dcm", reason)]


def test_nothing_lasts_that_was_not_committed(database: Database) -> None:
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
    with database.reading() as uow, pytest.raises(ArchiveError):
        current_instances(uow, STUDY)

    def fail_midway() -> None:
        with database.writing() as uow:
            add_instances(uow, [stored(1)])
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert add(database, [stored(1)]) == [Arrival.NEW]


def test_what_is_due_is_found_by_an_index_among_thousands_of_studies(database: Database) -> None:
    with database.writing() as uow:
        uow.execute(
            insert(PatientRow),
            [
                {
                    "identity_digest": "x", "patient_id": "", "issuer_of_patient_id": "", "patient_name": "",
                    "patient_birth_date": "", "patient_sex": "",
                }
            ],
        )  # fmt: skip
        patient = uow.execute(select(PatientRow.id)).scalar_one()
        uow.execute(
            insert(StudyRow),
            [
                {
                    "study_instance_uid": f"1.2.{number}", "patient": patient, "accession_number": "",
                    "study_description": "", "study_date": "", "first_received_at": START, "last_received_at": START,
                    "generation": 1, "receiving": False, "evaluation_due": False,
                }
                for number in range(5000)
            ],
        )  # fmt: skip
        uow.commit()
    add(database, [stored(1)])
    with database.writing() as uow:
        uow.execute(text("ANALYZE"))
        uow.commit()
    as_of = START + timedelta(days=1)
    plans = query_plans(database, lambda uow: studies_due(uow, 60, as_of))
    assert "ix_study_due" in plans
    assert "TEMP B-TREE" not in plans
    with database.reading() as uow:
        assert studies_due(uow, 60, as_of) == [STUDY]
