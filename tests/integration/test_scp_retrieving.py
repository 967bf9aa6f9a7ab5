"""Fetching from archives: Orthanc by C-GET and C-MOVE, and archives that send something else, less, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless
from pynetdicom import evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from scp.association.requesting import Peer, Timeouts, association_with
from scp.receiving.inbox import Inbox
from scp.receiving.moves import Moves
from scp.retrieving.fetching import Method, Retrieved, Wanted, retrieve
from scp.retrieving.query import STUDY_ROOT_FIND
from scp.retrieving.retrieve_offers import STUDY_ROOT_GET, STUDY_ROOT_MOVE, USUAL_CLASSES, storage_offers
from scp.sending.object_file import Offer
from scp.sending.sender import send_files
from study.errors import NoAcceptedContext, PeerUnreachable, RetrieveFailed
from study.implementation import FETCHED, FETCHED_CREATOR_UID
from tests.support.network import RunningReceiver, encoded_data_set, running_receiver
from tests.support.odd_archives import Handler, answering, odd_archive, raw_bytes
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.series import ct_series, save_series

STUDY, SERIES, COMPRESSED = "1.2.826.5", "1.2.826.5.1", "1.2.826.5.2"
CT = (str(CTImageStorage),)
WHOLE = Wanted(STUDY, SERIES, sop_class_uids=CT)
QUICK = Timeouts(connection=5.0, negotiation=5.0, answer=1.5, network=5.0)


@dataclass
class Site:
    """An Orthanc with a study, and a node that it knows."""

    orthanc: Orthanc
    node: RunningReceiver
    sent: dict[str, Path]  # of the series, by SOP Instance UID


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    voxels = np.arange(12 * 16 * 16).reshape(12, 16, 16) % 700
    datasets = ct_series(voxels, study_instance_uid=STUDY, series_instance_uid=SERIES)
    compressed = ct_series(voxels[:2], study_instance_uid=STUDY, series_instance_uid=COMPRESSED)
    for dataset in compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    files = save_series(datasets, folder / "series") + save_series(compressed, folder / "compressed")
    with running_receiver(folder / "node") as node:
        known = {"node": Peer("node", "HILUM", "127.0.0.1", node.port)}
        allowed = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
        with running_orthanc(folder / "orthanc", modalities=known, settings=allowed) as orthanc:
            assert all(item.outcome for item in send_files(orthanc.peer, "SCU", files))
            sent = {str(dataset.SOPInstanceUID): path for dataset, path in zip(datasets, files, strict=False)}
            yield Site(orthanc, node, sent)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "inbox", reserve_bytes=0)
    yield inbox
    inbox.close()


def stored_in(folder: Path) -> dict[str, Path]:
    return {str(read_file_meta_info(path).MediaStorageSOPInstanceUID): path for path in folder.glob("*.dcm")}


def is_marked(path: Path) -> bool:
    meta = read_file_meta_info(path)
    return (meta.get("PrivateInformationCreatorUID"), meta.get("PrivateInformation")) == (FETCHED_CREATOR_UID, FETCHED)


def test_a_series_is_fetched_as_the_archive_keeps_it(site: Site, inbox: Inbox) -> None:
    retrieved = retrieve(site.orthanc.peer, "HILUM", WHOLE, inbox)
    assert retrieved == Retrieved("get", stored=retrieved.stored, completed=12)
    found = stored_in(inbox.folder)
    assert set(found) == set(retrieved.stored) == set(site.sent)
    for uid, path in found.items():
        assert encoded_data_set(path) == encoded_data_set(site.sent[uid])
        assert is_marked(path)
        meta = read_file_meta_info(path)
        assert (meta.SendingApplicationEntityTitle, meta.ReceivingApplicationEntityTitle) == ("PACS", "HILUM")


def test_compressed_images_stay_so(site: Site, inbox: Inbox) -> None:
    wanted = Wanted(STUDY, COMPRESSED)  # of classes that nobody knows
    assert len(retrieve(site.orthanc.peer, "HILUM", wanted, inbox, "get").stored) == 2
    syntaxes = {read_file_meta_info(path).TransferSyntaxUID for path in inbox.folder.glob("*.dcm")}
    assert syntaxes == {RLELossless}


def test_only_what_is_missing_is_fetched(site: Site, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scp.retrieving.fetching.MOST_IN_A_LIST", 3)
    missing = sorted(site.sent)[:7]
    retrieved = retrieve(site.orthanc.peer, "HILUM", Wanted(STUDY, SERIES, tuple(missing), CT), inbox)
    assert (sorted(retrieved.stored), retrieved.completed, retrieved.words) == (missing, 7, "")
    assert set(stored_in(inbox.folder)) == set(missing)


def test_an_instance_that_the_archive_lacks_keeps_no_other_back(site: Site, inbox: Inbox) -> None:
    there = sorted(site.sent)[:3]
    wanted = Wanted(STUDY, SERIES, (there[0], "1.2.3", *there[1:]), CT)
    retrieved = retrieve(site.orthanc.peer, "HILUM", wanted, inbox)
    assert sorted(retrieved.stored) == there
    assert retrieved.words == "1 of 4 instances did not come from pacs: it answered C000."


def test_by_c_move_they_come_to_the_listener_and_are_marked(site: Site, inbox: Inbox) -> None:
    before = set(site.node.folder.glob("*.dcm"))
    retrieved = retrieve(site.orthanc.peer, "HILUM", WHOLE, inbox, "move")
    assert retrieved == Retrieved("move", completed=12)
    came = set(site.node.folder.glob("*.dcm")) - before
    assert {str(read_file_meta_info(path).MediaStorageSOPInstanceUID) for path in came} == set(site.sent)
    assert all(map(is_marked, came))
    assert not list(inbox.folder.iterdir())
    # What somebody sends of his own accord is not, nor what another had moved to us
    before |= came
    for calling, originator in (("PACS", None), ("PACS", "WORKSTATION")):
        one = next(iter(site.sent.values()))
        send_as_moved(site.node.peer, calling, one, originator)
    assert not any(map(is_marked, set(site.node.folder.glob("*.dcm")) - before))


def send_as_moved(peer: Peer, calling_ae_title: str, path: Path, originator: str | None) -> None:
    offers = [Offer(str(CTImageStorage), str(ExplicitVRLittleEndian))]
    with association_with(peer, calling_ae_title, offers) as association:
        status = association.send_c_store(path, originator_aet=originator, originator_id=7 if originator else None)
    assert status.Status == 0


def test_an_archive_that_does_not_know_us_says_so(site: Site, inbox: Inbox) -> None:
    with pytest.raises(RetrieveFailed, match="as a destination"):
        retrieve(site.orthanc.peer, "STRANGER", WHOLE, inbox, "move")
    with pytest.raises(RetrieveFailed):
        retrieve(site.orthanc.peer, "HILUM", Wanted("1.2.3", "1.2.4", sop_class_uids=CT), inbox)
    with pytest.raises(RetrieveFailed, match="no UID") as caught:
        retrieve(site.orthanc.peer, "HILUM", Wanted(STUDY, "*"), inbox)
    assert caught.value.permanent


def test_without_disk_space_the_archive_is_told_to_stop(site: Site, tmp_path: Path) -> None:
    full = Inbox(tmp_path / "full", reserve_bytes=2**62)
    with pytest.raises(RetrieveFailed, match="Out of disk space"):
        retrieve(site.orthanc.peer, "HILUM", WHOLE, full)
    assert not list(full.folder.iterdir())
    full.close()


STORING = build_context(CTImageStorage)
STORING.scu_role, STORING.scp_role = True, True


def getting(datasets: Iterable[Dataset], count: int | None = None) -> Handler:
    """Return a C-GET handler that sends these data sets, whatever is asked, and counts so many sub-operations."""
    sent = list(datasets)

    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        yield len(sent) if count is None else count
        for dataset in sent:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, dataset

    return get


def fetched_from(
    inbox: Inbox,
    handler: Handler,
    wanted: Wanted = WHOLE,
    method: Method = "get",
    classes: Sequence[str | PresentationContext] = (STUDY_ROOT_GET, STORING),
) -> Retrieved:
    with odd_archive(classes, [(evt.EVT_C_GET, handler)]) as archive:
        retrieved = retrieve(archive.peer, "HILUM", wanted, inbox, method)
        assert archive.is_released
    return retrieved


def series(slices: int = 3, study: str = STUDY, number: str = SERIES) -> list[Dataset]:
    return ct_series(np.zeros((slices, 4, 4)), study_instance_uid=study, series_instance_uid=number)


def test_an_instance_of_another_study_is_not_taken(inbox: Inbox) -> None:
    good, other_study, other_series = (
        series(1)[0],
        series(1, study="1.2.9")[0],
        series(1, number="1.2.9")[0],
    )
    retrieved = fetched_from(inbox, getting([other_study, good, other_series]))
    assert retrieved.stored == (good.SOPInstanceUID,)
    assert (retrieved.completed, retrieved.failed) == (1, 2)
    assert set(retrieved.failed_sop_instance_uids) == {other_study.SOPInstanceUID, other_series.SOPInstanceUID}
    assert "2 of 3 instances did not come from odd: An instance of another study or series" in retrieved.words
    assert set(stored_in(inbox.folder)) == {good.SOPInstanceUID}
    assert not list(inbox.folder.glob("*.part"))


def test_an_instance_that_was_not_asked_for_is_not_taken(inbox: Inbox) -> None:
    asked, other = series(2)
    retrieved = fetched_from(inbox, getting([other, asked]), Wanted(STUDY, SERIES, (str(asked.SOPInstanceUID),), CT))
    assert retrieved.stored == (asked.SOPInstanceUID,)
    assert retrieved.failed_sop_instance_uids == ()


def test_an_instance_that_comes_twice_is_counted_once_and_a_flood_is_ended(inbox: Inbox) -> None:
    (asked,) = series(1)
    wanted = Wanted(STUDY, SERIES, (str(asked.SOPInstanceUID),), CT)
    assert fetched_from(inbox, getting([asked] * 2), wanted).stored == (asked.SOPInstanceUID,)
    with (
        odd_archive([STUDY_ROOT_GET, STORING], [(evt.EVT_C_GET, getting([asked] * 500))]) as archive,
        pytest.raises(RetrieveFailed, match="more than was asked for"),
    ):
        retrieve(archive.peer, "HILUM", wanted, inbox, "get")
    assert len(list(inbox.folder.glob("*.dcm"))) < 400


def test_counts_of_what_never_came_are_not_believed(inbox: Inbox) -> None:
    asked = series(3)
    uids = tuple(str(dataset.SOPInstanceUID) for dataset in asked)

    def lie(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        del event
        yield 0  # pynetdicom answers that there was nothing to do, with Success

    retrieved = fetched_from(inbox, lie, Wanted(STUDY, SERIES, uids, CT))
    assert retrieved.stored == ()
    assert retrieved.words == "3 of 3 instances did not come from odd: it gave no reason."


def test_an_archive_that_takes_no_lists_is_asked_one_by_one(inbox: Inbox) -> None:
    kept = {str(dataset.SOPInstanceUID): dataset for dataset in series(5)}
    requests = []

    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        asked = event.identifier.SOPInstanceUID
        requests.append(asked)
        if not isinstance(asked, str):
            yield 1
            yield 0xA900, None
            return
        yield 1
        yield 0xFF00, kept[asked]

    retrieved = fetched_from(inbox, get, Wanted(STUDY, SERIES, tuple(kept), CT))
    assert (set(retrieved.stored), retrieved.completed, retrieved.words) == (set(kept), 5, "")
    assert len(requests) == 6


def test_an_archive_that_has_nothing_is_not_asked_for_ever(inbox: Inbox) -> None:
    requests = []

    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        requests.append(event)
        yield 0

    wanted = Wanted(STUDY, SERIES, tuple(f"1.2.{number}" for number in range(1, 501)), CT)
    retrieved = fetched_from(inbox, get, wanted)
    assert retrieved.words.startswith("500 of 500")
    assert len(requests) < 20


def test_when_the_node_stops_so_does_the_archive(inbox: Inbox) -> None:
    cancelled = threading.Event()
    datasets = series(40)

    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        yield len(datasets)
        for dataset in datasets:
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            yield 0xFF00, dataset

    with odd_archive([STUDY_ROOT_GET, STORING], [(evt.EVT_C_GET, get)]) as archive:
        retrieved = retrieve(
            archive.peer, "HILUM", WHOLE, inbox, "get", stopping=lambda: bool(list(inbox.folder.glob("*.dcm")))
        )
        assert cancelled.wait(5)
        assert archive.is_released
    assert 0 < len(retrieved.stored) < 40
    assert retrieved.words == "It was stopped."
    assert len(list(inbox.folder.glob("*.dcm"))) == len(retrieved.stored)


def moving_to(peer: Peer | None, datasets: Sequence[Dataset]) -> Handler:
    """Return a C-MOVE handler that sends these data sets to `peer`; None: it knows no such destination."""

    def move(event: evt.Event) -> Iterator[object]:
        del event
        proposed = {"contexts": [build_context(CTImageStorage)]}
        yield (None, None) if peer is None else (peer.host, peer.port, proposed | {"ae_title": peer.ae_title})
        yield len(datasets)
        for dataset in datasets:
            yield 0xFF00, dataset

    return move


def test_an_archive_without_c_get_moves_to_us(site: Site, inbox: Inbox) -> None:
    datasets = series(2)
    by_default = build_context(CTImageStorage)  # in which it would not send over our association
    wanted = Wanted(STUDY, SERIES, tuple(str(dataset.SOPInstanceUID) for dataset in datasets), CT)
    handlers = [(evt.EVT_C_MOVE, moving_to(site.node.peer, datasets)), (evt.EVT_C_GET, getting(datasets))]
    offered: list[list[str | PresentationContext]] = [[STUDY_ROOT_MOVE], [STUDY_ROOT_GET, STUDY_ROOT_MOVE, by_default]]
    for classes in offered:
        with odd_archive(classes, handlers) as archive:
            assert retrieve(archive.peer, "HILUM", wanted, inbox) == Retrieved("move", completed=2)
            assert archive.is_released
    assert set(wanted.sop_instance_uids) <= set(stored_in(site.node.folder))


def test_what_we_had_moved_is_known_even_where_the_archive_names_itself(tmp_path: Path, inbox: Inbox) -> None:
    """Test it with pynetdicom's C-MOVE SCP, which names itself as Move Originator."""
    datasets = series(3)
    uids = sorted(str(dataset.SOPInstanceUID) for dataset in datasets)
    matches = []
    for uid in uids:
        matches.append(Dataset())
        matches[-1].SOPInstanceUID = uid
    moves = Moves(tmp_path / "moves")
    with running_receiver(tmp_path / "node", moves=moves) as node:
        handlers = [(evt.EVT_C_MOVE, moving_to(node.peer, datasets)), (evt.EVT_C_FIND, answering(matches))]
        with odd_archive([STUDY_ROOT_FIND, STUDY_ROOT_MOVE], handlers) as archive:
            retrieved = retrieve(archive.peer, "HILUM", WHOLE, inbox, moves=moves)
            assert retrieved == Retrieved("move", completed=3)
            assert archive.is_released
        came = stored_in(node.folder)
        assert sorted(came) == uids
        assert all(map(is_marked, came.values()))
        # What the archive sends of its own accord afterwards is not
        send_as_moved(node.peer, "ODD", save_series(datasets, tmp_path / "series")[0], None)
        assert [is_marked(path) for path in node.stored] == [True, True, True, False]


def test_a_destination_that_the_archive_does_not_know_is_told_with_the_remedy(inbox: Inbox) -> None:
    with (
        odd_archive([STUDY_ROOT_MOVE], [(evt.EVT_C_MOVE, moving_to(None, []))]) as archive,
        pytest.raises(RetrieveFailed, match=r"A801.*register it there with our host and port") as caught,
    ):
        retrieve(archive.peer, "HILUM", WHOLE, inbox)
    assert (caught.value.status, caught.value.permanent) == (0xA801, True)
    assert archive.is_released


@pytest.mark.parametrize(
    ("method", "classes", "words"),
    [
        ("auto", ["1.2.840.10008.1.1"], "neither C-GET of these SOP Classes nor C-MOVE"),
        ("auto", [STUDY_ROOT_GET, build_context(CTImageStorage)], "neither"),
        ("get", [STUDY_ROOT_GET, STUDY_ROOT_MOVE, build_context(CTImageStorage)], "no C-GET of these SOP Classes"),
        ("get", [STUDY_ROOT_GET, STUDY_ROOT_MOVE, MRImageStorage], "no C-GET of these SOP Classes"),
        ("move", [STUDY_ROOT_GET, STORING], "no C-MOVE"),
    ],
)
def test_what_an_archive_does_not_offer_is_named(
    inbox: Inbox, method: Method, classes: Sequence[str | PresentationContext], words: str
) -> None:
    with odd_archive(classes, []) as archive, pytest.raises(NoAcceptedContext, match=words) as caught:
        retrieve(archive.peer, "HILUM", WHOLE, inbox, method)
    assert caught.value.permanent


@pytest.mark.parametrize("status", [0xA701, 0xA702, 0xC001, 0xFE00, 0x0124, 0x1234])
def test_a_failure_is_told_with_its_status(inbox: Inbox, status: int) -> None:
    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        del event
        yield 1
        yield status, None

    with pytest.raises(RetrieveFailed, match=f"odd answered the C-GET with {status:04X}") as caught:
        fetched_from(inbox, get)
    assert caught.value.status == status


def falls_silent(event: evt.Event, ended: threading.Event) -> None:
    del event
    ended.wait(10)


def aborts(event: evt.Event, ended: threading.Event) -> None:
    del ended
    event.assoc.abort()


def sends_half_an_object(event: evt.Event, ended: threading.Event) -> None:
    """Announce an object, send the first piece of it, and fall silent."""
    context = next(cx for cx in event.assoc.accepted_contexts if cx.abstract_syntax == CTImageStorage)
    (dataset,) = series(1)
    dataset.SOPInstanceUID = "1.2.3"
    message = _store_request(dataset)
    assert context.context_id is not None
    first, *others = message.encode_msg(context.context_id, 256)
    for primitive in (first, others[0]):
        event.assoc.dul.send_pdu(primitive)
    ended.wait(10)


def announces_gigabytes(event: evt.Event, ended: threading.Event) -> None:
    raw_bytes(event, b"\x04\x00\x7f\xff\xff\xff")
    ended.wait(10)


@pytest.mark.parametrize("behaviour", [falls_silent, aborts, sends_half_an_object, announces_gigabytes])
def test_an_archive_that_breaks_off_holds_nobody_up(
    inbox: Inbox, behaviour: Callable[[evt.Event, threading.Event], None]
) -> None:
    ended = threading.Event()
    datasets = series(2)

    def get(event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        yield len(datasets)
        yield 0xFF00, datasets[0]
        behaviour(event, ended)
        yield 0xFF00, datasets[1]

    started = time.monotonic()
    with odd_archive([STUDY_ROOT_GET, STORING], [(evt.EVT_C_GET, get)]) as archive:
        with pytest.raises((PeerUnreachable, RetrieveFailed)):
            retrieve(archive.peer, "HILUM", WHOLE, inbox, "get", timeouts=QUICK)
        assert time.monotonic() - started < 20
        ended.set()
    # What came before is there, and nothing half of it
    assert set(stored_in(inbox.folder)) == {datasets[0].SOPInstanceUID}
    assert not list(inbox.folder.glob("*.part"))


def _store_request(dataset: Dataset) -> C_STORE_RQ:
    request = C_STORE()
    request.MessageID = 9
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.Priority = 2
    encoded = encode(dataset, False, True)
    assert encoded is not None
    request.DataSet = BytesIO(encoded)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    return message


@pytest.mark.parametrize("count", [1, 2, 3, 11, 62])
def test_contexts_fit_into_one_association(count: int) -> None:
    classes = [f"1.2.{number}" for number in range(1, count + 1)]
    offers = storage_offers(classes, taken=4)
    assert len(offers) == len(set(offers)) <= 124
    for sop_class in classes:
        for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
            assert Offer(sop_class, syntax) in offers
    assert {offer.sop_class_uid for offer in storage_offers(USUAL_CLASSES, 4)} == set(USUAL_CLASSES)
