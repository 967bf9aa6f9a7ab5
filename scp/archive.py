"""A small archive: an SCP that keeps each object it is sent as a file, for the demo to play the PACS."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from scp.receiving.inbox import STORED_SUFFIX, Inbox
from scp.receiving.listening import open_listening_socket
from scp.receiving.receiver import Receiver


class Archive:
    """Stores what it is sent as ``FOLDER/<SOP Instance UID>.dcm``, durably, and lets others wait for it.

    A context manager; it listens from entering to leaving and takes everything from everyone.

    Parameters
    ----------
    folder
        Made where it is missing.
    bind, port
        Where to listen; port 0 takes a free one, which `port` then says.
    """

    def __init__(self, folder: Path, ae_title: str, *, bind: str = "127.0.0.1", port: int = 0) -> None:
        self._folder = folder
        self._inbox = Inbox(folder, reserve_bytes=0)
        self._listening_socket = open_listening_socket(bind, port)
        self.port: int = self._listening_socket.getsockname()[1]
        self._receiver = Receiver(self._listening_socket, ae_title, self._inbox, on_event=self._on_event)
        self._arrival = threading.Condition()
        self._paths: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self._receiver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._receiver.stop(grace_seconds=2.0)
        self._listening_socket.close()
        self._inbox.close()

    @property
    def paths(self) -> dict[str, Path]:
        """What has arrived: paths by SOP Instance UID, in the order of arrival."""
        with self._arrival:
            return dict(self._paths)

    def wait_for(self, count: int, timeout_seconds: float) -> bool:
        """Wait until `count` different objects have arrived; False if they have not after `timeout_seconds`."""
        with self._arrival:
            return self._arrival.wait_for(lambda: len(self._paths) >= count, timeout_seconds)

    def _on_event(self, name: str, fields: Mapping[str, object]) -> None:
        # Told before the sender is answered: Success is given for the file under its final name.
        if name != "instance_stored":
            return
        uid, path = str(fields["sop_instance_uid"]), fields["path"]
        assert isinstance(path, Path)
        final = self._folder / f"{uid}{STORED_SUFFIX}"  # digits and dots: the receiver refuses other UIDs
        path.rename(final)
        self._inbox.sync()
        with self._arrival:
            self._paths[uid] = final
            self._arrival.notify_all()
