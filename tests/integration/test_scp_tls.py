"""DICOM over TLS, both ways: with DCMTK's programs, between ourselves, and with callers who should not get in."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scp.association.requesting import Peer, echo
from scp.association.tls import Identity, days_left, listening_context
from scp.receiving.greeting import TLSDoor
from scp.receiving.listening import open_listening_socket
from scp.sending.sender import send_files
from study.errors import ConfigError, PeerUnreachable
from tests.support.certificates import authority, issued
from tests.support.network import (
    RunningReceiver,
    accepts_connections,
    encoded_data_set,
    free_port,
    run_dcmtk,
    running_receiver,
    storescu,
    wait_until,
)
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.series import ct_series, save_series


@pytest.fixture(scope="module")
def node_identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return issued(authority(tmp_path_factory.mktemp("pki"), "hospital"), "node")


@pytest.fixture(scope="module")
def scanner(node_identity: Identity) -> Identity:
    return issued(node_identity.authorities, "scanner")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, node_identity: Identity) -> Identity:
    """Somebody of an authority that the node does not know, who trusts the node's."""
    own = issued(authority(tmp_path_factory.mktemp("strange"), "stranger_authority"), "stranger")
    return replace(own, authorities=node_identity.authorities)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return save_series(ct_series(np.arange(4 * 256 * 256).reshape(4, 256, 256) % 900), tmp_path / "series")


@contextmanager
def tls_receiver(
    folder: Path, identity: Identity, *, handshake_seconds: float = 10.0, max_associations: int = 32
) -> Iterator[tuple[RunningReceiver, int]]:
    """Run a receiver with a TLS port, and give that port."""
    with open_listening_socket("127.0.0.1", 0) as listening:
        door = TLSDoor(listening, identity, handshake_seconds)
        with running_receiver(folder, tls=door, max_associations=max_associations, network_timeout=2.0) as node:
            yield node, listening.getsockname()[1]


def over_tls(port: int, identity: Identity, host: str = "127.0.0.1") -> Peer:
    return Peer("node", "HILUM", host, port, identity)


def dcmtk_tls(identity: Identity) -> list[str]:
    return ["+tls", str(identity.key), str(identity.certificate), "+cf", str(identity.authorities)]


def test_storescu_and_our_own_sender_are_served(
    tmp_path: Path, node_identity: Identity, scanner: Identity, series: list[Path]
) -> None:
    with tls_receiver(tmp_path / "inbox", node_identity) as (node, port):
        done = run_dcmtk(storescu(port, *dcmtk_tls(scanner), *series))
        assert done.returncode == 0, done.stderr
        sent = list(send_files(over_tls(port, scanner), "SCU", series))
        assert [item.error for item in sent] == [None] * 4
        assert [encoded_data_set(path) for path in node.stored] == 2 * [encoded_data_set(path) for path in series]
        assert run_dcmtk(storescu(node.port, *series)).returncode == 0  # the plain port is as before


def test_results_are_sent_to_a_peer_over_tls(
    tmp_path: Path, node_identity: Identity, scanner: Identity, series: list[Path]
) -> None:
    port, folder = free_port(), tmp_path / "pacs"
    folder.mkdir()
    command = [program("storescp", package="dcmtk"), *dcmtk_tls(scanner), "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=DCMTK_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts_connections(port), what="storescp")
        sent = list(send_files(over_tls(port, node_identity), "HILUM", series))
        assert [item.error for item in sent] == [None] * 4
        assert len(list(folder.iterdir())) == 4
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls(
    tmp_path: Path,
    node_identity: Identity,
    scanner: Identity,
    version: ssl.TLSVersion,
) -> None:
    context = _caller(scanner)
    context.minimum_version = context.maximum_version = version
    with tls_receiver(tmp_path, node_identity) as (_, port), _connected(port, context) as connection:
        assert connection.cipher() is not None
        assert "GCM" in str(connection.cipher()) or "CHACHA20" in str(connection.cipher())
        connection.sendall(b"\x07\x00" + (4).to_bytes(4, "big") + bytes(4))  # A-ABORT
        assert connection.recv(100) == b""


def test_who_is_not_let_in_is_told_of_and_stores_nothing(
    tmp_path: Path, node_identity: Identity, scanner: Identity, stranger: Identity, series: list[Path]
) -> None:
    with tls_receiver(tmp_path / "inbox", node_identity) as (node, port):
        anonymous = ["+tla", "+cf", str(node_identity.authorities)]
        assert run_dcmtk(storescu(port, *anonymous, series[0])).returncode != 0
        assert run_dcmtk(storescu(port, *dcmtk_tls(stranger), series[0])).returncode != 0
        assert run_dcmtk(storescu(port, series[0])).returncode != 0  # plain DICOM
        with pytest.raises(PeerUnreachable, match="no TLS connection"):
            echo(over_tls(port, stranger), "SCU")
        with pytest.raises(OSError, match=r"(?i)version|protocol|alert"), _connected(port, _old(scanner)) as old:
            old.recv(1)
        wait_until(lambda: len(node.told("tls_refused")) == 5)
        reasons = [str(told["reason"]) for told in node.told("tls_refused")]
        assert "did not return a certificate" in reasons[0]
        assert "certificate verification failed" in reasons[1]
        assert "certificate verification failed" in reasons[3]
        assert "unsupported protocol" in reasons[4]
        assert node.stored == []
        assert node.told("association_accepted") == []
        assert echo(over_tls(port, scanner), "SCU") < 5


def test_we_call_nobody_whose_certificate_does_not_convince(
    tmp_path: Path, node_identity: Identity, scanner: Identity, stranger: Identity
) -> None:
    elsewhere = issued(node_identity.authorities, "elsewhere", host="subjectAltName=DNS:pacs.example.org")
    with tls_receiver(tmp_path / "a", elsewhere) as (_, port), pytest.raises(PeerUnreachable, match="not valid for"):
        echo(over_tls(port, scanner), "SCU")
    foreign = replace(scanner, authorities=stranger.certificate)
    with tls_receiver(tmp_path / "b", node_identity) as (_, port):
        with pytest.raises(PeerUnreachable, match="certificate verification failed"):
            echo(over_tls(port, foreign), "SCU")
        lost = replace(scanner, key=tmp_path / "lost.key")
        with pytest.raises(PeerUnreachable, match=r"tls\.key: .*No such file"):
            echo(over_tls(port, lost), "SCU")


def test_stalled_handshakes_cost_nobody_anything_and_are_cut(
    tmp_path: Path, node_identity: Identity, scanner: Identity
) -> None:
    with tls_receiver(tmp_path, node_identity, handshake_seconds=2.5, max_associations=2) as (node, port):
        stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        for connection in stalled[:3]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert echo(over_tls(port, scanner), "SCU") < 5
        assert echo(node.peer, "SCU") < 5
        assert node.told("tls_refused") == []  # they all still stall: nobody waited for them
        for connection in stalled:
            connection.settimeout(10)
            assert connection.recv(100) == b""
            connection.close()
        assert {told["reason"] for told in node.told("tls_refused")} == {
            "the other side did not finish the handshake in time"
        }


def test_stopping_ends_handshakes(tmp_path: Path, node_identity: Identity) -> None:
    with tls_receiver(tmp_path, node_identity, handshake_seconds=300) as (node, port):
        with socket.create_connection(("127.0.0.1", port)):
            wait_until(lambda: _handshakes() == 1)
            node.receiver.stop(grace_seconds=1.0)
        assert _handshakes() == 0


def test_a_renewed_certificate_needs_no_restart(tmp_path: Path, scanner: Identity) -> None:
    root = authority(tmp_path / "pki", "renewed")
    first = issued(root, "node", days=10)
    trusting = replace(issued(root, "caller"), authorities=root)
    with tls_receiver(tmp_path / "inbox", first) as (_, port):
        assert 9 < days_left(first) <= 10
        context = _caller(trusting)
        serials = []
        for days in (10, 400):
            if days != 10:
                issued(root, "node", days=days)
            with _connected(port, context) as connection:
                serials.append(str((connection.getpeercert() or {})["serialNumber"]))
        assert len(set(serials)) == 2
        assert days_left(first) > 390
        first.certificate.write_text("half written")
        with _connected(port, context) as connection:
            assert (connection.getpeercert() or {})["serialNumber"] == serials[1]


def test_files_that_can_not_be_used_are_told_in_words(tmp_path: Path, node_identity: Identity) -> None:
    other = issued(node_identity.authorities, "other")
    with pytest.raises(ConfigError, match=r"tls\.certificate, tls\.key: .*without a password"):
        listening_context(replace(node_identity, key=other.key))
    with pytest.raises(ConfigError, match=r"tls\.authorities: .*No such file"):
        listening_context(replace(node_identity, authorities=tmp_path / "none.pem"))


def _handshakes() -> int:
    import threading

    return sum(thread.name.startswith("handshake-") for thread in threading.enumerate())


def _caller(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity.authorities))
    context.load_cert_chain(identity.certificate, identity.key)
    return context


def _old(identity: Identity) -> ssl.SSLContext:
    context = _caller(identity)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@contextmanager
def _connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        yield secured
