"""``hilum studies --problems``: what needs a person, why, and the command that mends it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from db.engine import Database
from db.files.filestore import FileStore
from db.overview.problem import Kind, Problem
from db.overview.problems import NOT_SENT
from db.overview.problems import problems as problems_of
from db.overview.waiting import ENDLESS, INTERRUPTED, NO_SENDER
from hilum import retaining
from hilum.config import Settings
from hilum.moments import local, moment
from hilum.presenting import reason_json
from hilum.terminal import say, show_table
from study.errors import Reason

_REMEDIES: Final = {
    Kind.DISK: "free some space; what waits goes on by itself. Less reserve: node.disk_reserve_mb, and a restart",
    Kind.INBOX: "start hilum serve (an indexer); its log says what it can not read",
    Kind.ANALYSIS: "hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.ALARM: "hilum show {subject} names the versions; hilum analyse {subject} --versions newest (or oldest)",
    Kind.PART: "send the whole study again, or hilum analyse {subject}",
    Kind.STORE: "hilum retention tells what spares each study; or a greater retention.max_gb, and a restart",
    Kind.DELIVERY: "mend it at {peer}, then hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.REJECTION: "have it removed at {peer}, then hilum discard {subject}",
    Kind.OUTDATED: "hilum withdraw {result} --reason TEXT; where they may stay: hilum discard {subject}",
    Kind.UNREAD: "have the images rejected again at the archive; where none are meant: hilum discard {subject}",
    Kind.REPORT: "hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.OPEN: "start hilum serve (an indexer); hilum show {subject} tells what is waited for",
    Kind.STUCK: "start hilum serve (a keeper); it takes the analysis up by itself",
    Kind.QUEUE: "start hilum serve (a keeper); hilum doctor tells whether its devices answer",
    Kind.PEER: "hilum echo {subject}; the objects are tried on by themselves",
    Kind.FILE: "see {beside}; send it again once its sender is mended, and remove the file",
    Kind.PAUSE: "hilum resume --only {subject}",
}
_BY_CODE: Final = {
    NOT_SENT: "give {peer} results in [[peers]] again and restart, or hilum discard {subject}",
    ENDLESS: "see the keeper's log (outage.began): its results can perhaps not be written; a restart repeats it",
    INTERRUPTED: "mend what interrupts it (the disk, the machine); it is tried on by itself",
    NO_SENDER: "start hilum serve (a sender); its log says what keeps it",
}
_LEAST_FREE_BYTES: Final = 10_000_000
_LONGEST_IN_INBOX: Final = timedelta(minutes=10)


def find_problems(settings: Settings, database: Database) -> list[Problem]:
    """Return what needs a person; a file that was set aside is none any more once somebody removed it."""
    with database.reading() as uow:
        destinations = [peer.name for peer in settings.destinations]
        found = problems_of(uow, destinations, settings.results.refusal_delay_seconds)
        found += retaining.problems(uow, settings)
        now = uow.now()
    there = [each for each in found if each.kind is not Kind.FILE or (settings.data_dir / each.subject).exists()]
    return [*_of_the_disk(settings, now), *there]


def _of_the_disk(settings: Settings, now: datetime) -> Iterator[Problem]:
    """Give what is wrong with the data directory just now: it has too little room, or what came is not indexed."""
    store, reserve = FileStore(settings.data_dir), settings.node.disk_reserve_mb * 1_000_000
    subject = str(settings.data_dir)
    try:
        free, oldest = store.free_bytes(), store.first_received()
        is_read_only = bool(os.statvfs(settings.data_dir).f_flag & os.ST_RDONLY)
    except FileNotFoundError:  # moved just now; or there is none, and so nobody has ever received anything
        return
    except OSError as error:
        yield Problem(Kind.DISK, subject, now, Reason("DiskFailed", f"The disk can not be read: {error.strerror}."))
        return
    if is_read_only:
        yield Problem(Kind.DISK, subject, now, Reason("DiskReadOnly", "The disk is mounted read-only."))
    elif free < max(reserve, _LEAST_FREE_BYTES):
        words = f"{free // 1_000_000} MB are free, less than the reserve: senders are answered A700."
        yield Problem(
            Kind.DISK, subject, now, Reason("DiskFull", words, {"free_bytes": free, "reserve_bytes": reserve})
        )
    if oldest is not None and oldest < now - _LONGEST_IN_INBOX:
        files = len(store.scan_inbox())
        words = f"{files} received file(s) wait to be indexed, the first for more than ten minutes."
        if not files:
            words = "What was received waits in logs to be split into files, the first for more than ten minutes."
        yield Problem(Kind.INBOX, "inbox", oldest, Reason("NotIndexed", words, {"files": files}))


def remedy(problem: Problem) -> str:
    """Return what a person does about it: the command, where there is one."""
    text = _BY_CODE.get(problem.reason.code, _REMEDIES[problem.kind])
    beside = Path(problem.subject).with_suffix(".reason.txt")
    result = problem.reason.numbers.get("sop_instance_uid", "")
    return text.format(subject=problem.subject, peer=problem.peer, beside=beside, result=result)


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return one entry of ``hilum studies --problems --json``."""
    return {
        "kind": problem.kind.value,
        "subject": problem.subject,
        "peer": problem.peer or None,
        "job": problem.job,
        "since": moment(problem.since),
        "reason": reason_json(problem.reason),
        "remedy": remedy(problem),
    }


def show_problems(settings: Settings, database: Database, *, as_json: bool) -> bool:
    """Print what needs a person; return whether there is anything."""
    found = find_problems(settings, database)
    if as_json:
        say(json.dumps([problem_json(each) for each in found], indent=1))
    elif not found:
        say("nothing needs a person")
    else:
        show_table(
            "Problems",
            ("What", "Study, peer or file", "Since", "Code", "Why", "Remedy"),
            [
                (
                    each.kind.value,
                    each.subject,
                    local(each.since)[:19],
                    each.reason.code,
                    each.reason.words,
                    remedy(each),
                )
                for each in found
            ],
        )
    return bool(found)
