"""A good neighbour: what peers offer, what they are sent at a time, and that no association is left open."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import build_context

from hilum.config import Settings
from hilum.doctor import Checked, examine_peers
from hilum.entries import PeerSettings
from scp.association.requesting import Peer, Timeouts, accepted_classes, association_with, echo
from scp.association.requestor import cut
from scp.retrieving.query import STUDY_ROOT_FIND
from scp.retrieving.retrieve_offers import STUDY_ROOT_GET, query_offers
from scp.sending.object_file import describe, offers_for
from scp.sending.sender import Sender, send_files
from scp.sending.services import Service, services_of
from study.errors import DeliveryError, NoAcceptedContext, PeerUnreachable
from tests.support.network import encoded_data_set, free_port, running_receiver, wait_until
from tests.support.odd_archives import OddArchive, odd_archive
from tests.support.orthanc import running_orthanc
from tests.support.series import ct_series, save_series

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (path,) = save_series(ct_series(np.arange(64 * 64).reshape(1, 64, 64) % 700), tmp_path / "series")
    return path


def test_each_peer_offers_its_services(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        assert services_of(orthanc.peer, "HILUM") == set(Service)
    with running_receiver(tmp_path / "node") as node:
        assert services_of(node.peer, "HILUM") == {Service.VERIFICATION, Service.KEY_OBJECT}
    with odd_archive([STUDY_ROOT_FIND, STUDY_ROOT_GET], []) as archive:
        assert services_of(archive.peer, "HILUM") == {Service.FIND, Service.GET}
        assert archive.is_released
    with odd_archive(["1.2.3"], []) as archive:
        assert services_of(archive.peer, "HILUM") == frozenset()
    with pytest.raises(PeerUnreachable):
        services_of(Peer("gone", "GONE", "127.0.0.1", free_port()), "HILUM")


def settings_for(archive: OddArchive, **peer: object) -> Settings:
    told = {"name": "pacs", "ae_title": "ODD", "host": "127.0.0.1", "port": archive.peer.port, **peer}
    peers = {
        "pacs": PeerSettings.model_validate(told),
        "ct": PeerSettings(name="ct", ae_title="CT", archive="pacs"),
    }
    return Settings(peers=peers)


def services_told(settings: Settings) -> list[Checked]:
    return [checked for checked in examine_peers(settings) if checked.subject == "peer pacs services"]


def test_doctor_tells_which_services_a_peer_offers_and_what_is_missing() -> None:
    archive_classes = [VERIFICATION, STUDY_ROOT_FIND, STUDY_ROOT_GET, COMMITMENT]
    with odd_archive(archive_classes, []) as archive:
        assert services_told(settings_for(archive)) == [
            Checked("peer pacs services", True, "C-FIND, C-GET, storage commitment; no C-MOVE, Key Objects")
        ]
        (_, lacking) = services_told(settings_for(archive, retrieve="move"))
        assert not lacking.good
        assert lacking.words.startswith("takes no C-MOVE, and is the archive of ct: allow HILUM to retrieve there")
        assert len(services_told(settings_for(archive, results=["seg"], commitment=True))) == 1
    with odd_archive([VERIFICATION], []) as archive:
        found = services_told(settings_for(archive, results=["seg"], commitment=True))
        assert [checked.good for checked in found] == [True, False, False, False]
        assert found[0].words.startswith("none but C-ECHO; no C-FIND, C-GET, C-MOVE")
        assert "takes no C-FIND" in found[1].words
        assert "takes no C-GET nor C-MOVE" in found[2].words
        assert "takes no storage commitment" in found[3].words
        assert len(services_told(settings_for(archive, retrieve="none"))) == 2


@pytest.mark.parametrize(("limit", "longest"), [(4096, 4096), (0, 2**18)])
def test_a_peer_is_sent_no_more_at_a_time_than_it_takes(tmp_path: Path, image: Path, limit: int, longest: int) -> None:
    lengths: list[int] = []

    def measure(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            lengths.append(event.pdu.pdu_length)

    def store(event: evt.Event) -> int:
        received.append(event.encoded_dataset(include_meta=False))
        return 0

    received: list[bytes] = []
    large = save_series(ct_series(np.zeros((1, 512, 512))), tmp_path / "large")
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, store), (evt.EVT_PDU_RECV, measure)]
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    with odd_archive(contexts, handlers, maximum_pdu_size=limit) as archive:
        assert all(sent.outcome for sent in send_files(archive.peer, "HILUM", [image, *large]))
        assert archive.is_released
    assert received == [encoded_data_set(path) for path in (image, *large)]
    assert max(lengths) == longest


def test_a_peer_that_leaves_no_room_for_a_message_is_told_to_be_wrong(image: Path) -> None:
    with odd_archive([CTImageStorage], [], maximum_pdu_size=5) as archive:
        with pytest.raises(DeliveryError, match="takes 5 bytes at a time"):
            echo_or_send(archive.peer, image)
        wait_until(lambda: bool(archive.events), 5, "the end of the association")


def echo_or_send(peer: Peer, path: Path) -> None:
    with Sender(peer, "HILUM", offers_for([describe(path)])) as sender:
        sender.store(path)


def test_an_association_is_released_whatever_happens_within(image: Path) -> None:
    refusing = [(evt.EVT_C_STORE, lambda _event: 0xA900)]
    with odd_archive([VERIFICATION, CTImageStorage], refusing) as archive:
        offers = offers_for([describe(image)])
        with pytest.raises(ZeroDivisionError), association_with(archive.peer, "HILUM", offers):
            raise ZeroDivisionError
        with pytest.raises(DeliveryError):
            echo_or_send(archive.peer, image)
        assert accepted_classes(archive.peer, "HILUM", ["1.2.3", str(CTImageStorage)]) == {CTImageStorage}
        echo(archive.peer, "HILUM")
        wait_until(lambda: len(archive.events) == 4, 5, "the end of the associations")
        assert archive.is_released
        # With nothing to talk about there is nothing to release
        with pytest.raises(NoAcceptedContext), association_with(archive.peer, "HILUM", query_offers("1.2.3")):
            pass


def test_only_the_contexts_in_use_are_offered(image: Path) -> None:
    offered: list[set[str]] = []

    def note(event: evt.Event) -> None:
        offered.append({str(cx.abstract_syntax) for cx in event.assoc.requestor.requested_contexts})

    with odd_archive([CTImageStorage], [(evt.EVT_C_STORE, lambda _event: 0), (evt.EVT_ACCEPTED, note)]) as archive:
        echo_or_send(archive.peer, image)
    assert offered == [{str(CTImageStorage)}]


def test_a_peer_that_hinders_even_an_abort_is_cut_off(image: Path) -> None:
    ended = threading.Event()

    def stop_within_a_piece(event: evt.Event) -> int:
        assert event.assoc.dul.socket is not None
        event.assoc.dul.socket.send(b"\x04\x00\x00\x00\x01\x00half")
        ended.wait(10)
        return 0

    quick = Timeouts(connection=5.0, negotiation=5.0, answer=0.3, network=30.0)
    with odd_archive([CTImageStorage], [(evt.EVT_C_STORE, stop_within_a_piece)]) as archive:
        with association_with(archive.peer, "HILUM", offers_for([describe(image)]), quick) as association:
            threading.Timer(0.3, cut, [association]).start()
            association.send_c_store(image)
            wait_until(lambda: not association.dul.is_alive(), 10, "the end of the association")
        ended.set()
