"""A process that tells what image files show: ``python -m hilum.showing``, and how it is asked.

Decoders of others run there on a stranger's bytes: it has a limit on its memory, and whoever asks has one on time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hilum.processes import die_with_parent, environment_of_ours, yield_to_reception

Shown = dict[str, str]
"""What a file shows: `header` and `pixels`, its digests; or `unread`, why nobody can say."""

_LATE: Final = "DeadlineExceeded"
_DIED: Final = "ProcessDied"
_MOST_IN_VAIN: Final = 3  # processes in a row that tell nothing


def shown_by(paths: Sequence[Path], seconds: float, memory_bytes: int) -> Iterator[Shown]:
    """Yield what each file shows, in order; what took too long or ended the process is unread.

    Parameters
    ----------
    seconds
        For all of them together [s].
    memory_bytes
        That the process may hold [bytes].
    """
    deadline = time.monotonic() + seconds
    left, in_vain = list(paths), 0
    while left:
        answers = _ask(left, deadline - time.monotonic(), memory_bytes)
        yield from answers
        left = left[len(answers) :]
        in_vain = 0 if answers else in_vain + 1
        late = time.monotonic() >= deadline
        # The file at which a process ended is unread; where processes end at once, or it is late, all that are left are
        unread = len(left) if late or in_vain >= _MOST_IN_VAIN else min(1, len(left))
        yield from ({"unread": _LATE if late else _DIED} for _ in range(unread))
        left = left[unread:]


def _ask(paths: Sequence[Path], seconds: float, memory_bytes: int) -> list[Shown]:
    """Return the answers of one process, which may have ended before the last file."""
    question = json.dumps({"memory_bytes": memory_bytes, "paths": [str(path) for path in paths]})
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hilum.showing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders quote what they read
        env=environment_of_ours(),
        text=True,
    )
    try:
        told, _ = process.communicate(question, timeout=max(0.1, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        told, _ = process.communicate()
    return [json.loads(line) for line in told.splitlines(keepends=True) if line.endswith("\n")][: len(paths)]


def main() -> None:
    """Tell of each file that standard input names what it shows, a line of JSON each."""
    die_with_parent()
    yield_to_reception()
    question: dict[str, Any] = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    from inference import showing  # noqa: PLC0415 - its libraries are no part of the limit

    limit = int(question["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (_held_bytes() + limit,) * 2)
    for path in question["paths"]:
        try:
            header, pixels = showing.shown_by(Path(path))
            shown = {"header": header, "pixels": pixels}
        except Exception as error:  # noqa: BLE001 - decoders of several libraries raise anything over hostile bytes
            shown = {"unread": type(error).__name__}
        answers.write(json.dumps(shown) + "\n")
        answers.flush()


def _held_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
