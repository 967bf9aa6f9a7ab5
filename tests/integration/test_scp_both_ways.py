"""The fast and the plain way of serving an association, told the same bytes: they store and answer the same."""

from __future__ import annotations

import ssl
import struct
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from scp.association.contexts import TRANSFER_SYNTAXES
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.commitment_information import LONGEST_INFORMATION
from scp.commitments.spool import CommitmentSpool
from scp.receiving.fragments import Room
from scp.receiving.listening import open_listening_socket
from scp.receiving.plain_layer import PlainAssociation
from scp.receiving.upper_layer import IntakeAssociation
from tests.integration.test_scp_tls import dcmtk_tls
from tests.support.certificates import authority, issued
from tests.support.commitment import event_information
from tests.support.conversation import (
    ABORT,
    COMMITMENT,
    CONTEXTS,
    CT_CONTEXT,
    ECHO_CONTEXT,
    RELEASE_RQ,
    Caller,
    associate_rq,
    commitment_command,
    data,
    echo_command,
    honest_echo,
    p_data,
    store_command,
    store_rq,
)
from tests.support.network import RunningReceiver, encoded_data_set, receiver_process, run_dcmtk, storescu, wait_until
from tests.support.peers import program
from tests.support.series import ct_series, save_series
from tests.support.ways import (
    ENDED,
    LONGEST_PDU,
    Pdv,
    Ways,
    associations,
    both_ways,
    half_close,
    pdus,
    pdvs,
    pieces_of,
    reset,
)

UID = "1.2.826.0.1.3680043.10.999.7.1"
ECHO = p_data((ECHO_CONTEXT, 3, echo_command()))
ABORTED = [0x07, 0x00]
PRIVATE_SOP_CLASS = "1.2.826.0.1.3680043.10.999.1"
DEFLATED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
IMPLICIT = {"1.2.840.10008.1.2", "1.2.840.10008.1.20"}
BIG_ENDIAN = "1.2.840.10008.1.2.2"


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with both_ways(tmp_path_factory.mktemp("ways")) as running:
        yield running


def image(length: int = 1000, *, transfer_syntax: str = ExplicitVRLittleEndian, uid: str = UID) -> bytes:
    """Return the encoded data set of an object, with `length` bytes of noise for its pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, uid
    dataset.add_new(0x7FE00010, "OW", np.random.default_rng(length).bytes(length + length % 2))
    buffer = BytesIO()
    dataset.save_as(
        buffer,
        implicit_vr=transfer_syntax in IMPLICIT,
        little_endian=transfer_syntax != BIG_ENDIAN,
        enforce_file_format=False,
    )
    if transfer_syntax not in DEFLATED:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


def in_one(content: bytes) -> bytes:
    return p_data((CT_CONTEXT, 3, store_command(UID)), (CT_CONTEXT, 2, content))


def cut(content: bytes, *lengths: int) -> list[Pdv]:
    return pdvs(CT_CONTEXT, pieces_of(content, *lengths))


def test_the_pinned_pynetdicom_takes_the_fast_way(ways: Ways) -> None:
    assert ways.fast.receiver.is_fast
    assert not ways.plain.receiver.is_fast
    for port, kind in zip(ways.ports, (IntakeAssociation, PlainAssociation), strict=True):
        with Caller(port) as caller:
            caller.associate()
            (served,) = associations()
            assert type(served) is kind
            caller.release()
        wait_until(lambda: not associations())


def test_every_transfer_syntax(ways: Ways) -> None:
    numbers = range(1, 2 * len(TRANSFER_SYNTAXES), 2)
    contexts = {number: (CTImageStorage, syntax) for number, syntax in zip(numbers, TRANSFER_SYNTAXES, strict=True)}
    sent = [image(transfer_syntax=syntax) for syntax in TRANSFER_SYNTAXES]
    said = [
        p_data((number, 3, store_command(UID)), (number, 2, each)) for number, each in zip(contexts, sent, strict=True)
    ]
    heard = ways.hear(b"".join(said), request=associate_rq(contexts=contexts))
    assert heard.statuses == [0] * len(TRANSFER_SYNTAXES)
    assert heard.data_sets == sent
    assert len(TRANSFER_SYNTAXES) > 40


SMALL, LARGE = image(30_000), image(2_500_000)
COMMAND = (CT_CONTEXT, 3, store_command(UID))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *((SMALL, pdus([COMMAND, *cut(SMALL, length - 6)])) for length in (128, 131, 1024)),
        *((LARGE, pdus([COMMAND, *cut(LARGE, length - 6)])) for length in (16_384, 131_072, LONGEST_PDU)),
        (SMALL, pdus([COMMAND, *cut(SMALL, 999)], each=3)),
        (SMALL, pdus([COMMAND, *cut(SMALL, 1, 2, 3, 997, 8191)], each=5)),
        (SMALL, pdus([COMMAND, *cut(SMALL, 1, 1, 7, 4999)])),
        (SMALL, in_one(SMALL)),
        (LARGE, pdus([COMMAND, *cut(LARGE, 250_000)], each=4)),
        (SMALL, pdus([COMMAND, (CT_CONTEXT, 0, SMALL), (CT_CONTEXT, 2, b"")])),
        (
            SMALL,
            pdus([COMMAND, (CT_CONTEXT, 0, b""), (CT_CONTEXT, 0, SMALL), (CT_CONTEXT, 0, b""), (CT_CONTEXT, 2, b"")]),
        ),
        (SMALL, pdus([*pdvs(CT_CONTEXT, pieces_of(COMMAND[2], 1), command=True), (CT_CONTEXT, 2, SMALL)])),
        (SMALL, pdus([*pdvs(CT_CONTEXT, pieces_of(COMMAND[2], 1), command=True), (CT_CONTEXT, 2, SMALL)], each=200)),
        (
            SMALL,
            pdus([(CT_CONTEXT, 1, b""), (CT_CONTEXT, 1, COMMAND[2]), (CT_CONTEXT, 3, b""), (CT_CONTEXT, 2, SMALL)]),
        ),
        # Only the two lowest bits of the message control header count (PS3.8 E.2)
        (SMALL, pdus([(CT_CONTEXT, 0xFF, COMMAND[2]), (CT_CONTEXT, 0xFC, SMALL[:99]), (CT_CONTEXT, 0xFE, SMALL[99:])])),
    ],
    ids=lambda value: f"{len(value)}",
)
def test_every_fragmentation(ways: Ways, content: bytes, said: bytes) -> None:
    heard = ways.hear(said)
    assert heard.statuses == [0]
    assert heard.data_sets == [content]


def test_bytes_that_come_in_dribs_and_drabs(ways: Ways) -> None:
    content = image(600)
    said = pdus([COMMAND, *cut(content, 200)])
    heard = ways.hear(pieces_of(said, 1, 5, 2, 13))
    assert heard.data_sets == [content]


@pytest.mark.parametrize("longest", [0, 7, 128, 16_384])
def test_answers_are_no_longer_than_the_peer_takes(ways: Ways, longest: int) -> None:
    contradiction = image(uid=f"{UID}.2")
    heard = ways.hear(ECHO + in_one(SMALL) + in_one(contradiction), request=associate_rq(longest_pdu=longest))
    answers = [content for kind, content in heard.answers if kind == 0x04]
    commands = b"".join(content[6:] for content in answers)
    for status in (0x0000, 0xA900):
        assert struct.pack("<HHLH", 0, 0x0900, 2, status) in commands
    if longest:
        assert max(len(content) for content in answers) <= longest
    else:
        assert heard.statuses == [0, 0, 0xA900]
    assert heard.data_sets == [SMALL]


def test_a_peer_that_takes_no_answer_is_rejected(ways: Ways) -> None:
    heard = ways.hear(b"", request=associate_rq(longest_pdu=6), end=half_close)
    assert heard.answers[0] == (0x03, bytes([0, 1, 1, 1]))  # permanent, by the service user, no reason given


def test_other_services_between_and_before_the_answer_came(ways: Ways) -> None:
    content = image()
    store = store_rq(UID) + data(content)
    heard = ways.hear([store, ECHO, store, ECHO, ECHO, store])
    assert heard.statuses == [0] * 6
    assert heard.data_sets == [content] * 3
    crammed = p_data(
        COMMAND, (CT_CONTEXT, 2, content), (ECHO_CONTEXT, 3, echo_command(2)), COMMAND, (CT_CONTEXT, 2, content)
    )
    heard = ways.hear(crammed + ECHO)
    assert heard.statuses == [0] * 4
    assert heard.data_sets == [content] * 2


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, which reads the command sets of one way
def test_refusals(ways: Ways) -> None:
    private = p_data((5, 3, store_command(UID, PRIVATE_SOP_CLASS)), (5, 2, image()))
    said = [
        in_one(image(uid=f"{UID}.2")),
        in_one(bytes(range(256)) * 1000),
        in_one(b""),
        p_data((CT_CONTEXT, 3, store_command(UID, has_data_set=False))),
        p_data((CT_CONTEXT, 3, store_command("1.2.3.")), (CT_CONTEXT, 2, SMALL)),
        p_data((CT_CONTEXT, 3, store_command(UID, "1.2.840.10008.5.1.4.1.2.1.1")), (CT_CONTEXT, 2, SMALL)),
        private,
        in_one(SMALL),
    ]
    contexts = {**CONTEXTS, 5: (PRIVATE_SOP_CLASS, ExplicitVRLittleEndian)}
    heard = ways.hear(b"".join(said), request=associate_rq(contexts=contexts))
    assert heard.statuses == [0xA900, 0xC000, 0xC000, 0xC000, 0xC000, 0x0122, 0xA900, 0x0000]
    assert heard.data_sets == [SMALL]
    assert [name for name, _ in heard.events].count("instance_refused") == 7


@pytest.mark.parametrize(
    "hostile",
    [
        struct.pack(">BxL", 0x04, 0xFFFFFFF0),
        struct.pack(">BxL", 0x04, LONGEST_PDU + 65) + bytes(100),
        struct.pack(">BxL", 0x05, 0xFFFFFFF0),
        struct.pack(">BxL", 0x99, 10) + bytes(10),
        p_data((CT_CONTEXT, 3, b"no command set")),
        p_data((7, 3, store_command(UID))),
        p_data((CT_CONTEXT, 2, b"data without a command")),
        p_data(COMMAND, COMMAND),
        p_data((CT_CONTEXT, 1, COMMAND[2][:9]), (CT_CONTEXT, 2, SMALL)),
        p_data(COMMAND, (ECHO_CONTEXT, 2, SMALL)),
        p_data((CT_CONTEXT, 1, bytes(20_000))),
        p_data((CT_CONTEXT, 3, echo_command().replace(b"\x30\0", b"\x20\0"))),
        p_data((CT_CONTEXT, 3, echo_command().replace(b"\x30\0", b"\xff\x0f"))),
        struct.pack(">BxL", 0x04, 10) + struct.pack(">LBB", 500, 1, 3) + bytes(4),
        store_rq(UID) + struct.pack(">BxL", 0x04, 10) + struct.pack(">LBB", 500, CT_CONTEXT, 2) + bytes(4),
        struct.pack(">BxL", 0x04, 6) + struct.pack(">LBB", 0, 1, 3),
        struct.pack(">BxL", 0x04, 5) + struct.pack(">LB", 1, CT_CONTEXT),
        struct.pack(">BxL", 0x04, 3) + bytes(3),
    ],
)
def test_what_the_protocol_does_not_allow_ends_the_association_alone(ways: Ways, hostile: bytes) -> None:
    heard = ways.hear(in_one(SMALL) + hostile, end=half_close)
    assert heard.kinds == [0x02, 0x04, *ABORTED]
    assert heard.data_sets == [SMALL]
    for port in ways.ports:
        honest_echo(port)


def test_nothing_is_read_of_4_gib_before_an_association(ways: Ways) -> None:
    assert ways.hear(b"", request=struct.pack(">BxL", 0x01, 0xFFFFFFF0), end=half_close).kinds[0] in (0x00, 0x07)


HALF = len(SMALL) // 2
FIRST, SECOND = data(SMALL[:HALF], last=False), data(SMALL[HALF:])
STORE = store_rq(UID) + FIRST + SECOND
POINTS = {
    "at once": (b"", 0),
    "within a header": (STORE[:3], 0),
    "within the command": (STORE[:40], 0),
    "after a part of the command": (p_data((CT_CONTEXT, 1, COMMAND[2][:20])), 0),
    "after the command": (store_rq(UID), 0),
    "within the data": (STORE[: len(store_rq(UID)) + HALF // 2], 0),
    "after a part of the data": (store_rq(UID) + FIRST, 0),
    "within the last of the data": (STORE[:-1], 0),
    "after the data": (STORE, 1),
    "within the next": (STORE + STORE[:5000], 1),
    "between the next's parts": (STORE + store_rq(UID) + FIRST, 1),
}
BETWEEN_PDUS = [name for name in POINTS if "within" not in name]


@pytest.mark.parametrize("point", BETWEEN_PDUS)
def test_aborts_and_releases_at_every_point(ways: Ways, point: str) -> None:
    said, stored = POINTS[point]
    heard = ways.hear(said + ABORT, end=half_close)
    assert heard.answers[-1] == ENDED
    assert heard.data_sets == [SMALL] * stored
    heard = ways.hear(said)
    assert heard.kinds[-1] == 0x06
    assert heard.data_sets == [SMALL] * stored


@pytest.mark.parametrize("point", POINTS)
def test_a_connection_that_ends_at_every_point(ways: Ways, point: str) -> None:
    said, stored = POINTS[point]
    heard = ways.hear(said, end=half_close)
    assert heard.answers[-1] == ENDED
    assert heard.statuses == [0] * stored
    assert heard.data_sets == [SMALL] * stored


@pytest.mark.parametrize("point", POINTS)
def test_a_connection_that_is_lost_at_every_point(ways: Ways, point: str) -> None:
    said, stored = POINTS[point]
    if not stored:  # of a whole object the system may throw away what was not read
        assert ways.hear(said, end=reset).data_sets == []
    for port in ways.ports:
        honest_echo(port)


@pytest.mark.parametrize("asked", [b"", associate_rq()[:4], associate_rq()[:100], ABORT, RELEASE_RQ, ECHO])
def test_what_ends_before_any_association(ways: Ways, asked: bytes) -> None:
    assert ways.hear(asked, request=b"", end=half_close).answers[-1] == ENDED
    for port in ways.ports:
        honest_echo(port)


@pytest.fixture
def committing(tmp_path: Path) -> Iterator[Ways]:
    """Both receivers, with desks where SCU may ask, and report on transaction 1.2.9."""

    def desk(folder: Path) -> CommitmentDesk:
        spool = CommitmentSpool(folder)
        spool.expect("1.2.9", "SCU")
        return CommitmentDesk(spool, asked=["SCU"], served=["SCU"], on_event=lambda _name, _facts: None)

    with both_ways(tmp_path, desks=desk) as running:
        yield running


def encoded_information(transaction: str, *, failures: bool = True) -> bytes:
    information = event_information(transaction, [(CTImageStorage, "1.2.3.1")], {})
    if not failures:
        del information.FailedSOPSequence
    buffer = BytesIO()
    information.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def test_storage_commitment(committing: Ways) -> None:
    request, report = encoded_information("1.2.4", failures=False), encoded_information("1.2.9")
    ask, tell = commitment_command(0x0130, 1), commitment_command(0x0100, 1)
    too_long = [(7, 0, bytes(200_000))] * (LONGEST_INFORMATION // 200_000 + 1)
    said: list[tuple[list[Pdv], int]] = [
        ([(7, 3, ask), (7, 2, request)], 0x0000),
        ([(7, 3, commitment_command(0x0130, 2)), (7, 2, request)], 0x0123),
        ([(7, 3, commitment_command(0x0130, 1, "1.2.3")), (7, 2, request)], 0x0112),
        ([(7, 3, ask), (7, 2, b"")], 0x0115),
        ([(7, 3, ask), *too_long, (7, 2, b"")], 0x0115),
        ([*pdvs(7, pieces_of(ask, 9), command=True), *pdvs(7, pieces_of(request, 1, 40))], 0x0000),
        ([(7, 3, tell), (7, 2, report)], 0x0000),
        ([(7, 3, tell), *pdvs(7, pieces_of(report, 7))], 0x0000),
        ([(7, 3, commitment_command(0x0100, 3)), (7, 2, report)], 0x0113),
        ([(7, 3, tell), (7, 2, encoded_information("1.2.10"))], 0x0110),
        ([(7, 3, store_command(UID)), (7, 2, SMALL)], 0x0122),
        ([(CT_CONTEXT, 3, store_command(UID)), (CT_CONTEXT, 2, SMALL)], 0x0000),
    ]
    asked = associate_rq(contexts={**CONTEXTS, 7: (COMMITMENT, ExplicitVRLittleEndian)})
    heard = committing.hear(b"".join(pdus(fragments) for fragments, _ in said), request=asked)
    assert heard.statuses == [status for _, status in said]
    for misplaced in ([(CT_CONTEXT, 3, ask), (CT_CONTEXT, 2, request)], [COMMAND, (7, 3, tell), (7, 2, report)]):
        assert committing.hear(pdus(misplaced), request=asked, end=half_close).kinds == [0x02, *ABORTED]


def test_over_tls(tmp_path: Path) -> None:
    root = authority(tmp_path / "pki", "hospital")
    node, scanner = issued(root, "node"), issued(root, "scanner")
    context = ssl.create_default_context(cafile=str(root))
    context.load_cert_chain(scanner.certificate, scanner.key)
    with both_ways(tmp_path, identity=node, tls=context) as ways:
        for each in (
            pdus([COMMAND, *cut(SMALL, 122)]),
            pdus([COMMAND, *cut(LARGE, 16_378)]),
            pdus([COMMAND, *cut(LARGE, LONGEST_PDU - 6)]),
        ):
            said = each + ECHO + in_one(SMALL)
            heard = ways.hear(said)
            assert heard.statuses == [0, 0, 0]
            assert heard.data_sets[1] == SMALL
        said = pdus([COMMAND, *cut(image(600), 200)])
        assert ways.hear(pieces_of(said, 1, 5, 2, 13)).data_sets == [image(600)]
        for port in ways.ports:
            with Caller(port, tls=context) as caller:
                caller.associate()
                caller.send(ECHO * 3)  # one record of TLS: what is decrypted already has to be looked for
                assert [caller.answer()[0] for _ in range(3)] == [0x04] * 3
                caller.release()
        for point in ("after a part of the data", "after the data"):
            content, stored = POINTS[point]
            assert ways.hear(content + ABORT).data_sets == [SMALL] * stored
        images = save_series(ct_series(np.arange(64 * 64).reshape(1, 64, 64)), tmp_path / "images")
        for port in ways.ports:
            done = run_dcmtk(storescu(port, *dcmtk_tls(scanner), *images))
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [(), ("--max-send-pdu", "4096"), ("--abort",), ("--required",)])
def test_dcmtk_is_served_alike(ways: Ways, tmp_path: Path, options: tuple[str, ...]) -> None:
    images = save_series(ct_series(np.arange(4 * 64 * 64).reshape(4, 64, 64) % 900), tmp_path / "images")
    heard = [
        (run_dcmtk([*storescu(port), *options, *map(str, images)]).returncode, taken_from(node))
        for node, port in ((ways.fast, ways.fast.port), (ways.plain, ways.plain.port))
    ]
    assert heard[0] == heard[1]
    assert heard[0] == (0, [encoded_data_set(path) for path in images])
    echoscu = program("echoscu", package="dcmtk")
    for port in ways.ports:
        assert run_dcmtk([echoscu, "-aec", "HILUM", "--repeat", "3", "127.0.0.1", str(port)]).returncode == 0


# What differs on purpose: docs/conformance.md says it


@pytest.mark.parametrize("command", [store_command("1." * 32 + "1"), store_command(""), store_command(UID, "")])
def test_a_command_without_uids_that_can_be_is_answered_or_ends_the_association(ways: Ways, command: bytes) -> None:
    said = p_data((CT_CONTEXT, 3, command), (CT_CONTEXT, 2, SMALL))
    kinds = []
    for port in ways.ports:
        with Caller(port) as caller:
            caller.associate()
            caller.send(said)
            kinds.append(caller.answer())
        wait_until(lambda: not associations())
    assert kinds[0][0] == 0x04
    assert struct.pack("<HHLH", 0, 0x0900, 2, 0xC000) in kinds[0][1]
    assert kinds[1][0] == 0x07
    assert taken_from(ways.fast) == taken_from(ways.plain) == []


def test_the_plain_way_keeps_an_object_in_memory_until_it_is_complete(ways: Ways) -> None:
    left = []
    for node, port in ((ways.fast, ways.ports[0]), (ways.plain, ways.ports[1])):
        with Caller(port) as caller:
            caller.associate()
            caller.send(store_rq(UID), data(SMALL, last=False))
            wait_until(lambda: [each for each in associations() if not each.between_messages] != [])
            wait_until(lambda node=node: bool(list(node.folder.iterdir())) or not node.receiver.is_fast)  # type: ignore[misc]
            left.append(len(list(node.folder.iterdir())))
            caller.send(data(b""))
            assert caller.answer()[0] == 0x04
        wait_until(lambda: not associations())
        assert taken_from(node) == [SMALL]
    assert left == [1, 0]


def test_what_a_lost_association_held_is_free_again(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways.plain.receiver, "_room", Room(len(SMALL)))
    for _ in range(2):
        assert ways.hear(store_rq(UID) + FIRST, end=half_close).data_sets == []
    assert ways.hear(in_one(SMALL) * 2).data_sets == [SMALL] * 2
    with Caller(ways.ports[1]) as caller:
        caller.associate()
        caller.send(in_one(LARGE[:100_000]))
        assert struct.pack("<HHLH", 0, 0x0900, 2, 0xA700) in caller.answer()[1]
    assert taken_from(ways.plain) == []


def test_a_short_fragment_is_none_where_python_leaves_assertions_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")  # pynetdicom only asserts it
    short = struct.pack(">BxL", 0x04, len(SMALL) + 6) + struct.pack(">LBB", 10**6, CT_CONTEXT, 2) + SMALL
    with (
        open_listening_socket("127.0.0.1", 0) as listening,
        receiver_process(listening, tmp_path, way="plain"),
        Caller(listening.getsockname()[1]) as caller,
    ):
        caller.associate()
        caller.send(store_rq(UID) + short)
        assert caller.answer()[0] == 0x07
        assert list(tmp_path.iterdir()) == []


def test_stopping_ends_who_has_nothing_to_say(tmp_path: Path) -> None:
    with both_ways(tmp_path) as ways:
        for node in (ways.fast, ways.plain):
            with Caller(node.port) as caller:
                caller.associate()
                caller.echo()
                began = time.monotonic()
                node.receiver.stop(grace_seconds=20.0)
                assert time.monotonic() - began < 10
                assert caller.answer()[0] == 0x07


def taken_from(node: RunningReceiver) -> list[bytes]:
    """Return the data sets that are stored, and empty the folder, in which nothing else may be."""
    wait_until(lambda: not associations())
    assert sorted(node.folder.iterdir()) == node.stored
    content = [encoded_data_set(path) for path in node.stored]
    for path in node.stored:
        path.unlink()
    node.events.clear()
    return content
