"""Which instances archives are just asked to send to our listener (C-MOVE), so that receivers know them when they come.

An archive may say in a C-STORE whose C-MOVE it is part of: Move Originator AE Title (0000,1030) is optional (PS3.7
9.1.1.1), and some put their own title there. What was fetched must not look like what was sent for analysis, so it is
written down as well: a file for each request, below a folder that all processes of the node share.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

LOGGER = logging.getLogger(__name__)

LASTS_SECONDS: Final = 3600.0
"""As long an archive that broke off is taken to be still sending [s]."""

_SUFFIX: Final = ".uids"


class Moves:
    """The requests of one node that are under way.

    Parameters
    ----------
    folder
        Made where something is first written down.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, frozenset[str]] = {}

    @classmethod
    def below(cls, data_dir: Path) -> Self:
        """Return those of the node with this data directory."""
        return cls(data_dir / "work" / "moves")

    @contextmanager
    def under_way(self, ae_title: str, sop_instance_uids: Collection[str]) -> Iterator[None]:
        """Have receivers know that the archive of this AE title sends these instances because we asked for them.

        After a proper end it is forgotten; after an error it stands for a while, since the archive may go on sending.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if _age(path.stat()) > LASTS_SECONDS:
                    path.unlink()
        base = self._folder / f"{_key(ae_title)}-{secrets.token_hex(8)}"
        base.write_text("\n".join(sop_instance_uids), encoding="ascii")
        base.rename(base.with_suffix(_SUFFIX))  # whole from the first look at it
        yield
        base.with_suffix(_SUFFIX).unlink(missing_ok=True)

    def expect(self, calling_ae_title: str, sop_instance_uid: str) -> bool:
        """Tell whether an archive of this AE title was asked for this instance."""
        prefix = f"{_key(calling_ae_title)}-"
        names = [name for name in self._names() if name.startswith(prefix)]
        self._read = {name: self._uids(name) for name in names}
        return any(sop_instance_uid in uids for uids in self._read.values())

    def _names(self) -> list[str]:
        """Return the files of the requests that are under way."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError:
            LOGGER.exception("nobody can look up what archives were asked to send")
            return []
        return [name for name in names if name.endswith(_SUFFIX)]

    def _uids(self, name: str) -> frozenset[str]:
        path = self._folder / name
        try:
            if _age(path.stat()) > LASTS_SECONDS:
                return frozenset()
            known = self._read.get(name)  # a file never changes
            return known if known is not None else frozenset(path.read_text(encoding="ascii").splitlines())
        except OSError:
            return frozenset()  # done just now


def _key(ae_title: str) -> str:
    """Return an AE title as a part of a file's name, whatever its characters."""
    return ae_title.encode().hex()


def _age(status: os.stat_result) -> float:
    return time.time() - status.st_mtime
