"""A database that is lost is made anew from the files: what the node knew of its studies before, it knows after."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from db.complete import priors
from db.delivery import commitments, outbox
from db.delivery.outbox import Outgoing
from db.delivery.withdrawals import KeyObject, take_back
from db.engine import Database
from db.files.filestore import FileStore
from db.images import index
from db.images.index import add_instances, generation
from db.lasting import retention
from db.lasting.copying import copy_to_file, fill_from_file
from db.lasting.ledger import closed_record, job_record, note_words, note_work, presence_record
from db.lasting.rebuilding import is_entered, known_paths
from db.overview.queries import retry_study, study_record
from db.overview.tending import discard, resend, sendable
from db.work import admissions, jobs, notices, pauses
from db.work.revisions import close_study
from hilum.entries import PeerSettings
from hilum.pausing import pause
from hilum.rebuilding import Count, prepare, rebuild
from study.entities import Job, PlannedJob, PlannedPrior, ResultObject, StoredInstance, StudyRecord
from study.errors import ArchiveError, Reason
from study.forms import Form
from study.states import DeliveryState, Halted, JobState, StudyState
from tests.support.databases import DIALECTS, empty_url, planned, results
from tests.support.outbox import lease
from tests.support.series import ct_series, save_series

TOO_FEW = Reason("MissingSlices", "Slices are missing.", {"slices": 2})
PEER = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, results=(Form.SEG, Form.REFUSAL))
CRASHED = Reason("RunnerDied", "The runner ended.")


@dataclass
class Node:
    """A node of which no role is there, moved by the test as its roles move it."""

    folder: Path
    dialect: str
    store: FileStore
    database: Database

    def receive(self, number: int, images: int = 3, **header: Any) -> str:  # noqa: ANN401 - a value of the header
        """Take a series in, index it and move it to the store; return its study."""
        study = f"1.2.826.0.1.{number}"
        datasets = ct_series(
            np.zeros((images, 8, 8)),
            attributes={"FrameOfReferenceUID": f"{study}.2"} | header,
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
        )
        for position, dataset in enumerate(datasets):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{study}.9.{position}")
        return self.take_in(save_series(datasets, self.store.inbox("receiver-1")))

    def take_in(self, paths: list[Path]) -> str:
        instances = [self.store.read_incoming(path) for path in paths]
        with self.database.writing() as uow:
            add_instances(uow, instances)
            uow.commit()
        self.store.move_in(instances)
        return instances[0].header.study_instance_uid

    def images(self, study: str) -> list[StoredInstance]:
        with self.database.reading() as uow:
            found = index.current_instances(uow, study)
        return [instance for series in found.values() for instance in series]

    def close(self, study: str, *plan: PlannedJob, words: str = "") -> None:
        with self.database.writing() as uow:
            close_study(uow, study, plan, words, generation(uow, study))
            self.store.append_manifest(study, closed_record(uow, study, whole=True))
            uow.commit()

    def lease(self) -> Job:
        with self.database.writing() as uow:
            job = jobs.lease_job(uow, "keeper", 30)
            uow.commit()
        assert job is not None
        return job

    def finish(self, study: str, *peers: str, tag: str = "a") -> None:
        """Let the job that is due end with a Segmentation and a report for these peers."""
        job = self.lease()
        made = [self.file(each, f"{each.form} {tag}", f"{job.id}-1-{tag}") for each in results(f"{study}.{job.id}")]
        made = [replace(each, path=each.path.replace(f"{study}.{job.id}", study)) for each in made]
        for each in made:
            self.write(each.path, f"{each.form} {tag}")
        owed = [Outgoing(peer, position, result) for peer in peers for position, result in enumerate(made)]
        with self.database.writing() as uow:
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {"seconds": 1.5})
            self.note(study, job_record(uow, "results", job.id))
            uow.commit()

    def file(self, result: ResultObject, content: str, folder: str) -> ResultObject:
        digest = hashlib.sha256(content.encode()).hexdigest()
        return replace(result, digest=digest, path=f"{Path(result.path).parent}/{folder}/{result.form}.dcm")

    def write(self, path: str, content: str) -> None:
        (self.store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.store.root / path).write_text(content)

    def note(self, study: str, record: dict[str, Any]) -> None:
        self.store.append_manifest(study, record)

    def end(self, kind: str, peer: str = "pacs", limit: int = 10) -> None:
        """Let a sender bring what is due to the peer, which stores it."""
        how = {"stored": commitments.stored, "delivered": outbox.delivered}[kind]
        for each in lease(self.database, peer, limit=limit):
            with self.database.writing() as uow:
                self.note(each.study_instance_uid, presence_record(kind, peer, each.result.sop_instance_uid, 0))
                how(uow, each.id, "sender-1", 0)
                uow.commit()

    def record(self, study: str) -> StudyRecord:
        with self.database.reading() as uow:
            found = study_record(uow, study)
        assert found is not None
        return found

    def lose(self) -> None:
        """Take the database away, and open an empty one."""
        self.database.close()
        fresh = self.folder / f"database-{len(list(self.folder.glob('database-*')))}"
        fresh.mkdir()
        self.database = Database.open(empty_url(self.dialect, fresh))

    def rebuild(self) -> list[str]:
        said: list[str] = []
        self.lose()
        prepare(self.database, self.store, said.append, lambda: False)
        return said


@pytest.fixture
def dialect() -> str:
    """Return the database's; some tests say so themselves."""
    return "sqlite"


@pytest.fixture
def node(dialect: str, tmp_path: Path) -> Iterator[Node]:
    fresh = tmp_path / "database-0"
    fresh.mkdir()
    made = Node(tmp_path, dialect, FileStore(tmp_path / "node"), Database.open(empty_url(dialect, fresh)))
    made.database.migrate()
    yield made
    made.database.close()


def facts(found: StudyRecord) -> dict[str, Any]:
    """Return what must be the same after a rebuild: all but the journal and the moments of waiting."""
    return {
        "summary": found.summary,
        "revision": found.revision,
        "series": found.series,
        "jobs": [replace(job, not_before=None) for job in found.jobs],
        "deliveries": sorted(
            (
                each.job_id,
                each.peer,
                each.position,
                each.result,
                each.state,
                each.delivered_at is None,
                each.stored_at is None,
                each.problem,
                each.status,
            )
            for each in found.deliveries
        ),
        "results": found.results,
        "verdicts": found.verdicts,
        "other_versions": [each.digest for each in found.other_versions],
        "withdrawals": found.withdrawals,
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_delivered_results_are_known_and_not_owed_again(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs", "viewer")
    node.end("delivered")
    before = node.record(study)
    assert {each.state for each in before.deliveries} == {DeliveryState.DELIVERED, DeliveryState.PENDING}
    said = node.rebuild()
    after = node.record(study)
    assert facts(after) == facts(before)
    assert said[-1].startswith(
        "1 studies with 3 images, 1 jobs and 2 result objects are in the new database; 2 deliver"
    )
    with node.database.reading() as uow:
        assert [each.header.sop_instance_uid for each in index.instances_of_job(uow, before.jobs[0].id)] == [
            each.header.sop_instance_uid for each in node.images(study)
        ]
        assert not index.studies_due(uow, 0, uow.now())
    assert [each.kind for each in after.events] == ["first_instance", "rebuilt"]
    assert after.events[0].at == after.summary.last_received_at
    assert lease(node.database, "pacs") == []
    assert [each.peer for each in lease(node.database, "viewer")] == ["viewer", "viewer"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_work_that_had_not_ended_is_planned_again_and_the_new_job_has_a_number_of_its_own(node: Node) -> None:
    first, second = node.receive(1), node.receive(2)
    for study in (first, second):
        node.close(study, planned(node.images(study)))
    node.finish(first, "pacs")
    node.lease()
    node.rebuild()
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [second]
    assert node.record(second).summary.state is StudyState.RECEIVING
    node.close(second, planned(node.images(second)))
    node.close(first, planned(node.images(first)))  # the same work is not done twice
    (one,), (other,) = node.record(first).jobs, node.record(second).jobs
    assert (one.state, other.state) == (JobState.DONE, JobState.QUEUED)
    assert other.id > one.id
    assert node.lease().id == other.id


@pytest.mark.parametrize("dialect", DIALECTS)
def test_refusals_are_known_whether_a_worker_saw_them_or_not_and_their_reports_are_not_repeated(node: Node) -> None:
    studies = [node.receive(number) for number in (1, 2, 3)]
    unseen, seen, failed = studies
    refused = planned(node.images(unseen), refusal=TOO_FEW)
    told = replace(refused, parameters=refused.parameters | {"refusal_to": ["pacs"]})
    node.close(unseen, told)
    for study in (seen, failed):
        node.close(study, planned(node.images(study)))
    job = node.lease()
    with node.database.writing() as uow:
        jobs.refuse_job(uow, job.id, job.attempt, TOO_FEW)
        node.note(seen, job_record(uow, "refused", job.id))
        uow.commit()
    job = node.lease()
    with node.database.writing() as uow:
        jobs.fail_attempt(uow, job.id, job.attempt, CRASHED, transient=False)
        node.note(failed, job_record(uow, "failed", job.id))
        uow.commit()
    before = {study: node.record(study) for study in studies}
    node.rebuild()
    for study in studies:
        after = facts(node.record(study))
        now, then = (list(each.pop("jobs")) for each in (after, facts(before[study])))
        assert after == {key: value for key, value in facts(before[study]).items() if key != "jobs"}
        # No worker ever saw the number of what was refused at once
        assert [replace(each, id=0) for each in now] == [replace(each, id=0) for each in then]
    with node.database.reading() as uow:
        assert not index.studies_due(uow, 0, uow.now())
    with node.database.writing() as uow:
        retry_study(uow, failed)
        note_work(uow, node.store, "retried", failed, "bob")
        uow.commit()
    node.rebuild()
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [failed]


def test_a_report_of_a_refusal_is_owed_until_it_is_delivered(node: Node) -> None:
    study = node.receive(1)
    refused = planned(node.images(study), refusal=TOO_FEW)
    node.close(study, replace(refused, parameters=refused.parameters | {"wishes": [PEER.wish().to_json()]}))
    node.rebuild()  # before it is written: it still is to be
    (report,) = results(study, ("refusal",))
    report = node.file(report, "refusal", "1-refusal-1")
    node.write(report.path, "refusal")
    with node.database.writing() as uow:
        notice = notices.lease_notice(uow, "keeper", 60)
        assert notice is not None
        notices.written(uow, notice.job.id, "keeper", [report], [Outgoing("pacs", 0, report)])
        node.note(study, job_record(uow, "refusal_report", notice.job.id))
        uow.commit()
    before = node.record(study)
    node.rebuild()
    assert facts(node.record(study)) == facts(before)
    node.end("delivered")
    node.rebuild()
    assert [each.state for each in node.record(study).deliveries] == [DeliveryState.DELIVERED]
    with node.database.reading() as uow:
        assert not notices.is_notice_waiting(uow)


def test_what_a_peer_stored_is_asked_about_again(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    node.end("stored")
    node.rebuild()
    assert {each.state for each in node.record(study).deliveries} == {DeliveryState.STORED}
    node.note(study, {"record": "committed", "peer": "pacs", "sop_instance_uid": f"{study}.1.77.0"})
    node.rebuild()
    (one, other) = node.record(study).deliveries
    assert (one.state, other.state) == (DeliveryState.DELIVERED, DeliveryState.STORED)


def test_the_newest_version_counts_also_where_an_old_one_came_again(node: Node) -> None:
    study = node.receive(1)
    inbox = node.store.inbox("receiver-1")
    old = [(path.name, path.read_bytes()) for path in node.store.stored_files(study)]
    node.receive(1, PatientName="Other^Name")
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs", tag="b")
    before = node.record(study)
    assert len(before.other_versions) == 3
    node.rebuild()
    assert facts(node.record(study)) == facts(before)
    again = []
    for name, content in old:
        (inbox / name).write_bytes(content)
        again.append(inbox / name)
    node.take_in(again)
    before = node.record(study)
    node.rebuild()
    after = node.record(study)
    assert [each.digest for each in after.other_versions] == [each.digest for each in before.other_versions]
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [study]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_newer_revision_stays_the_one_that_counts(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    node.end("delivered", limit=1)
    node.receive(1, images=4)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs", tag="b")
    before = node.record(study)
    assert [job.current for job in before.jobs] == [False, True]
    node.rebuild()
    assert facts(node.record(study)) == facts(before)


def test_what_people_said_holds(node: Node) -> None:
    asked, discarded, passed = (node.receive(number) for number in (1, 2, 3))
    with node.database.writing() as uow:
        admissions.ask_for_analysis(uow, asked)
        note_words(uow, node.store, asked)
        uow.commit()
    node.close(discarded, planned(node.images(discarded)))
    job = node.lease()
    with node.database.writing() as uow:
        jobs.fail_attempt(uow, job.id, job.attempt, CRASHED, transient=False)
        discard(uow, discarded, ["pacs"], "bob")
        note_work(uow, node.store, "discarded", discarded, "bob")
        uow.commit()
    pause(node.database, node.store, [Halted.DELIVERIES], "the PACS moves")
    with node.database.writing() as uow:
        assert admissions.pass_over(uow, node.record(passed).summary.first_received_at) == [passed]
        note_words(uow, node.store, passed)
        uow.commit()
    before = {uid: node.record(uid) for uid in (asked, discarded)}
    node.rebuild()
    assert node.record(discarded).summary == before[discarded].summary
    with node.database.reading() as uow:
        seen = {uid: index.snapshot(uow, uid) for uid in (asked, passed)}
        assert pauses.pauses(uow)[Halted.DELIVERIES].words == "the PACS moves"
    assert (seen[asked].on_request, seen[asked].newest_accepted, seen[asked].passed_over) == (True, True, False)
    assert (seen[passed].on_request, seen[passed].passed_over) == (False, True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_was_taken_back_stays_back_and_its_rejection_is_owed(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs", "viewer")
    node.end("delivered")
    found = node.record(study)
    (ko,) = results(study, ("rejection",))
    ko = node.file(replace(ko, sop_instance_uid=f"{study}.99"), "rejection", "ko")
    node.write(ko.path, "rejection")
    uids = frozenset(result.sop_instance_uid for _, result in found.results)
    with node.database.writing() as uow:
        take_back(uow, found.jobs[0].id, "withdraw", "bob", "wrong side", True, [KeyObject("pacs", uids, ko)])
        node.note(study, job_record(uow, "withdrawn", found.jobs[0].id))
        uow.commit()
    before = node.record(study)
    node.rebuild()
    assert facts(node.record(study)) == facts(before)
    assert [each.result.form for each in lease(node.database, "pacs")] == ["rejection"]
    assert lease(node.database, "viewer") == []


def test_what_a_person_has_sent_again_is_owed_until_it_is_there_once_more(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    node.end("delivered")
    with node.database.writing() as uow:
        resend(uow, study, sendable(uow, study), "bob")
        note_work(uow, node.store, "resent", study, "bob")
        uow.commit()
    node.rebuild()
    assert {each.state for each in node.record(study).deliveries} == {DeliveryState.PENDING}
    node.end("delivered")
    node.rebuild()
    assert {each.state for each in node.record(study).deliveries} == {DeliveryState.DELIVERED}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_retention_removed_stays_known(node: Node) -> None:
    whole, part = node.receive(1), node.receive(2)
    for study in (whole, part):
        node.close(study, planned(node.images(study)))
        node.finish(study, "pacs")
    node.end("delivered")
    for study in (whole, part):
        with node.database.writing() as uow:
            removed = retention.removed_record(uow, study)
            node.note(study, removed)
            retention.remove(uow, study, removed)
            uow.commit()
        for path in retention.removed_paths(removed):
            (node.store.root / path).unlink()
    node.receive(2, images=1)
    before = {study: node.record(study) for study in (whole, part)}
    assert [each.summary.removal and each.summary.removal.missing for each in before.values()] == [3, 2]
    node.rebuild()
    for study in (whole, part):
        assert facts(node.record(study)) == facts(before[study])
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [part]


def test_a_result_whose_file_is_gone_is_made_again_as_it_was(node: Node) -> None:
    made, withdrawn = node.receive(1), node.receive(2)
    for study in (made, withdrawn):
        node.close(study, planned(node.images(study)))
        node.finish(study, "pacs")
    node.end("delivered")
    (job,) = node.record(withdrawn).jobs
    with node.database.writing() as uow:
        (ko,) = results(withdrawn, ("rejection",))
        uids = frozenset(result.sop_instance_uid for _, result in node.record(withdrawn).results)
        take_back(uow, job.id, "withdraw", "bob", "wrong side", True, [KeyObject("pacs", uids, ko, "it takes none")])
        node.note(withdrawn, job_record(uow, "withdrawn", job.id))
        uow.commit()
    for study in (made, withdrawn):
        (node.store.root / node.record(study).results[0][1].path).unlink()
    before = {study: node.record(study) for study in (made, withdrawn)}
    said = node.rebuild()
    assert "0 studies are looked at again" in said[-1]
    assert facts(node.record(withdrawn)) == facts(before[withdrawn])
    again = node.lease()
    (job,) = before[made].jobs
    # Times in results are the job's: under the same UIDs the same bytes
    assert (again.id, again.created_at, again.attempt) == (job.id, job.created_at, job.attempt + 1)
    assert node.record(made).deliveries == ()


def test_a_damaged_image_is_kept_aside(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    image = node.store.stored_files(study)[0]
    image.write_bytes(image.read_bytes()[:-1] + b"\x7f")
    said = node.rebuild()
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [study]
        (aside,) = index.list_set_aside(uow)
    assert "its bytes have changed" in aside.reason.words
    assert said[-1] == "1 damaged files are kept aside; hilum doctor names them"
    assert node.record(study).summary.instances == 2


def spoil(node: Node, study: str, how: str) -> None:
    """Add a record to a study's manifest that no node writes."""
    told = next(each for each in node.store.read_manifest(study) if each["record"] == "results")
    strange: dict[str, dict[str, Any]] = {
        "without a number": {"job": {"state": "DONE"}},
        "with a file of somebody else": {"objects": [told["objects"][0] | {"path": "../../etc/passwd"}]},
        "with a delivery of nothing": {"deliveries": [{"peer": 5}]},
        "with a number beyond all": {"job": told["job"] | {"id": 10**30}},
    }
    node.note(study, told | strange[how])


@pytest.mark.parametrize(
    "how",
    [
        "without a number",
        "with a file of somebody else",
        "with a delivery of nothing",
        "with a number beyond all",
    ],
)
def test_a_spoilt_manifest_holds_up_no_other_study_and_its_own_waits_for_a_person(node: Node, how: str) -> None:
    spoilt, sound = node.receive(1), node.receive(2)
    for study in (spoilt, sound):
        node.close(study, planned(node.images(study)))
        node.finish(study, "pacs")
    spoil(node, spoilt, how)
    said = node.rebuild()
    assert any(line.startswith(f"{spoilt}: its manifest is not understood (") for line in said)
    assert said[-1].startswith("1 manifests are not understood; hilum analyse STUDY")
    with node.database.reading() as uow:
        assert not index.studies_due(uow, 0, uow.now())
        assert index.snapshot(uow, spoilt).passed_over
    assert (node.record(spoilt).summary.instances, node.record(spoilt).jobs) == (3, ())
    assert len(node.record(sound).jobs) == 1


def test_a_refusal_that_names_somebody_else_s_file_is_not_entered(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study), refusal=TOO_FEW))
    told = next(each for each in node.store.read_manifest(study) if each["record"] == "closed")
    (refused,) = told["refused"]
    node.note(study, told | {"refused": [refused | {"objects": [{"path": "results/1.2.3/seg.dcm"}]}]})
    assert any("its manifest is not understood (ArchiveError)" in line for line in node.rebuild())


def test_a_job_that_lost_a_result_and_an_image_is_planned_anew(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    (node.store.root / node.record(study).results[0][1].path).unlink()
    image = node.store.stored_files(study)[0]
    image.write_bytes(image.read_bytes()[:-1] + b"\x7f")
    node.rebuild()
    with node.database.writing() as uow:
        assert jobs.lease_job(uow, "keeper", 30) is None
        assert index.studies_due(uow, 0, uow.now()) == [study]


def test_a_job_is_compared_with_what_comes_later_in_the_store(node: Node) -> None:
    study, prior = node.receive(1), node.receive(2)
    earlier = tuple((each.header.sop_instance_uid, each.digest) for each in node.images(prior))
    node.close(
        study, replace(planned(node.images(study)), priors=(PlannedPrior(prior, "20260101", f"{prior}.1", earlier),))
    )
    node.finish(study, "pacs")
    job = node.record(study).jobs[0].id
    node.rebuild()
    with node.database.reading() as uow:
        (series,) = priors.priors_of_job(uow, job)
    assert [each.header.sop_instance_uid for each in series] == [uid for uid, _ in earlier]


@pytest.mark.parametrize("last", [{"record": "x"}, {"record": "x", "at": "2026-01-01T00:00:00"}, {"at": 5}])
def test_a_last_line_that_tells_no_time_holds_nothing_up(node: Node, last: dict[str, Any]) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    with (node.store.study_folder(study) / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(last) + "\n")
    assert rebuild(node.database, node.store, lambda _: None, since=node.database.now()).studies == 1


def test_of_the_same_work_the_last_counts(node: Node) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    told = next(each for each in node.store.read_manifest(study) if each["record"] == "results")
    node.note(study, told | {"job": told["job"] | {"id": 99}})
    node.rebuild()
    assert [job.id for job in node.record(study).jobs] == [99]


@pytest.mark.parametrize("looks", [0, 2, 4])
def test_a_rebuild_that_was_broken_off_is_finished(node: Node, looks: int) -> None:
    studies = [node.receive(number) for number in (1, 2, 3)]
    for study in studies:
        node.close(study, planned(node.images(study)))
        node.finish(study, "pacs")
    before = [facts(node.record(study)) for study in studies]
    node.lose()
    look = itertools.count()
    with pytest.raises(ArchiveError, match="hilum serve goes on with that"):
        prepare(node.database, node.store, lambda _: None, lambda: next(look) >= looks)
    with node.database.reading() as uow:
        there = [study for study in studies if known_paths(uow, study) is not None]
        whole = [study for study in studies if is_entered(uow, study)]
    assert (len(there), len(whole)) == {0: (0, 0), 2: (2, 0), 4: (3, 1)}[looks]
    said: list[str] = []
    prepare(node.database, node.store, said.append, lambda: False)
    assert said[-1].startswith(f"{3 - len(whole)} studies with ")
    assert [facts(node.record(study)) for study in studies] == before
    said.clear()
    prepare(node.database, node.store, said.append, lambda: False)
    assert said == []


def test_records_that_an_older_program_wrote_are_left_alone(node: Node) -> None:
    study = node.receive(1)
    node.note(study, {"record": "results", "job": 7, "objects": [{"sop_instance_uid": "1.2"}], "owed_to": []})
    node.note(study, {"record": "of_the_future", "job": None})
    node.rebuild()
    with node.database.reading() as uow:
        assert index.studies_due(uow, 0, uow.now()) == [study]


def test_a_copy_has_all_that_the_database_had_and_its_files_tell_what_came_since(node: Node, tmp_path: Path) -> None:
    study = node.receive(1)
    node.close(study, planned(node.images(study)))
    node.finish(study, "pacs")
    at = node.database.now()
    copy_to_file(node.database, tmp_path / "copy.db")
    before = node.record(study)
    node.end("delivered")
    later = node.receive(2)
    other = node.folder / "restored"
    other.mkdir()
    for dialect in DIALECTS:
        node.dialect = dialect
        node.lose()
        fill_from_file(node.database, tmp_path / "copy.db")
        assert node.record(study) == before
        count = rebuild(node.database, node.store, lambda _: None, since=at)
        assert count == Count(studies=2, images=6, jobs=1, results=2, owed=0, due=1)
        assert {each.state for each in node.record(study).deliveries} == {DeliveryState.DELIVERED}
        kinds = [(each.kind, each.job_id) for each in node.record(study).events]
        assert kinds[-1] == ("rebuilt", None)
        assert ("job_done", before.jobs[0].id) in kinds
        with node.database.reading() as uow:
            assert index.studies_due(uow, 0, uow.now()) == [later]
        node.close(later, planned(node.images(later)))
        assert node.record(later).jobs[0].id == before.jobs[0].id + 1
