"""The associations that a peer is to have with the node at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from hilum.entries import PeerSettings
from hilum.network import slot
from hilum.processes import StopSignal
from tests.support.network import wait_until

PEER = PeerSettings(name="pacs", ae_title="PACS", host="pacs", port=104, max_associations=2)
HOLDER = """
import fcntl, sys
held = open(sys.argv[1], "w")
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_no_more_are_held_than_the_peer_allows(tmp_path: Path) -> None:
    stop = StopSignal()
    third = threading.Event()
    inside: list[bool] = []

    def wait_for_a_slot() -> None:
        with slot(tmp_path, PEER, stop) as held:
            inside.append(held)
            third.wait(10)

    waiting = threading.Thread(target=wait_for_a_slot)
    with slot(tmp_path, PEER, stop) as first:
        with slot(tmp_path, PEER, stop) as second:
            assert (first, second) == (True, True)
            waiting.start()
            # Another peer is another matter, and shows that the thread had time to take what it should not
            for number in range(20):
                with slot(tmp_path, PEER.model_copy(update={"name": f"other{number}"}), stop) as held:
                    assert held
            assert inside == []
        wait_until(lambda: inside == [True], 5, "the slot that was given up")
        third.set()
        waiting.join()


def test_who_waits_when_the_node_stops_calls_nobody(tmp_path: Path) -> None:
    stop = StopSignal()
    alone = PEER.model_copy(update={"max_associations": 1})
    with slot(tmp_path, alone, stop) as first:
        assert first
        stop.set()
        with slot(tmp_path, alone, stop) as second:
            assert not second


def test_a_process_that_dies_leaves_its_slot(tmp_path: Path) -> None:
    alone = PEER.model_copy(update={"max_associations": 1})
    stop = StopSignal()
    with slot(tmp_path, alone, stop):
        pass
    (lock,) = (tmp_path / "work" / "peers").iterdir()
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.2, holder.kill).start()
        with slot(tmp_path, alone, stop) as held:
            assert held
            assert holder.wait(5) != 0  # it had to die first
