"""``hilum withdraw`` as a person types it: a real Orthanc and peers that refuse, hang and forget are the PACS."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from typer.testing import CliRunner, Result

from db.delivery import withdrawals
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.work import jobs
from db.work.revisions import close_study
from hilum.cli import app
from hilum.config import Settings, load
from hilum.processes import StopSignal
from hilum.roles.sender import Courier
from scp.sending.object_file import UNCOMPRESSED
from sr_writer.checking.rejection import rejected_by
from sr_writer.results import write_results
from study.entities import Delivery, StoredInstance, StudyRecord
from study.errors import ArchiveError, ConfigError, DatabaseUnavailable
from study.forms import SOP_CLASSES, Form
from study.headers import InstanceHeader
from study.states import DeliveryState, StudyState
from tests.support.databases import planned, stored
from tests.support.network import free_port, wait_until
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of, variants_of

SHAPE = (6, 16, 16)
KEY_OBJECT = SOP_CLASSES[Form.REJECTION]
GONE = DeliveryState.WITHDRAWN


@dataclass
class Site:
    """A node of which only the sender's courier is there, moved by the test, with a result of real objects."""

    config: Path
    settings: Settings
    database: Database
    store: FileStore
    study: str
    job: int
    uids: dict[str, str] = field(default_factory=dict)

    def courier(self) -> Courier:
        return Courier(self.settings.peers["pacs"], self.settings, self.database, self.store, StopSignal())

    def send(self) -> None:
        """Bring what is due to the peer, until nothing is."""
        courier = self.courier()
        while courier.turn():
            pass

    def hilum(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, *arguments, "--config", str(self.config)])

    def withdraw(self, *arguments: str, result: str = "") -> list[str]:
        """Run the command; return the lines that it prints."""
        done = self.hilum("withdraw", result or self.uids["sr"], "--reason", "Sides are confused.", *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout.splitlines()

    def record(self) -> StudyRecord:
        with self.database.reading() as uow:
            found = study_record(uow, self.study)
        assert found is not None
        return found

    def deliveries(self, form: str) -> list[Delivery]:
        return [each for each in self.record().deliveries if each.result.form == form]

    def rejection(self) -> Delivery:
        (found,) = self.deliveries("rejection")
        return found


@contextmanager
def site(folder: Path, port: int, *further: str) -> Iterator[Site]:
    """Give a node that owes the peer `pacs` on this port a Segmentation and a report."""
    config = folder / "config.toml"
    peer = ['name = "pacs"', 'ae_title = "PACS"', 'host = "127.0.0.1"', f"port = {port}", 'results = ["seg", "sr"]']
    config.write_text("\n".join(["[delivery]", "retry_seconds = 0.01", "[[peers]]", *peer, *further]))
    settings = load(config, environment={})
    settings.data_dir.mkdir()
    store, database = FileStore(settings.data_dir), Database.open(settings.database_url)
    database.migrate()
    sources = headers_on_disk(settings.data_dir / "store" / "in", SHAPE)
    study = str(sources[0].StudyInstanceUID)
    into = store.results_folder(study) / "1-1"
    made = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, into, variants_of("seg", "sr"))
    made = [replace(each, path=store.relative(into / each.path)) for each in made]
    header = InstanceHeader.of(sources[0], "1.2.840.10008.1.2.1")
    image: StoredInstance = replace(stored(1), header=header, path=store.relative(Path(str(sources[0].filename))))
    with database.writing() as uow:
        add_instances(uow, [image])
        close_study(uow, study, [planned([image])], "", generation(uow, study))
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        owed = [Outgoing("pacs", position, result) for position, result in enumerate(made)]
        jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
        uow.commit()
    try:
        yield Site(
            config, settings, database, store, study, job.id, {each.form: each.sop_instance_uid for each in made}
        )
    finally:
        database.close()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def node(tmp_path: Path, orthanc: Orthanc) -> Iterator[Site]:
    with site(tmp_path, orthanc.dicom_port) as made:
        yield made


@contextmanager
def strange_peer(
    on_store: Callable[[evt.Event], int] = lambda _: 0x0000, classes: Sequence[str] = tuple(SOP_CLASSES.values())
) -> Iterator[int]:
    """Run a PACS that answers as it is told to; give its port."""
    entity = ApplicationEntity("PACS")
    for uid in dict.fromkeys(classes):
        entity.add_supported_context(uid, list(UNCOMPRESSED))
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    assert server is not None
    try:
        yield port
    finally:
        server.shutdown()


def request_of(event: evt.Event) -> C_STORE:
    assert isinstance(event.request, C_STORE)
    return event.request


def in_archive(orthanc: Orthanc, study: str) -> dict[str, str]:
    """Return the modality of each object of the study in the archive, by its SOP Instance UID."""
    found = orthanc.instances(StudyInstanceUID=study)
    return {
        each["MainDicomTags"]["SOPInstanceUID"]: orthanc.get(f"/instances/{each['ID']}/simplified-tags")["Modality"]
        for each in found
    }


def test_what_the_pacs_has_is_rejected_there(node: Site, orthanc: Orthanc, tmp_path: Path) -> None:
    node.send()
    assert sorted(in_archive(orthanc, node.study)) == sorted(node.uids.values())
    seg = node.uids["seg"]
    said = node.withdraw("--safety", "--yes", result=seg[:-1])
    assert said[0].startswith(f"lung_ct on study {node.study}, job {node.job}: 2 object(s) (seg, sr)")
    title = "113037 DCM, Rejected for Patient Safety Reasons"
    assert said[1:] == [
        f"  pacs: has 2 object(s): it is sent a rejection ({title})",
        f"2 object(s) withdrawn; hilum show {node.study} tells how it goes",
    ]
    assert node.record().summary.state is StudyState.REPORTED
    node.send()
    assert sorted(in_archive(orthanc, node.study).values()) == ["KO", "SEG", "SR"]  # Orthanc does not act on it
    (path,) = orthanc.download(tmp_path / "archived", StudyInstanceUID=node.study, SOPClassUID=KEY_OBJECT)
    archived = dcmread(path)
    assert sorted(rejected_by(archived)) == sorted(node.uids.values())
    assert archived.PatientID == dcmread(node.store.root / node.deliveries("seg")[0].result.path).PatientID
    checked = node.hilum("check", str(path))
    assert (checked.exit_code, checked.stdout.split(":")[0]) == (0, f"ok   {path}"), checked.stdout
    found = node.record()
    assert found.summary.state is StudyState.DELIVERED
    assert found.summary.reason is not None
    assert found.summary.reason.code == "Withdrawn"
    assert {each.state for each in found.deliveries if each.result.form != "rejection"} == {GONE}
    shown = node.hilum("show", node.study).stdout
    assert "2 object(s) withdrawn for patient safety on " in shown
    assert ": Sides are confused." in shown
    told = json.loads(node.hilum("show", node.study, "--json").stdout)["withdrawals"]
    assert [(each["job"], each["safety"], each["objects"]) for each in told] == [(node.job, True, 2)]
    kept = [each for each in node.store.read_manifest(node.study) if each["record"] == "withdrawn"]
    assert [sorted(each["withdrawals"][0]["objects"]) for each in kept] == [sorted(node.uids.values())]
    assert "withdrawn for patient safety" in node.hilum("retry", node.study).stdout
    node.send()
    assert len(in_archive(orthanc, node.study)) == 3


def test_what_did_not_go_out_stays_here(node: Site, orthanc: Orthanc) -> None:
    assert node.withdraw("--yes", result=node.study)[1] == "  pacs: does not have 2 object(s), and is not sent them"
    node.hilum("retry", node.study)
    node.send()
    assert in_archive(orthanc, node.study) == {}
    again = node.withdraw("--yes")
    assert again[0].startswith(f"job {node.job}: 2 object(s) withdrawn for quality on ")
    assert len(node.record().withdrawals) == 1


def test_a_command_that_fails_takes_nothing_back_and_the_next_one_writes_the_same_rejection(
    node: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.courier().turn()  # both are there
    with monkeypatch.context() as failing:
        failing.setattr(withdrawals, "take_back", Mock(side_effect=DatabaseUnavailable))
        failed = node.hilum("withdraw", node.study, "--reason", "Sides are confused.", "--yes")
    assert isinstance(failed.exception, DatabaseUnavailable)
    (written,) = node.store.results_folder(node.study).glob("*-rejection-*/*.dcm")
    assert {each.state for form in node.uids for each in node.deliveries(form)} == {DeliveryState.DELIVERED}
    node.withdraw("--yes")
    assert node.rejection().result.path == node.store.relative(written)


def test_a_command_that_fails_lets_go_out_what_was_owed(node: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(withdrawals, "take_back", Mock(side_effect=DatabaseUnavailable))
        node.hilum("withdraw", node.study, "--reason", "Sides are confused.", "--yes")
    node.send()
    assert {each.state for form in node.uids for each in node.deliveries(form)} == {DeliveryState.DELIVERED}


def test_nobody_is_asked_where_nobody_is(node: Site) -> None:
    done = node.hilum("withdraw", node.study, "--reason", "Sides are confused.")
    assert isinstance(done.exception, ConfigError)  # which the command ends with status 2
    assert "add --yes" in done.exception.words
    assert node.record().withdrawals == ()


@pytest.mark.parametrize(
    ("result", "reason", "words"),
    [
        ("9.9", "why", "No result 9.9"),
        ("", " ", "--reason needs 1 to 500 characters"),
        ("", "x" * 501, "--reason needs 1 to 500 characters"),
    ],
)
def test_a_withdrawal_needs_a_result_and_a_reason(node: Site, result: str, reason: str, words: str) -> None:
    done = node.hilum("withdraw", result or node.study, "--reason", reason, "--yes")
    assert isinstance(done.exception, ArchiveError)
    assert words in done.exception.words
    assert node.record().withdrawals == ()


def test_a_result_whose_file_is_gone_is_not_rejected_in_silence(node: Site) -> None:
    node.send()
    (node.store.root / node.deliveries("sr")[0].result.path).unlink()
    done = node.hilum("withdraw", node.study, "--reason", "why", "--yes")
    assert isinstance(done.exception, ArchiveError)
    assert "can not be read (FileNotFoundError)" in done.exception.words
    assert [each.state for each in node.deliveries("seg")] == [DeliveryState.DELIVERED]


def test_what_is_under_way_is_rejected_once_the_peer_has_stored_it(tmp_path: Path) -> None:
    arrived, go_on, seen = threading.Event(), threading.Event(), list[str]()

    def store(event: evt.Event) -> int:
        seen.append(str(request_of(event).AffectedSOPInstanceUID))
        arrived.set()
        go_on.wait(30)
        return 0x0000

    with strange_peer(store) as port, site(tmp_path, port) as node:
        sending = threading.Thread(target=node.courier().turn)
        sending.start()
        assert arrived.wait(30)
        said = node.withdraw("--yes")
        assert said[1].startswith("  pacs: is being sent 2 object(s) just now: it is sent a rejection (113001 DCM, ")
        assert {each.state for each in node.deliveries("rejection")} == {DeliveryState.STANDBY}
        go_on.set()
        sending.join(30)
        # Both were in the sender's hands, which finishes what it holds
        assert seen == [node.uids["seg"], node.uids["sr"]]
        assert {each.state for form in node.uids for each in node.deliveries(form)} == {GONE}
        assert [each.state for each in node.deliveries("rejection")] == [DeliveryState.PENDING] * 2
        node.send()
        assert [each.state for each in node.deliveries("rejection")] == [DeliveryState.DELIVERED] * 2
        rejected = [rejected_by(dcmread(node.store.root / each.result.path)) for each in node.deliveries("rejection")]
        assert sorted(rejected) == sorted([uid] for uid in node.uids.values())
        assert node.record().summary.state is StudyState.DELIVERED


def test_what_a_peer_may_have_stored_is_rejected_too(tmp_path: Path) -> None:
    """Its answer was lost: it has the object, and nobody here knows it."""
    lost = threading.Event()

    def store(event: evt.Event) -> int:
        if not lost.is_set():
            lost.set()
            event.assoc.abort()
        return 0x0000

    with strange_peer(store) as port, site(tmp_path, port) as node:
        node.courier().turn()
        assert lost.is_set()
        (seg,) = node.deliveries("seg")
        assert (seg.state, seg.attempts) == (DeliveryState.PENDING, 1)
        said = node.withdraw("--yes")
        assert "  pacs: may have 1 object(s), since an answer was lost: it is sent a rejection" in "\n".join(said)
        assert "  pacs: does not have 1 object(s), and is not sent them" in said
        wait_until(lambda: node.courier().turn() or node.rejection().state is DeliveryState.DELIVERED)
        assert rejected_by(dcmread(node.store.root / node.rejection().result.path)) == [node.uids["seg"]]


def test_what_never_reached_a_peer_is_not_rejected_there(tmp_path: Path) -> None:
    with site(tmp_path, free_port()) as node:
        node.courier().turn()
        assert [each.attempts for each in node.deliveries("seg")] == [1]
        assert node.withdraw("--yes")[1] == "  pacs: does not have 2 object(s), and is not sent them"


RESULTS_ALONE = [uid for uid in SOP_CLASSES.values() if uid != KEY_OBJECT]


@pytest.mark.parametrize("known", [True, False], ids=["known before", "found out by sending"])
def test_a_peer_that_takes_no_key_objects_is_left_to_a_person(tmp_path: Path, *, known: bool) -> None:
    with strange_peer(classes=RESULTS_ALONE) as port, site(tmp_path, port) as node:
        if known:
            node.courier()._ask()
        node.send()
        said = node.withdraw("--yes")[1]
        assert ("it takes no Key Objects: have them removed there by hand" in said) == known
        node.send()
        rejection, summary = node.rejection(), node.record().summary
        assert (rejection.state, rejection.problem, summary.state) == (
            DeliveryState.KEPT_ASIDE,
            True,
            StudyState.FAILED,
        )
        assert summary.reason is not None
        assert summary.reason.code == "RejectionUnheeded"
        assert summary.reason.words.startswith("Have 2 object(s) removed at pacs by hand, ")
        assert all(uid in summary.reason.words for uid in node.uids.values())


def test_an_archive_that_can_not_act_on_a_rejection_says_so_once(tmp_path: Path) -> None:
    def store(event: evt.Event) -> int:
        return 0xA772 if request_of(event).AffectedSOPClassUID == KEY_OBJECT else 0x0000  # dcm4chee: no such instance

    with strange_peer(store) as port, site(tmp_path, port) as node:
        node.send()
        node.withdraw("--yes")
        node.send()
        rejection = node.rejection()
        assert (rejection.state, rejection.status) == (DeliveryState.KEPT_ASIDE, 0xA772)
        assert rejection.reason is not None
        assert "by hand" in rejection.reason.words
        assert "A772" in rejection.reason.words


def test_a_peer_that_is_gone_from_the_configuration_is_named_with_its_objects(node: Site) -> None:
    node.send()
    node.config.write_text(node.config.read_text().replace('results = ["seg", "sr"]', ""))
    said = node.withdraw("--yes")[1]
    assert said.startswith("  pacs: has 2 object(s); the configuration sends it nothing any more: have them removed")
    assert all(uid in said for uid in node.uids.values())
    assert node.rejection().state is DeliveryState.KEPT_ASIDE
