"""What failed the check is never sent; it is kept where a person finds it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.errors import EncodingError

REJECTED = "rejected"
"""Folder beside those of a study's results."""


@contextmanager
def rejected_kept(folder: Path, root: Path) -> Iterator[None]:
    """Keep the objects of an attempt aside if one of them fails its check, and say in the error where they are.

    Parameters
    ----------
    folder
        The attempt's own, in that of the study's results.
    root
        The data directory.

    Raises
    ------
    EncodingError
        That of the block, its words followed by where the objects are.
    """
    try:
        yield
    except EncodingError as error:
        if not error.file:  # nothing was checked, so nothing can be wrong with what lies there
            raise
        kept = folder.parent / REJECTED / folder.name
        kept.parent.mkdir(exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier try at the same report
        folder.rename(kept)
        where = (kept / error.file).relative_to(root)
        told = type(error)(
            f"{error.words} It was not sent; it is kept as {where} in the data directory, and hilum check says what is "
            "wrong with it.",
            error.numbers,
            error.reasons,
        )
        told.file = error.file
        raise told from error
