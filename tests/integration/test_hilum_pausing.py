"""``hilum pause``, ``resume`` and ``analyse`` as a person types them, and what the other commands say meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances
from db.work import jobs
from hilum.cli import app
from hilum.config import Settings, load
from hilum.doctor import examine
from hilum.pausing import paused_now
from hilum.roles.indexer import Indexer
from study.errors import ArchiveError, ConfigError
from study.headers import InstanceHeader
from tests.support.databases import stored
from tests.support.network import wait_until
from tests.support.series import axial_affine, ct_series

CONFIG = """
[node]
accept = "any"
[study]
quiet_seconds = 0.001
max_age_days = 14
[[peers]]
name = "old"
ae_title = "MIGRATION"
analyse = false
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""
TODAY = f"{datetime.now(UTC):%Y%m%d}"


@dataclass
class Node:
    """A node of which only the indexer is there, moved by the test."""

    config: Path
    settings: Settings
    database: Database
    indexer: Indexer

    def hilum(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, *arguments, "--config", str(self.config)])

    def lines(self, command: str, *arguments: str) -> list[str]:
        """Run a command; return the lines that it prints."""
        done = self.hilum(command, *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout.splitlines()

    def receive(self, study: str, *, sender: str = "CT1", study_date: str = TODAY, fetched: bool = False) -> None:
        """Take a CT of a study into the index, received just now, and judge it."""
        images = ct_series(
            np.zeros((20, 8, 8)),
            axial_affine((2.0, 0.8, 0.8)),
            study_instance_uid=study,
            attributes={"StudyDate": study_date},
        )
        headers = [InstanceHeader.of(image, "1.2.840.10008.1.2.1") for image in images]
        now = self.database.now()
        instances = [replace(stored(number), header=header) for number, header in enumerate(headers)]
        sent = {"calling_ae_title": sender, "received_at": now, "fetched": fetched}
        with self.database.writing() as uow:
            add_instances(uow, [replace(each, **sent) for each in instances])  # type: ignore[arg-type]
            uow.commit()
        self.judge(study)

    def judge(self, study: str) -> None:
        def is_judged() -> bool:
            self.indexer.turn()
            return self.state(study)[0] != "RECEIVING"

        wait_until(is_judged)
        self.indexer.turn()

    def state(self, study: str) -> tuple[str, str | None]:
        found = {each["study_instance_uid"]: each for each in json.loads(self.hilum("studies", "--json").stdout)}[study]
        return found["state"], found["reason"] and found["reason"]["code"]

    @property
    def paused(self) -> list[str]:
        return paused_now(self.database)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    settings = load(config, environment={})
    settings.data_dir.mkdir()
    database = Database.open(settings.database_url)
    database.migrate()
    indexer = Indexer(settings, database, FileStore(settings.data_dir))
    yield Node(config, settings, database, indexer)
    database.close()


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"sender": "MIGRATION"}, "NotAskedFor", "what comes from MIGRATION is not sent for analysis"),
        ({"fetched": True}, "NotAskedFor", "fetched as an earlier study"),
        ({"study_date": "20190302"}, "TooOld", "It is of 2019-03-02"),
    ],
    ids=["stored only", "fetched", "too old"],
)
def test_what_is_only_stored_is_analysed_once_a_person_wants_it(
    node: Node, how: dict[str, object], code: str, words: str
) -> None:
    node.receive("1.2.3", **how)  # type: ignore[arg-type]
    assert node.state("1.2.3") == ("NOT_SELECTED", code)
    assert any("Remedy: hilum analyse STUDY" in line for line in node.lines("show", "1.2.3"))
    said = node.lines("analyse", "1.2.3")
    assert said[0] == "1.2.3 is analysed on request"
    assert words in said[1]
    assert said[2].startswith("  lung_ct: runs on 20 image(s) of series ")
    node.judge("1.2.3")
    assert node.state("1.2.3") == ("COMPLETE", None)
    assert node.lines("analyse", "1.2.3")[1].startswith("  lung_ct: waits already (job ")


def test_what_somebody_else_sends_for_analysis_is_analysed(node: Node) -> None:
    node.receive("1.2.3", sender="MIGRATION")
    assert node.state("1.2.3") == ("NOT_SELECTED", "NotAskedFor")
    node.receive("1.2.3")
    assert node.state("1.2.3") == ("COMPLETE", None)


def test_a_pause_is_told_wherever_somebody_looks(node: Node) -> None:
    assert node.paused == []
    said = node.lines("pause", "--reason", "migration of\n2019")
    assert [line.split(" since ")[0] for line in said] == ["analyses are paused", "deliveries are paused"]
    assert all("(migration of 2019); hilum resume lets them go on" in line for line in said)
    (doctor,) = [each for each in examine(node.settings) if each.subject == "pauses"]
    assert (doctor.good, doctor.words) == (True, "; ".join(said))
    listed = node.hilum("studies", "--json")
    assert (json.loads(listed.stdout), listed.stderr.splitlines()) == ([], said)
    node.receive("1.2.3")
    node.receive("1.2.4")
    assert node.lines("analyse", "1.2.4")[-2:] == [f"  {line}" for line in said]
    resumed = node.lines("resume", "--only", "deliveries")
    assert [line.split(";")[0] for line in resumed] == ["deliveries go on"]
    assert node.paused == said[:1]
    resumed = node.lines("resume")
    assert resumed[0].startswith("analyses go on; they were paused since ")
    assert resumed[1] == "1 study with 1 waiting job came since and will be analysed"
    assert resumed[2] == "deliveries were not paused"
    assert node.paused == []


def test_what_came_during_a_pause_is_passed_over_once_that_is_agreed(node: Node) -> None:
    node.lines("pause", "--only", "analyses")
    node.receive("1.2.3")
    asked = node.hilum("resume", "--pass-over")
    assert isinstance(asked.exception, ConfigError)  # nobody is at the terminal
    assert asked.stdout.startswith("1 study with 1 waiting job came since ")
    assert node.state("1.2.3") == ("COMPLETE", None)
    said = node.lines("resume", "--pass-over", "--yes")
    assert said[1:] == ["analyses go on; 1 study passed over", "deliveries were not paused"]
    node.judge("1.2.3")
    assert node.state("1.2.3") == ("NOT_SELECTED", "PassedOver")
    with node.database.writing() as uow:
        assert jobs.lease_job(uow, "keeper", 30) is None
    node.receive("1.2.3")  # the same series again
    assert node.state("1.2.3") == ("COMPLETE", None)


def test_nothing_is_passed_over_where_analyses_are_not_paused(node: Node) -> None:
    idle = node.hilum("resume", "--pass-over", "--yes")
    assert isinstance(idle.exception, ArchiveError)
    assert "Analyses are not paused" in idle.exception.words
    node.lines("pause")
    other = node.hilum("resume", "--pass-over", "--only", "deliveries")
    assert isinstance(other.exception, ConfigError)
    assert len(node.paused) == 2
