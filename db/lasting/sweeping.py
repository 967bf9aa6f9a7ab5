"""Removing the files of studies that retention removed from the database: by their names, and none in use again.

An image that comes again gets its old name in the store. So a file goes only while nothing can enter the index, and
only if the index does not have it: whoever comes later finds the name free.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from db.engine import Database, UnitOfWork
from db.files.durable import sync_folder
from db.files.filestore import FileStore
from db.lasting import retention

_YOUNG_SECONDS: Final = 600.0
_CHUNK: Final = 200  # files that are removed while the index waits


def sweep(database: Database, store: FileStore, study_instance_uid: str) -> bool:
    """Remove what is left of the files of a study that was removed; tell whether nothing is left now.

    Something is while a backup copies the store, and where somebody may just be writing among its results.

    Raises
    ------
    OSError
        If the file system refuses it; what is left is removed by a later call.
    """
    with store.removing() as may:
        if not may:
            return False
        paths = list(_recorded(store, study_instance_uid))
        for start in range(0, len(paths), _CHUNK):
            _remove(database, store, study_instance_uid, paths[start : start + _CHUNK])
        with database.writing() as uow:
            retention.paths_in_use(uow, study_instance_uid)  # nothing comes in between
            is_over = _remove_leftovers(uow, store, study_instance_uid)
            _remove_empty(store.study_folder(study_instance_uid))
            if is_over:
                retention.files_removed(uow, study_instance_uid)
                uow.commit()
    return is_over


def _remove_leftovers(uow: UnitOfWork, store: FileStore, study_instance_uid: str) -> bool:
    """Remove what no row names among the results: of attempts that failed, of objects that failed their check.

    It stays while anything of the study is kept or worked on, which then keeps it; tell whether it need not be looked
    at again.
    """
    folder = store.results_folder(study_instance_uid)
    if retention.has_work(uow, study_instance_uid):
        return True
    newest = max((path.lstat().st_mtime for path in folder.rglob("*") if not path.is_dir()), default=0.0)
    if newest > time.time() - _YOUNG_SECONDS:  # hilum withdraw may be writing a rejection
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _recorded(store: FileStore, study_instance_uid: str) -> Iterator[str]:
    """Yield the names that the study's manifest gives of what was removed; none that leads out of its folders."""
    own = {("store", study_instance_uid), ("results", study_instance_uid)}
    for record in store.read_manifest(study_instance_uid):
        if record.get("record") == retention.REMOVED:
            for path in retention.removed_paths(record):
                parts = PurePosixPath(path).parts
                if parts[:2] in own and len(parts) > 2 and ".." not in parts:
                    yield path


def _remove(database: Database, store: FileStore, study_instance_uid: str, paths: Sequence[str]) -> None:
    with database.writing() as uow:
        in_use = retention.paths_in_use(uow, study_instance_uid)
        for path in paths:
            if path not in in_use:
                (store.root / path).unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove the folders of series in which nothing is any more."""
    for series in [each for each in folder.glob("*/") if not any(each.iterdir())]:
        series.rmdir()
    if folder.is_dir():
        sync_folder(folder)
