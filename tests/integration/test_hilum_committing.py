"""Storage commitment by the sender's workers, with a real Orthanc as the PACS that commits itself, and that asks us."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import evt
from sqlalchemy import select, update

from db.delivery import vouching
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.tables import DeliveryRow, InquiryRow, InstanceRow, VouchRow
from db.work import jobs
from db.work.revisions import close_study
from hilum.committing.asking import Asker
from hilum.committing.crew import crew_of
from hilum.committing.desk import desk_of, spool_folder
from hilum.committing.logs import write_down
from hilum.committing.settling import Clerk
from hilum.committing.vouching import Voucher
from hilum.config import Settings
from hilum.presenting import record_json, show_record
from hilum.processes import StopSignal
from hilum.roles.sender import Courier
from scp.commitments.commitment import commitment_line
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.spool import CommitmentSpool
from scp.retrieving.query import STUDY_ROOT_FIND
from scp.sending.sender import send_files
from study.commitment import CommitmentRequest, Reference
from study.entities import Delivery, StudyRecord
from study.inquiry import InquiryState
from study.states import DeliveryState, StudyState
from tests.support.commitment import commitment_peer, everything_committed
from tests.support.databases import STUDY, planned, results, stored
from tests.support.network import RunningReceiver, running_receiver, wait_until
from tests.support.odd_archives import odd_archive
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.series import ct_series, save_series


@dataclass
class Site:
    """A node of which the sender's workers and a receiver are there, each of them moved by the test."""

    settings: Settings
    database: Database
    store: FileStore
    stop: StopSignal
    receiver: RunningReceiver

    @property
    def spool(self) -> CommitmentSpool:
        return CommitmentSpool(spool_folder(self.store.root))

    @property
    def courier(self) -> Courier:
        return Courier(self.settings.peers["pacs"], self.settings, self.database, self.store, self.stop)

    def asker(self) -> Asker:
        peer = self.settings.peers["pacs"]
        return Asker(peer, self.settings, self.database, self.store, self.spool, self.stop, answer_seconds=0.1)

    def clerk(self) -> Clerk:
        return Clerk(self.settings, self.database, self.store, self.spool, self.stop)

    def voucher(self) -> Voucher:
        return Voucher(self.settings.peers["pacs"], self.settings, self.database, self.store, self.stop)

    def record(self) -> StudyRecord:
        with self.database.reading() as uow:
            found = study_record(uow, STUDY)
        assert found is not None
        return found

    def deliveries(self) -> dict[str, Delivery]:
        return {each.result.form: each for each in self.record().deliveries}

    def let_time_pass(self, seconds: float = 0) -> None:
        """Have everything due, and requests of others be so old."""
        with self.database.writing() as uow:
            now = uow.now()
            uow.execute(update(DeliveryRow).values(next_attempt_at=now))
            uow.execute(update(VouchRow).values(next_attempt_at=now, entered_at=now - timedelta(seconds=seconds)))
            uow.commit()

    def owe(self, forms: Sequence[str] = ("seg", "sr")) -> list[str]:
        """Bring two results of a study into the outbox; return their SOP Instance UIDs."""
        made = []
        datasets = ct_series(np.zeros((2, 8, 8)))
        paths = save_series(datasets, self.store.results_folder(STUDY))
        for path, dataset, result in zip(paths, datasets, results(forms=forms), strict=True):
            made.append(
                replace(
                    result,
                    sop_class_uid=str(CTImageStorage),
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    path=self.store.relative(path),
                )
            )
        with self.database.writing() as uow:
            add_instances(uow, [stored(1)])
            close_study(uow, STUDY, [planned([stored(1)])], "", generation(uow, STUDY))
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            uow.commit()
        return [result.sop_instance_uid for result in made]

    def receive(self, paths: Sequence[Path], *, index: bool = True) -> None:
        """Have files sent to the receiver, and take them into the index."""
        assert [sent.error for sent in send_files(self.receiver.peer, "PACS", paths)] == [None] * len(paths)
        if index:
            self.index()

    def index(self) -> None:
        instances = [self.store.read_incoming(path) for path in self.store.scan_inbox()]
        with self.database.writing() as uow:
            add_instances(uow, instances)
            uow.commit()
        self.store.move_in(instances)

    def manifest(self) -> list[str]:
        return [record["record"] for record in self.store.read_manifest(STUDY)]


@contextmanager
def site_with(folder: Path, port: int, ae_title: str = "PACS", **delivery: object) -> Iterator[Site]:
    peer = {"name": "pacs", "ae_title": ae_title, "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]}
    quick = {"retry_seconds": 0.01, "retry_max_seconds": 0.02, "problem_retry_seconds": 0.05, "commitment_seconds": 60}
    settings = Settings.model_validate(
        {
            "base_dir": folder,
            "delivery": quick | delivery,
            "peers": {"pacs": peer | {"commitment": True, "vouch": True}},
        }
    )
    store = FileStore(settings.data_dir)
    settings.data_dir.mkdir()
    database = Database.open(settings.database_url)
    database.migrate()
    with running_receiver(store.inbox("receiver-0"), commitment=desk_of(settings)) as receiver:
        yield Site(settings, database, store, StopSignal(), receiver)
    database.close()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture
def site(tmp_path: Path, orthanc: Orthanc) -> Iterator[Site]:
    with site_with(tmp_path, orthanc.dicom_port) as site:
        address = {"AET": "HILUM", "Host": "127.0.0.1", "Port": site.receiver.port}
        send(orthanc, "PUT", "/modalities/hilum", address)
        yield site


def send(orthanc: Orthanc, method: str, path: str, content: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = response.read()
    return json.loads(answer) if answer else None


def test_results_are_delivered_once_the_archive_committed_itself(site: Site) -> None:
    uids = site.owe()
    assert site.courier.turn()
    assert {each.state for each in site.deliveries().values()} == {DeliveryState.STORED}
    assert site.record().summary.state is StudyState.REPORTED
    site.let_time_pass()
    assert site.asker().turn()
    wait_until(lambda: bool(site.spool.reports()), what="Orthanc's report")
    # The node ends here, and another begins: only the receiver has been there in between
    assert not site.asker().turn()
    assert site.clerk().turn()
    assert {each.state for each in site.deliveries().values()} == {DeliveryState.DELIVERED}
    assert site.manifest() == ["stored", "stored", "committed", "committed"]
    assert {entry["sop_instance_uid"] for entry in site.store.read_manifest(STUDY)} == set(uids)
    assert site.spool.reports() == []
    assert not site.asker().turn()


def test_what_the_archive_lost_is_sent_again(site: Site, orthanc: Orthanc, capsys: pytest.CaptureFixture[str]) -> None:
    seg, sr = site.owe()
    site.courier.turn()
    (lost,) = orthanc.instances(SOPInstanceUID=seg)
    send(orthanc, "DELETE", f"/instances/{lost['ID']}")
    site.let_time_pass()
    site.asker().turn()
    wait_until(lambda: bool(site.spool.reports()), what="Orthanc's report")
    site.clerk().turn()
    found = site.deliveries()
    assert (found["seg"].state, found["sr"].state) == (DeliveryState.PENDING, DeliveryState.DELIVERED)
    assert found["seg"].reason is not None
    assert found["seg"].reason.code == "CommitmentFailed"
    show_record(site.record())
    shown = capsys.readouterr().out
    assert "pacs stored it, and does not commit itself to keep it: it does not have the object (0112)" in shown
    site.let_time_pass()
    assert site.courier.turn()
    assert len(orthanc.instances(SOPInstanceUID=seg)) == 1
    site.let_time_pass()
    site.asker().turn()
    wait_until(lambda: bool(site.spool.reports()), what="Orthanc's second report")
    site.clerk().turn()
    assert site.record().summary.state is StudyState.DELIVERED
    assert sr


def test_a_silent_archive_is_shown_and_heard_however_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        commitment_peer(stores=[CTImageStorage]) as pacs,
        site_with(tmp_path, pacs.port, commitment_attempts=2) as site,
    ):
        site.owe()
        assert site.courier.turn()
        for _ in range(3):
            site.let_time_pass()
            assert site.asker().turn()
        assert len({str(each.TransactionUID) for each in pacs.asked}) == 3
        record = site.record()
        assert record.summary.state is StudyState.REPORTED
        assert record.summary.reason is not None
        assert record.summary.reason.code == "Unproven"
        show_record(record)
        shown = capsys.readouterr().out
        assert "STORED (problem)" in shown
        assert "asked 3 time(s) whether it is kept" in shown
        (result, _) = record_json(record)["results"]
        (delivery,) = result["deliveries"]
        assert delivery["stored_at"] is not None
        assert (delivery["delivered_at"], delivery["commitment"]["asked"]) == (None, 3)
        # a person mends the archive
        with site.database.writing() as uow:
            assert retry_study(uow, STUDY) == (0, 2)
            uow.commit()
        pacs.reports = everything_committed
        site.asker().turn()
        site.clerk().turn()
        assert site.record().summary.state is StudyState.DELIVERED


def test_a_report_on_the_same_association_ends_the_wait_for_it(tmp_path: Path) -> None:
    with (
        commitment_peer(stores=[CTImageStorage], reports=everything_committed) as pacs,
        site_with(tmp_path, pacs.port) as site,
    ):
        site.owe()
        with crew(site):
            site.courier.turn()
            wait_until(lambda: site.record().summary.state is StudyState.DELIVERED, 20, "the commitment")
            wait_until(lambda: pacs.statuses == [0x0000], what="the answer to the report")
    assert len(pacs.asked) == 1


@contextmanager
def crew(site: Site) -> Iterator[None]:
    """Let the workers of the sender's process work in threads of their own."""
    import threading

    threads = [
        threading.Thread(target=worker.run, name=worker.name)
        for worker in crew_of(site.settings, site.database, site.store, site.stop)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        site.stop.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize(
    ("behaviour", "code", "problem"),
    [
        ({"offers": False}, "NoAcceptedContext", True),
        ({"status": 0x0124}, "CommitmentRefused", True),
        ({"status": 0x0213}, "CommitmentRefused", False),
    ],
)
def test_an_archive_that_takes_no_request_is_shown_with_the_remedy(
    tmp_path: Path, behaviour: dict[str, Any], code: str, problem: bool
) -> None:
    with commitment_peer(stores=[CTImageStorage], **behaviour) as pacs, site_with(tmp_path, pacs.port) as site:
        site.owe()
        site.courier.turn()
        site.let_time_pass()
        site.asker().turn()
        seg = site.deliveries()["seg"]
    assert seg.reason is not None
    assert (seg.state, seg.reason.code, seg.problem) == (DeliveryState.STORED, code, problem)


def test_an_archive_that_refuses_for_now_is_asked_at_growing_pauses(tmp_path: Path) -> None:
    with (
        commitment_peer(stores=[CTImageStorage], status=0x0213) as pacs,
        site_with(tmp_path, pacs.port, retry_seconds=100, retry_max_seconds=1000) as site,
    ):
        site.owe()
        site.courier.turn()
        asker = site.asker()
        pauses = []
        for _ in range(3):
            site.let_time_pass()
            asker.turn()
            pauses.append((site.deliveries()["seg"].next_attempt_at - site.database.now()).total_seconds())
    assert pauses == [pytest.approx(seconds, rel=0.15) for seconds in (100, 200, 400)]


def test_an_archive_that_is_away_is_asked_later(tmp_path: Path) -> None:
    with commitment_peer(stores=[CTImageStorage]) as pacs, site_with(tmp_path, pacs.port) as site:
        site.owe()
        site.courier.turn()
        away = site.settings.peers["pacs"].model_copy(update={"port": 1})
        site.let_time_pass()
        Asker(away, site.settings, site.database, site.store, site.spool, site.stop).turn()
        seg = site.deliveries()["seg"]
        assert seg.reason is not None
        assert (seg.reason.code, seg.problem, seg.commitment) == ("PeerUnreachable", False, None)
        assert site.spool.expects() == 0
        pacs.reports = everything_committed
        site.let_time_pass()
        site.asker().turn()
        site.clerk().turn()
        assert site.record().summary.state is StudyState.DELIVERED


def test_a_site_that_asks_no_more_is_done(tmp_path: Path) -> None:
    with commitment_peer(stores=[CTImageStorage]) as pacs, site_with(tmp_path, pacs.port) as site:
        site.owe()
        site.courier.turn()
        other = site.settings.model_copy(
            update={"peers": {"pacs": site.settings.peers["pacs"].model_copy(update={"commitment": False})}}
        )
        crew_of(other, site.database, site.store, site.stop)
        assert site.record().summary.state is StudyState.DELIVERED
        assert "not asked for any more" in site.record().events[-1].words


def test_an_archive_that_does_not_know_us_is_asked_to(site: Site, orthanc: Orthanc) -> None:
    """Orthanc aborts where nobody of this AE title is among its modalities: it would not know where to report to."""
    send(orthanc, "DELETE", "/modalities/hilum")
    site.owe()
    site.courier.turn()
    site.let_time_pass()
    site.asker().turn()
    seg = site.deliveries()["seg"]
    assert seg.reason is not None
    assert (seg.state, seg.reason.code) == (DeliveryState.STORED, "PeerUnreachable")
    assert "does it know our AE title, host and port" in seg.reason.words


def test_a_rejection_need_not_be_kept(tmp_path: Path) -> None:
    with commitment_peer(stores=[CTImageStorage]) as pacs, site_with(tmp_path, pacs.port) as site:
        site.owe(forms=("seg", "rejection"))
        site.courier.turn()
        found = site.deliveries()
    assert (found["seg"].state, found["rejection"].state) == (DeliveryState.STORED, DeliveryState.DELIVERED)


def test_what_is_damaged_in_the_spool_stops_nothing_else(site: Site) -> None:
    site.owe()
    site.courier.turn()
    (spool_folder(site.store.root) / "reports" / "00.json").write_text("{")
    site.let_time_pass()
    site.asker().turn()
    wait_until(lambda: len(site.spool.reports()) == 2, what="Orthanc's report")
    assert site.clerk().turn()
    assert site.record().summary.state is StudyState.DELIVERED
    assert site.spool.reports() == []


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return save_series(ct_series(np.zeros((3, 8, 8))), tmp_path / "images")


def test_an_archive_is_told_what_we_keep(site: Site, orthanc: Orthanc, images: list[Path]) -> None:
    references = [dataset_of(path) for path in images]
    for path in images:
        send_bytes(orthanc, path)
    site.receive(images[:2])
    ids = [orthanc.instances(SOPInstanceUID=uid)[0]["ID"] for uid, _ in references]
    asked = send(orthanc, "POST", "/modalities/hilum/storage-commitment", {"Resources": ids})
    assert site.clerk().turn()
    voucher = site.voucher()
    assert voucher.turn()
    assert vouched(site) == 0  # the third may come just behind the request
    site.let_time_pass(seconds=10)
    assert voucher.turn()
    assert vouched(site) == 2
    told = send(orthanc, "GET", f"/storage-commitment/{asked['ID']}")
    assert told["Status"] == "Failure"
    assert [failure["SOPInstanceUID"] for failure in told["Failures"]] == [references[2][0]]
    assert [failure["FailureReason"] for failure in told["Failures"]] == [0x0112]
    assert not voucher.turn()
    study = references[0][1]
    (entry,) = site.store.read_manifest(study)
    assert (entry["record"], entry["peer"], len(entry["instances"])) == ("vouched", "pacs", 2)


def test_what_still_lies_in_the_inbox_is_waited_for(site: Site, orthanc: Orthanc, images: list[Path]) -> None:
    site.receive(images, index=False)
    for path in images:
        send_bytes(orthanc, path)
    ids = [orthanc.instances(SOPInstanceUID=dataset_of(path)[0])[0]["ID"] for path in images]
    asked = send(orthanc, "POST", "/modalities/hilum/storage-commitment", {"Resources": ids})
    site.clerk().turn()
    site.let_time_pass(seconds=10)
    assert site.voucher().turn()
    assert send(orthanc, "GET", f"/storage-commitment/{asked['ID']}")["Status"] == "Pending"
    site.index()
    site.let_time_pass()
    assert site.voucher().turn()
    assert send(orthanc, "GET", f"/storage-commitment/{asked['ID']}")["Status"] == "Success"
    assert vouched(site) == 3


def test_a_modality_that_is_away_is_told_later(tmp_path: Path, images: list[Path]) -> None:
    with commitment_peer("PACS", answers=0x0110) as modality, site_with(tmp_path, modality.port) as site:
        site.receive(images)
        ask_us(site, [Reference(str(CTImageStorage), dataset_of(path)[0]) for path in images], "1.2.9")
        assert site.voucher().turn()
        assert vouched(site) == 3  # it is exempt from retention before it hears of it
        with site.database.reading() as uow:  # and to have listed all of a series proves its end
            assert uow.execute(select(InquiryRow.state)).scalars().all() == [InquiryState.LISTED.value]
        assert len(modality.reported) == 1
        assert not site.voucher().turn()
        modality.answers = 0x0000
        site.let_time_pass()
        assert site.voucher().turn()  # as another process, after a restart
        assert len(modality.reported) == 2
        site.let_time_pass()
        assert not site.voucher().turn()


def test_a_peer_that_hears_nothing_can_not_ask_for_ever(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouching, "MOST_OPEN", 1)
    with commitment_peer("PACS") as modality, site_with(tmp_path, modality.port) as site:
        site.receive(images)
        wanted = [Reference(str(CTImageStorage), dataset_of(images[0])[0])]
        for transaction_uid in ("1.2.8", "1.2.9"):
            ask_us(site, wanted, transaction_uid)
        assert len(site.spool.requests()) == 1  # it waits there
        assert site.voucher().turn()
        site.clerk().turn()
        assert site.voucher().turn()
        assert site.spool.requests() == []
    assert [report.TransactionUID for _, report in modality.reported] == ["1.2.8", "1.2.9"]


def test_nobody_is_told_that_we_keep_what_is_not_as_it_came(tmp_path: Path, images: list[Path]) -> None:
    with commitment_peer("PACS") as modality, site_with(tmp_path, modality.port) as site:
        site.receive(images)
        uids = [dataset_of(path)[0] for path in images]
        with site.database.reading() as uow:
            held = vouching.versions(uow, uids)
        file = site.store.locate(held[uids[0]][0].instance)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        references = [
            Reference(str(CTImageStorage), uids[0]),
            Reference("1.2.840.10008.5.1.4.1.1.4", uids[1]),
            Reference(str(CTImageStorage), uids[2]),
        ]
        ask_us(site, references, "1.2.9")
        assert site.voucher().turn()
    ((event_type, report),) = modality.reported
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [uids[2]]
    reasons = {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence}
    assert reasons == {uids[0]: 0x0110, uids[1]: 0x0119}


def ask_us(site: Site, references: list[Reference], transaction_uid: str) -> None:
    """Ask the receiver as a modality does, and have the request taken over."""
    desk = CommitmentDesk(site.spool, asked=(), served=(), on_event=write_down)
    with commitment_line(site.receiver.peer, "PACS", desk) as line:
        line.ask(CommitmentRequest(transaction_uid, tuple(references)))
    assert site.clerk().turn()


def vouched(site: Site) -> int:
    with site.database.reading() as uow:
        return len(uow.execute(select(InstanceRow.id).where(InstanceRow.vouched_at.is_not(None))).all())


def dataset_of(path: Path) -> tuple[str, str]:
    from pydicom import dcmread

    dataset = dcmread(path, stop_before_pixels=True)
    return str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)


def send_bytes(orthanc: Orthanc, path: Path) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}/instances", data=path.read_bytes())
    with urllib.request.urlopen(request, timeout=30) as response:
        response.read()


def test_a_duplicate_is_proven_once_its_own_association_is_released(tmp_path: Path) -> None:
    """Test it with a peer that answers 0111, as after a lost Success; it may take but one association at a time."""
    stores: list[evt.Event] = []

    def store(event: evt.Event) -> int:
        stores.append(event)
        return 0x0111

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        # Before this one: as many with a C-STORE, and a question after each but the last
        wait_until(lambda: archive.events.count("released") == 2 * len(stores) - 1, 5, "the release of the others")
        yield 0xFF00, event.identifier
        yield 0x0000, None

    with odd_archive([STUDY_ROOT_FIND, CTImageStorage], [(evt.EVT_C_STORE, store), (evt.EVT_C_FIND, find)]) as archive:
        with site_with(tmp_path, archive.peer.port, "ODD") as site:
            site.owe()
            assert site.courier.turn()
            assert site.courier.turn()
            states = {form: (each.state, each.status) for form, each in site.deliveries().items()}
        assert archive.is_released
    assert states == dict.fromkeys(("seg", "sr"), (DeliveryState.STORED, 0x0111))
