"""What a process must hold before it frees what others had leased, and what a whole node holds of its store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.leading import Lead
from db.work import jobs
from db.work.revisions import close_study
from hilum.config import Settings
from hilum.sections import DatabaseSettings, NodeSettings
from hilum.working import leading
from hilum.working.leading import occupied
from hilum.working.leases import owner, place_of
from study.entities import Job
from study.errors import StoreBusy
from tests.support.databases import STUDY, empty_url, migrated, planned, stored


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with migrated("sqlite", tmp_path) as database:
        yield database


def leased(database: Database, name: str) -> Job:
    images = [stored(1)]
    with database.writing() as uow:
        add_instances(uow, images)
        close_study(uow, STUDY, [planned(images)], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, name, 100)
        uow.commit()
    assert job is not None
    return job


def test_only_who_holds_a_worker_s_place_frees_what_that_worker_had_leased(tmp_path: Path, database: Database) -> None:
    store = FileStore(tmp_path / "store")
    job = leased(database, owner(store, "one", "keeper-1"))

    def is_held() -> bool:
        with database.reading() as uow:
            return jobs.job_by_id(uow, job.id).state.value == "RUNNING"

    others = [("one", "keeper-0"), ("one", "keeper-11"), ("one", "sender"), ("two", "keeper-1")]
    with store.lock_of("keeper-1", "one"):
        for machine, worker in others:
            with place_of(database, store, machine, worker):
                assert is_held()
        with pytest.raises(StoreBusy, match="works as keeper-1"), place_of(database, store, "one", "keeper-1"):
            pass
        assert is_held()
    with place_of(database, store, "one", "keeper-1"):
        assert not is_held()


def settings_of(folder: Path, machine: str, url: str = "sqlite") -> Settings:
    node = NodeSettings(data_dir=folder, machine=machine)
    return Settings(node=node, database=DatabaseSettings(url=url), base_dir=folder)


def test_on_sqlite_a_node_has_its_store_for_itself(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    one, two = (settings_of(tmp_path, name) for name in ("one", "two"))
    database = Database.open(one.database_url)
    with (
        occupied(one, store, database),
        pytest.raises(StoreBusy, match="Another hilum serve"),
        occupied(two, store, database),
    ):
        pass
    database.close()


def test_on_postgresql_nodes_share_a_store_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "_PATIENCE_SECONDS", 0.1)
    url = empty_url("postgresql", tmp_path)
    database = Database.open(url)
    shared, elsewhere = FileStore(tmp_path / "shared"), FileStore(tmp_path / "elsewhere")
    one, two = (settings_of(shared.root, name, url) for name in ("one", "two"))
    with ExitStack() as nodes:
        nodes.enter_context(occupied(one, shared, database))
        nodes.enter_context(occupied(two, shared, database))
        with pytest.raises(StoreBusy, match="Another process on one works as hilum-serve"):
            nodes.enter_context(occupied(one, shared, database))
        # A lock that the storage does not keep between machines
        with pytest.raises(StoreBusy, match="is called one"):
            nodes.enter_context(occupied(settings_of(elsewhere.root, "one", url), elsewhere, database))
        with pytest.raises(StoreBusy, match="is the shared folder mounted here"):
            nodes.enter_context(occupied(settings_of(elsewhere.root, "three", url), elsewhere, database))
        with pytest.raises(StoreBusy, match="uses"):
            nodes.enter_context(shared.lock())
    database.close()


def test_nobody_migrates_a_database_that_others_work_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "_PATIENCE_SECONDS", 0.1)
    url = empty_url("postgresql", tmp_path)
    database = Database.open(url)
    settings = settings_of(tmp_path, "one", url)
    with (
        Lead(database, tmp_path, "node", "HILUM-0 two", shared=True),
        pytest.raises(StoreBusy, match="another version"),
        occupied(settings, FileStore(tmp_path), database),
    ):
        pass
    with occupied(settings, FileStore(tmp_path), database):
        database.check_schema()
    database.close()


@pytest.mark.parametrize("name", ["a b", "../one", "-one", "one/keeper-0", "o" * 64])
def test_a_machine_s_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValidationError, match="no name of a machine"):
        NodeSettings(machine=name)
    assert Settings(node=NodeSettings(machine="ai-1.hospital_a")).machine == "ai-1.hospital_a"
    assert Settings().machine
