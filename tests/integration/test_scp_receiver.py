"""The receiver, talked to by programs that others wrote: DCMTK's, and pynetdicom as an SCU."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from scp.association.requesting import Peer, echo
from scp.receiving.file_meta import encode_file_meta
from scp.receiving.listening import open_listening_socket
from scp.sending.object_file import describe, offers_for
from scp.sending.sender import Sender, send_files
from study.errors import AssociationRejected, DeliveryError, NoAcceptedContext, StoreFailed
from tests.support.conversation import Caller, associate_rq
from tests.support.network import (
    RunningReceiver,
    encoded_data_set,
    run_dcmtk,
    running_receiver,
    storescu,
    transfer_syntax_of,
    wait_until,
)
from tests.support.peers import DCMTK_ENVIRONMENT, program, shared
from tests.support.series import ct_series, save_series
from tests.support.ways import associations

PRIVATE_SOP_CLASS = "1.2.826.0.1.3680043.10.999.1"


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    voxels = np.arange(6 * 64 * 64).reshape(6, 64, 64) % 900
    return save_series(ct_series(voxels), tmp_path / "series")


def object_file(path: Path, data_set: bytes, *, sop_class_uid: str = CTImageStorage, uid: str = "1.2.3") -> Path:
    """Write a file whose File Meta Information, which the command repeats, may contradict the data set."""
    path.write_bytes(
        encode_file_meta(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            sending_ae_title="X",
            receiving_ae_title="Y",
        )
        + data_set
    )
    return path


def store(node: RunningReceiver, path: Path) -> int:
    """Send one file and return the status of the answer."""
    try:
        with Sender(node.peer, "SCU", offers_for([describe(path)])) as sender:
            return sender.store(path).status
    except DeliveryError as error:
        if error.status is None:
            raise
        return error.status


class Scu:
    """Requests associations, and closes their connections in the end."""

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []

    def __call__(self, port: int) -> Association:
        return ApplicationEntity("SCU").associate(
            "127.0.0.1",
            port,
            contexts=[build_context(CTImageStorage, ExplicitVRLittleEndian)],
            ae_title="HILUM",
            evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: self._connections.append(connection_of(event.assoc)))],
        )

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@pytest.fixture
def associate() -> Iterator[Scu]:
    scu = Scu()
    yield scu
    scu.close()


def connection_of(association: Association) -> socket.socket:
    assert association.dul.socket is not None
    assert association.dul.socket.socket is not None
    return association.dul.socket.socket


def p_data(*pdvs: tuple[int, int, bytes]) -> bytes:
    """Return a P-DATA-TF PDU of PDVs given as (presentation context ID, control header, fragment)."""
    body = b"".join(struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in pdvs)
    return struct.pack(">BxL", 0x04, len(body)) + body


def c_store_command(uid: str = "1.2.3.4") -> bytes:
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = (
        element(0x0002, CTImageStorage.encode() + b"\0")
        + element(0x0100, struct.pack("<H", 1))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
        + element(0x1000, uid.encode() + b"\0" * (len(uid) % 2))
    )
    return element(0, struct.pack("<L", len(body))) + body


def shared_files() -> list[Path]:
    return sorted(path for path in shared("data", "ct_transfer_syntaxes").iterdir() if path.name != "LICENSE")


def values_of(path: Path) -> dict[int, object]:
    return {element.tag: element.value for element in dcmread(path) if element.tag.element != 0}


def test_echo(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node:
        command = [program("echoscu", package="dcmtk"), "-aec", "HILUM", "127.0.0.1", str(node.port)]
        assert run_dcmtk(command).returncode == 0
        assert echo(node.peer, "SCU") < 5


def test_echo_over_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6 on this machine")
    from scp.receiving.inbox import Inbox
    from scp.receiving.receiver import Receiver

    inbox = Inbox(tmp_path, 0)
    with open_listening_socket("::1", 0) as listening:
        receiver = Receiver(listening, "HILUM", inbox)
        receiver.start()
        assert echo(Peer("node", "HILUM", "::1", listening.getsockname()[1]), "SCU") < 5
        receiver.stop()
    inbox.close()


def test_every_transfer_syntax_is_stored_byte_for_byte(tmp_path: Path) -> None:
    files = shared_files()
    with running_receiver(tmp_path / "inbox") as node:
        sent = list(send_files(node.peer, "SCU", files))
        assert [(item.path.name, item.error) for item in sent if item.error is not None] == []
        assert len(node.stored) == len(files)
        for original, stored in zip(files, node.stored, strict=True):
            sent_bytes = encoded_data_set(original)
            assert encoded_data_set(stored) == sent_bytes + b"\0" * (len(sent_bytes) % 2)
            assert transfer_syntax_of(stored) == transfer_syntax_of(original)
    assert len({transfer_syntax_of(path) for path in files}) >= 13


@pytest.mark.parametrize(
    ("option", "suffix"),
    [
        ("-xi", "_1.2.840.10008.1.2.dcm"),
        ("-xe", "_1.2.840.10008.1.2.1.dcm"),
        ("-xb", "_1.2.840.10008.1.2.2.dcm"),
        ("-xd", "_1.2.840.10008.1.2.1.99.dcm"),
        ("-xs", "_1.2.840.10008.1.2.4.70.dcm"),
        ("-xy", "_1.2.840.10008.1.2.4.50.dcm"),
        ("-xx", "_1.2.840.10008.1.2.4.51.dcm"),
        ("-xt", "_1.2.840.10008.1.2.4.80.dcm"),
        ("-xu", "_1.2.840.10008.1.2.4.81.dcm"),
        ("-xv", "_1.2.840.10008.1.2.4.90.dcm"),
        ("-xw", "_1.2.840.10008.1.2.4.91.dcm"),
        ("-xr", "_1.2.840.10008.1.2.5.dcm"),
    ],
)
def test_storescu_of_dcmtk_is_served(tmp_path: Path, option: str, suffix: str) -> None:
    (path,) = [path for path in shared_files() if path.name.endswith(suffix)]
    with running_receiver(tmp_path) as node:
        done = run_dcmtk(storescu(node.port, option, path))
        assert done.returncode == 0, done.stderr
        (stored,) = node.stored
    assert transfer_syntax_of(stored) == transfer_syntax_of(path)
    # DCMTK parses what it sends: it drops group lengths and mends VRs; the values are the same.
    assert values_of(stored) == values_of(path)


def test_who_sent_it_is_on_file(tmp_path: Path, series: list[Path]) -> None:
    with running_receiver(tmp_path / "inbox") as node:
        assert run_dcmtk(storescu(node.port, series[0], calling="CT-SCANNER")).returncode == 0
        meta = dcmread(node.stored[0]).file_meta
        assert meta.SendingApplicationEntityTitle == "CT-SCANNER"
        assert meta.ReceivingApplicationEntityTitle == "HILUM"
        assert node.told("instance_stored")[0]["calling_ae_title"] == "CT-SCANNER"
        assert node.told("instance_stored")[0]["path"] == node.stored[0]


def test_several_associations_at_once(tmp_path: Path, series: list[Path]) -> None:
    with running_receiver(tmp_path / "inbox") as node:
        senders = [
            subprocess.Popen(storescu(node.port, *series), env=DCMTK_ENVIRONMENT, stdout=subprocess.DEVNULL)
            for _ in range(6)
        ]
        assert [sender.wait(timeout=60) for sender in senders] == [0] * 6
        assert len(node.stored) == 36
        originals = {encoded_data_set(path) for path in series}
        assert {encoded_data_set(path) for path in node.stored} == originals


def test_one_association_per_image_and_the_same_image_again(tmp_path: Path, series: list[Path]) -> None:
    with running_receiver(tmp_path / "inbox") as node:
        for path in [*series, series[0]]:
            assert run_dcmtk(storescu(node.port, path)).returncode == 0
        assert [encoded_data_set(path) for path in node.stored] == [
            encoded_data_set(path) for path in [*series, series[0]]
        ]


def rejection_of(port: int, *, called: str = "HILUM", calling: str = "SCU") -> tuple[int, int, int]:
    """Ask for an association that must be rejected, and return result, source and reason (PS3.8 9.3.4)."""
    with Caller(port) as caller:
        caller.send(associate_rq(called, calling))
        kind, content = caller.answer()
    assert kind == 0x03
    return content[1], content[2], content[3]


def test_wrong_called_ae_title_is_rejected(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node:
        assert rejection_of(node.port, called="OTHER", calling="WHO") == (1, 1, 7)
        (told,) = node.told("association_rejected")
        assert (told["calling_ae_title"], told["called_ae_title"], told["address"]) == ("WHO", "OTHER", "127.0.0.1")


@pytest.mark.parametrize("known", [{"CT1"}, set()])
def test_unknown_calling_ae_title_is_rejected(tmp_path: Path, known: set[str]) -> None:
    with running_receiver(tmp_path, known=known) as node:
        assert rejection_of(node.port, calling="STRANGER") == (1, 1, 3)
        (told,) = node.told("association_rejected")
        assert told["calling_ae_title"] == "STRANGER"


def test_a_known_calling_ae_title_is_accepted(tmp_path: Path, series: list[Path]) -> None:
    with running_receiver(tmp_path / "inbox", known={"CT1"}) as node:
        assert run_dcmtk(storescu(node.port, series[0], calling="CT1")).returncode == 0
        assert run_dcmtk(storescu(node.port, series[0], calling="CT2")).returncode != 0
        assert len(node.stored) == 1


def test_too_many_associations_are_rejected_for_now(tmp_path: Path, associate: Scu) -> None:
    with running_receiver(tmp_path, max_associations=1) as node:
        first = associate(node.port)
        assert first.is_established
        assert rejection_of(node.port) == (2, 3, 2)
        first.release()


def test_connections_that_ask_for_nothing_are_bounded(tmp_path: Path, associate: Scu) -> None:
    with running_receiver(tmp_path, max_associations=1) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(12)]
        wait_until(lambda: len(node.told("connection_refused")) == 2)
        for connection in silent:
            connection.close()
        wait_until(lambda: associate(node.port).is_established)


def test_contradiction_is_a900_and_garbage_c000(tmp_path: Path, series: list[Path]) -> None:
    data_set = encoded_data_set(series[0])
    with running_receiver(tmp_path / "inbox") as node:
        assert store(node, object_file(tmp_path / "uid.dcm", data_set)) == 0xA900
        assert store(node, object_file(tmp_path / "garbage.dcm", bytes(range(256)) * 1000)) == 0xC000
        assert store(node, object_file(tmp_path / "empty.dcm", b"")) == 0xC000
        assert list(node.folder.iterdir()) == []
        assert [told["status"] for told in node.told("instance_refused")] == ["A900", "C000", "C000"]
        assert store(node, series[0]) == 0x0000


def test_a_refused_object_does_not_stop_the_next(tmp_path: Path, series: list[Path]) -> None:
    contradiction = object_file(tmp_path / "uid.dcm", encoded_data_set(series[0]))
    with running_receiver(tmp_path / "inbox") as node:
        sent = list(send_files(node.peer, "SCU", [contradiction, *series]))
        assert isinstance(sent[0].error, StoreFailed)
        assert sent[0].error.permanent
        assert sent[0].error.status == 0xA900
        assert len(node.stored) == len(series)
        assert len(node.told("association_accepted")) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_below_the_reserve_the_answer_is_a700(tmp_path: Path, series: list[Path], fast: bool) -> None:
    with running_receiver(tmp_path / "inbox", reserve_bytes=2**62, fast_reception=fast) as node:
        with (
            Sender(node.peer, "SCU", offers_for([describe(series[0])])) as sender,
            pytest.raises(StoreFailed) as caught,
        ):
            sender.store(series[0])
        assert caught.value.status == 0xA700
        assert not caught.value.permanent
        assert list(node.folder.iterdir()) == []


@pytest.mark.parametrize("accept", [True, False])
def test_private_sop_classes_are_a_choice(tmp_path: Path, accept: bool) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = PRIVATE_SOP_CLASS
    dataset.SOPInstanceUID = "1.2.3"
    from io import BytesIO

    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    path = object_file(tmp_path / "private.dcm", buffer.getvalue(), sop_class_uid=PRIVATE_SOP_CLASS)
    with running_receiver(tmp_path / "inbox", accept_unknown_sop_classes=accept) as node:
        if accept:
            assert store(node, path) == 0
            assert encoded_data_set(node.stored[0]) == encoded_data_set(path)
        else:
            with pytest.raises(NoAcceptedContext) as caught:
                store(node, path)
            assert caught.value.permanent


def test_a_dropped_association_leaves_nothing_of_its_object(tmp_path: Path, associate: Scu) -> None:
    with running_receiver(tmp_path) as node:
        association = associate(node.port)
        connection = connection_of(association)
        connection.sendall(p_data((1, 3, c_store_command())))
        connection.sendall(p_data((1, 0, b"\x08\x00\x16\x00UI\x1a\x00" + CTImageStorage.encode() + b"\0")))
        wait_until(lambda: any(path.suffix == ".part" for path in tmp_path.iterdir()), what="a partial file")
        connection.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not list(tmp_path.iterdir()), what="its removal")
        assert node.told("instance_stored") == []


@pytest.mark.parametrize(
    "hostile",
    [
        struct.pack(">BxL", 0x04, 0xFFFFFFF0),
        struct.pack(">BxL", 0x99, 10) + bytes(10),
        p_data((1, 3, b"no command set")),
        p_data((3, 3, c_store_command())),
        p_data((1, 2, b"data without a command")),
        p_data((1, 3, c_store_command()), (1, 3, c_store_command())),
        struct.pack(">BxL", 0x04, 10) + struct.pack(">LBB", 500, 1, 3) + bytes(4),
        struct.pack(">BxL", 0x04, 6) + struct.pack(">LBB", 0, 1, 3),
        p_data((1, 1, bytes(20000))),
    ],
)
def test_hostile_pdus_end_their_association_alone(
    tmp_path: Path, series: list[Path], hostile: bytes, associate: Scu
) -> None:
    with running_receiver(tmp_path / "inbox") as node:
        association = associate(node.port)
        connection_of(association).sendall(hostile)
        wait_until(lambda: not association.is_established, what="the abort")
        assert store(node, series[0]) == 0
        wait_until(lambda: len(list(node.folder.iterdir())) == 1, what="removal of the partial file")


def test_a_request_of_4_gib_before_any_association_is_cut(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node, socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.settimeout(10)
        connection.sendall(struct.pack(">BxL", 0x01, 0xFFFFFFF0))
        assert connection.recv(100)[:1] in (b"\x07", b"")


def test_fragments_of_every_size_make_the_same_object(tmp_path: Path, series: list[Path], associate: Scu) -> None:
    data_set = encoded_data_set(series[0])
    uid = describe(series[0]).sop_instance_uid
    command = c_store_command(uid)
    with running_receiver(tmp_path / "inbox", max_pdu=4096) as node:
        association = associate(node.port)
        connection = connection_of(association)
        connection.sendall(p_data((1, 1, command[:7]), (1, 1, command[7:30])) + p_data((1, 3, command[30:])))
        connection.sendall(p_data((1, 0, data_set[:1]), (1, 0, b""), (1, 0, data_set[1:1000])))
        for start in range(1000, len(data_set), 3000):
            connection.sendall(p_data((1, 0, data_set[start : start + 3000])))
        connection.sendall(p_data((1, 2, b"")))
        wait_until(lambda: len(node.stored) == 1)
        assert encoded_data_set(node.stored[0]) == data_set
        association.release()
        assert association.is_released


@pytest.mark.parametrize("fast", [True, False])
def test_a_silent_association_is_ended(tmp_path: Path, associate: Scu, fast: bool) -> None:
    with running_receiver(tmp_path, network_timeout=0.5, fast_reception=fast) as node:
        association = associate(node.port)
        wait_until(lambda: not association.is_established, what="the abort")


@pytest.mark.parametrize("fast", [True, False])
def test_stopping_lets_an_object_be_finished(tmp_path: Path, series: list[Path], associate: Scu, fast: bool) -> None:
    data_set = encoded_data_set(series[0])
    uid = describe(series[0]).sop_instance_uid
    with ThreadPoolExecutor(1) as pool, running_receiver(tmp_path / "inbox", fast_reception=fast) as node:
        association = associate(node.port)
        connection = connection_of(association)
        connection.sendall(p_data((1, 3, c_store_command(uid)), (1, 0, data_set[:1000])))
        wait_until(lambda: any(not each.between_messages for each in associations()))
        # The context manager stops the receiver again, which has to be harmless.
        stopping = pool.submit(node.receiver.stop, 10.0)
        connection.sendall(p_data((1, 2, data_set[1000:])))
        stopping.result(timeout=30)
        assert [encoded_data_set(path) for path in node.stored] == [data_set]


@pytest.mark.parametrize("fast", [True, False])
def test_a_busy_peer_is_stopped_after_an_object(tmp_path: Path, series: list[Path], fast: bool) -> None:
    with running_receiver(tmp_path / "inbox", fast_reception=fast) as node:
        sender = subprocess.Popen(
            storescu(node.port, *series * 500),
            env=DCMTK_ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: len(node.stored) > 5)
        node.receiver.stop(grace_seconds=20.0)
        assert sender.wait(timeout=5) != 0
        whole = {encoded_data_set(path) for path in series}
        assert {encoded_data_set(path) for path in node.stored} <= whole
        assert len(node.stored) == len(node.told("instance_stored")) == len(list(node.folder.iterdir())) < 3000


@pytest.mark.parametrize("fast", [True, False])
def test_a_peer_that_hangs_in_an_object_does_not_hold_the_stop(tmp_path: Path, associate: Scu, fast: bool) -> None:
    with running_receiver(tmp_path, fast_reception=fast) as node:
        connection = connection_of(associate(node.port))
        connection.sendall(p_data((1, 3, c_store_command()), (1, 0, b"\x08\x00")) + struct.pack(">BxL", 4, 1000))
        wait_until(lambda: any(not each.between_messages for each in associations()))
        node.receiver.stop(grace_seconds=0.2)
        assert associations() == []
        assert list(tmp_path.iterdir()) == []


def test_deflated_is_understood_only_as_deflated(tmp_path: Path) -> None:
    (path,) = [path for path in shared_files() if transfer_syntax_of(path) == DeflatedExplicitVRLittleEndian]
    with running_receiver(tmp_path / "inbox") as node:
        assert store(node, path) == 0
        broken = path.read_bytes()
        size = len(broken) - len(encoded_data_set(path))
        (tmp_path / "broken.dcm").write_bytes(broken[:size] + b"\xff" * 500)
        assert store(node, tmp_path / "broken.dcm") == 0xC000


def test_the_sender_is_told_why_it_is_rejected(tmp_path: Path) -> None:
    with running_receiver(tmp_path, known={"CT1"}) as node, pytest.raises(AssociationRejected) as caught:
        echo(node.peer, "STRANGER")
    assert caught.value.permanent
    assert caught.value.numbers == {"result": 1, "source": 1, "reason": 3}
