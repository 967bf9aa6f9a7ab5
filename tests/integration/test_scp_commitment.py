"""Storage commitment on the network, in both roles, against pynetdicom's code; and what hostile peers send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.dsutils import encode

from scp.commitments.commitment import commitment_line, report_commitment
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.commitment_information import LONGEST_INFORMATION
from scp.commitments.spool import CommitmentSpool
from study.commitment import CommitmentReport, CommitmentRequest, Reference
from study.errors import CommitmentRefused, NoAcceptedContext, PeerUnreachable
from tests.support.commitment import (
    INSTANCE,
    PUSH_MODEL,
    commitment_peer,
    event_information,
    everything_committed,
    report,
)
from tests.support.network import RunningReceiver, running_receiver, wait_until

CT = (CTImageStorage, "1.2.3.1")
OBJECT = Reference(*CT)
REQUEST = CommitmentRequest("1.2.9", (OBJECT, Reference(CTImageStorage, "1.2.3.2")))


@dataclass
class Office:
    """A receiver with a desk that asked PACS, and answers MODALITY."""

    node: RunningReceiver
    spool: CommitmentSpool
    desk: CommitmentDesk
    told: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    spool = CommitmentSpool(tmp_path / "commitment")
    told: list[tuple[str, Mapping[str, object]]] = []
    desk = CommitmentDesk(
        spool, asked=["PACS"], served=["MODALITY"], on_event=lambda name, facts: told.append((name, facts))
    )
    with running_receiver(tmp_path / "inbox", commitment=desk) as node:
        yield Office(node, spool, desk, told)


@pytest.mark.parametrize("role", [(False, True), (True, True), None], ids=["SCP", "both", "no role"])
def test_a_pacs_reports_on_an_association_of_its_own(office: Office, role: tuple[bool, bool] | None) -> None:
    office.spool.expect("1.2.9", "PACS")
    information = event_information("1.2.9", [CT], {(CTImageStorage, "1.2.3.2"): 0x0112})
    assert report(office.node.port, information, 2, role=role) == 0x0000
    (path,) = office.spool.reports()
    waiting = office.spool.read_report(path)
    assert waiting.calling_ae_title == "PACS"
    assert waiting.report == CommitmentReport("1.2.9", (OBJECT,), ((Reference(CTImageStorage, "1.2.3.2"), 0x0112),))
    assert office.told[-1][0] == "commitment_reported"


def test_a_report_that_comes_again_is_taken_again(office: Office) -> None:
    office.spool.expect("1.2.9", "PACS")
    information = event_information("1.2.9", [CT], {})
    assert [report(office.node.port, information) for _ in range(2)] == [0x0000, 0x0000]


@pytest.mark.parametrize(
    ("information", "event_type", "instance", "status"),
    [
        (event_information("1.2.10", [CT], {}), 1, INSTANCE, 0x0110),  # unknown transaction
        (event_information("1.2.11", [CT], {}), 1, INSTANCE, 0x0110),  # another peer's
        (event_information("1.2.9", [CT], {}), 3, INSTANCE, 0x0113),
        (event_information("1.2.9", [CT], {}), 1, "1.2.3", 0x0112),
        (event_information("", [CT], {}), 1, INSTANCE, 0x0115),
        (None, 1, INSTANCE, 0x0115),
    ],
    ids=["unknown", "another's", "event type", "instance", "no transaction", "no data set"],
)
def test_what_is_no_report_for_us_is_answered_with_its_status(
    office: Office, information: Dataset | None, event_type: int, instance: str, status: int
) -> None:
    office.spool.expect("1.2.9", "PACS")
    office.spool.expect("1.2.11", "OTHER")
    assert report(office.node.port, information, event_type, instance=instance) == status
    assert office.spool.reports() == []
    assert office.told[-1][0] == "commitment_refused"


@pytest.mark.parametrize(
    ("calling", "role"),
    [("STRANGER", (False, True)), ("STRANGER", None), ("PACS", (True, False))],
)
def test_who_has_nothing_to_say_gets_no_context(office: Office, calling: str, role: tuple[bool, bool] | None) -> None:
    assert report(office.node.port, event_information("1.2.9", [CT], {}), calling=calling, role=role) is None


def ask(port: int, information: Dataset | None, calling: str = "MODALITY", action: int = 1) -> int | None:
    """Ask as a modality does; None where the context is not accepted."""
    entity = AE(calling)
    entity.add_requested_context(PUSH_MODEL)
    association = entity.associate("127.0.0.1", port, ae_title="HILUM")
    if not association.is_established:
        return None
    status, _ = association.send_n_action(information, action, PUSH_MODEL, INSTANCE)
    association.release()
    return int(status.Status)


def action_information(transaction_uid: str, count: int = 1) -> Dataset:
    information = event_information(transaction_uid, [(CTImageStorage, f"1.2.3.{n}") for n in range(1, count + 1)], {})
    del information.FailedSOPSequence
    return information


def test_a_modality_asks_us(office: Office) -> None:
    assert ask(office.node.port, action_information("1.2.9", 3)) == 0x0000
    (path,) = office.spool.requests()
    waiting = office.spool.read_request(path)
    assert waiting.calling_ae_title == "MODALITY"
    assert waiting.request.transaction_uid == "1.2.9"
    assert [each.sop_instance_uid for each in waiting.request.references] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


@pytest.mark.parametrize(
    ("information", "calling", "action", "status"),
    [
        (action_information("1.2.9"), "PACS", 1, 0x0124),  # it may report, and not ask
        (action_information("1.2.9"), "STRANGER", 1, None),
        (action_information("1.2.9"), "MODALITY", 2, 0x0123),
        (action_information("1.2.9", 0), "MODALITY", 1, 0x0115),
        (None, "MODALITY", 1, 0x0115),
    ],
    ids=["not allowed", "unknown", "action", "no objects", "no data set"],
)
def test_what_we_do_not_answer_for_is_refused(
    office: Office, information: Dataset | None, calling: str, action: int, status: int | None
) -> None:
    assert ask(office.node.port, information, calling, action) == status
    assert office.spool.requests() == []


def test_a_disk_that_takes_nothing_is_no_success(office: Office, tmp_path: Path) -> None:
    (tmp_path / "commitment" / "requests").rmdir()
    assert ask(office.node.port, action_information("1.2.9")) == 0x0213


class Wire:
    """An association of bare PDUs, so that messages can be cut and mixed at will."""

    def __init__(self, port: int, calling: str = "PACS") -> None:
        entity = AE(calling)
        entity.add_requested_context(PUSH_MODEL, "1.2.840.10008.1.2")
        entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2")
        self._association = entity.associate("127.0.0.1", port, ae_title="HILUM")
        assert len(self._association.accepted_contexts) == 2
        self._association._reactor_checkpoint.clear()
        assert self._association.dul.socket is not None
        connection = self._association.dul.socket.socket
        assert connection is not None
        self._connection: socket.socket = connection

    def send(self, *pdvs: tuple[int, int, bytes]) -> None:
        body = b"".join(struct.pack(">LBB", len(data) + 2, context, kind) + data for context, kind, data in pdvs)
        self._connection.sendall(struct.pack(">BxL", 0x04, len(body)) + body)

    def answer(self) -> int | None:
        """Return the status of the next response; None where the association ended instead."""
        _, response = self._association.dimse.get_msg(block=True)
        return None if response is None else int(getattr(response, "Status"))  # noqa: B009 - any primitive's

    def end(self) -> None:
        self._association.abort()
        self._connection.close()


@pytest.fixture
def wire(office: Office) -> Iterator[Wire]:
    made = Wire(office.node.port)
    yield made
    made.end()


def command(field_: int, sop_class_uid: str, instance_uid: str, **numbers: int) -> bytes:
    dataset = Dataset()
    dataset.AffectedSOPClassUID = sop_class_uid
    dataset.CommandField = field_
    dataset.MessageID = 1
    dataset.CommandDataSetType = 0x0001
    dataset.AffectedSOPInstanceUID = instance_uid
    for keyword, number in numbers.items():
        setattr(dataset, keyword, number)
    encoded = encode(dataset, is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


REPORT_COMMAND = command(0x0100, PUSH_MODEL, INSTANCE, EventTypeID=1)
STORE_COMMAND = command(0x0001, CTImageStorage, "1.2.3.1", Priority=0)


def encoded_report(transaction_uid: str = "1.2.9") -> bytes:
    encoded = encode(event_information(transaction_uid, [CT], {}), is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    return encoded


def test_a_message_may_be_cut_into_any_pieces(office: Office, wire: Wire) -> None:
    office.spool.expect("1.2.9", "PACS")
    data = encoded_report()
    for byte in range(len(REPORT_COMMAND) - 1):
        wire.send((1, 0x01, REPORT_COMMAND[byte : byte + 1]))
    wire.send((1, 0x03, REPORT_COMMAND[-1:]), (1, 0x00, data[:7]), (1, 0x00, b""))
    wire.send(*((1, 0x00, data[byte : byte + 1]) for byte in range(7, len(data))), (1, 0x02, b""))
    assert wire.answer() == 0x0000
    assert len(office.spool.reports()) == 1


def test_a_report_in_the_middle_of_an_object_ends_the_association(office: Office, wire: Wire) -> None:
    office.spool.expect("1.2.9", "PACS")
    wire.send((3, 0x03, STORE_COMMAND), (3, 0x00, b"\0" * 100))
    wire.send((1, 0x03, REPORT_COMMAND), (1, 0x02, encoded_report()))
    assert wire.answer() is None
    assert office.spool.reports() == []
    assert office.node.stored == []


def test_an_object_in_the_middle_of_a_report_ends_the_association(office: Office, wire: Wire) -> None:
    office.spool.expect("1.2.9", "PACS")
    wire.send((1, 0x03, REPORT_COMMAND), (1, 0x00, encoded_report()[:30]))
    wire.send((3, 0x03, STORE_COMMAND))
    assert wire.answer() is None
    assert office.spool.reports() == []


def test_a_report_on_a_context_for_objects_ends_the_association(office: Office, wire: Wire) -> None:
    office.spool.expect("1.2.9", "PACS")
    wire.send((3, 0x03, REPORT_COMMAND), (3, 0x02, encoded_report()))
    assert wire.answer() is None
    assert office.spool.reports() == []


def test_an_object_on_the_context_for_commitment_is_refused(office: Office, wire: Wire) -> None:
    wire.send((1, 0x03, STORE_COMMAND), (1, 0x02, b"\0" * 10))
    assert wire.answer() == 0x0122
    assert office.node.stored == []


def test_a_message_beyond_all_measure_is_dropped_while_it_comes_and_the_next_one_is_served(
    office: Office, wire: Wire
) -> None:
    office.spool.expect("1.2.9", "PACS")
    wire.send((1, 0x03, REPORT_COMMAND))
    piece = b"\0" * 200_000
    for _ in range(LONGEST_INFORMATION // len(piece) + 1):
        wire.send((1, 0x00, piece))
    wire.send((1, 0x02, piece))
    assert wire.answer() == 0x0115
    wire.send((1, 0x03, REPORT_COMMAND), (1, 0x02, encoded_report()))
    assert wire.answer() == 0x0000


def test_a_peer_is_asked_and_reports_on_the_same_association(office: Office) -> None:
    office.spool.expect("1.2.9", "PACS")
    with commitment_peer(reports=everything_committed) as pacs:
        with commitment_line(pacs.peer, "HILUM", office.desk) as line:
            line.ask(REQUEST)
            wait_until(lambda: bool(office.spool.reports()), what="the report")
        wait_until(lambda: bool(pacs.statuses), what="the answer to the report")
        assert pacs.statuses == [0x0000]  # though the association was released at once
    (asked,) = pacs.asked
    assert asked.TransactionUID == "1.2.9"
    assert [item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence] == ["1.2.3.1", "1.2.3.2"]
    (path,) = office.spool.reports()
    assert office.spool.read_report(path).report.committed == REQUEST.references


def test_a_report_on_the_same_association_of_what_was_not_asked_is_not_taken(office: Office) -> None:
    strange = event_information("1.2.10", [CT], {})
    with commitment_peer(reports=lambda _: (strange, 1)) as pacs:
        with commitment_line(pacs.peer, "HILUM", office.desk) as line:
            line.ask(REQUEST)
            wait_until(lambda: bool(pacs.statuses), what="the answer to the report")
        assert pacs.statuses == [0x0110]
    assert office.spool.reports() == []


@pytest.mark.parametrize(("status", "permanent"), [(0x0110, False), (0x0213, False), (0x0124, True), (0x0211, True)])
def test_a_peer_that_refuses_says_for_how_long(office: Office, status: int, permanent: bool) -> None:
    with (
        commitment_peer(status=status) as pacs,
        commitment_line(pacs.peer, "HILUM", office.desk) as line,
        pytest.raises(CommitmentRefused, match=f"{status:04X}") as refusal,
    ):
        line.ask(REQUEST)
    assert (refusal.value.permanent, refusal.value.status) == (permanent, status)


def test_a_peer_without_storage_commitment_is_a_matter_of_its_settings(office: Office) -> None:
    with (
        commitment_peer(offers=False) as pacs,
        pytest.raises(NoAcceptedContext, match="leave out its commitment") as refusal,
        commitment_line(pacs.peer, "HILUM", office.desk),
    ):
        pass
    assert refusal.value.permanent


def test_a_peer_that_is_not_there_is_not_asked(office: Office) -> None:
    with commitment_peer() as pacs:
        gone = pacs.peer
    with pytest.raises(PeerUnreachable), commitment_line(gone, "HILUM", office.desk):
        pass


def test_we_report_as_the_scp(office: Office) -> None:
    failed = CommitmentReport("1.2.9", (OBJECT,), ((Reference(CTImageStorage, "1.2.3.2"), 0x0112),))
    with commitment_peer("MODALITY") as modality:
        report_commitment(modality.peer, "HILUM", failed)
        report_commitment(modality.peer, "HILUM", CommitmentReport("1.2.10", (OBJECT,)))
    (first, reported), (second, _) = modality.reported
    assert (first, second) == (2, 1)
    assert modality.roles == [(False, True), (False, True)]
    assert [item.ReferencedSOPInstanceUID for item in reported.ReferencedSOPSequence] == ["1.2.3.1"]
    assert [item.FailureReason for item in reported.FailedSOPSequence] == [0x0112]


def test_a_report_that_is_not_taken_is_an_error(office: Office) -> None:
    with commitment_peer("MODALITY", answers=0x0110) as modality, pytest.raises(CommitmentRefused, match="0110"):
        report_commitment(modality.peer, "HILUM", CommitmentReport("1.2.10", (OBJECT,)))


def test_one_node_of_ours_reports_to_another(office: Office) -> None:
    """The listener takes what `report_commitment` sends, as any PACS's."""
    office.spool.expect("1.2.9", "PACS")
    report_commitment(office.node.peer, "PACS", CommitmentReport("1.2.9", (OBJECT,)))
    assert len(office.spool.reports()) == 1
