"""Senders as hospitals have them: many at once, and some that stall. None holds up another."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from hilum.config import Settings
from hilum.sections import NodeSettings, StudySettings
from scp.receiving.greeting import TLSDoor
from scp.receiving.listening import open_listening_socket
from tests.support.certificates import authority, issued
from tests.support.conversation import Caller, associate_rq, data, honest_echo, store_rq
from tests.support.network import encoded_data_set, running_receiver, wait_until
from tests.support.reception import receiving, send_to
from tests.support.series import ct_series

UID = "1.2.826.0.1.3680043.10.999.7.1"


@contextmanager
def everything_returns(megabytes: int = 48) -> Iterator[None]:
    """Hold descriptors, threads and memory of this process against what they were; they return within a while."""
    gc.collect()
    process = psutil.Process()
    before = process.num_fds(), process.num_threads(), process.memory_info().rss
    yield
    wait_until(
        lambda: gc.collect() >= 0 and (process.num_fds(), process.num_threads()) <= before[:2],
        what=f"the return to {before[0]} descriptors and {before[1]} threads",
    )
    assert process.num_fds() <= before[0]
    assert process.num_threads() <= before[1]
    assert process.memory_info().rss - before[2] < megabytes * 1_000_000


def test_the_same_study_by_three_at_once_is_one_study_closed_once(tmp_path: Path) -> None:
    node_settings = NodeSettings(data_dir=tmp_path / "var", port=0)
    settings = Settings(node=node_settings, study=StudySettings(quiet_seconds=1), base_dir=tmp_path)
    settings.data_dir.mkdir()
    images = ct_series(np.zeros((8, 16, 16), dtype=np.int16))
    other = ct_series(np.ones((8, 16, 16), dtype=np.int16))
    for image in other:
        image.StudyInstanceUID, image.SeriesInstanceUID = f"{UID}.1", f"{UID}.2"
        image.SOPInstanceUID = f"{UID}.{image.InstanceNumber}.9"
    study = images[0].StudyInstanceUID
    interleaved = [image for pair in zip(images, other, strict=True) for image in pair]
    with receiving(settings) as node, ThreadPoolExecutor(3) as pool:
        sending = [
            pool.submit(send_to, node.peer, batch, tmp_path / str(number))
            for number, batch in enumerate([images, list(reversed(images)), interleaved])
        ]
        for each in sending:
            each.result()
        for uid, expected in ((study, images), (f"{UID}.1", other)):
            node.wait_for(uid, "complete")
            assert node.here(uid) == {image.SOPInstanceUID for image in expected}
            assert len(node.events(uid, "complete")) == 1


def test_two_hundred_associations_leave_nothing_behind(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node:
        honest_echo(node.port)
        with everything_returns():
            for number in range(200):
                if number % 4:
                    honest_echo(node.port)
                else:  # gone without a word
                    with Caller(node.port) as caller:
                        caller.associate()
        assert len(node.told("association_accepted")) == 201


def test_sixty_four_at_once_are_all_served(tmp_path: Path) -> None:
    with running_receiver(tmp_path, max_associations=64) as node:
        honest_echo(node.port)
        with everything_returns(), ExitStack() as stack:
            callers = [stack.enter_context(Caller(node.port)) for _ in range(64)]
            for caller in callers:
                caller.associate()
            for caller in callers:
                caller.echo()
            for caller in callers:
                caller.release()


def test_who_stalls_holds_up_nobody_and_is_cut(tmp_path: Path) -> None:
    identity = issued(authority(tmp_path / "pki", "hospital"), "node")
    with (
        open_listening_socket("127.0.0.1", 0) as listening,
        running_receiver(
            tmp_path / "inbox", network_timeout=2.0, tls=TLSDoor(listening, identity, handshake_seconds=2.0)
        ) as node,
    ):
        honest_echo(node.port)
        with everything_returns(), ExitStack() as stack:
            after_request, in_request, in_pdu, in_object = (stack.enter_context(Caller(node.port)) for _ in range(4))
            in_handshake = stack.enter_context(Caller(listening.getsockname()[1]))
            in_handshake.send(b"\x16\x03\x01\x02\x00\x01")
            in_request.send(associate_rq()[:40])
            for caller in (after_request, in_pdu, in_object):
                caller.associate()
            in_pdu.send(store_rq(UID), data(bytes(1000), last=False)[:500])
            in_object.send(store_rq(f"{UID}.1"), data(b"\x08\x00\x16\x00UI\x02\x001.", last=False))
            stalled = [after_request, in_request, in_pdu, in_object, in_handshake]
            for _ in range(5):
                honest_echo(node.port)
            for caller in stalled:
                assert _hears_nothing(caller)  # so nobody waited for one of them to be cut
            for caller in stalled:
                assert _is_cut(caller)
        assert list((tmp_path / "inbox").iterdir()) == []


def _hears_nothing(caller: Caller) -> bool:
    caller.connection.setblocking(False)
    try:
        caller.connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def _is_cut(caller: Caller) -> bool:
    caller.connection.settimeout(8)
    while caller.answer()[0] not in (0x00, 0x07):
        continue
    return True


def test_descriptors_over_1023_work(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1400:
        pytest.skip("needs a limit of 1400 open files")
    image = ct_series(np.zeros((1, 16, 16), dtype=np.int16))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    with ExitStack() as stack, running_receiver(tmp_path / "inbox") as node:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (held := os.open(os.devnull, os.O_RDONLY)) < 1100:
            stack.callback(os.close, held)
        stack.callback(os.close, held)
        honest_echo(node.port)
        send_to(node.peer, image, tmp_path / "sent")
        (stored,) = node.stored
        (sent,) = (tmp_path / "sent").iterdir()
        assert encoded_data_set(stored) == encoded_data_set(sent)
