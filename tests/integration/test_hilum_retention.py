"""Retention at work: files and rows, killed between any two steps, beside a backup, and what comes again afterwards."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy import update
from typer.testing import CliRunner, Result

from db.complete import inquiries
from db.delivery import outbox
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, current_instances, generation, instances_of_job
from db.lasting import dispensable
from db.tables import InquiryRow, InstanceRow, StudyRow
from db.work import jobs
from db.work.revisions import close_study
from hilum import doctor, looking
from hilum.cli import app
from hilum.config import Settings, load
from hilum.problems import find_problems, remedy
from hilum.processes import Station, StopSignal
from hilum.requesting import analyse
from hilum.retaining import Retainer, limits_of
from hilum.roles import retainer
from hilum.serving import serve_role
from hilum.sources import StoreSources
from hilum.supervisor import Supervisor
from study.completion import WHOLE, Completeness
from study.entities import StoredInstance, StudyRecord
from study.errors import ArchiveError, ConfigError, Reason
from study.forms import Form
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, empty_url, planned, results
from tests.support.network import free_port, wait_until
from tests.support.outbox import deliver, lease, record
from tests.support.peers import REPOSITORY
from tests.support.reception import Reception, receiving
from tests.support.series import axial_affine, ct_series, save_series

CONFIG = """
[node]
port = {port}
disk_reserve_mb = 0
accept = "any"
[study]
quiet_seconds = 0.3
[retention]
days = 30
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 11112
results = ["seg", "sr"]
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""
STUDY = "2.25.8200"
NEVER = Reason("StoreFailed", "The peer answered A900.")


def configured(folder: Path, dialect: str = "sqlite") -> Settings:
    config = folder / "config.toml"
    config.write_text(CONFIG.format(port=free_port()))
    url = "sqlite" if dialect == "sqlite" else empty_url(dialect, folder)
    settings = load(config, [f"database.url={url}"], environment={})
    settings.data_dir.mkdir()
    return settings


@functools.cache
def images(slices: int = 20) -> list[Dataset]:
    """Return the images of the study, each time the very same."""
    made = ct_series(
        np.full((slices, 8, 8), -500),
        axial_affine((2.0, 0.8, 0.8)),
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.1",
    )
    for number, image in enumerate(made):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY}.2.{number}")
    return made


@dataclass
class Node:
    """A node of which no role is there, moved by the test."""

    settings: Settings
    database: Database
    store: FileStore

    def index(self, these: list[Dataset]) -> list[StoredInstance]:
        """Take images in, as receiver and indexer do."""
        save_series(these, self.store.inbox("receiver-1"))
        arrived = [self.store.read_incoming(path) for path in self.store.scan_inbox()]
        with self.database.writing() as uow:
            add_instances(uow, arrived)
            uow.commit()
        self.store.move_in(arrived)
        return arrived

    def finish(self, *, takes_reports: bool = True) -> None:
        """Have the study's job done, its results on disk and delivered, but for reports where not, 40 days ago."""
        made = []
        for each in results(STUDY):
            path = self.settings.data_dir / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.form.encode())
            made.append(replace(each, digest=hashlib.sha256(each.form.encode()).hexdigest()))
        with self.database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            owed = [Outgoing("pacs", position, each) for position, each in enumerate(made)]
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            uow.commit()
        for delivery in lease(self.database):
            if delivery.result.form == "seg" or takes_reports:
                deliver(self.database, delivery)
            else:
                with self.database.writing() as uow:
                    outbox.keep_aside(uow, delivery.id, "sender-1", NEVER)
                    uow.commit()
        self.age(40)

    def whole(self, *, takes_reports: bool = True) -> list[StoredInstance]:
        """Have a whole study here that is done with."""
        held = self.index(images(4))
        with self.database.writing() as uow:
            close_study(uow, STUDY, [planned(held)], "", generation(uow, STUDY))
            uow.commit()
        self.finish(takes_reports=takes_reports)
        return held

    def age(self, days: float) -> None:
        with self.database.writing() as uow:
            uow.execute(update(StudyRow).values(last_received_at=uow.now() - timedelta(days=days)))
            uow.commit()

    def retainer(self) -> Retainer:
        return Retainer(self.settings, self.database, self.store, StopSignal())

    def files(self) -> list[str]:
        """Return what is on disk of the study, relative to the data directory."""
        roots = (self.store.study_folder(STUDY), self.store.results_folder(STUDY))
        return sorted(self.store.relative(path) for root in roots for path in root.rglob("*"))

    def hilum(self, command: str, *arguments: str) -> Result:
        options = ("--config", str(self.settings.base_dir / "config.toml"))
        url = ("--set", f"database.url={self.settings.database.url}")
        return CliRunner().invoke(app, [command, *arguments, *options, *url])


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    settings = configured(tmp_path, request.param)
    database = Database.open(settings.database_url)
    database.migrate()
    yield Node(settings, database, FileStore(settings.data_dir))
    database.close()


def is_gone(node: Node) -> bool:
    return node.files() == [f"store/{STUDY}/manifest.jsonl"]


def test_what_is_done_with_goes_but_for_the_manifest(node: Node) -> None:
    node.whole()
    rejected = node.store.results_folder(STUDY) / "rejected" / "1-1" / "seg.dcm"
    rejected.parent.mkdir(parents=True)
    rejected.write_bytes(b"failed its check")
    node.age(29)
    assert not node.retainer().turn()
    assert len(node.files()) > 6
    node.age(31)
    assert node.retainer().turn()
    assert not node.retainer().turn()  # somebody may just be writing what no row names
    assert [path for path in node.files() if path.endswith(".dcm")] == [node.store.relative(rejected)]
    make_old(rejected)
    assert node.retainer().turn()
    assert is_gone(node)
    assert not node.retainer().turn()
    (removed,) = [each for each in node.store.read_manifest(STUDY) if each["record"] == "removed"]
    assert len(removed["instances"]) == 4
    assert record(node.database, STUDY).summary.state is StudyState.DELIVERED


def make_old(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


_KILLED = """
import signal, sys
from pathlib import Path
from db.lasting import retention, sweeping
from db.engine import Database
from db.files.filestore import FileStore
from hilum import retaining
from hilum.config import load
from hilum.processes import StopSignal

def stop_here(*_given, **_named):
    print("here", flush=True)
    signal.pause()

step = sys.argv[2]
if step == "manifest written":
    retention.remove = stop_here
elif step == "rows removed":
    retaining.sweep = stop_here
elif step == "half of the files removed":
    sweeping._CHUNK, first = 2, sweeping._remove
    def _remove(*given):
        first(*given)
        sweeping._remove = stop_here
    sweeping._remove = _remove
elif step == "all files removed":
    retention.files_removed = stop_here
settings = load(Path(sys.argv[1]), [f"database.url={sys.argv[3]}"], environment={})
database = Database.open(settings.database_url)
retaining.Retainer(settings, database, FileStore(settings.data_dir), StopSignal()).turn()
"""


def kill_at(node: Node, step: str) -> None:
    config = str(node.settings.base_dir / "config.toml")
    command = [sys.executable, "-c", _KILLED, config, step, node.settings.database.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        reached = any(line.strip() == "here" for line in process.stdout)  # among lines of its log
        process.send_signal(signal.SIGKILL)
        assert (reached, process.wait(30)) == (True, -signal.SIGKILL)


@pytest.mark.parametrize("step", ["manifest written", "rows removed", "half of the files removed", "all files removed"])
@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_kill_between_any_two_steps_is_made_good_at_the_next_look(node: Node, step: str) -> None:
    held = node.whole()
    kill_at(node, step)
    there = sum(path.endswith(".dcm") for path in node.files())
    assert there == {"manifest written": 6, "rows removed": 6, "half of the files removed": 4}.get(step, 0)
    if step == "manifest written":  # nothing has happened yet
        with node.database.reading() as uow:
            assert sorted(path.name for path in map(node.store.locate, instances_of_job(uow, 1))) == sorted(
                Path(each.path).name for each in held
            )
    assert node.retainer().turn()
    assert is_gone(node)
    after = record(node.database, STUDY)
    assert (after.summary.state, after.summary.instances) == (StudyState.DELIVERED, 0)
    assert [event.kind for event in after.events].count("removed") == 1


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_an_image_that_comes_again_before_its_old_file_is_gone_is_kept(node: Node) -> None:
    path = next(each.path for each in node.whole() if each.header.sop_instance_uid == f"{STUDY}.2.0")
    content = (node.settings.data_dir / path).read_bytes()
    kill_at(node, "rows removed")
    node.index(images(4)[:1])
    node.retainer().turn()
    assert [each for each in node.files() if each.endswith(".dcm")] == [path]
    assert (node.settings.data_dir / path).read_bytes() == content
    with node.database.reading() as uow:
        ((again,),) = current_instances(uow, STUDY).values()
        assert node.store.locate(again).is_file()


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_study_that_is_open_again_by_the_time_it_is_to_go_stays(node: Node) -> None:
    node.whole()
    with node.database.reading() as uow:
        (due,) = dispensable.due(uow, limits_of(node.settings), 5)
    node.index(images(5)[4:])
    assert not node.retainer()._remove(due)
    assert record(node.database, STUDY).summary.instances == 5
    assert [each["record"] for each in node.store.read_manifest(STUDY) if each["record"] == "removed"] == []


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_result_that_no_peer_has_stays_and_can_still_be_sent(node: Node) -> None:
    node.whole(takes_reports=False)
    assert not node.retainer().turn()  # a person must see to it first
    assert "retention may remove the study then" in node.hilum("discard", STUDY, "--yes").stdout
    assert node.retainer().turn()
    seg, report = results(STUDY)
    assert node.files() == [f"results/{STUDY}/{Path(report.path).name}", f"store/{STUDY}/manifest.jsonl"]
    assert not node.retainer().turn()
    node.hilum("retry", STUDY)
    assert [delivery.result.path for delivery in lease(node.database)] == [report.path]
    with node.database.reading() as uow:
        (removed,) = [each for each in node.store.read_manifest(STUDY) if each["record"] == "removed"]
        assert removed["results"] == [[seg.sop_instance_uid, seg.path]]
        assert dispensable.used_bytes(uow) == report.size


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_results_that_are_made_before_the_old_ones_are_gone_are_kept(node: Node) -> None:
    node.whole()
    kill_at(node, "rows removed")
    held = node.index(images(5)[4:])
    with node.database.writing() as uow:
        close_study(uow, STUDY, [planned(held, model="another")], "", generation(uow, STUDY))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        made = replace(results(STUDY)[0], path=f"results/{STUDY}/2-1/seg.dcm", sop_instance_uid=f"{STUDY}.99")
        jobs.finish_job(uow, job.id, job.attempt, [made], [Outgoing("pacs", 0, made)], {})
        uow.commit()
    path = node.settings.data_dir / made.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"new")
    make_old(path)
    assert node.retainer().turn()
    assert [each for each in node.files() if each.endswith(".dcm")] == [made.path, held[0].path]
    assert [delivery.result.path for delivery in lease(node.database)] == [made.path]


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_nothing_is_removed_while_a_backup_copies_the_store(node: Node) -> None:
    node.whole()
    before = node.files()
    with node.store.backing_up():
        assert not node.retainer().turn()
        assert node.files() == before
        assert record(node.database, STUDY).summary.instances == 4
    assert node.retainer().turn()
    assert is_gone(node)


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_without_its_record_nothing_of_a_study_is_removed(node: Node) -> None:
    node.whole()
    manifest = node.store.study_folder(STUDY) / "manifest.jsonl"
    manifest.mkdir()  # nothing can be written to it
    assert not node.retainer().turn()
    assert record(node.database, STUDY).summary.instances == 4
    manifest.rmdir()
    assert node.retainer().turn()
    assert is_gone(node)


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_the_role_removes_and_ends_when_it_is_told_to(node: Node) -> None:
    node.whole()
    stop, announced = StopSignal(), threading.Event()
    station = Station(node.settings, stop, announce=lambda _facts: announced.set())
    thread = threading.Thread(target=retainer.run, args=(station,))
    thread.start()
    try:
        wait_until(lambda: is_gone(node), 20, "removal")
        assert announced.is_set()
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_the_role_is_there_only_where_something_is_to_be_removed(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(port=0))
    for days, is_there in ((30, True), (0, False)):
        settings = load(config, [f"retention.days={days}", 'inference.devices=["cpu"]'], environment={})
        posts = Supervisor(settings, lambda _host, _port: None)._posts
        assert ("retainer" in {post.role for post in posts}) is is_there
    with pytest.raises(ConfigError, match="nothing is ever removed"):
        serve_role(settings, "retainer")


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_commands_say_plainly_that_a_study_was_removed(node: Node) -> None:
    node.whole()
    assert node.retainer().turn()
    told = {
        "resend": node.hilum("resend", STUDY),
        "withdraw": node.hilum("withdraw", STUDY, "--reason", "wrong", "--yes"),
        "preview": node.hilum("preview", STUDY, "--out", str(node.settings.base_dir / "out")),
        "analyse": node.hilum("analyse", STUDY),
    }
    for command, done in told.items():
        assert done.exit_code != 0, command
        words = str(done.exception) + done.output
        assert "etention removed" in words, (command, words)
    result = Dataset()
    result.SOPInstanceUID = results(STUDY)[0].sop_instance_uid
    with pytest.raises(ArchiveError, match=r"Retention removed images .* --source DIR"):
        StoreSources(node.database, node.store).of(result, Form.SEG)
    assert {each.state for each in record(node.database, STUDY).deliveries} == {DeliveryState.DELIVERED}
    shown = node.hilum("show", STUDY)
    assert "4 images; results that were sent stay valid" in shown.output
    said = json.loads(node.hilum("show", STUDY, "--json").stdout)
    assert (said["removal"]["instances"], said["removal"]["missing"]) == (4, 4)
    assert "removed on" in node.hilum("studies").output
    assert "none is here" in node.hilum("retry", STUDY).stderr


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_the_command_tells_what_would_go_and_what_is_spared(node: Node) -> None:
    node.whole()
    lines = node.hilum("retention").stdout.splitlines()
    assert lines[0] == "retention removes studies that are done with, the oldest first: older than 30 days"
    assert lines[2] == "would go now: 0.0 MB, 1 study"
    assert any(line.startswith(STUDY) for line in lines)
    with node.database.writing() as uow:
        uow.execute(update(InstanceRow).values(vouched_at=uow.now()))
        uow.commit()
    (study,) = json.loads(node.hilum("retention", "--json").stdout)["studies"]
    assert (study["study_instance_uid"], study["goes"], study["spared_by"]) == (STUDY, False, "vouched")
    assert "we committed ourselves to a peer to keep it" in node.hilum("retention").stdout
    off = node.hilum("retention", "--set", "retention.days=0").stdout
    assert "retention is off" in off
    assert len(node.files()) > 6  # it removes nothing
    too_small = load(
        node.settings.base_dir / "config.toml",
        [f"database.url={node.settings.database.url}", "retention.max_gb=0.000001"],
        environment={},
    )
    (problem,) = [each for each in find_problems(too_small, node.database) if each.kind == "store"]
    assert problem.reason.code == "AboveMaxGb"
    assert "1 study" in problem.reason.words
    assert "hilum retention" in remedy(problem)
    with pytest.raises(doctor._Unwell, match="nothing may be removed"):
        doctor._retention(too_small)
    assert doctor._retention(node.settings).startswith("retention removes studies that are done with")


def settled(node: Reception, instances: int) -> StudyRecord:
    """Return the record once so many images are here and nothing awaits evaluation."""
    found: list[StudyRecord] = []

    def is_settled() -> bool:
        record = node.record(STUDY)
        found[:] = [record] if record is not None else []
        return bool(found) and (found[0].summary.instances, found[0].summary.state is StudyState.RECEIVING) == (
            instances,
            False,
        )

    wait_until(is_settled, 20, f"{instances} images, settled")
    return found[0]


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_only_the_proof_of_an_archive_makes_a_whole_of_a_part(node: Node) -> None:
    node.whole()
    assert node.retainer().turn()
    node.index(images(4)[:1])
    lacks = Reason("IncompleteSeries", "The archive holds more.")
    proven = Completeness(None, by="proven by pacs")
    unproven = [
        WHOLE,
        Completeness(frozenset({"lung_ct"})),
        Completeness(None, by="by the quiet period", unproven=lacks),
        Completeness(None, by="but for 1 series of which pacs holds more", incomplete={"1.2": lacks}),
    ]

    def parts() -> list[bool]:
        with node.database.reading() as uow:
            return [looking._part(uow, STUDY, each) is not None for each in (*unproven, proven)]

    assert parts() == [True, True, True, True, True]
    with node.database.writing() as uow:  # what a sender lists is what it sent, and may be the part
        inquiries.begin(uow, [STUDY], inquiries.Asked({}), 1.0)
        inquiries.listed_by_sender(uow, STUDY, {f"{STUDY}.1": frozenset({f"{STUDY}.2.0"})})
        uow.commit()
    assert parts() == [True, True, True, True, True]
    with node.database.writing() as uow:
        uow.execute(update(InquiryRow).values(peer="pacs"))
        uow.commit()
    assert parts() == [True, True, True, True, False]


def test_late_images_of_a_removed_study_are_not_analysed_until_all_are_here_again(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    with receiving(settings, listens_for=60) as reception:
        node = Node(settings, reception.database, FileStore(settings.data_dir))
        reception.send(images())
        assert settled(reception, 20).summary.state is StudyState.COMPLETE
        node.finish()
        assert node.retainer().turn()
        assert is_gone(node)

        reception.send(images()[:18])  # a volume by itself: nothing but the count tells that two are missing
        part = settled(reception, 18)
        assert [(job.state, job.current) for job in part.jobs] == [(JobState.DONE, True)]
        assert part.summary.state is StudyState.DELIVERED
        assert part.events[-1].kind == "not_selected"
        assert part.events[-1].numbers == {"code": "PartOfRemoved"}
        assert "2 of its 20 are not here" in part.events[-1].words
        assert "18 image(s) came since, and 2 of those are not here" in node.hilum("show", STUDY).output
        assert find_problems(settings, node.database) == []
        node.age(1)
        (problem,) = find_problems(settings, node.database)
        assert (problem.kind, problem.subject, problem.reason.code) == ("part", STUDY, "PartOfRemoved")
        assert remedy(problem).endswith(f"hilum analyse {STUDY}")

        reception.send(images())  # all of it, byte for byte
        again = settled(reception, 20)
        assert [(job.state, job.current) for job in again.jobs] == [(JobState.DONE, True)]
        assert {each.state for each in again.deliveries} == {DeliveryState.DELIVERED}
        assert "all of them came again" in node.hilum("show", STUDY).output
        assert find_problems(settings, node.database) == []
        with node.database.reading() as uow:
            assert len(instances_of_job(uow, again.jobs[0].id)) == 20

        node.age(40)
        assert node.retainer().turn()
        reception.send(images()[:19])
        settled(reception, 19)
        assert isinstance(node.hilum("resend", STUDY).exception, ArchiveError)  # its results are gone all the same
        said = list(analyse(settings, node.database, STUDY))
        assert said[0].startswith("lung_ct: runs on 19 image(s)")
        wait_until(lambda: len(settled(reception, 19).jobs) == 2, 20, "a part is analysed on request")
