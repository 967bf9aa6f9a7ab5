"""The sender, with archives that others wrote: Orthanc and DCMTK's storescp."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, RLELossless
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.presentation import build_context

from scp.archive import Archive
from scp.association.requesting import Peer, Timeouts, association_with, echo
from scp.retrieving.query import prove_stored
from scp.sending.object_file import Offer, associations_for, describe, offers_for
from scp.sending.sender import Sender, send_files
from study.errors import (
    AnswerLost,
    ArchiveError,
    AssociationRejected,
    DeliveryError,
    NoAcceptedContext,
    PeerUnreachable,
    StoreFailed,
)
from tests.support.network import (
    accepts_connections,
    encoded_data_set,
    free_port,
    transfer_syntax_of,
    wait_until,
)
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import program, shared
from tests.support.series import ct_series, save_series


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    voxels = np.arange(4 * 32 * 32).reshape(4, 32, 32) % 900
    return save_series(ct_series(voxels), tmp_path / "series")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[Peer]:
    """Run DCMTK's storescp, which writes what it takes as it takes it."""
    folder.mkdir()
    port = free_port()
    command = [program("storescp", package="dcmtk"), *options, "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts_connections(port), what="storescp")
        yield Peer("storescp", "ANY", "127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def answering(status: int) -> Iterator[Peer]:
    """Run a C-STORE SCP that answers with this status, whatever comes."""
    entity = ApplicationEntity("PACS")
    dataset = ct_series(np.zeros((1, 4, 4)))[0]
    entity.supported_contexts = [build_context(dataset.SOPClassUID, ExplicitVRLittleEndian)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _event: status)])
    assert server is not None
    try:
        yield Peer("pacs", "PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def is_proven(peer: Peer, path: Path, *, study: str | None = None, instance: str | None = None) -> bool:
    dataset = dcmread(path, stop_before_pixels=True)
    return prove_stored(
        peer,
        "HILUM",
        study_instance_uid=study or dataset.StudyInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        sop_instance_uid=instance or dataset.SOPInstanceUID,
    )


def test_orthanc_stores_what_it_is_sent_and_proves_it(orthanc: Orthanc, series: list[Path]) -> None:
    with Sender(orthanc.peer, "HILUM", offers_for(map(describe, series))) as sender:
        outcomes = [sender.store(path) for path in series]
    assert [(outcome.status, outcome.has_warning) for outcome in outcomes] == [(0, False)] * 4
    for path in series:
        assert len(orthanc.instances(SOPInstanceUID=str(dcmread(path).SOPInstanceUID))) == 1
        assert is_proven(orthanc.peer, path)
        assert not is_proven(orthanc.peer, path, instance="1.2.3")
        assert not is_proven(orthanc.peer, path, study="1.2.3")


def test_orthanc_answers_an_echo_and_rejects_a_wrong_name(orthanc: Orthanc) -> None:
    assert echo(orthanc.peer, "HILUM") < 10
    with pytest.raises(AssociationRejected) as caught:
        echo(replace(orthanc.peer, ae_title="WRONG"), "HILUM")
    assert caught.value.permanent
    assert caught.value.numbers["reason"] == 7


def test_orthanc_takes_every_transfer_syntax_of_one_command(orthanc: Orthanc, tmp_path: Path) -> None:
    files = sorted(path for path in shared("data", "ct_transfer_syntaxes").iterdir() if path.name != "LICENSE")
    sent = list(send_files(orthanc.peer, "HILUM", files))
    assert [item.path for item in sent] == files
    assert [(item.path.name, item.error) for item in sent if item.error is not None] == []


def test_a_file_goes_as_it_is_where_the_peer_takes_that(tmp_path: Path, series: list[Path]) -> None:
    with storescp(tmp_path / "scp", "+B") as peer:
        sent = list(send_files(peer, "HILUM", series))
    assert [item.outcome.transfer_syntax_uid for item in sent if item.outcome] == [ExplicitVRLittleEndian] * 4
    stored = {encoded_data_set(path) for path in (tmp_path / "scp").iterdir()}
    assert stored == {encoded_data_set(path) for path in series}


def test_a_peer_of_implicit_vr_alone_gets_implicit_vr(tmp_path: Path, series: list[Path]) -> None:
    with storescp(tmp_path / "scp", "+xi") as peer:
        sent = list(send_files(peer, "HILUM", series))
    assert [item.outcome.transfer_syntax_uid for item in sent if item.outcome] == [ImplicitVRLittleEndian] * 4
    for original in series:
        (stored,) = (tmp_path / "scp").glob(f"*{dcmread(original).SOPInstanceUID}*")
        assert transfer_syntax_of(stored) == ImplicitVRLittleEndian
        assert dcmread(stored).to_json_dict() == dcmread(original).to_json_dict()


def test_a_compressed_object_is_decompressed_for_a_peer_that_takes_no_other(tmp_path: Path) -> None:
    (dataset,) = ct_series(np.arange(64 * 64).reshape(1, 64, 64) % 500)
    pixels = dataset.PixelData
    dataset.compress(RLELossless, generate_instance_uid=False)
    (path,) = save_series([dataset], tmp_path / "rle")
    with storescp(tmp_path / "scp", "+xi") as peer, Sender(peer, "HILUM", offers_for([describe(path)])) as sender:
        assert sender.store(path).transfer_syntax_uid == ImplicitVRLittleEndian
    (stored,) = (tmp_path / "scp").iterdir()
    received = dcmread(stored)
    assert received.PixelData == pixels
    assert received.SOPInstanceUID == dataset.SOPInstanceUID


def test_a_response_that_the_association_s_own_thread_takes_is_not_lost(orthanc: Orthanc) -> None:
    offers = [Offer("1.2.840.10008.1.1", ImplicitVRLittleEndian)]
    with association_with(orthanc.peer, "HILUM", offers) as association:
        response = C_ECHO()
        response.MessageIDBeingRespondedTo, response.Status = 7, 0
        association._serve_request(response, 1)
        received = association.dimse.get_msg(block=True)
    assert received == (1, response)


def test_a_peer_that_is_not_there_is_unreachable(series: list[Path]) -> None:
    peer = Peer("gone", "GONE", "127.0.0.1", free_port())
    with pytest.raises(PeerUnreachable) as caught:
        echo(peer, "HILUM")
    assert caught.value.transient
    assert not caught.value.permanent
    with pytest.raises(PeerUnreachable):
        echo(replace(peer, host="no-such-host.invalid"), "HILUM")
    sent = list(send_files(peer, "HILUM", series))
    assert [type(item.error) for item in sent] == [PeerUnreachable] * 4


def test_a_port_that_speaks_no_dicom_is_told(series: list[Path], orthanc: Orthanc) -> None:
    peer = Peer("web", "WEB", "127.0.0.1", orthanc.http_port)
    with pytest.raises(DeliveryError):
        echo(peer, "HILUM", Timeouts(negotiation=2.0))


@pytest.mark.parametrize(
    ("status", "error", "permanent"),
    [
        (0xA700, StoreFailed, False),
        (0xA900, StoreFailed, True),
        (0xC123, StoreFailed, True),
        (0x0110, StoreFailed, False),
        (0x0111, StoreFailed, False),
        (0x0122, NoAcceptedContext, True),
        (0x0124, NoAcceptedContext, True),
    ],
)
def test_a_failure_is_told_with_its_status(
    series: list[Path], status: int, error: type[DeliveryError], permanent: bool
) -> None:
    with (
        answering(status) as peer,
        Sender(peer, "HILUM", offers_for([describe(series[0])])) as sender,
        pytest.raises(error) as caught,
    ):
        sender.store(series[0])
    assert caught.value.status == status
    assert caught.value.permanent is permanent
    assert f"{status:04X}" in caught.value.words


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0107])
def test_a_warning_is_stored(series: list[Path], status: int) -> None:
    with answering(status) as peer, Sender(peer, "HILUM", offers_for([describe(series[0])])) as sender:
        outcome = sender.store(series[0])
    assert (outcome.status, outcome.has_warning) == (status, True)


def test_a_class_that_the_peer_does_not_take_is_no_accepted_context(tmp_path: Path, series: list[Path]) -> None:
    with answering(0) as peer:
        offers = [Offer("1.2.840.10008.5.1.4.1.1.66.7", ExplicitVRLittleEndian)]
        with pytest.raises(NoAcceptedContext) as caught, Sender(peer, "HILUM", offers):
            pass
        assert caught.value.permanent
        with Sender(peer, "HILUM", offers_for([describe(series[0])])) as sender:
            dataset = dcmread(series[0])
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
            dataset.save_as(tmp_path / "mr.dcm")
            with pytest.raises(NoAcceptedContext):
                sender.store(tmp_path / "mr.dcm")
            assert sender.store(series[0]).status == 0


def test_an_object_at_which_the_peer_ends_the_association_stops_no_other(series: list[Path]) -> None:
    bad = dcmread(series[1]).SOPInstanceUID
    stored: list[str] = []

    def store(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        if event.request.AffectedSOPInstanceUID == bad:
            event.assoc.abort()
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    entity = ApplicationEntity("PACS")
    entity.supported_contexts = [build_context(dcmread(series[0]).SOPClassUID, ExplicitVRLittleEndian)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        peer = Peer("pacs", "PACS", "127.0.0.1", server.server_address[1])
        sent = list(send_files(peer, "HILUM", series))
    finally:
        server.shutdown()
    assert [type(item.error) for item in sent] == [type(None), AnswerLost, type(None), type(None)]
    assert len(stored) == 4


def test_what_is_no_dicom_file_is_named_and_stops_nothing(tmp_path: Path, series: list[Path]) -> None:
    (tmp_path / "note.txt").write_text("not a DICOM file")
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        peer = Peer("archive", "ARCHIVE", "127.0.0.1", archive.port)
        paths = [tmp_path / "note.txt", tmp_path / "missing.dcm", *series]
        sent = {item.path: item for item in send_files(peer, "HILUM", paths)}
    assert [type(sent[path].error) for path in paths[:2]] == [ArchiveError] * 2
    assert all(sent[path].outcome for path in series)


def test_more_kinds_than_one_association_can_offer_are_sent_over_several(tmp_path: Path) -> None:
    paths = []
    for number in range(70):
        dataset = Dataset()
        dataset.SOPClassUID = f"1.2.826.0.1.3680043.10.999.{number + 1}"
        dataset.SOPInstanceUID = f"1.2.3.{number + 1}"
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    groups = list(associations_for(map(describe, paths)))
    assert [len(offers_for(group)) for group in groups] == [128, 12]
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        sent = list(send_files(Peer("archive", "ARCHIVE", "127.0.0.1", archive.port), "HILUM", paths))
        assert [item.error for item in sent if item.error] == []
        assert len(archive.paths) == 70


def test_the_archive_keeps_each_object_once_and_says_when_it_came(tmp_path: Path, series: list[Path]) -> None:
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        assert not archive.wait_for(1, timeout_seconds=0.01)
        peer = Peer("archive", "ARCHIVE", "127.0.0.1", archive.port)
        for _ in range(2):
            assert all(item.outcome for item in send_files(peer, "HILUM", series))
        assert archive.wait_for(4, timeout_seconds=5)
        uids = [str(dcmread(path).SOPInstanceUID) for path in series]
        assert archive.paths == {uid: tmp_path / "archive" / f"{uid}.dcm" for uid in uids}
        assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == sorted(f"{uid}.dcm" for uid in uids)
        assert echo(peer, "HILUM") < 5


def test_orthanc_forwards_to_the_archive(tmp_path: Path, series: list[Path]) -> None:
    with Archive(tmp_path / "archive", "HILUM") as archive:
        node = Peer("node", "HILUM", "127.0.0.1", archive.port)
        with running_orthanc(tmp_path / "pacs", modalities={"node": node}, forward_everything_to="node") as pacs:
            assert all(item.outcome for item in send_files(pacs.peer, "SCU", series))
            assert archive.wait_for(4, timeout_seconds=30)
            downloaded = pacs.download(tmp_path / "downloaded", Modality="CT")
        assert {path.name for path in downloaded} == {path.name for path in archive.paths.values()}
