"""Receivers as processes: what the kernel sees of them, several on one port, and what their death does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scp.association.requesting import Peer, echo
from scp.receiving.listening import open_listening_socket
from tests.support.network import encoded_data_set, receiver_process, run_dcmtk, storescu, wait_until
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.series import ct_series, save_series

TRACED = "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg"


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    voxels = np.arange(8 * 128 * 128).reshape(8, 128, 128) % 900
    return save_series(ct_series(voxels), tmp_path / "series")


def test_an_object_is_written_and_synced_before_it_is_answered(tmp_path: Path, series: list[Path]) -> None:
    strace = program("strace", package="strace")
    trace, inbox = tmp_path / "trace", tmp_path / "inbox"
    prefix = (strace, "-D", "-f", "-y", "-s", "32", "-e", f"trace={TRACED}", "-o", str(trace))
    with open_listening_socket("127.0.0.1", 0) as listening, receiver_process(listening, inbox, prefix):
        assert run_dcmtk(storescu(listening.getsockname()[1], series[0])).returncode == 0
        (stored,) = inbox.glob("*.dcm")
        partial = re.escape(str(stored.with_suffix(".part")))
        wait_until(lambda: trace.read_text().count("sendto(") >= 3, what="the trace of the last answer")
    steps = {
        "create": rf'openat\(.*"{partial}".*O_CREAT',
        "write": rf"write\(\d+<{partial}>",
        "sync the file": rf"f(?:data)?sync\(\d+<{partial}>",
        "rename": rf'rename\w*\(.*"{partial}", .*"{re.escape(str(stored))}"',
        "sync the folder": rf"f(?:data)?sync\(\d+<{re.escape(str(inbox))}>",
        "answer": r"sendto\(\d+<.*\"\\4\\0",
    }
    lines = trace.read_text().splitlines()
    where = {name: [at for at, line in enumerate(lines) if re.search(step, line)] for name, step in steps.items()}
    assert all(where.values()), where
    assert where["create"][0] < where["write"][0]
    assert where["write"][-1] < where["sync the file"][0] < where["rename"][0] < where["sync the folder"][0]
    assert where["sync the folder"][-1] < where["answer"][0]


def test_two_processes_share_one_port(tmp_path: Path, series: list[Path]) -> None:
    with (
        open_listening_socket("127.0.0.1", 0) as listening,
        receiver_process(listening, tmp_path / "1"),
        receiver_process(listening, tmp_path / "2"),
    ):
        port = listening.getsockname()[1]
        senders = [
            subprocess.Popen(storescu(port, *series), env=DCMTK_ENVIRONMENT, stdout=subprocess.DEVNULL)
            for _ in range(8)
        ]
        assert [sender.wait(timeout=60) for sender in senders] == [0] * 8
        stored = [*(tmp_path / "1").glob("*.dcm"), *(tmp_path / "2").glob("*.dcm")]
        assert len(stored) == 8 * len(series)
        assert {encoded_data_set(path) for path in stored} == {encoded_data_set(path) for path in series}


def test_the_death_of_a_receiver_does_not_drop_the_port(tmp_path: Path, series: list[Path]) -> None:
    with open_listening_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        node = Peer("node", "HILUM", "127.0.0.1", port)
        with receiver_process(listening, tmp_path / "1") as first, receiver_process(listening, tmp_path / "2"):
            echo(node, "SCU")
            first.kill()
            first.wait(timeout=30)
            for _ in range(5):
                echo(node, "SCU")
        # Nobody accepts now; a connection waits in the queue for the next receiver.
        waiting = subprocess.Popen(storescu(port, series[0]), env=DCMTK_ENVIRONMENT)
        with receiver_process(listening, tmp_path / "1"):
            assert waiting.wait(timeout=60) == 0
        assert len(list((tmp_path / "1").glob("*.dcm"))) == 1


def test_a_receiver_killed_within_an_object_leaves_nothing_to_its_successor(tmp_path: Path) -> None:
    (large,) = save_series(ct_series(np.zeros((1, 2048, 2048))), tmp_path / "large")
    inbox = tmp_path / "inbox"
    with open_listening_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with receiver_process(listening, inbox) as receiver:
            sender = subprocess.Popen(storescu(port, *[large] * 50), env=DCMTK_ENVIRONMENT, stderr=subprocess.DEVNULL)
            wait_until(lambda: len(list(inbox.glob("*.dcm"))) >= 2, 30)
            receiver.kill()
            receiver.wait(timeout=30)
        assert sender.wait(timeout=60) != 0
        with receiver_process(listening, inbox):
            assert not list(inbox.glob("*.part"))
        whole = encoded_data_set(large)
        assert all(encoded_data_set(path) == whole for path in inbox.glob("*.dcm"))


def test_receiving_and_sending_import_no_torch() -> None:
    program_text = (
        "import sys, scp.receiving.receiver, scp.sending.sender, scp.archive, scp.retrieving.query;"
        "print(sorted({'torch', 'monai', 'sqlalchemy', 'highdicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program_text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
