"""Leads: what one process of a store may do at a time is done by who holds its lead, on whatever machine.

On PostgreSQL a lead is an advisory lock of a session of its own: it ends with the session, however that ends. Who holds
it looks every second whether it still does; the server is told to end the session of a machine that is gone, or of a
process that is frozen, only after the holder must have noticed. On SQLite, which is one machine's, a lead is a lock on
a file.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from db.engine import Database
from db.files.durable import make_folders

LOOK_SECONDS: Final = 1.0
"""How often a holder looks whether it still holds its lead, and who stands by whether it is free [s]."""

_KNOWS_AFTER_SECONDS: Final = 6  # a holder whose server is silent
_LASTS_SECONDS: Final = 20  # the session of a process that says nothing, on a machine that answers
_LONGEST_NAME: Final = 63  # of what a session is called [bytes], by PostgreSQL

_AT_THE_CLIENT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 1000 * _KNOWS_AFTER_SECONDS,
}
_AT_THE_SERVER: Final = {
    "tcp_keepalives_idle": "6",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": f"{_LASTS_SECONDS}s",  # from PostgreSQL 14 on
}
_SET: Final = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
_CALL: Final = text("SELECT set_config('application_name', :name, false)")
_KEY: Final = "hashtextextended(:lead, 0)"


class Lead:
    """One process's candidacy for a lead, from the beginning of its `with` block to the end.

    Parameters
    ----------
    folder
        Where the locks of SQLite's leads are.
    name
        What is led: "indexer".
    bearer
        Who asks for it, as an administrator sees it: the machine.
    shared
        Whether several may hold it at once; they keep out whoever wants it alone.
    on_change
        Is told whether it is held, at the first look and whenever that changes; in another thread after the first look.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        name: str,
        bearer: str,
        *,
        shared: bool = False,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self._lock: _Lock = (
            _ServerLock(database.url, name, bearer, shared=shared)
            if database.dialect == "postgresql"
            else _FileLock(folder / f"lead-{name}.lock", shared=shared)
        )
        self._on_change = on_change
        self._held: bool | None = None
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name=f"lead-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._lock.let_go()

    @property
    def is_held(self) -> bool:
        """Tell whether this process leads."""
        return bool(self._held)

    def wait(self, seconds: float) -> bool:
        """Wait until this process leads, for so long at most [s]; tell whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_held, seconds)

    def _look_again(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self._look()
            except OSError:  # the disk, where it is a file's lock that is not ours: the next look tells
                continue

    def _look(self) -> None:
        held = self._lock.hold()
        if held == self._held:
            return
        with self._changed:
            self._held = held
            self._changed.notify_all()
        if self._on_change is not None:
            self._on_change(held)


class _Lock(Protocol):
    """What makes a lead one's own."""

    def hold(self) -> bool:
        """Tell whether it is held now, after a try where it was not."""

    def let_go(self) -> None:
        """Give it to whoever tries next."""


class _FileLock:
    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        self._file: Any = None

    def hold(self) -> bool:
        if self._file is not None:
            return True
        make_folders([self._path.parent])
        file = self._path.open("a")
        try:
            fcntl.flock(file, self._how)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _ServerLock:
    def __init__(self, url: str, name: str, bearer: str, *, shared: bool) -> None:
        # A pool would keep a session, and with it the lock, beyond its end
        self._engine = create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True, connect_args=_AT_THE_CLIENT
        )
        self._lead = f"hilum lead {name}"
        self._title = (f"hilum {name} leads {bearer}", f"hilum {name} stands by {bearer}")
        self._try = text(f"SELECT pg_try_advisory_lock{'_shared' if shared else ''}({_KEY})")
        self._connection: Connection | None = None
        self._held = False

    def hold(self) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connect()
            if self._held:
                self._connection.execute(text("SELECT 1"))
            else:
                self._held = bool(self._connection.execute(self._try, {"lead": self._lead}).scalar_one())
                if self._held:
                    self._call(self._connection, self._title[0])
        except DBAPIError:
            self.let_go()
        return self._held

    def let_go(self) -> None:
        connection, self._connection, self._held = self._connection, None, False
        if connection is not None:
            try:
                connection.close()
            except DBAPIError:  # it is over already
                connection.invalidate()

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        for name, value in _AT_THE_SERVER.items():
            connection.execute(_SET, {"name": name, "value": value})
        self._call(connection, self._title[1])
        return connection

    @staticmethod
    def _call(connection: Connection, title: str) -> None:
        connection.execute(_CALL, {"name": title.encode()[:_LONGEST_NAME].decode("ascii", "ignore")})


def candidates(database: Database) -> list[tuple[str, str, bool]]:
    """Return each lead that somebody holds or stands by for on PostgreSQL: its name, who, whether it is held."""
    if database.dialect != "postgresql":
        return []
    query = text(
        "SELECT application_name FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'hilum %'"
    )
    with database.reading() as uow:
        titles = uow.execute(query).scalars().all()
    found = []
    for title in titles:
        for words, held in ((" leads ", True), (" stands by ", False)):
            name, between, bearer = title.removeprefix("hilum ").partition(words)
            if between:
                found.append((name, bearer, held))
    return sorted(found)
