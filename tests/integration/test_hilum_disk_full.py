"""A disk that is full at whatever write: nothing half written stays, nothing is lost, and it goes on by itself."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from db.files.durable import append_line, write_once
from db.files.filestore import FileStore
from hilum.archives.fetching import Fetcher, Order, Urgency
from hilum.clock import Clock
from hilum.roles import indexer as roles_indexer
from hilum.roles.indexer import Indexer
from hilum.working.wire import Answer
from scp.commitments.spool import CommitmentSpool
from scp.receiving.inbox import Inbox
from scp.retrieving.fetching import Wanted
from scp.sending.object_file import describe, offers_for
from scp.sending.sender import Sender
from sr_writer.files import keep
from study.commitment import CommitmentReport, CommitmentRequest, Reference
from study.entities import StoredInstance
from study.errors import ArchiveError, DiskFull, ReceiveError, StoreFailed
from study.states import JobState, StudyState
from tests.chaos.checker import has_every_form, judge
from tests.chaos.modality import Studies
from tests.support.databases import empty_url
from tests.support.network import free_port, running_receiver, wait_until
from tests.support.node import Node
from tests.support.orthanc import running_orthanc
from tests.support.outages import STUDY, Pacs, site
from tests.support.series import ct_series, save_series
from tests.support.small_disk import SmallDisk, small_disk

HALF = 8192
"""Bytes that are left: what is written is longer, so that the first half of it fits."""
LONG = b"x" * 30_000
REFERENCES = tuple(Reference("1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.{number}") for number in range(400))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def an_object(folder: Path) -> Callable[[], object]:
    inbox = Inbox(folder / "inbox", 0)

    def write() -> None:
        incoming = inbox.begin(b"meta")
        incoming.write([LONG])
        incoming.commit()

    return write


def a_file(folder: Path) -> Callable[[], object]:
    return lambda: write_once(folder / "node.json", LONG)


def a_line(folder: Path) -> Callable[[], object]:
    append_line(folder / "manifest.jsonl", b"{}")
    return lambda: append_line(folder / "manifest.jsonl", LONG)


def a_reason(folder: Path) -> Callable[[], object]:
    store = FileStore(folder)
    store.inbox("receiver-0").mkdir(parents=True)
    (folder / "aside").mkdir()
    received = store.inbox("receiver-0") / "1.dcm"
    received.write_bytes(b"no DICOM")
    return lambda: store.put_aside(received, LONG.decode())


def a_commitment_report(folder: Path) -> Callable[[], object]:
    spool = CommitmentSpool(folder)
    return lambda: spool.put_report("PACS", CommitmentReport("1.2.826.0.1.9", REFERENCES))


def a_commitment_request(folder: Path) -> Callable[[], object]:
    spool = CommitmentSpool(folder)
    return lambda: spool.put_request("MODALITY", CommitmentRequest("1.2.826.0.1.9", REFERENCES))


def a_result(folder: Path) -> Callable[[], object]:
    return lambda: keep(folder / "seg.dcm", lambda path: path.write_bytes(LONG))


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "prepare",
    [an_object, a_file, a_line, a_reason, a_commitment_report, a_commitment_request, a_result],
    ids=lambda it: it.__name__,
)
def test_what_does_not_fit_leaves_nothing_and_is_written_once_there_is_room(
    prepare: Callable[[Path], Callable[[], object]], disk: SmallDisk
) -> None:
    write = prepare(disk.folder)
    before = held(disk.folder)
    with disk.full(leaving=HALF):
        with pytest.raises((OSError, ReceiveError)):
            write()
        assert held(disk.folder) == before
    write()
    assert held(disk.folder) != before


def test_a_line_that_did_not_fit_glues_no_other_to_itself(disk: SmallDisk) -> None:
    manifest = disk.folder / "manifest.jsonl"
    append_line(manifest, b'{"n": 1}')
    with disk.full(leaving=HALF), pytest.raises(OSError, match="No space"):
        append_line(manifest, json.dumps({"n": "x" * 30_000}).encode())
    append_line(manifest, b'{"n": 2}')
    assert manifest.read_bytes() == b'{"n": 1}\n{"n": 2}\n'


def test_a_sender_is_answered_a700_and_its_association_lives_on(disk: SmallDisk, tmp_path: Path) -> None:
    paths = save_series(ct_series(np.zeros((3, 1000, 1000))), tmp_path / "images")
    with running_receiver(disk.folder / "inbox") as receiver:
        with Sender(receiver.peer, "SCU", offers_for([describe(path) for path in paths])) as sender:
            sender.store(paths[0])
            for leaving in (0, HALF, 1_000_000):
                with disk.full(leaving), pytest.raises(StoreFailed) as refused:
                    sender.store(paths[1])
                assert refused.value.status == 0xA700
                assert [path.suffix for path in receiver.folder.iterdir()] == [".dcm"]
            for path in paths[1:]:
                sender.store(path)
            assert sender.is_open
        assert len(receiver.stored) == 3


def test_the_index_waits_for_room_and_the_study_is_closed_once_and_whole(disk: SmallDisk, tmp_path: Path) -> None:
    with site(tmp_path, disk.folder) as here:
        here.receive(*here.images(4))
        indexer = here.indexer()
        with disk.full(), here.at_work(indexer.turn):
            wait_until(here.is_away, what="the outage")
            assert len(here.store.scan_inbox()) == 4
            assert here.record() is None
            disk.free()
            wait_until(lambda: here.state() is StudyState.NOT_SELECTED, what="the study's end")
        record = here.record()
        assert record is not None
        assert (record.summary.instances, record.revision) == (4, 1)
        assert here.store.scan_inbox() == []
        assert len(here.told("outage.began")) == len(here.told("outage.over")) == 1
        assert here.told("crashed") == []


def test_a_study_that_could_not_be_closed_for_want_of_room_is_closed_as_soon_as_there_is_some(
    disk: SmallDisk, tmp_path: Path
) -> None:
    ahead = timedelta()
    clock = Clock(lambda: datetime.now(UTC) + ahead, lambda: time.monotonic() + ahead.total_seconds())
    with site(tmp_path, disk.folder, quiet_seconds=3600) as here:
        here.receive(*here.images(2))
        indexer = here.indexer(clock)
        indexer.turn()
        with disk.full(), here.at_work(indexer.turn):
            ahead = timedelta(hours=2)
            wait_until(here.is_away, what="the outage")
            assert here.state() is StudyState.RECEIVING
            disk.free()
            wait_until(lambda: here.state() is StudyState.NOT_SELECTED, what="the study's end")
        assert here.told("study.not_closed") == []


class DamagedDisk(FileStore):
    """A store on a disk that does not give one of its files."""

    damaged: Path | None = None

    def read_incoming(self, path: Path) -> StoredInstance:
        """Return what a received file is, unless it is the one."""
        if path == self.damaged:
            raise OSError(errno.EIO, "Input/output error")
        return super().read_incoming(path)


def test_a_study_waits_for_an_image_that_the_disk_does_not_give_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(tmp_path, tmp_path / "var", quiet_seconds=0.01) as here:
        store = DamagedDisk(here.store.root)
        indexer = Indexer(here.settings, here.database, store)
        indexer._listens_since -= 60
        here.receive(*here.images(3))
        store.damaged = store.scan_inbox()[0]  # the others came after it: nobody knows whether it is of their study
        for _ in range(3):
            indexer.turn()
        assert here.state() is StudyState.RECEIVING
        monkeypatch.setattr(roles_indexer, "_HOLDS_UP_SECONDS", 0.0)
        wait_until(lambda: turned(indexer) and here.state() is StudyState.NOT_SELECTED, what="the study's end")
        store.damaged = None
        indexer._resting.clear()
        wait_until(lambda: turned(indexer) and store.scan_inbox() == [], what="the image")
        record = here.record()
        assert record is not None
        assert record.summary.instances == 3


def turned(indexer: Indexer) -> bool:
    indexer.turn()
    return True


def test_one_image_that_the_index_refuses_keeps_no_other_waiting(tmp_path: Path) -> None:
    with site(tmp_path, tmp_path / "var") as here:
        here.receive(*here.images(3))
        refused = here.store.scan_inbox()[1]
        indexer = here.indexer()
        enter = indexer._enter

        def fail(instances: Sequence[StoredInstance]) -> None:
            if any(each.inbox_path == here.store.relative(refused) for each in instances):
                raise ArchiveError("The database answered DataError.")
            enter(instances)

        indexer._enter = fail  # type: ignore[method-assign]
        indexer.turn()
        assert here.store.scan_inbox() == [refused]
        assert [each["file"] for each in here.told("index.not_entered")] == [here.store.relative(refused)]


def test_the_results_of_an_analysis_wait_for_room_and_count_no_attempt(disk: SmallDisk, tmp_path: Path) -> None:
    with site(tmp_path, disk.folder) as here:
        job, made = here.lease()
        answer = Answer(job.id, job.attempt, "done", tuple(made))
        keeper = here.keeper()
        disk.fill()
        with here.at_work(lambda: keeper._commit(job, answer, []), once=True) as thread:
            wait_until(here.is_away, what="the outage")
            assert here.job().state is JobState.RUNNING
            disk.free()
            thread.join(20)
        done = here.job()
        assert (done.state, done.crashes, done.interruptions) == (JobState.DONE, 0, 0)
        manifest = [each["record"] for each in here.store.read_manifest(STUDY)]
        assert manifest[-1] == "results"


def test_a_full_disk_of_the_runner_counts_no_attempt(tmp_path: Path) -> None:
    with site(tmp_path, tmp_path / "var") as here:
        job, _ = here.lease()
        keeper = here.keeper()
        with pytest.raises(DiskFull):
            keeper._commit(job, Answer(job.id, job.attempt, "failed", code=DiskFull.code, words="full"), [])
        keeper._put_back(job, "the disk is full")
        back = here.job()
        assert (back.state, back.crashes, back.interruptions) == (JobState.QUEUED, 0, 1)
        record = here.record()
        assert record is not None
        assert record.events[-1].words == "The attempt was interrupted: the disk is full."


def test_results_that_were_taken_while_the_disk_was_full_are_sent_once(disk: SmallDisk, tmp_path: Path) -> None:
    pacs = Pacs()
    with site(tmp_path, disk.folder, port=pacs.port) as here, pacs.running():
        here.owe()
        pacs.at_first_object = disk.fill
        courier = here.courier()
        with here.at_work(courier.turn):
            wait_until(here.is_away, what="the outage")
            assert len(pacs.arrivals) == 1
            disk.free()
            wait_until(here.is_all_delivered, what="all results")
        assert len(pacs.arrivals) == len(pacs.first_arrivals()) == 2
        told = [(each["record"], each["sop_instance_uid"]) for each in here.store.read_manifest(STUDY)]
        assert told[-2:] == [("delivered", uid) for uid in pacs.first_arrivals()]


def test_what_the_peer_took_is_nobody_else_s_however_long_the_disk_is_full(disk: SmallDisk, tmp_path: Path) -> None:
    """The database is elsewhere: another sender would find a lease that ran out."""
    pacs = Pacs()
    url = empty_url("postgresql", tmp_path)
    with site(tmp_path, disk.folder, url, port=pacs.port) as here, pacs.running():
        here.owe()
        pacs.at_first_object = disk.fill
        courier = here.courier()
        with here.at_work(courier.turn):
            wait_until(here.is_away, what="the outage")
            leased = here.lease_ends()
            wait_until(lambda: here.lease_ends() > leased, what="the lease's renewal")
            disk.free()
            wait_until(here.is_all_delivered, what="all results")
        assert len(pacs.arrivals) == 2


def test_what_a_study_lacks_is_not_fetched_in_vain_while_there_is_no_room(disk: SmallDisk, tmp_path: Path) -> None:
    """Three tries in vain refuse the series, and the disk is no fault of the archive's."""
    with site(tmp_path, disk.folder) as here:
        fetcher = Fetcher(here.settings.peers["pacs"], here.settings, here.stop)
        order = Order(Wanted(STUDY, f"{STUDY}.1"), Urgency.LACKING, lambda _outcome: None)
        with disk.full():
            assert not fetcher.fetch(order)
        assert not fetcher.is_fetching(STUDY, f"{STUDY}.1")
        assert fetcher.fetch(order)


def test_a_whole_node_goes_on_by_itself_when_its_disk_has_room_again(tmp_path: Path) -> None:
    port = free_port()
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]}
    with small_disk(tmp_path / "disk", 64) as disk, running_orthanc(tmp_path / "orthanc", dicom_port=port) as orthanc:
        node = Node(tmp_path / "node", [pacs], {"node.data_dir": str(disk.folder), "study.quiet_seconds": 1})
        node.data_dir, node.database_url = disk.folder, f"sqlite:///{disk.folder / 'hilum.db'}"
        study = Studies(tmp_path / "images").make(0)
        images = next(iter(study.digests)).parent
        try:
            node.start()
            with disk.full():
                refused = node.send(images, check=False)
                assert refused.returncode == 0xA700 >> 8  # as storescu tells the first status that is no Success
                # One may be taken whose place in a log was there already; it waits there
                assert {path.suffix for path in disk.folder.glob("inbox/*/*")} <= {".log", ".lock"}
            node.send(images)
            with disk.full():
                wait_until(lambda: told(node, "indexer-0"), 60, "the indexer's outage")
            node.wait_for_state("PROCESSING")
            with disk.full():
                wait_until(lambda: told(node, "keeper-0"), 90, "the keeper's outage")
            wait_until(lambda: has_every_form(orthanc, study), 90, "the results")
            verdict = judge(orthanc, study, 0.0)
            assert (len(verdict.current), verdict.earlier, verdict.twice) == (2, (), ())
            (record,) = node.wait_for_state("DELIVERED")
            assert [job.crashes for job in record.jobs] == [0]
            assert not told(node, "", "role.ended")
        finally:
            node.kill()


def told(node: Node, process: str, event: str = "outage.began") -> bool:
    """Tell whether a process of the node logged an event; what is printed does not need the disk."""
    lines = (node.folder / "serve.log").read_text().splitlines()
    return any(f'"event": "{event}"' in line and f'"process": "{process}' in line for line in lines)
