"""The ``hilum`` command: makes sure that our packages are ours, then hands over to the command line."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

from hilum.ownership import complaint


def main() -> None:
    """Run the command line; what went wrong on purpose is one line on standard error.

    Exit status 2 means that the configuration, or the installation, must be mended; 1 that the command failed.
    """
    foreign = complaint()
    if foreign:
        _leave(foreign, 2)
    from hilum.cli import app  # noqa: PLC0415 - only now are the wings, and the ground, known to be ours
    from study.errors import ConfigError, HilumError  # noqa: PLC0415

    try:
        app()
    except ConfigError as error:
        _leave(error.words, 2)
    except HilumError as error:
        _leave(f"{error.code}: {error.words}", 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _leave("DiskFull: the disk is full; free some space, then run the command again", 1)


def _leave(words: str, status: int) -> NoReturn:
    for line in words.splitlines():
        sys.stderr.write(f"hilum: {line}\n")
    raise SystemExit(status)
