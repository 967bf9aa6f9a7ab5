"""Where storage commitment messages become durable: files that receivers write, and others take from there.

============= ======================================================================================================
``asked/``    a marker for each transaction that we began, so that a receiver knows what it may be told of
``reports/``  what peers answered
``requests/`` what peers ask of us
============= ======================================================================================================

A file is written as ``.NAME.part``, synced, renamed, and its folder synced; only then is the peer told Success. Several
processes may write at once. Names are the node's own, but for the Transaction UID of a marker, which is validated.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from scp.durable import sync_folder
from study.commitment import CommitmentReport, CommitmentRequest, Reference
from study.uids import is_storable_uid

MOST_WAITING: Final = 1000
"""As many reports, and as many requests, wait to be taken at most; what comes then is refused."""

_PART = ".part"
_STALE_SECONDS = 3600.0
_numbers = itertools.count()


@dataclass(frozen=True)
class Waiting:
    """A message in the spool, from a peer of this AE title."""

    path: Path
    calling_ae_title: str
    received_at: datetime


@dataclass(frozen=True)
class WaitingReport(Waiting):
    """A report that nobody has acted upon yet."""

    report: CommitmentReport


@dataclass(frozen=True)
class WaitingRequest(Waiting):
    """A request that nobody has taken over yet."""

    request: CommitmentRequest


class CommitmentSpool:
    """The spool below one folder, whose folders are made where they are missing."""

    def __init__(self, folder: Path) -> None:
        self._asked, self._reports, self._requests = (folder / name for name in ("asked", "reports", "requests"))
        for each in (self._asked, self._reports, self._requests):
            each.mkdir(parents=True, exist_ok=True)
            sync_folder(each.parent)

    def expect(self, transaction_uid: str, ae_title: str) -> None:
        """Let receivers take reports of this transaction from the peer of that AE title, durably."""
        if not is_storable_uid(transaction_uid):
            raise ValueError("a Transaction UID that is no UID")
        _write(self._asked / transaction_uid, {"ae_title": ae_title})

    def is_expected(self, transaction_uid: str, ae_title: str) -> bool:
        """Tell whether the peer of that AE title was asked under this transaction."""
        if not is_storable_uid(transaction_uid):
            return False
        try:
            return bool(json.loads((self._asked / transaction_uid).read_bytes())["ae_title"] == ae_title)
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return False

    def expects(self) -> int:
        """Return of how many transactions reports are taken."""
        return sum(1 for _ in self._asked.iterdir())

    def put_report(self, calling_ae_title: str, report: CommitmentReport) -> bool:
        """Make a peer's report durable; False where too many wait already."""
        content = {
            "transaction_uid": report.transaction_uid,
            "committed": [_pair(reference) for reference in report.committed],
            "failed": [[*_pair(reference), reason] for reference, reason in report.failed],
        }
        return _put(self._reports, calling_ae_title, content)

    def put_request(self, calling_ae_title: str, request: CommitmentRequest) -> bool:
        """Make a peer's request durable; False where too many wait already."""
        content = {
            "transaction_uid": request.transaction_uid,
            "references": [_pair(reference) for reference in request.references],
        }
        return _put(self._requests, calling_ae_title, content)

    def reports(self) -> list[Path]:
        """Return the reports that wait, the oldest first."""
        return _waiting(self._reports)

    def requests(self) -> list[Path]:
        """Return the requests that wait, the oldest first."""
        return _waiting(self._requests)

    def read_report(self, path: Path) -> WaitingReport:
        """Return a report that waits.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        with _words_for_damage():
            content = json.loads(path.read_bytes())
            failed = tuple((_reference(entry), int(entry[2])) for entry in content["failed"])
            report = CommitmentReport(content["transaction_uid"], _references(content["committed"]), failed)
            return WaitingReport(path, *_origin(content), report)

    def read_request(self, path: Path) -> WaitingRequest:
        """Return a request that waits.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        with _words_for_damage():
            content = json.loads(path.read_bytes())
            request = CommitmentRequest(content["transaction_uid"], _references(content["references"]))
            return WaitingRequest(path, *_origin(content), request)

    def remove(self, path: Path) -> None:
        """Take a message out of the spool, once what it says is durable elsewhere."""
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def put_aside(self, path: Path) -> Path:
        """Rename a damaged message, so that it is looked at by a person and not again by us; return where it is."""
        target = path.with_suffix(".damaged")
        path.rename(target)
        sync_folder(path.parent)
        return target

    def tidy(self, marker_seconds: float) -> int:
        """Remove markers older than `marker_seconds` and what dead writers left half written; return how many."""
        now, removed = time.time(), 0
        for folder in (self._asked, self._reports, self._requests):
            for path in folder.iterdir():
                limit = _STALE_SECONDS if path.suffix == _PART else marker_seconds if folder == self._asked else None
                if limit is not None and now - _modified(path) > limit:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def _put(folder: Path, calling_ae_title: str, content: dict[str, Any]) -> bool:
    if len(_waiting(folder)) >= MOST_WAITING:
        return False
    stamped = {"calling_ae_title": calling_ae_title, "received_at": datetime.now(UTC).isoformat()} | content
    name = f"{time.time_ns():020d}-{os.getpid():x}-{next(_numbers)}-{secrets.token_hex(4)}.json"
    _write(folder / name, stamped)
    return True


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
    try:
        with part.open("xb") as file:
            file.write(json.dumps(content, separators=(",", ":")).encode())
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _waiting(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".json")


@contextmanager
def _words_for_damage() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a message in the spool is damaged: {type(error).__name__}") from error


def _origin(content: dict[str, Any]) -> tuple[str, datetime]:
    return content["calling_ae_title"], datetime.fromisoformat(content["received_at"])


def _pair(reference: Reference) -> list[str]:
    return [reference.sop_class_uid, reference.sop_instance_uid]


def _reference(entry: Sequence[str]) -> Reference:
    return Reference(entry[0], entry[1])


def _references(entries: Sequence[Sequence[str]]) -> tuple[Reference, ...]:
    return tuple(_reference(entry) for entry in entries)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
