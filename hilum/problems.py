"""``hilum studies --problems``: what needs a person, why, and the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from db.engine import Database
from db.problems import NOT_SENT, Kind, Problem
from db.problems import problems as problems_of
from hilum.config import Settings
from hilum.moments import local, moment
from hilum.presenting import reason_json
from hilum.terminal import say, show_table

_REMEDIES: Final = {
    Kind.ANALYSIS: "hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.ALARM: "hilum show {subject} names the versions; where the newest are right: hilum analyse {subject}",
    Kind.DELIVERY: "mend it at {peer}, then hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.REJECTION: "have it removed at {peer}, then hilum discard {subject}",
    Kind.REPORT: "hilum retry {subject}; where nobody needs it: hilum discard",
    Kind.STUCK: "start hilum serve (a keeper); it takes the analysis up by itself",
    Kind.QUEUE: "start hilum serve (a keeper); hilum doctor tells whether its devices answer",
    Kind.PEER: "hilum echo {subject}; the objects are tried on by themselves",
    Kind.FILE: "see {beside}; send it again once its sender is mended, and remove the file",
    Kind.PAUSE: "hilum resume --only {subject}",
}
_NOT_SENT: Final = "give {peer} results in [[peers]] again and restart, or hilum discard {subject}"


def find_problems(settings: Settings, database: Database) -> list[Problem]:
    """Return what needs a person; a file that was set aside is none any more once somebody removed it."""
    with database.reading() as uow:
        found = problems_of(uow, [peer.name for peer in settings.destinations])
    return [each for each in found if each.kind is not Kind.FILE or (settings.data_dir / each.subject).exists()]


def remedy(problem: Problem) -> str:
    """Return what a person does about it: the command, where there is one."""
    text = _NOT_SENT if problem.reason.code == NOT_SENT else _REMEDIES[problem.kind]
    beside = Path(problem.subject).with_suffix(".reason.txt")
    return text.format(subject=problem.subject, peer=problem.peer, beside=beside)


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
