"""A modality that sends until the node has acknowledged all, with a wire log of its own."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydicom.dataset import Dataset

from db.files.splitting import unsplit
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from tests.support.node import MODALITY
from tests.support.phantoms import grid_affine, thorax
from tests.support.series import ct_series, save_series

SLICES = 12
_SHAPE = (SLICES, 40, 48)
# Lung in every slice, so that every result refers to all images
_AFFINE = grid_affine(((0, 0, 1), (0, 1, 0), (1, 0, 0)), (14.0, 7.0, 8.0), _SHAPE)
_AGAIN_SECONDS = 0.1


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the encoded data set in a file, without its file meta: what goes over the wire."""
    return _digest_of(path.read_bytes())


def digests_below(folders: Iterable[Path]) -> Iterator[str]:
    """Yield `digest_of` each file of some folders; of what the logs in an inbox hold first, since it becomes files."""
    for folder in folders:
        for inbox in (each for each in folder.rglob("*/") if "inbox" in each.parts):
            yield from map(_digest_of, unsplit(inbox))
        for path in folder.rglob("*.dcm"):
            with suppress(FileNotFoundError):  # it moved just now
                yield digest_of(path)


def _digest_of(content: bytes) -> str:
    (length,) = struct.unpack_from("<L", content, 132 + 8)  # (0002,0000), PS3.10 7.1
    return hashlib.sha256(content[132 + 12 + length :]).hexdigest()


class Studies:
    """Makes small chest CTs, each a study of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._voxels = thorax(_AFFINE, _SHAPE).volume.voxels

    def make(self, number: int) -> StudyOnTheWay:
        """Return study `number`, in files, not sent yet."""
        images = ct_series(
            self._voxels, _AFFINE, attributes={"PatientID": f"P{number}", "AccessionNumber": f"A{number}"}
        )
        return StudyOnTheWay(number, images, save_series(images, self._folder / f"{number:04d}"))


class StudyOnTheWay:
    """A study that is sent, and what of it the node acknowledged.

    Attributes
    ----------
    acknowledged
        Digests of data sets by file: those of which a C-STORE was answered with Success.
    gap
        The longest time between two acknowledgements [s]: the node may have taken a silence for the study's end.
    done_at
        When all was acknowledged (monotonic), None before.
    """

    def __init__(self, number: int, images: Sequence[Dataset], paths: Sequence[Path]) -> None:
        self.number = number
        self.uid = str(images[0].StudyInstanceUID)
        self.images = frozenset(str(image.SOPInstanceUID) for image in images)
        self.digests = {path: digest_of(path) for path in paths}
        self.acknowledged: dict[Path, str] = {}
        self.gap = 0.0
        self.done_at: float | None = None
        self._last: float | None = None

    @property
    def left(self) -> list[Path]:
        """The files that were not acknowledged."""
        return [path for path in self.digests if path not in self.acknowledged]

    def note(self, path: Path) -> None:
        """Take down that the node answered Success."""
        now = time.monotonic()
        self.gap = max(self.gap, now - (self._last or now))
        self._last = now
        self.acknowledged[path] = self.digests[path]
        if not self.left:
            self.done_at = now


class Modality:
    """Sends studies in threads of their own, each again and again until all of it is acknowledged."""

    def __init__(self, port: int, wire_log: Path) -> None:
        self._peer = Peer("node", "HILUM", "127.0.0.1", port)
        self._wire_log = wire_log
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def send(self, study: StudyOnTheWay) -> None:
        """Begin to send a study."""
        thread = threading.Thread(target=self._send, args=(study,), name=f"study-{study.number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Send no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(30)

    def _send(self, study: StudyOnTheWay) -> None:
        while study.left and not self._ended.is_set():
            for sent in send_files(self._peer, MODALITY, study.left):
                if sent.error is not None:
                    break
                self._write_down(study, sent.path)
                study.note(sent.path)
            if study.left:
                self._ended.wait(_AGAIN_SECONDS)

    def _write_down(self, study: StudyOnTheWay, path: Path) -> None:
        """Add a line to the wire log, durably."""
        line = {"study": study.uid, "file": path.name, "sha256": study.digests[path]}
        with self._lock, self._wire_log.open("a") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())


def acknowledged_in(wire_log: Path) -> dict[str, set[str]]:
    """Return the digests that the wire log has as acknowledged, by study."""
    found: dict[str, set[str]] = {}
    for line in wire_log.read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["study"], set()).add(entry["sha256"])
    return found
