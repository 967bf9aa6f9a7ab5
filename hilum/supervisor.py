"""Owns the listening socket; starts, watches, restarts and stops the roles."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import structlog

from db.engine import Database
from db.files.filestore import FileStore
from hilum.bells import Belfry
from hilum.config import Settings
from hilum.processes import Child, StopSignal, spawn
from hilum.working.capacity import with_devices
from hilum.working.family import adopt_orphans, end_processes, family, orphans
from hilum.working.leading import occupied
from scp.association.tls import listening_context
from scp.receiving.listening import open_listening_socket
from study.errors import ConfigError

log = structlog.get_logger()

ROLES = ("receiver", "indexer", "archivist", "keeper", "sender", "retainer")

_SHORTEST_BACK_OFF = 0.5  # [s]
_LONGEST_BACK_OFF = 30.0  # [s]
_STEADY_SECONDS = 60.0  # a role that lived so long starts again at the shortest back-off
_GRACE_SECONDS = 20.0  # for what was acknowledged; then the rest is killed, which loses nothing


@dataclass
class _Post:
    """One role's process and its restarts."""

    role: str
    index: int
    child: Child | None = None
    started: float = 0.0
    back_off: float = _SHORTEST_BACK_OFF
    restart_at: float | None = None
    ready: bool = False


@dataclass(frozen=True)
class _Happening:
    kind: str
    post: _Post | None = None
    child: Child | None = None
    facts: dict[str, Any] | None = field(default=None)


class Supervisor:
    """Runs the whole node on this machine.

    Parameters
    ----------
    on_ready
        Called once, with the address that listens, when every role is at work.
    """

    def __init__(self, settings: Settings, on_ready: Callable[[str, int], None]) -> None:
        self._settings = with_devices(settings)
        self._on_ready = on_ready
        self._happenings: queue.SimpleQueue[_Happening] = queue.SimpleQueue()
        self._posts = [_Post("receiver", index) for index in range(settings.node.receivers)]
        self._posts += [_Post("keeper", index) for index in range(len(self._settings.inference.devices))]
        self._posts += [_Post(role, 0) for role in ("indexer", "sender")]
        if settings.archives:  # without one there is nobody to ask
            self._posts.append(_Post("archivist", 0))
        if settings.retention.is_on:  # else everything is kept
            self._posts.append(_Post("retainer", 0))
        self._announced = False
        self._others: set[int] = set()
        self._belfry = Belfry(())

    def run(self, stop: StopSignal) -> None:
        """Serve until `stop` is set; every role has ended when this returns.

        Raises
        ------
        StoreBusy
            If another node uses the data directory.
        ConfigError
            If the address can not be listened on.
        """
        stop.call_when_set(lambda: self._happenings.put(_Happening("stop")))
        store = FileStore(self._settings.data_dir)
        adopt_orphans()
        self._others = {each.pid for each in family(os.getpid())}
        database = Database.open(self._settings.database_url)
        with occupied(self._settings, store, database, stop.is_set):
            database.close()
            belfry = Belfry((post.role, post.index) for post in self._posts)
            with belfry, self._open_socket() as listening, self._open_tls_socket() as listening_for_tls:
                self._belfry, self._listening, self._listening_for_tls = belfry, listening, listening_for_tls
                try:
                    self._watch(stop)
                finally:
                    self._stop_all()

    def _open_socket(self) -> socket.socket:
        return _listen(self._settings.node.bind, self._settings.node.port, "node.port")

    def _open_tls_socket(self) -> AbstractContextManager[socket.socket | None]:
        """Return the socket for TLS, if there is to be one; certificates that can not be used end the start here."""
        settings = self._settings
        if settings.identity is not None:
            listening_context(settings.identity)
        return _listen(settings.node.bind, settings.tls.port, "tls.port") if settings.tls.port else nullcontext()

    def _watch(self, stop: StopSignal) -> None:
        for post in self._posts:
            self._start(post)
        while not stop.is_set():
            try:
                happening = self._happenings.get(timeout=self._next_restart_in())
            except queue.Empty:
                happening = _Happening("restart")
            if happening.kind == "stop":
                return
            if happening.kind == "ended":
                self._end_what_it_left()
            if happening.kind == "ended" and happening.post and happening.child is happening.post.child:
                self._plan_restart(happening.post)
            if happening.kind == "ready" and happening.post:
                happening.post.ready = True
                self._announce_once()
            self._restart_due()

    def _announce_once(self) -> None:
        if not self._announced and all(post.ready for post in self._posts):
            self._announced = True
            host, port = self._listening.getsockname()[:2]
            self._on_ready(host, port)

    def _start(self, post: _Post) -> None:
        descriptors = self._belfry.descriptors(post.role, post.index)
        if post.role == "receiver":
            descriptors |= self._sockets()
        child = spawn(post.role, self._settings, index=post.index, descriptors=descriptors)
        post.child, post.started, post.restart_at = child, time.monotonic(), None
        for watcher in (self._await_ready, self._await_end):
            threading.Thread(target=watcher, args=(post, child), daemon=True).start()

    def _sockets(self) -> dict[str, int]:
        """Return the sockets that the receivers share."""
        found = {"listen": self._listening.fileno()}
        if self._listening_for_tls is not None:
            found["listen_tls"] = self._listening_for_tls.fileno()
        return found

    def _await_ready(self, post: _Post, child: Child) -> None:
        facts = child.wait_until_ready()
        if facts is not None:
            self._happenings.put(_Happening("ready", post, child, facts))

    def _await_end(self, post: _Post, child: Child) -> None:
        child.reap()
        self._happenings.put(_Happening("ended", post, child))

    def _plan_restart(self, post: _Post) -> None:
        lived = time.monotonic() - post.started
        if lived > _STEADY_SECONDS:
            post.back_off = _SHORTEST_BACK_OFF
        status = post.child.process.returncode if post.child else None
        log.warning("role.ended", role=post.role, index=post.index, status=status, restart_in=post.back_off)
        post.restart_at = time.monotonic() + post.back_off
        post.back_off = min(post.back_off * 2, _LONGEST_BACK_OFF)

    def _end_what_it_left(self) -> None:
        """End what a keeper that died could not: processes that models had started."""
        known = {post.child.process.pid for post in self._posts if post.child is not None}
        end_processes(orphans(known | self._others))

    def _next_restart_in(self) -> float | None:
        due = [post.restart_at for post in self._posts if post.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _restart_due(self) -> None:
        for post in self._posts:
            if post.restart_at is not None and post.restart_at <= time.monotonic():
                self._start_again(post)

    def _start_again(self, post: _Post) -> None:
        """Start a role that ended; where the system has no process for it just now, after another pause."""
        try:
            self._start(post)
        except OSError as error:
            log.error("role.not_started", role=post.role, index=post.index, words=error.strerror)
            post.restart_at = time.monotonic() + post.back_off
            post.back_off = min(post.back_off * 2, _LONGEST_BACK_OFF)

    def _stop_all(self) -> None:
        children = [post.child for post in self._posts if post.child is not None]
        for child in children:
            child.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for child in children:
            while child.process.poll() is None and time.monotonic() < deadline:
                self._pause_for_an_end(deadline)
            if child.process.poll() is None:
                log.warning("role.killed", role=child.role, index=child.index, after=_GRACE_SECONDS)
                child.kill()

    def _pause_for_an_end(self, deadline: float) -> None:
        try:
            self._happenings.get(timeout=max(0.01, min(0.2, deadline - time.monotonic())))
        except queue.Empty:
            return


def _listen(bind: str, port: int, key: str) -> socket.socket:
    try:
        return open_listening_socket(bind, port)
    except OSError as error:
        raise ConfigError(
            f"node.bind, {key}: can not listen on {bind}:{port}: {error.strerror}; "
            "is another program there? Choose another port"
        ) from None
