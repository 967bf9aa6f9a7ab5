"""Objects that become durable in logs: each becomes the file that it would have been, whatever ends in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from db.files.filestore import FileStore
from db.files.splitting import Splitter, look
from db.overview.queries import study_record
from scp.receiving.inbox import Inbox
from scp.receiving.reception_log import LONGEST_OBJECT
from study.errors import ReceiveError
from study.reception_log import HEADING_BYTES, PAGE
from study.states import StudyState
from tests.support.indexing import Intake, indexing
from tests.support.network import running_receiver, storescu, wait_until
from tests.support.peers import DCMTK_ENVIRONMENT
from tests.support.series import axial_affine, ct_series, save_series
from tests.support.small_disk import small_disk

LOG_BYTES = 2**26
ONE_LOG = 2**24
META = b"meta" * 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "inbox" / "receiver-0"


@pytest.fixture
def inbox(folder: Path) -> Iterator[Inbox]:
    inbox = Inbox(folder, 0, LOG_BYTES)
    yield inbox
    inbox.close()


@pytest.fixture
def split(folder: Path) -> Callable[[], None]:
    splitter = Splitter(".dcm")
    return lambda: splitter.split([folder])


def put(inbox: Inbox, content: bytes, piece: int = 50_000) -> Path:
    incoming = inbox.begin(META)
    for start in range(0, len(content), piece):
        incoming.write([memoryview(content)[start : start + piece]])
    assert incoming.size == len(META) + len(content)
    return incoming.commit()


def logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


@pytest.mark.parametrize("size", [0, 1, 300, PAGE - HEADING_BYTES - len(META), 65_536, 65_537, 500_000])
@pytest.mark.parametrize("piece", [7_001, 131_072])
def test_what_was_logged_becomes_the_file_that_it_would_have_been(
    size: int, piece: int, folder: Path, inbox: Inbox, split: Callable[[], None]
) -> None:
    before, content = time.time_ns(), random.Random(size).randbytes(size)
    path = put(inbox, content, piece)
    after = time.time_ns()
    assert not path.exists()
    split()
    assert path.read_bytes() == META + content
    assert before <= path.stat().st_mtime_ns <= after
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.suffix for each in folder.iterdir() if each.suffix not in {".log", ".lock"}] == [".dcm"]


def test_many_become_files_in_their_order_and_a_log_that_is_split_is_written_again(
    folder: Path, split: Callable[[], None]
) -> None:
    inbox = Inbox(folder, 0, ONE_LOG)
    wait_until(lambda: [log.stat().st_size > 2**23 for log in logs(folder)] == [True], what="the log")
    ready = {log: log.stat().st_size for log in logs(folder)}
    contents = [bytes([number]) * 300_000 for number in range(60)]
    paths = []
    for number, content in enumerate(contents):
        paths.append(put(inbox, content))
        if number % 7 == 0:
            split()
    split()
    assert [path.read_bytes() for path in paths] == [META + content for content in contents]
    assert sorted(paths) == paths
    assert {log: log.stat().st_size for log in logs(folder)} == ready
    inbox.close()


def test_nothing_is_written_over_before_it_is_split(folder: Path, inbox: Inbox, split: Callable[[], None]) -> None:
    contents = [random.Random(number).randbytes(900_000) for number in range(50)]
    paths = [put(inbox, content, 131_072) for content in contents]
    assert len(logs(folder)) == LOG_BYTES // 2**24
    at_once = [path for path in paths if path.exists()]  # all logs were full: each a file of its own
    assert 5 < len(at_once) < 20
    split()
    assert [path.read_bytes() for path in paths] == [META + content for content in contents]
    assert not put(inbox, b"again").exists()


def test_a_long_object_becomes_a_file_of_its_own(inbox: Inbox, split: Callable[[], None], folder: Path) -> None:
    content = random.Random(1).randbytes(LONGEST_OBJECT + 5)
    assert put(inbox, content, 2**20).read_bytes() == META + content
    short = put(inbox, b"short")
    split()
    assert short.read_bytes() == META + b"short"
    assert look(folder).since is None


def test_what_is_discarded_leaves_nothing(inbox: Inbox, folder: Path, split: Callable[[], None]) -> None:
    for size in (10, 200_000, LONGEST_OBJECT + 1):
        incoming = inbox.begin(META)
        incoming.write([bytes(size)])
        assert incoming.start(len(META) + 5) == META + bytes(5)
        incoming.discard()
        split()
    path = put(inbox, b"kept")
    split()
    assert list(folder.glob("*.dcm")) == [path]
    assert list(folder.glob("*.part")) == []


def test_writers_and_a_splitter_at_once(folder: Path, inbox: Inbox, split: Callable[[], None]) -> None:
    done = threading.Event()

    def write(seed: int) -> dict[Path, bytes]:
        chance, written = random.Random(seed), {}
        for _ in range(80):
            content = chance.randbytes(chance.choice([100, 20_000, 400_000]))
            written[put(inbox, content)] = META + content
        return written

    def split_on() -> None:
        while not done.is_set():
            split()

    with ThreadPoolExecutor() as pool:
        splitting = pool.submit(split_on)
        writing = [pool.submit(write, seed) for seed in range(4)]
        expected = {path: content for each in writing for path, content in each.result().items()}
        done.set()
        splitting.result()
    split()
    assert {path: path.read_bytes() for path in folder.glob("*.dcm")} == expected
    assert look(folder).since is None


def test_what_comes_over_the_network_is_stored_alike_with_logs_and_without(tmp_path: Path) -> None:
    images = save_series(ct_series(np.arange(6 * 96 * 96).reshape(6, 96, 96) % 900), tmp_path / "images")
    with (
        running_receiver(tmp_path / "logs" / "receiver-0", log_bytes=LOG_BYTES) as logged,
        running_receiver(tmp_path / "plain", log_bytes=LOG_BYTES, fast_reception=False) as plain,
        running_receiver(tmp_path / "files") as filed,
    ):
        for node in (logged, plain, filed):
            subprocess.run(
                storescu(node.port, *images, calling="MODALITY"),
                check=True,
                capture_output=True,
                env=DCMTK_ENVIRONMENT,
            )
            assert len(node.told("instance_stored")) == 6
        assert (logged.stored, plain.stored) == ([], [])
        Splitter(".dcm").split([logged.folder, plain.folder])
        assert len(filed.stored) == 6
        contents = [[path.read_bytes() for path in node.stored] for node in (logged, plain, filed)]
        assert contents[0] == contents[1] == contents[2]
        assert [fields["path"] for fields in logged.told("instance_stored")] == logged.stored


def test_a_log_that_its_receiver_left_is_split_and_removed(folder: Path, split: Callable[[], None]) -> None:
    inbox = Inbox(folder, 0, ONE_LOG)
    path = put(inbox, b"one")
    split()
    left = put(inbox, b"two")
    inbox.close()
    fresh = Inbox(folder, 0, ONE_LOG)
    other = put(fresh, b"three")
    split()
    assert [each.read_bytes() for each in (path, left, other)] == [META + b"one", META + b"two", META + b"three"]
    assert len(logs(folder)) == 1
    fresh.close()
    split()
    assert logs(folder) == []


RECEIVER = """
import sys
from pathlib import Path
from scp.receiving.inbox import Inbox
inbox = Inbox(Path(sys.argv[1]), 0, 2**26)
for number in range(10_000):
    incoming = inbox.begin(b"meta")
    incoming.write([bytes([number % 256]) * 100_000])
    print(incoming.commit(), flush=True)
"""


def test_what_a_receiver_had_answered_survives_its_death(folder: Path, split: Callable[[], None]) -> None:
    with subprocess.Popen([sys.executable, "-c", RECEIVER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answered = [Path(process.stdout.readline().strip()) for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        answered += [Path(line) for line in process.stdout.read().splitlines() if line.endswith(".dcm")]
    split()
    for number, path in enumerate(answered):
        assert path.read_bytes() == b"meta" + bytes([number % 256]) * 100_000
    assert logs(folder) == []


@pytest.mark.parametrize("where", ["content", "heading"])
def test_a_record_that_is_not_whole_makes_no_file_and_those_before_it_do(
    where: str, folder: Path, split: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox(folder, 0, ONE_LOG)
    paths = [put(inbox, bytes([number]) * 10_000) for number in range(3)]
    inbox.close()
    (log,) = logs(folder)
    with log.open("r+b") as file:
        third = PAGE + 2 * 3 * PAGE
        file.seek(third + (HEADING_BYTES + 5_000 if where == "content" else 30))
        file.write(b"\xff")
    split()
    assert [path.exists() for path in paths] == [True, True, False]
    assert (len(list(folder.glob("*.torn"))), logs(folder)) == (int(where == "content"), [])
    assert ("not whole" in caplog.text) == (where == "content")


def test_an_object_that_is_under_way_when_its_inbox_is_closed_is_whole(folder: Path, split: Callable[[], None]) -> None:
    inbox = Inbox(folder, 0, ONE_LOG)
    incoming = inbox.begin(META)
    incoming.write([bytes(200_000)])
    inbox.close()
    incoming.write([b"end"])
    path = incoming.commit()
    split()
    assert path.read_bytes() == META + bytes(200_000) + b"end"
    assert logs(folder) == []


def test_files_of_strangers_make_nothing(folder: Path, split: Callable[[], None]) -> None:
    folder.mkdir(parents=True)
    (folder / "empty.log").touch()
    (folder / "noise.log").write_bytes(random.Random(3).randbytes(3 * PAGE))
    split()
    assert [path.name for path in folder.iterdir()] == ["split.lock"]


def test_a_splitter_that_died_half_way_leaves_nothing_behind(
    folder: Path, inbox: Inbox, split: Callable[[], None]
) -> None:
    path = put(inbox, b"one")
    path.with_suffix(".split").write_bytes(b"half")
    split()
    assert path.read_bytes() == META + b"one"
    assert list(folder.glob("*.split")) == []


def test_while_the_disk_is_full_nothing_new_is_taken_and_what_was_taken_waits(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder, splitter = disk.folder / "receiver-0", Splitter(".dcm")
        inbox = Inbox(folder, 0, LOG_BYTES)
        paths = [put(inbox, bytes(300_000)) for _ in range(3)]
        with disk.full(leaving=8192):
            with pytest.raises(OSError, match="No space"):
                splitter.split([folder])
            assert list(folder.glob("*.split")) + list(folder.glob("*.dcm")) == []
            with pytest.raises(ReceiveError, match="Out of disk space"):
                put(inbox, bytes(300_000))
            assert look(folder).since is not None
        splitter.split([folder])
        assert all(path.read_bytes() == META + bytes(300_000) for path in paths)
        path = put(inbox, b"again")
        splitter.split([folder])
        assert path.read_bytes() == META + b"again"
        inbox.close()


def test_room_for_splitting_is_kept(folder: Path) -> None:
    free = os.statvfs(folder.parents[1]).f_bavail * os.statvfs(folder.parents[1]).f_frsize
    inbox = Inbox(folder, free - 2**25, LOG_BYTES)

    def fill() -> None:
        for _ in range(80):
            put(inbox, bytes(2**20))

    with pytest.raises(ReceiveError, match="Out of disk space"):
        fill()
    inbox.close()


def test_a_study_is_not_closed_while_something_that_came_is_in_a_log(tmp_path: Path) -> None:
    with indexing(tmp_path) as node:
        study = ct_series(np.zeros((4, 8, 8)), axial_affine((1.0, 1.0, 1.0)))
        uid = str(study[0].StudyInstanceUID)
        inbox = Inbox(node.store.inbox("receiver-1"), 0, LOG_BYTES)
        late = put(inbox, b"of whatever study")
        _demand(node, study, uid, StudyState.RECEIVING)
        inbox.close()
        node.store.split_logs(node.store.splitter())
        late.unlink()
        wait_until(lambda: _state(node, uid) is not StudyState.RECEIVING, what="the study to be closed")


def _demand(node: Intake, study: list[Dataset], uid: str, state: StudyState) -> None:
    folder = node.store.inbox("receiver-0")
    folder.mkdir(parents=True)
    for number, image in enumerate(study):
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    deadline = time.monotonic() + node.settings.study.quiet_seconds + 1
    while time.monotonic() < deadline:
        assert _state(node, uid) in {None, state}


def _state(node: Intake, uid: str) -> StudyState | None:
    node.indexer.turn()
    with node.database.reading() as uow:
        record = study_record(uow, uid)
    return None if record is None else record.summary.state


def test_the_store_knows_what_waits(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    assert store.first_received() is None
    inbox = Inbox(store.inbox("receiver-0"), 0, LOG_BYTES)
    put(inbox, b"one")
    first = store.first_received()
    assert first is not None
    assert first == store.first_unsplit()
    splitter = store.splitter()
    store.split_logs(splitter, "elsewhere")
    assert store.first_unsplit() is None  # a name without a machine is of no machine in particular
    assert store.first_received() == first
    inbox.close()
    remote = Inbox(store.inbox("ct-room-receiver-0"), 0, LOG_BYTES)
    path = put(remote, b"two")
    store.split_logs(splitter, "elsewhere")
    assert not path.exists()
    store.split_logs(splitter, "ct-room")
    assert path.exists()
    remote.close()


def test_the_share_of_the_logs_that_waits_is_known(folder: Path, split: Callable[[], None]) -> None:
    inbox = Inbox(folder, 0, LOG_BYTES)
    wait_until(lambda: len(logs(folder)) == LOG_BYTES // 2**24, what="the logs")
    assert look(folder).share == 0
    put(inbox, b"one")
    assert look(folder).share == 1 / 4
    for _ in range(60):
        put(inbox, bytes(900_000))
    assert look(folder).share == 1
    split()
    assert look(folder).share == 0
    inbox.close()
