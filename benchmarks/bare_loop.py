"""A bare receive loop: how fast Python takes in what `storescu` sends, with syncs and without a single check.

    python -m benchmarks.bare_loop FOLDER {file,log} PORT

It accepts whatever is proposed, writes each PDV to the disk as it stands, and answers each last fragment of a data set
with the same C-STORE-RSP. It is no receiver: it believes every length, knows no other service, and what it writes is no
DICOM file. A process is forked for each connection. The two ways of syncing:

file
    A new file for each image: fdatasync of the file, fsync of the folder.
log
    One file for each connection, written over again from its beginning after 8 MB: one fdatasync for each image.

Each association leaves its number of images in ``FOLDER/counts``. The forms are those of PS3.8 section 9.3 and PS3.7
section 9.3.1.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

SYNCS: Final = ("file", "log")

_BUFFER_BYTES: Final = 2**21
_MAX_PDU: Final = 2**20
_LOG_BYTES: Final = 2**23
_PAGE: Final = 4096

_A_ASSOCIATE_RQ, _P_DATA_TF, _A_RELEASE_RQ = 1, 4, 5
_A_RELEASE_RP: Final = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_LAST, _COMMAND = 2, 1  # bits of a message control header
_MESSAGE_ID: Final = b"\x00\x00\x10\x01\x02\x00\x00\x00"


class Disk(Protocol):
    """Where the bytes of images go: `write` as often as needed, then `commit`."""

    def write(self, fragment: memoryview) -> None:
        """Append to the image."""

    def commit(self) -> None:
        """Make the image durable."""


class FileForEach:
    """A new file for each image in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._base = str(folder / f"{os.getpid()}-")
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._count = 0
        self._file = -1

    def write(self, fragment: memoryview) -> None:
        """Append to the image."""
        if self._file < 0:
            self._file = os.open(f"{self._base}{self._count:06d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            self._count += 1
        os.write(self._file, fragment)

    def commit(self) -> None:
        """Make the image and its name durable."""
        os.fdatasync(self._file)
        os.close(self._file)
        self._file = -1
        os.fsync(self._folder)


class OneLog:
    """One file in `folder` for all images of a connection, begun again at its front when it is full."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        self._end = 0

    def write(self, fragment: memoryview) -> None:
        """Append to the image."""
        self._end += os.pwrite(self._file, fragment, self._end)

    def commit(self) -> None:
        """Make the image durable; the next one starts at a page."""
        os.fdatasync(self._file)
        self._end = 0 if self._end > _LOG_BYTES else -(-self._end // _PAGE) * _PAGE


class Association:
    """One association on a connection, from its request to its release.

    Attributes
    ----------
    images
        How many were stored.
    """

    def __init__(self, connection: socket.socket, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk
        self._message_id = b""
        self.images = 0

    def receive(self) -> None:
        """Take in whole PDUs until the peer hangs up."""
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        filled = 0
        while count := self._connection.recv_into(buffer[filled:]):
            filled += count
            at = 0
            while filled - at >= 6 and filled - at >= (size := 6 + int.from_bytes(buffer[at + 2 : at + 6], "big")):
                self._take(buffer[at], buffer[at + 6 : at + size])
                at += size
            if at:
                buffer[: filled - at] = buffer[at:filled]
                filled -= at

    def _take(self, kind: int, body: memoryview) -> None:
        if kind == _P_DATA_TF:
            self._take_fragments(body)
        elif kind == _A_ASSOCIATE_RQ:
            self._connection.sendall(acceptance(bytes(body)))
        elif kind == _A_RELEASE_RQ:
            self._connection.sendall(_A_RELEASE_RP)

    def _take_fragments(self, body: memoryview) -> None:
        at = 0
        while at < len(body):
            end = at + 4 + int.from_bytes(body[at : at + 4], "big")
            context, control = body[at + 4], body[at + 5]
            fragment = body[at + 6 : end]
            if control & _COMMAND:
                self._message_id = message_id(bytes(fragment))
            else:
                self._disk.write(fragment)
                if control & _LAST:
                    self._disk.commit()
                    self.images += 1
                    self._connection.sendall(response(context, self._message_id))
            at = end


def acceptance(request: bytes) -> bytes:
    """Return the A-ASSOCIATE-AC that accepts each presentation context of a request with its first Transfer Syntax.

    Parameters
    ----------
    request
        The A-ASSOCIATE-RQ without its first six bytes.
    """
    contexts = [
        _item(0x21, value[:1] + bytes(3) + _item(0x40, next(_items(value[4:], 0x40))))
        for value in _items(request[68:], 0x20)
    ]
    user = _item(0x51, struct.pack(">L", _MAX_PDU)) + _item(0x52, b"1.2.3.4")
    body = request[:68] + _item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts) + _item(0x50, user)
    return b"\x02\x00" + struct.pack(">L", len(body)) + body


def message_id(command: bytes) -> bytes:
    """Return Message ID (0000,0110) of a command set as it is encoded."""
    at = command.index(_MESSAGE_ID) + len(_MESSAGE_ID)
    return command[at : at + 2]


def response(context: int, message: bytes) -> bytes:
    """Return the P-DATA-TF with the C-STORE-RSP of Success to a message."""
    elements = [
        (0x0002, b"1.2.840.10008.5.1.4.1.1.7\x00"),
        (0x0100, b"\x01\x80"),
        (0x0120, message),
        (0x0800, b"\x01\x01"),
        (0x0900, b"\x00\x00"),
        (0x1000, b"1.2.3.45"),
    ]
    encoded = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements)
    encoded = struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded
    fragment = struct.pack(">LBB", len(encoded) + 2, context, _COMMAND | _LAST) + encoded
    return struct.pack(">BBL", _P_DATA_TF, 0, len(fragment)) + fragment


def serve(port: int, folder: Path, sync: str) -> None:
    """Receive on a port of 127.0.0.1 until SIGTERM, with a process for each connection."""
    (folder / "counts").mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        try:
            while True:
                connection, _ = listening.accept()
                if not os.fork():
                    _serve_one(connection, folder, sync)
                connection.close()
        finally:
            with suppress(ChildProcessError):  # they are waited for so that the memory they took is counted
                while True:
                    os.wait()


def _serve_one(connection: socket.socket, folder: Path, sync: str) -> None:
    """Receive what comes on one connection, and end this process."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    association = Association(connection, FileForEach(folder) if sync == "file" else OneLog(folder))
    try:
        association.receive()
    finally:
        (folder / "counts" / str(os.getpid())).write_text(str(association.images))
        os._exit(0)


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _items(encoded: bytes, wanted: int) -> Iterator[bytes]:
    """Give the values of the items of a kind."""
    at = 0
    while at + 4 <= len(encoded):
        kind, _, length = struct.unpack_from(">BBH", encoded, at)
        if kind == wanted:
            yield encoded[at + 4 : at + 4 + length]
        at += 4 + length


def main(arguments: Sequence[str] | None = None) -> None:
    """Receive until told to stop."""
    parser = argparse.ArgumentParser(description="Receive without a check, as fast as Python can.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("sync", choices=SYNCS)
    parser.add_argument("port", type=int)
    chosen = parser.parse_args(arguments)
    serve(chosen.port, chosen.folder, chosen.sync)


if __name__ == "__main__":
    main()
