"""A clock that is moved neither ends a study too early nor keeps one open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances
from db.overview.queries import study_record
from hilum.clock import Clock
from hilum.config import Settings, load
from hilum.roles.indexer import Indexer
from study.states import StudyState
from tests.support.databases import STUDY, stored
from tests.support.network import wait_until

CONFIG = """
[study]
quiet_seconds = {quiet}
"""


class Machine:
    """An indexer on a machine whose clock can be moved."""

    def __init__(self, settings: Settings) -> None:
        self.moved = timedelta()
        self.database = Database.open(settings.database_url)
        self.database.migrate()
        clock = Clock(lambda: datetime.now(UTC) + self.moved)
        self.indexer = Indexer(settings, self.database, FileStore(settings.data_dir), clock)

    def receive(self) -> None:
        with self.database.writing() as uow:
            add_instances(uow, [replace(stored(1), received_at=datetime.now(UTC) + self.moved)])
            uow.commit()

    def is_closed(self) -> bool:
        self.indexer.turn()
        with self.database.reading() as uow:
            record = study_record(uow, STUDY)
        assert record is not None
        return record.summary.state is not StudyState.RECEIVING


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(quiet=request.param))
    settings = load(config, environment={})
    settings.data_dir.mkdir()
    machine = Machine(settings)
    yield machine
    machine.database.close()


@pytest.mark.parametrize("machine", [600], indirect=True)
def test_a_clock_that_jumps_ahead_ends_no_study(machine: Machine) -> None:
    machine.indexer._listens_since -= 3600
    machine.receive()
    assert not machine.is_closed()
    machine.moved = timedelta(hours=1)
    assert not machine.is_closed()
    assert not machine.is_closed()  # nor at the next look, when the jump is no news


@pytest.mark.parametrize("machine", [0.2], indirect=True)
def test_a_clock_that_is_set_back_keeps_no_study_open(machine: Machine) -> None:
    machine.receive()
    machine.moved = timedelta(hours=-1)
    wait_until(machine.is_closed, 10, "the study is closed")
