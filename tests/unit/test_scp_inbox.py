from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, JPEGLSLossless

from scp.receiving.file_meta import encode_file_meta
from scp.receiving.inbox import Inbox, IncomingFile
from study.errors import ArchiveError, ReceiveError
from study.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from study.uids import is_uid


def test_file_meta_is_read_by_pydicom() -> None:
    encoded = encode_file_meta(
        sop_class_uid=CTImageStorage,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=JPEGLSLossless,
        sending_ae_title="CT1",
        receiving_ae_title="HILUM",
    )
    meta = dcmread(BytesIO(encoded)).file_meta
    assert meta.FileMetaInformationGroupLength == len(encoded) - 144
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == JPEGLSLossless
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SendingApplicationEntityTitle == "CT1"
    assert meta.ReceivingApplicationEntityTitle == "HILUM"
    assert is_uid(IMPLEMENTATION_CLASS_UID)
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_an_object_is_there_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox", 0)
    incoming = inbox.begin(b"head")
    incoming.write([memoryview(b"-one"), b"-two"])
    assert not list(inbox.folder.glob("*.dcm"))
    path = incoming.commit()
    assert path.read_bytes() == b"head-one-two"
    assert list(inbox.folder.iterdir()) == [path]
    inbox.close()


def test_a_discarded_object_leaves_nothing(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, 0)
    inbox.begin(b"head").discard()
    assert not list(tmp_path.iterdir())
    inbox.close()


def test_threads_store_side_by_side_in_the_order_of_their_names(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, 0)

    def store(number: int) -> Path:
        incoming = inbox.begin(b"head")
        incoming.write([str(number).encode()])
        return incoming.commit()

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(store, range(50)))
    assert len({path.name for path in paths}) == 50
    assert {path.read_bytes() for path in paths} == {b"head" + str(number).encode() for number in range(50)}
    inbox.close()


def test_an_inbox_has_one_owner_who_removes_what_a_dead_one_left(tmp_path: Path) -> None:
    (tmp_path / "dead.part").write_bytes(b"half")
    (tmp_path / "whole.dcm").write_bytes(b"whole")
    inbox = Inbox(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.dcm"]
    with pytest.raises(ArchiveError, match="own folder"):
        Inbox(tmp_path, 0)
    inbox.close()
    Inbox(tmp_path, 0).close()


def test_below_the_reserve_nothing_is_taken(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, reserve_bytes=2**62)
    with pytest.raises(ReceiveError) as caught:
        inbox.begin(b"head")
    assert caught.value.status == 0xA700
    assert caught.value.numbers["reserve_bytes"] == 2**62
    assert not list(tmp_path.iterdir())
    inbox.close()


def test_what_the_disk_does_not_take_is_a700_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the size of files is the kernel's own way to let a write fail in the middle.
    program = f"""
import resource, signal
from pathlib import Path
from scp.receiving.inbox import Inbox, IncomingFile
from study.errors import ReceiveError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
inbox = Inbox(Path({str(tmp_path)!r}), 0)
incoming = inbox.begin(b"head")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    incoming.write([bytes(600), bytes(600)])
except ReceiveError as error:
    print(f"{{error.status:04X}}")
incoming.discard()
print(list(Path({str(tmp_path)!r}).iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["A700", "[]"]


def test_a_full_disk_is_a700(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, 0)
    incoming = inbox.begin(b"head")
    assert isinstance(incoming, IncomingFile)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, incoming._descriptor)
    os.close(full)
    with pytest.raises(ReceiveError, match="disk is full") as caught:
        incoming.write([b"more"])
    assert caught.value.status == 0xA700
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    inbox.close()


def test_committed_files_say_who_sent_them(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, 0)
    meta = encode_file_meta(
        sop_class_uid=CTImageStorage,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=JPEGLSLossless,
        sending_ae_title="CT1",
        receiving_ae_title="HILUM",
    )
    path = inbox.begin(meta).commit()
    assert read_file_meta_info(path).SendingApplicationEntityTitle == "CT1"
    inbox.close()
