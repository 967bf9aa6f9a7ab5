"""The database or the disk is away: told once, waited out, and over by itself. For the edge of every role's loop.

Neither is the fault of a study, a model or a peer: while it lasts nothing is counted against any of them.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import structlog

from hilum.bells import Ear
from hilum.processes import StopSignal
from study.errors import DatabaseUnavailable, DiskFull

log = structlog.get_logger()

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OF_THE_MACHINE: Final = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
"""No memory, no descriptors, no more processes."""
OF_THE_DISK: Final = FULL | {errno.EIO, errno.EROFS, errno.ESTALE} | _OF_THE_MACHINE
"""What the system answers where it is not this very file that can not be used."""

OF_ALL_FILES: Final = OF_THE_DISK - {errno.EIO}
"""Of these, what no other file would be spared from; an I/O error may be of one file alone."""

_PAUSE_SECONDS: Final = 0.05
_SHORTEST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 5.0  # short: whoever freed some space wants to see it go on
_LONGEST_CHAIN: Final = 8  # exceptions that led to one another

_T = TypeVar("_T")


def disk_failure(error: BaseException, kinds: frozenset[int] = OF_THE_DISK) -> OSError | None:
    """Return the failure of the disk that an error comes from; None where it is something else's."""
    found: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if found is None or (isinstance(found, OSError) and found.errno in kinds):
            return found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


def is_outage(error: BaseException, kinds: frozenset[int] = OF_THE_DISK) -> bool:
    """Tell whether an error is of the database or of the disk, and not of what was worked on."""
    return isinstance(error, DatabaseUnavailable) or disk_failure(error, kinds) is not None


def full(error: BaseException) -> DiskFull | None:
    """Return the error to answer with in place of one that comes from a full disk; None for any other."""
    return DiskFull() if disk_failure(error, FULL) is not None else None


class Outage:
    """What one thread knows of the database and the disk being away: since when, and how long to wait.

    Parameters
    ----------
    stop
        Ends each wait.
    longest_seconds
        Between two tries [s].
    """

    def __init__(self, stop: StopSignal, longest_seconds: float = _LONGEST_SECONDS) -> None:
        self._stop = stop
        self._longest_seconds = longest_seconds
        self._since: float | None = None
        self._pause = _SHORTEST_SECONDS

    @contextmanager
    def borne(self) -> Iterator[None]:
        """Bear that the database or the disk is away for what is done within, and wait a little then.

        Raises
        ------
        Exception
            Whatever has another cause.
        """
        try:
            yield
        except (DatabaseUnavailable, OSError) as error:
            self._bear(error)
        else:
            self.end()

    def persist(self, act: Callable[[], _T], meanwhile: Callable[[], None] | None = None) -> _T:
        """Return what `act` returns once the database and the disk let it; it is tried until then.

        Parameters
        ----------
        act
            May be done twice.
        meanwhile
            Is called before each further try.

        Raises
        ------
        DatabaseUnavailable, OSError
            If the node stops before.
        Exception
            Whatever has another cause.
        """
        while True:
            try:
                done = act()
            except (DatabaseUnavailable, OSError) as error:
                if self._stop.is_set():
                    raise
                self._bear(error)
            else:
                self.end()
                return done
            if meanwhile is not None:
                meanwhile()

    @property
    def lasts(self) -> bool:
        """Tell whether the database or the disk was away at the last try."""
        return self._since is not None

    def end(self) -> None:
        """Note that the database and the disk are there."""
        if self._since is not None:
            log.warning("outage.over", seconds=round(time.monotonic() - self._since, 1))
        self._since, self._pause = None, _SHORTEST_SECONDS

    def _bear(self, error: DatabaseUnavailable | OSError) -> None:
        if not is_outage(error):
            raise error
        disk = disk_failure(error)
        if self._since is None:
            self._since = time.monotonic()
            log.error("outage.began", of=_of(disk), words=_words(error, disk))
        self._stop.wait(self._pause)
        self._pause = min(self._pause * 2, self._longest_seconds)


def keep_at(
    turn: Callable[[], object],
    stop: StopSignal,
    crashed: str,
    rest_seconds: float,
    *,
    when: Callable[[], bool] = lambda: True,
    ear: Ear | None = None,
) -> None:
    """Take one turn after the other until the node stops, whatever becomes of each.

    Parameters
    ----------
    crashed
        The event that a turn's unforeseen end is logged under.
    rest_seconds
        How long nothing is tried after it [s].
    when
        Tells whether there is anything to take turns at: who does not lead learns nothing of an outage's end.
    ear
        Hears when there may be something to do; None: a turn is taken every 50 ms.
    """
    outage = Outage(stop)
    while not (stop.wait(_PAUSE_SECONDS) if ear is None else ear.wait()):
        if not when():
            continue
        try:
            with outage.borne():
                turn()
        except Exception:  # the loop's edge: one turn must not end all others
            log.exception(crashed)
            stop.wait(rest_seconds)
            went_well = False
        else:
            went_well = not outage.lasts
        if ear is not None and not went_well:
            ear.wake()  # it has waited already


def at_work(works: Sequence[Callable[[], None]], stop: StopSignal) -> Sequence[threading.Thread]:
    """Do each of `works` in a thread of its own, and return them; where one ends by an error, the role is to end.

    It is started again then; a thread that is missing would be missed by nobody.
    """
    threads = [threading.Thread(target=_or_stop, args=(work, stop)) for work in works]
    for thread in threads:
        thread.start()
    return threads


def _or_stop(work: Callable[[], None], stop: StopSignal) -> None:
    try:
        work()
    except Exception:  # the thread's edge: the role ends over it, and is started again
        log.exception("thread.failed")
        stop.wait(_LONGEST_SECONDS)
        stop.set()


def _of(disk: OSError | None) -> str:
    if disk is None:
        return "database"
    return "machine" if disk.errno in _OF_THE_MACHINE else "disk"


def _words(error: DatabaseUnavailable | OSError, disk: OSError | None) -> str:
    if disk is None:
        return error.words if isinstance(error, DatabaseUnavailable) else ""
    remedy = "; free some space" if disk.errno in FULL else ""
    return f"{disk.strerror}{remedy}. It goes on by itself."
