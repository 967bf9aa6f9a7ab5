"""``hilum studies --problems``, ``hilum discard`` and ``hilum resend`` as a person types them, on both databases."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from typer.testing import CliRunner, Result

from db.delivery import commitments, outbox
from db.delivery.outbox import Outgoing
from db.delivery.withdrawals import KeyObject, Whereabouts, placed, take_back
from db.engine import Database
from db.files.filestore import FileStore
from db.images import index
from db.images.index import add_instances, generation
from db.overview.queries import retry_study
from db.tables import DeliveryRow, EventRow, JobRow, NoticeRow, StudyRow
from db.work import jobs, notices
from db.work.revisions import close_study
from hilum.cli import app
from hilum.config import Settings, load
from hilum.problems import find_problems
from study.errors import ArchiveError, Reason
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, STUDY, empty_url, planned, results, stored
from tests.support.outbox import deliver, forms, lease, record
from tests.support.small_disk import small_disk

CONFIG = """
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 11112
results = ["seg", "sr", "refusal"]
[[peers]]
name = "viewer"
ae_title = "VIEWER"
host = "127.0.0.1"
port = 11113
results = ["seg", "sr"]
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""
CRASHED = Reason("RunnerDied", "The runner ended.")
NEVER = Reason("StoreFailed", "The peer answered A900.", {"status": 0xA900})
UNKNOWN = Reason("AssociationRejected", "The peer does not know us.")
AWAY = Reason("PeerUnreachable", "Connection refused.")
SENT = DeliveryState.DELIVERED


@dataclass
class Node:
    """A node of which no role is there, moved by the test."""

    config: Path
    url: str
    settings: Settings
    database: Database
    opened: list[Database]

    def hilum(self, command: str, *arguments: str) -> Result:
        """Run a command, and close the connections that end with its process elsewhere."""
        options = ("--config", str(self.config), "--set", f"database.url={self.url}")
        done = CliRunner().invoke(app, [command, *arguments, *options])
        while self.opened:
            self.opened.pop().close()
        return done

    def lines(self, command: str, *arguments: str) -> list[str]:
        """Run a command; return the lines that it prints."""
        done = self.hilum(command, *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout.splitlines()

    def problems(self) -> list[dict[str, Any]]:
        """Return what needs a person; the exit status says whether there is anything."""
        done = self.hilum("studies", "--problems", "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)
        assert done.exit_code == (1 if found else 0), done.output
        return found

    def told(self) -> list[tuple[str, str, str]]:
        return [(each["kind"], each["subject"], each["reason"]["code"]) for each in self.problems()]

    def queue(self, study: str = STUDY, image: int = 1, refusal: Reason | None = None) -> None:
        with self.database.writing() as uow:
            add_instances(uow, [stored(image, study=study)])
            images = [instance for each in index.current_instances(uow, study).values() for instance in each]
            close_study(uow, study, [planned(images, refusal=refusal)], "", generation(uow, study))
            uow.commit()

    def fail(self, study: str = STUDY) -> None:
        self.queue(study)
        with self.database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            jobs.fail_attempt(uow, job.id, job.attempt, CRASHED, transient=False)
            uow.commit()

    def report(self, *peers: str, study: str = STUDY) -> None:
        """Bring real files of a SEG and an SR into the outbox."""
        made = []
        for each in results(study):
            path = self.settings.data_dir / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.form.encode())
            made.append(replace(each, digest=hashlib.sha256(each.form.encode()).hexdigest()))
        self.queue(study)
        with self.database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            owed = [Outgoing(peer, position, result) for peer in peers for position, result in enumerate(made)]
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            uow.commit()

    def deliver(self, *peers: str) -> None:
        for peer in peers:
            for delivery in lease(self.database, peer):
                deliver(self.database, delivery)

    def keep_aside(self, peer: str = "pacs") -> None:
        with self.database.writing() as uow:
            for delivery in outbox.lease_deliveries(uow, peer, "sender-1", 60, 10):
                outbox.keep_aside(uow, delivery.id, "sender-1", NEVER, 0xA900)
            uow.commit()

    def postpone(self, reason: Reason, *, problem: bool, peer: str = "pacs") -> None:
        with self.database.writing() as uow:
            for delivery in outbox.lease_deliveries(uow, peer, "sender-1", 60, 1):
                outbox.postpone(uow, delivery.id, "sender-1", reason, problem, 5)
            uow.commit()

    def change(self, statement: Any) -> None:  # noqa: ANN401 - a statement of SQLAlchemy
        with self.database.writing() as uow:
            uow.execute(statement)
            uow.commit()

    def long_ago(self) -> Any:  # noqa: ANN401 - a time
        return self.database.now() - timedelta(hours=2)

    def states(self) -> dict[tuple[str, str], DeliveryState]:
        return {(each.peer, each.result.form): each.state for each in record(self.database).deliveries}


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    url = "sqlite" if request.param == "sqlite" else empty_url(request.param, tmp_path)
    settings = load(config, [f"database.url={url}"], environment={})
    settings.data_dir.mkdir(exist_ok=True)
    database = Database.open(settings.database_url)
    database.migrate()
    opened: list[Database] = []
    connect = Database.open

    def note(url: str) -> Database:
        opened.append(connect(url))
        return opened[-1]

    monkeypatch.setattr(Database, "open", note)
    yield Node(config, url, settings, database, opened)
    database.close()


def test_a_node_that_is_well_has_no_problems(node: Node) -> None:
    node.report("pacs")
    assert node.lines("studies", "--problems") == ["nothing needs a person"]
    node.deliver("pacs")
    assert node.problems() == []


def test_a_failed_analysis_is_a_problem_until_it_is_discarded_and_again_once_it_is_retried(node: Node) -> None:
    node.fail()
    (found,) = node.problems()
    assert (found["kind"], found["subject"]) == ("analysis", STUDY)
    assert found["reason"]["words"] == "lung_ct: The runner ended."
    assert f"hilum retry {STUDY}" in found["remedy"]
    said = node.lines("discard", STUDY, "--yes")
    assert said[0] == f"{STUDY}:"
    assert said[1].startswith("  lung_ct, job ")
    assert said[-1] == f"discarded; hilum retry {STUDY} tries it again"
    assert node.problems() == []
    summary = record(node.database).summary
    assert summary.state is StudyState.FAILED
    assert summary.discarded_at is not None
    assert "discarded on" in node.lines("studies")[1]
    assert any("discarded on" in line for line in node.lines("show", STUDY))
    last = record(node.database).events[-1]
    assert (last.kind, last.numbers["jobs"]) == ("discarded", 1)
    assert last.numbers["account"]
    *_, kept, _ = FileStore(node.settings.data_dir).read_manifest(STUDY)
    assert (kept["record"], kept["account"]) == ("discarded", last.numbers["account"])
    node.lines("retry", STUDY)
    assert record(node.database).summary.discarded_at is None
    assert json.loads(node.hilum("studies", "--json").stdout)[0]["discarded_at"] is None


def test_what_fails_after_a_study_was_discarded_is_a_problem_again(node: Node) -> None:
    node.fail()
    node.lines("discard", STUDY, "--yes")
    node.change(update(JobRow).values(ended_at=node.database.now() + timedelta(seconds=1)))
    assert node.told() == [("analysis", STUDY, "RunnerDied")]


def test_images_that_come_later_undo_a_discard(node: Node) -> None:
    node.fail()
    node.lines("discard", STUDY, "--yes")
    with node.database.writing() as uow:
        add_instances(uow, [stored(2)])
        uow.commit()
    assert record(node.database).summary.discarded_at is None


def test_discard_changes_nothing_where_nobody_agrees_or_nothing_failed(node: Node) -> None:
    node.report("pacs")
    assert node.lines("discard", STUDY, "--yes") == [f"nothing of {STUDY} failed, so there is nothing to discard"]
    node.keep_aside()
    assert node.hilum("discard", STUDY).exit_code != 0
    assert record(node.database).summary.discarded_at is None
    assert node.told() == [("delivery", STUDY, "StoreFailed")]


def test_what_a_peer_refuses_is_one_problem_and_not_tried_once_discarded(node: Node) -> None:
    node.report("pacs", "viewer")
    node.keep_aside("pacs")
    node.postpone(UNKNOWN, problem=True, peer="viewer")
    node.postpone(UNKNOWN, problem=True, peer="viewer")  # what followed it is tried without it
    found = {each["peer"]: each for each in node.problems()}
    assert found["pacs"]["reason"] == {
        "code": "StoreFailed",
        "words": "2 object(s) for pacs: The peer answered A900.",
        "numbers": {"objects": 2},
    }
    assert found["viewer"]["reason"]["code"] == "AssociationRejected"
    assert "  viewer: 2 object(s) are not sent, and kept here" in node.lines("discard", STUDY, "--yes")
    assert node.problems() == []
    assert set(node.states().values()) == {DeliveryState.KEPT_ASIDE}
    node.change(update(DeliveryRow).values(next_attempt_at=node.long_ago()))
    assert lease(node.database, "viewer") == []
    with node.database.writing() as uow:
        assert retry_study(uow, STUDY) == (0, 4)
        uow.commit()
    assert forms(lease(node.database, "viewer")) == ["seg", "sr"]


def test_what_is_being_sent_just_now_is_not_discarded(node: Node) -> None:
    node.report("pacs")
    node.postpone(UNKNOWN, problem=True)
    node.change(update(DeliveryRow).values(next_attempt_at=node.long_ago()))
    lease(node.database)
    done = node.hilum("discard", STUDY, "--yes")
    assert isinstance(done.exception, ArchiveError)
    assert "being sent just now" in done.exception.words
    assert record(node.database).summary.discarded_at is None
    node.change(update(DeliveryRow).values(next_attempt_at=node.long_ago()))  # its sender died
    node.lines("discard", STUDY, "--yes")
    with node.database.reading() as uow:
        kept = select(DeliveryRow.unsure).where(DeliveryRow.state == DeliveryState.KEPT_ASIDE.value)
        assert list(uow.execute(kept).scalars()) == [True]


def test_results_that_a_newer_revision_overtook_need_nobody(node: Node) -> None:
    node.report("pacs")
    node.keep_aside()
    node.queue(image=2)
    assert node.problems() == []


def test_a_peer_that_is_away_is_a_problem_after_an_hour_once_for_all_that_waits(node: Node) -> None:
    node.report("pacs")
    node.report("pacs", study="1.2.5")
    node.postpone(AWAY, problem=False)
    assert node.problems() == []
    node.change(update(EventRow).values(at=node.long_ago()))
    (found,) = node.problems()
    assert (found["kind"], found["subject"]) == ("peer", "pacs")
    assert found["reason"]["words"] == "4 object(s) wait for it: Connection refused."
    assert found["remedy"].startswith("hilum echo pacs")
    node.lines("pause", "--only", "deliveries", "--reason", "PACS upgrade")
    (found,) = node.problems()
    assert (found["kind"], found["subject"]) == ("pause", "deliveries")
    assert found["reason"]["words"] == "deliveries are paused: PACS upgrade"
    assert found["remedy"] == "hilum resume --only deliveries"


def test_what_is_owed_to_a_peer_that_is_sent_nothing_any_more_is_a_problem_and_can_be_discarded(node: Node) -> None:
    node.report("old")
    (found,) = node.problems()
    assert found["reason"]["code"] == "PeerNotSent"
    assert found["remedy"].startswith("give old results in [[peers]] again")
    node.lines("discard", STUDY, "--yes")
    assert node.problems() == []
    assert set(node.states().values()) == {DeliveryState.KEPT_ASIDE}


def test_a_refusal_report_that_was_given_up_is_a_problem(node: Node) -> None:
    node.queue(refusal=Reason("TooFewSlices", "3 slices."))
    with node.database.writing() as uow:
        job = uow.execute(select(JobRow.id, JobRow.study)).one()
        values = {"study": job.study, "job": job.id, "attempts": 0, "not_before": uow.now(), "given_up": False}
        uow.execute(insert(NoticeRow).values(values))
        assert notices.lease_notice(uow, "reporter", 30) is not None
        notices.not_written(uow, job.id, "reporter", Reason("DiskFull", "No space."), False)
        uow.commit()
    assert node.told() == [("report", STUDY, "DiskFull")]
    assert "  1 refusal report(s) are not written" in node.lines("discard", STUDY, "--yes")
    assert node.problems() == []


def test_a_file_set_aside_is_a_problem_until_it_is_removed(node: Node) -> None:
    path = node.settings.data_dir / "aside" / "receiver-1-000001.dcm"
    path.parent.mkdir()
    path.write_bytes(b"what is this")
    with node.database.writing() as uow:
        index.set_aside(uow, "aside/receiver-1-000001.dcm", Reason("NotDicom", "No UIDs."))
        uow.commit()
    (found,) = node.problems()
    assert (found["kind"], found["subject"]) == ("file", "aside/receiver-1-000001.dcm")
    assert found["remedy"].startswith("see aside/receiver-1-000001.reason.txt")
    path.unlink()
    assert node.problems() == []


def test_jobs_that_nobody_takes_are_a_problem_after_an_hour(node: Node) -> None:
    node.queue()
    assert node.problems() == []
    node.change(update(JobRow).values(not_before=node.long_ago()))
    assert node.told() == [("queue", "analyses", "NoWorker")]
    node.lines("pause", "--only", "analyses")
    assert [kind for kind, *_ in node.told()] == ["pause"]
    node.lines("resume")
    with node.database.writing() as uow:
        assert jobs.lease_job(uow, "keeper", 30) is not None
        uow.commit()
    assert node.problems() == []
    node.change(update(JobRow).values(lease_until=node.long_ago()))
    assert node.told() == [("stuck", STUDY, "WorkerGone")]
    now = node.database.now()
    node.change(update(JobRow).values(lease_until=now + timedelta(hours=1), started_at=now - timedelta(days=2)))
    assert node.told() == [("stuck", STUDY, "Endless")]


def test_reports_and_results_that_nobody_takes_are_problems_after_an_hour(node: Node) -> None:
    node.report("pacs")
    node.queue(f"{STUDY}.2", refusal=Reason("MissingSlices", "Slices are missing."))
    with node.database.writing() as uow:
        job = uow.execute(select(JobRow.id, JobRow.study).where(JobRow.state == JobState.REFUSED.value)).one()
        values = {"study": job.study, "job": job.id, "attempts": 0, "not_before": uow.now(), "given_up": False}
        uow.execute(insert(NoticeRow).values(values))
        uow.commit()
    assert node.problems() == []
    node.change(update(DeliveryRow).values(next_attempt_at=node.long_ago()))
    node.change(update(NoticeRow).values(not_before=node.long_ago()))
    assert node.told() == [("queue", "deliveries", "NoSender"), ("queue", "reports", "NoWriter")]
    assert {each["remedy"].partition(";")[0] for each in node.problems()} == {
        "start hilum serve (a sender)",
        "start hilum serve (a keeper)",
    }
    lease(node.database, "pacs")
    assert node.told() == [("queue", "reports", "NoWriter")]


def test_an_analysis_that_is_interrupted_again_and_again_is_a_problem_with_the_cause(node: Node) -> None:
    node.queue()
    with node.database.writing() as uow:
        for _ in range(10):
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            jobs.interrupt_job(uow, job.id, job.attempt, "the disk is full")
            uow.execute(update(JobRow).values(not_before=uow.now()))
        uow.commit()
    (found,) = node.problems()
    assert (found["kind"], found["subject"], found["reason"]["numbers"]) == ("stuck", STUDY, {"interruptions": 10})
    assert found["reason"]["words"].endswith("The attempt was interrupted: the disk is full.")


def test_a_study_that_is_not_closed_in_a_day_is_a_problem(node: Node) -> None:
    now = node.database.now()
    with node.database.writing() as uow:
        add_instances(uow, [replace(stored(1), received_at=now)])
        uow.commit()
    assert node.problems() == []
    node.change(update(StudyRow).values(first_received_at=now - timedelta(days=2)))
    assert [each["reason"]["words"].partition(",")[0] for each in node.problems()] == [
        "It has been received for more than a day"
    ]
    node.change(update(StudyRow).values(last_received_at=now - timedelta(days=2)))
    (found,) = node.problems()
    assert (found["kind"], found["subject"], found["reason"]["code"]) == ("open", STUDY, "NotClosed")
    assert found["reason"]["words"].startswith("Nothing of it came for a day")
    node.queue()
    node.change(update(JobRow).values(not_before=now))
    assert node.problems() == []


def test_a_disk_with_less_than_its_reserve_is_a_problem(node: Node) -> None:
    done = node.hilum("studies", "--problems", "--json", "--set", "node.disk_reserve_mb=1000000000")
    (found,) = json.loads(done.stdout)
    assert (found["kind"], found["subject"]) == ("disk", str(node.settings.data_dir))
    assert "A700" in found["reason"]["words"]
    assert done.exit_code == 1


def test_a_disk_that_is_mounted_read_only_is_a_problem(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        settings = Settings.model_validate({"node": {"data_dir": disk.folder, "disk_reserve_mb": 0}})
        database = Database.open(f"sqlite:///{tmp_path / 'hilum.db'}")
        database.migrate()
        assert find_problems(settings, database) == []
        disk.protect()
        assert [each.reason.code for each in find_problems(settings, database)] == ["DiskReadOnly"]
        database.close()


def test_received_files_that_nobody_indexes_are_a_problem_after_ten_minutes(node: Node) -> None:
    inbox = FileStore(node.settings.data_dir).inbox("receiver-0")
    inbox.mkdir(parents=True)
    received = inbox / "1.dcm"
    received.write_bytes(b"DICM")
    assert node.problems() == []
    eleven_minutes_ago = (node.database.now() - timedelta(minutes=11)).timestamp()
    os.utime(received, (eleven_minutes_ago, eleven_minutes_ago))
    assert node.told() == [("inbox", "inbox", "NotIndexed")]


def withdraw(node: Node) -> None:
    """Take the study's results back, from a peer that takes no Key Object."""
    made = results()
    key_object = replace(made[0], form="rejection", sop_instance_uid=f"{STUDY}.99", path="results/ko.dcm")
    uids = frozenset(each.sop_instance_uid for each in made)
    with node.database.writing() as uow:
        job = uow.execute(select(JobRow.id)).scalar_one()
        take_back(uow, job, "test", "bob", "wrong", False, [KeyObject("pacs", uids, key_object, "it takes none")])
        uow.commit()


def test_a_rejection_that_a_peer_does_not_heed_is_a_problem_until_it_is_acknowledged(node: Node) -> None:
    node.report("pacs")
    node.deliver("pacs")
    withdraw(node)
    (found,) = node.problems()
    assert (found["kind"], found["reason"]["code"]) == ("rejection", "RejectionUnheeded")
    assert f"{STUDY}.77.0" in found["reason"]["words"]
    said = node.lines("discard", STUDY, "--yes")
    assert any(line.startswith("  pacs: 1 rejection(s) that it does not heed count as seen to") for line in said)
    assert node.problems() == []
    node.queue(image=2)  # images undo the discard; what was acknowledged stays so
    assert node.problems() == []
    with node.database.writing() as uow:  # the job counts again
        close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
        uow.commit()
    assert record(node.database).jobs[0].current
    assert {each.state for each in record(node.database).deliveries if each.result.form == "rejection"} == {
        DeliveryState.KEPT_ASIDE
    }


def test_delivered_results_are_sent_again_the_segmentation_first(node: Node) -> None:
    node.report("pacs", "viewer")
    node.deliver("pacs", "viewer")
    assert node.lines("resend", STUDY, "--to", "pacs") == [f"{STUDY}: 2 object(s) are sent to pacs again"]
    assert node.states()[("viewer", "seg")] is SENT
    assert lease(node.database, "viewer") == []
    again = lease(node.database, "pacs")
    assert forms(again) == ["seg", "sr"]
    assert [each.attempts for each in again] == [1, 1]
    last = record(node.database).events[-1]
    assert (last.kind, last.numbers["peer"], last.numbers["objects"]) == ("resent", "pacs", 2)
    for each in again:
        deliver(node.database, each)
    assert record(node.database).summary.state is StudyState.DELIVERED


def test_what_a_peer_stored_and_has_not_committed_is_sent_again_too(node: Node) -> None:
    node.report("pacs")
    with node.database.writing() as uow:
        for each in outbox.lease_deliveries(uow, "pacs", "sender-1", 60, 10):
            commitments.stored(uow, each.id, "sender-1", 0)
        uow.commit()
    node.lines("resend", STUDY)
    assert set(node.states().values()) == {DeliveryState.PENDING}


def test_withdrawn_results_are_never_sent_again(node: Node) -> None:
    node.report("pacs")
    node.deliver("pacs")
    withdraw(node)
    assert node.lines("resend", STUDY) == [
        "  left out: 2 object(s), since they were withdrawn",
        f"{STUDY}: no result that a peer took, so there is nothing to send again",
    ]
    assert node.states()[("pacs", "seg")] is DeliveryState.WITHDRAWN


def test_results_that_a_newer_revision_overtook_are_not_sent_again(node: Node) -> None:
    node.report("pacs")
    node.deliver("pacs")
    node.queue(image=2)
    assert node.lines("resend", STUDY) == [f"{STUDY}: no result that a peer took, so there is nothing to send again"]
    assert set(node.states().values()) == {SENT}


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_result_whose_file_is_not_what_was_sent_is_refused_before_anything_changes(node: Node, harm: str) -> None:
    node.report("pacs")
    node.deliver("pacs")
    path = node.settings.data_dir / results()[1].path
    path.unlink() if harm == "gone" else path.write_bytes(b"other")
    done = node.hilum("resend", STUDY)
    assert isinstance(done.exception, ArchiveError)
    assert str(path) in done.exception.words
    assert set(node.states().values()) == {SENT}


def test_a_model_that_is_kept_here_and_a_peer_that_is_sent_nothing_are_left_out(node: Node) -> None:
    node.report("pacs", "old")
    node.deliver("pacs", "old")
    assert "  left out: 2 object(s), since the configuration sends old nothing any more" in node.lines("resend", STUDY)
    node.deliver("pacs")
    said = node.lines("resend", STUDY, "--set", "models.lung_ct.deliver=false")
    assert "  left out: 2 object(s), since the entry of lung_ct has deliver = false" in said
    assert set(node.states().values()) == {SENT}
    done = node.hilum("resend", STUDY, "--to", "old")
    assert isinstance(done.exception, ArchiveError)
    assert "these are: pacs, viewer" in done.exception.words


def test_a_result_that_was_sent_again_and_is_withdrawn_before_it_went_out_is_rejected_there(node: Node) -> None:
    node.report("pacs")
    node.deliver("pacs")
    node.lines("resend", STUDY)
    with node.database.reading() as uow:
        where = {each.whereabouts for each in placed(uow, uow.execute(select(JobRow.id)).scalar_one())}
    assert where == {Whereabouts.UNSURE}  # the peer had it: hilum withdraw writes what rejects it there
    withdraw(node)
    assert set(node.states().values()) == {DeliveryState.WITHDRAWN, DeliveryState.KEPT_ASIDE}
    assert node.told() == [("rejection", STUDY, "RejectionUnheeded")]
